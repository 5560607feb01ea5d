"""Router advertisements (RFC 4861 §4.2) on an interface without configured addresses of peers ("unnumbered").

They carry no prefix and a router lifetime of 0, so that no host takes us for its default router: all that they tell is our
link-local and our link-layer address, and all that is learned from the neighbour's is its own. FRR does not connect before it
has heard one; GoBGP looks for us among its kernel's neighbours, where the link-layer address puts us.
"""

import asyncio
import fcntl
import logging
import socket
import struct
import sys
from collections.abc import Callable

from stentor.bgp.nlri import format_address, parse_address

_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_SOLICITATION, _ADVERTISEMENT = 133, 134
_HOP_LIMIT = 255
_FIRST_INTERVALS_S, _INTERVAL_S, _RETRY_S = (0.1, 0.5, 1.0, 2.0), 10.0, 0.5
_LEAST_GAP_S = 0.05
_ICMP6_FILTER = 1
# Type, code, checksum (the kernel's), hop limit, flags, router lifetime 0, reachable and retransmission time unspecified.
_MESSAGE = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, 0, 0, 0)
_SOURCE_LINK_LAYER = b"\x01\x01"
_SIOCGIFHWADDR, _ETHERNET = 0x8927, 1

log = logging.getLogger(__name__)


class Advertiser:
    """Advertises on ``interface`` until closed; ``on_neighbour`` gets every link-local address that is new or changed.

    An interface that is not there yet, or goes and comes again, is tried anew twice a second.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interface: str, on_neighbour: Callable[[str], None]) -> None:
        self.interface = interface
        self.neighbour: str | None = None
        self._loop = loop
        self._on_neighbour = on_neighbour
        self._socket: socket.socket | None = None
        self._index = 0
        self._step = 0
        self._sent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fire()

    def close(self) -> None:
        """Stop; neighbours keep what they learned until it expires."""
        if self._timer is not None:
            self._timer.cancel()
        self._shut()

    def _fire(self) -> None:
        pause_s = _INTERVAL_S if self._step >= len(_FIRST_INTERVALS_S) else _FIRST_INTERVALS_S[self._step]
        try:
            self._open()
            self._send()
            self._step += 1
        except OSError as error:
            log.debug("No advertisement", extra={"interface": self.interface, "reason": error.strerror})
            self._shut()
            pause_s = _RETRY_S
        self._timer = self._loop.call_later(pause_s, self._fire)

    def _open(self) -> None:
        index = socket.if_nametoindex(self.interface)
        if self._socket is not None and index == self._index:
            return
        self._shut()
        self._step, self._index = 0, index
        opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 58)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter(_SOLICITATION, _ADVERTISEMENT))
            for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
                opened.setsockopt(socket.IPPROTO_IPV6, option, _HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            for group in (_ALL_NODES, _ALL_ROUTERS):
                membership = parse_address(group) + struct.pack("=I", index)
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        except OSError:
            opened.close()
            raise
        self._socket = opened
        self._loop.add_reader(opened, self._read)

    def _send(self) -> None:
        if self._socket is not None:
            self._socket.sendto(_MESSAGE + _link_layer(self._socket, self.interface), (_ALL_NODES, 0, 0, self._index))
            self._sent_s = self._loop.time()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data, control, _, source = self._socket.recvmsg(1500, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return
        except OSError:
            self._shut()
            return
        # A router would have lowered the hop limit: only the link itself can say 255 (RFC 4861 §6.1.2).
        hops = [value for level, kind, value in control if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)]
        if not data or hops != [struct.pack("=i", _HOP_LIMIT)]:
            return
        if data[0] == _ADVERTISEMENT:
            if len(data) >= len(_MESSAGE):
                self._learn(source[0].partition("%")[0])
        elif self._loop.time() - self._sent_s >= _LEAST_GAP_S:
            self._answer()

    def _answer(self) -> None:
        try:
            self._send()
        except OSError:
            self._shut()

    def _learn(self, source: str) -> None:
        address = parse_address(source)
        text = format_address(address)
        if address[:2] == b"\xfe\x80" and text != self.neighbour:
            self.neighbour = text
            self._on_neighbour(text)

    def _shut(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None


def _link_layer(sock: socket.socket, interface: str) -> bytes:
    """The source link-layer address option (RFC 4861 §4.6.1); empty for links without addresses of six octets."""
    request = interface.encode()[:15].ljust(16, b"\0") + bytes(24)
    reply: bytes = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)  # struct ifreq: name, then sockaddr
    kind, address = int.from_bytes(reply[16:18], sys.byteorder), reply[18:24]
    return _SOURCE_LINK_LAYER + address if kind == _ETHERNET else b""


def _filter(*kinds: int) -> bytes:
    """struct icmp6_filter that passes these types only: a set bit blocks."""
    words = [0xFFFFFFFF] * 8
    for kind in kinds:
        words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)
