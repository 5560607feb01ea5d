"""A BGP peer made of bytes: says what a test tells it to say, right or wrong, from an address of its own."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence

import msgspec

from peers.bench import wait_for
from stentor.bgp.capability import Capabilities, Open
from stentor.bgp.nlri import Family, parse_prefix
from stentor.bgp.wire import KEEPALIVE, Kind, Notification, encode_open, frame, split_messages
from stentor.sys.namespace import visit_network

CAPABILITIES = Capabilities(families=tuple(Family), route_refresh=True)
MAX = 65535


def attribute(flags: int, code: int, body: bytes) -> bytes:
    """A path attribute with a one-octet length, whatever the flags say but for the extended one."""
    if flags & 0x10:
        return bytes((flags, code)) + len(body).to_bytes(2, "big") + body
    return bytes((flags, code, len(body))) + body


def nlri(*prefixes: str) -> bytes:
    """Prefixes in wire form."""
    return b"".join(parse_prefix(prefix)[1] for prefix in prefixes)


def update(attributes: bytes, announced: bytes = b"", withdrawn: bytes = b"") -> bytes:
    """A whole UPDATE with right lengths."""
    head = len(withdrawn).to_bytes(2, "big") + withdrawn + len(attributes).to_bytes(2, "big") + attributes
    return frame(Kind.UPDATE, head + announced)


def _connect(space: str, address: str, target: str) -> socket.socket | None:
    """A connection out of a namespace, None when it is refused."""
    fd = os.open(f"/run/netns/{space}", os.O_RDONLY)
    try:
        with visit_network(fd):
            made = socket.socket(socket.AF_INET)
    finally:
        os.close(fd)
    made.settimeout(10)
    try:
        made.bind((address, 0))
        made.connect((target, 179))
    except ConnectionRefusedError:
        made.close()
        return None
    except BaseException:
        made.close()
        raise
    return made


class RawPeer:
    """A connection from ``address`` inside the namespace ``space`` to ``target``:179."""

    def __init__(self, space: str, address: str, target: str, asn: int) -> None:
        self.address = address
        self.asn = asn
        self.received: list[tuple[Kind, bytes]] = []
        self.closed = False
        self._buffer = bytearray()
        # A daemon may open its control socket before it listens for BGP.
        self.socket = wait_for(f"{target} listens", lambda: _connect(space, address, target))

    def open(self, capabilities: Capabilities = CAPABILITIES, hold_s: int = 90) -> None:
        """Send OPEN."""
        offer = msgspec.structs.replace(capabilities, four_octet_as=self.asn)
        identifier = int.from_bytes(socket.inet_aton(self.address), "big")
        self.socket.sendall(encode_open(Open(self.asn, hold_s, identifier, offer)))

    def establish(self, capabilities: Capabilities = CAPABILITIES) -> None:
        """``open``, and ``establish_opened``."""
        self.open(capabilities)
        self.establish_opened()

    def establish_opened(self, deadline_s: float = 20) -> None:
        """Confirm the other's OPEN and wait until it confirms ours; AssertionError with what came instead."""
        end = time.monotonic() + deadline_s
        is_confirmed = False
        while not any(kind is Kind.KEEPALIVE for kind, _ in self.received):
            assert not self.closed, f"{self.address}: refused: {self.received}"
            assert time.monotonic() < end, f"{self.address}: not established: {self.received}"
            self.poll(0.1)
            if not is_confirmed and any(kind is Kind.OPEN for kind, _ in self.received):
                is_confirmed = True
                self.socket.sendall(KEEPALIVE)

    def send(self, *messages: bytes) -> None:
        self.socket.sendall(b"".join(messages))

    def poll(self, timeout_s: float = 0) -> None:
        """Take in what arrived."""
        while not self.closed and select.select([self.socket], [], [], timeout_s)[0]:
            try:
                data = self.socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            self._buffer += data
            messages, taken = split_messages(self._buffer, MAX)
            del self._buffer[:taken]
            self.received += messages
            timeout_s = 0

    @property
    def notification(self) -> Notification | None:
        """The NOTIFICATION that came, if one did."""
        for kind, body in self.received:
            if kind is Kind.NOTIFICATION:
                return Notification(body[0], body[1], body[2:])
        return None

    def close(self) -> None:
        self.socket.close()


def close_all(peers: Sequence[RawPeer]) -> None:
    """Close every connection."""
    for peer in peers:
        peer.close()
