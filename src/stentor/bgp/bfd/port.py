"""The UDP sockets of BFD (RFC 5881 §4, §5; RFC 5883 §5): one listener a family and kind, one sender a session.

Single hop: port 3784, sent with TTL 255 and accepted only so (GTSM), which no router on the way can forge. Multihop: port 4784.
Senders take a source port from 49152 on and keep it.
"""

import errno
import random
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from stentor.bgp.nlri import format_address, parse_address

SINGLE_HOP_PORT, MULTIHOP_PORT = 3784, 4784
_FIRST_SOURCE_PORT, _LAST_SOURCE_PORT = 49152, 65535
_TTL = 255
_NETWORK_CONTROL_TOS = 0xC0
_PRIORITY = 6
_RECEIVE_BUFFER = 1 << 20
_BATCH = 256
_IP_PKTINFO, _IP_RECVTTL = 8, 12  # linux/in.h; Python 3.11 does not name them
_ANCILLARY = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4)


class Arrival(NamedTuple):
    """A datagram: addresses as text without zone, the receiving interface's index, the TTL or hop limit it came with."""

    data: bytes
    source: str
    local: str
    interface_index: int
    hops: int
    multihop: bool


class Listener:
    """Receives on the well-known port of one family and kind."""

    def __init__(self, family: socket.AddressFamily, *, multihop: bool) -> None:
        self.multihop = multihop
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind(("", MULTIHOP_PORT if multihop else SINGLE_HOP_PORT))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> Iterator[Arrival]:
        """What has arrived, at most some hundred datagrams, so that a flood cannot keep the timers from running."""
        for _ in range(_BATCH):
            try:
                data, control, _, address = self._socket.recvmsg(512, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier datagram
            yield self._read(data, control, address[0])

    def _read(self, data: bytes, control: list[tuple[int, int, bytes]], source: str) -> Arrival:
        local, index, hops = "", 0, 0
        for level, kind, value in control:
            match level, kind:
                case socket.IPPROTO_IP, 8:  # IP_PKTINFO
                    index, _, target = struct.unpack("=i4s4s", value)
                    local = format_address(target)
                case socket.IPPROTO_IPV6, socket.IPV6_PKTINFO:
                    local, index = format_address(value[:16]), struct.unpack_from("=I", value, 16)[0]
                case (socket.IPPROTO_IP, socket.IP_TTL) | (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                    (hops,) = struct.unpack("=i", value)
        return Arrival(data, source.partition("%")[0], local, index, hops, self.multihop)


class Sender:
    """Sends one session's packets; OSError when its address or interface is not there."""

    def __init__(self, peer: str, local: str, interface: str, *, multihop: bool) -> None:
        is_ipv4 = len(parse_address(peer)) == 4
        self.interface_index = socket.if_nametoindex(interface) if interface else 0
        family = socket.AF_INET if is_ipv4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if is_ipv4:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _NETWORK_CONTROL_TOS)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _TTL)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _NETWORK_CONTROL_TOS)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            if interface:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            # The sender never reads: whatever is sent to its source port would only fill a buffer.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            self._bind(local, is_ipv4=is_ipv4)
        except OSError:
            self._socket.close()
            raise
        port = MULTIHOP_PORT if multihop else SINGLE_HOP_PORT
        self._target = (peer, port) if is_ipv4 else (peer, port, 0, self.interface_index)

    def _bind(self, local: str, *, is_ipv4: bool) -> None:
        start = random.randrange(_FIRST_SOURCE_PORT, _LAST_SOURCE_PORT + 1)
        count = _LAST_SOURCE_PORT - _FIRST_SOURCE_PORT + 1
        for step in range(count):
            port = _FIRST_SOURCE_PORT + (start - _FIRST_SOURCE_PORT + step) % count
            try:
                self._socket.bind((local, port) if is_ipv4 else (local, port, 0, self.interface_index))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or step == count - 1:
                    raise
            else:
                return

    def send(self, data: bytes) -> None:
        """One datagram; OSError when the kernel refuses it."""
        self._socket.sendto(data, self._target)

    def close(self) -> None:
        self._socket.close()
