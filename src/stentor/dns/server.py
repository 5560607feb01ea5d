"""The server: queries over UDP and TCP (RFC 7766), answered from the zone at once or with the help of others."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, cast

import dns.message
import dns.rcode
import dns.rdatatype

from stentor.dns import reply as replies
from stentor.dns.cache import Cache
from stentor.dns.hosts import Hosts
from stentor.dns.reply import Query
from stentor.dns.upstream import NoAnswer, Server, ask
from stentor.dns.zone import Answer, Kind, Outcome, Zone
from stentor.runtime.job import JobGroup

_IDLE_S: Final = 10.0
_PENDING_MOST: Final = 1000
_TCP_MOST: Final = 500


class Resolver:
    """Answers queries. `replies` counts them by code."""

    def __init__(
        self,
        zone: Zone,
        upstreams: Sequence[Server],
        *,
        hosts: Hosts | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.zone, self.upstreams, self.hosts = zone, tuple(upstreams), hosts or Hosts()
        self.cache = Cache()
        self.replies: Counter[str] = Counter()
        self._clock, self._rng = clock, rng or random.Random()

    def resolve(self, raw: bytes, *, is_udp: bool) -> bytes | Awaitable[bytes] | None:
        """A reply; None for what deserves none; or a promise of one, when others have to be asked."""
        query = replies.read(raw, is_udp=is_udp)
        if not isinstance(query, Query):
            if query is not None:
                self.replies[dns.rcode.to_text(dns.rcode.Rcode(query[3] & 15))] += 1
            return query
        found = self.zone.answer(query.name, query.kind)
        if found.outcome is Outcome.ELSEWHERE:
            known = self.hosts.answer(query.name, query.kind)
            if known.outcome is Outcome.ANSWER:
                return self._finish(query, replies.answer(query, None, known, self._rng))
            kept = self.cache.get(query.key, self._clock())
            if kept is not None:
                return self._finish(query, replies.relay(query, kept))
            return self._forward(query)
        if not self.zone.is_synced:  # what is not there may only not be known yet
            return self._finish(query, replies.failure(query))
        if found.alias:
            target = self.hosts.answer(found.alias, query.kind)
            if target.outcome is Outcome.ELSEWHERE:
                return self._follow(query, replies.answer(query, self.zone, found, self._rng), found.alias)
            found = Answer(Outcome.ANSWER, found.records + target.records)
        return self._finish(query, replies.answer(query, self.zone, found, self._rng))

    async def _forward(self, query: Query) -> bytes:
        try:
            reply = await ask(query.message, self.upstreams)
        except NoAnswer:
            return self._finish(query, replies.failure(query))
        self.cache.put(query.key, reply, self._clock())
        return self._finish(query, replies.relay(query, reply))

    async def _follow(self, query: Query, own: dns.message.Message, alias: str) -> bytes:
        """The alias stands even when nobody knows its target."""
        if query.kind in (Kind.A, Kind.AAAA):
            kind = query.message.question[0].rdtype
            with suppress(NoAnswer):
                replies.append(own, await ask(dns.message.make_query(alias, kind), self.upstreams))
        return self._finish(query, own)

    def _finish(self, query: Query, reply: dns.message.Message) -> bytes:
        self.replies[dns.rcode.to_text(reply.rcode())] += 1
        return replies.pack(reply, query.room)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver, jobs: JobGroup) -> None:
        self._resolver, self._jobs = resolver, jobs
        self._pending = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        found = self._resolver.resolve(data, is_udp=True)
        if isinstance(found, bytes):
            self._transport.sendto(found, addr)
        elif found is not None and self._pending < _PENDING_MOST:
            self._jobs.once("forward", self._later(found, addr))
        elif found is not None:
            found.close()  # type: ignore[attr-defined]

    async def _later(self, promise: Awaitable[bytes], addr: tuple[str, int]) -> None:
        self._pending += 1
        try:
            answer = await promise
        finally:
            self._pending -= 1
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)


class DnsServer:
    """Listens on each address, UDP and TCP."""

    def __init__(self, resolver: Resolver, jobs: JobGroup) -> None:
        self._resolver, self._jobs = resolver, jobs
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._connections = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, for when 0 was asked for. OSError."""
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, host, port)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(self._resolver, self._jobs), sock=_bind_udp(host, port)
        )
        self._transports.append(transport)
        return int(port)

    async def stop(self) -> None:
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _TCP_MOST:
            writer.close()
            return
        self._connections += 1
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                while True:
                    async with asyncio.timeout(_IDLE_S):
                        (size,) = struct.unpack("!H", await reader.readexactly(2))
                        raw = await reader.readexactly(size)
                    found = self._resolver.resolve(raw, is_udp=False)
                    answer = found if found is None or isinstance(found, bytes) else await found
                    if answer is None:
                        return
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    async with asyncio.timeout(_IDLE_S):
                        await writer.drain()
        finally:
            self._connections -= 1
            writer.close()


def _bind_udp(host: str, port: int) -> socket.socket:
    """Of one family only, as asyncio makes TCP servers: both wildcard addresses can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
