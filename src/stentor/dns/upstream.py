"""Asking other servers, one after the other: UDP from a port of its own for each question, TCP where a reply was cut."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import msgspec

from stentor.dns.reply import UDP_MOST
from stentor.net.address import Addr

PORT: Final = 53
_TRY_S: Final = 2.0


class Server(msgspec.Struct, frozen=True):
    """An address to ask."""

    addr: Addr
    port: int = PORT

    @classmethod
    def parse(cls, text: str) -> Server:
        """``192.0.2.1``, ``192.0.2.1:5353``, ``fd00::1`` or ``[fd00::1]:5353``; ValueError."""
        match = re.fullmatch(r"\[([^]]*)\](?::(\d+))?|([^:]*):(\d+)", text)
        if match is None:
            return cls(Addr.parse(text))
        host, port = match[1] or match[3], int(match[2] or match[4] or PORT)
        if not 0 < port < 65536:
            raise ValueError(f"{text!r}: port {port}: from 1 to 65535")
        return cls(Addr.parse(host), port)


def of_resolv_conf(path: Path) -> tuple[Server, ...]:
    """The name servers of a resolv.conf(5); none when it cannot be read. Zones of addresses (%eth0) are left out."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ()
    found = []
    for words in (line.split() for line in lines):
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(Server(Addr.parse(words[1])))
            except ValueError:
                continue
    return tuple(found)


class NoAnswer(Exception):
    """No server gave one."""


async def ask(query: dns.message.Message, servers: Sequence[Server]) -> dns.message.Message:
    """The first answer; NoAnswer when there is none. Whatever does not match the question is not taken for its reply."""
    own = dns.message.make_query(
        query.question[0].name,
        query.question[0].rdtype,
        use_edns=0,
        payload=UDP_MOST,
        want_dnssec=bool(query.ednsflags & dns.flags.DO),
    )
    for server in servers:
        try:
            async with asyncio.timeout(_TRY_S):
                reply = await _ask_udp(own, server)
                return await _ask_tcp(own, server) if reply.flags & dns.flags.TC else reply
        except (OSError, TimeoutError, asyncio.IncompleteReadError, dns.exception.DNSException):
            continue
    raise NoAnswer


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, query: dns.message.Message) -> None:
        self._query = query
        self.reply: asyncio.Future[dns.message.Message] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        try:
            reply = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError, IndexError):
            return
        if self._query.is_response(reply) and not self.reply.done():
            self.reply.set_result(reply)

    def error_received(self, exc: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(exc)


async def _ask_udp(query: dns.message.Message, server: Server) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    to = (str(server.addr), server.port)
    transport, asking = await loop.create_datagram_endpoint(lambda: _Asking(query), remote_addr=to)
    try:
        transport.sendto(query.to_wire())
        return await asking.reply
    finally:
        transport.close()


async def _ask_tcp(query: dns.message.Message, server: Server) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(str(server.addr), server.port)
    try:
        raw = query.to_wire()
        writer.write(struct.pack("!H", len(raw)) + raw)
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        reply = dns.message.from_wire(await reader.readexactly(size))
        if not query.is_response(reply):
            raise dns.exception.FormError
        return reply
    finally:
        writer.close()
