"""Sockets of the calling thread's network namespace: finding connected UDP sockets, and destroying one (sock_diag(7)).

Linux needs CONFIG_INET_UDP_DIAG to list and CONFIG_INET_DIAG_DESTROY to destroy: without them OSError is ENOENT or EOPNOTSUPP.
Formats: linux/inet_diag.h, linux/sock_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

_SOCK_DIAG: Final = 4
_BY_FAMILY, _DESTROY = 20, 21
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_ESTABLISHED: Final = 1 << 1
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST_BODY: Final = struct.Struct("=BBBBI")  # inet_diag_req_v2 in front of its socket id
_SOCKET_ID: Final = struct.Struct("=2s2s16s16sIQ")
_MESSAGE_HEAD: Final = struct.Struct("=BBBB")  # inet_diag_msg in front of its socket id
_V4_PREFIX: Final = bytes(10) + b"\xff\xff"
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class UdpSocket(msgspec.Struct, frozen=True):
    """A connected UDP socket. `peer` has 16 bytes, IPv4 mapped into IPv6; `cookie` is what BPF programs know it by."""

    family: int
    peer: bytes
    peer_port: int
    cookie: int
    raw_id: bytes


def connected_udp(port: int) -> list[UdpSocket]:
    """Sockets of both families that are connected to this port of whatever address."""
    with _open() as diag:
        return [each for family in FAMILIES for each in _list(diag, family, port)]


def destroy(found: UdpSocket) -> None:
    """Its owner's next call fails with ECONNABORTED. One that is gone is no error."""
    body = _REQUEST_BODY.pack(found.family, socket.IPPROTO_UDP, 0, 0, 0xFFFFFFFF) + found.raw_id
    with _open() as diag:
        diag.send(_HEADER.pack(_HEADER.size + len(body), _DESTROY, _REQUEST | _ACK, 1, 0) + body)
        try:
            for _ in _messages(diag):
                pass
        except FileNotFoundError:
            return


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG)


def _list(diag: socket.socket, family: int, port: int) -> Iterator[UdpSocket]:
    wanted = _SOCKET_ID.pack(b"\0\0", port.to_bytes(2, "big"), b"", b"", 0, 0xFFFFFFFFFFFFFFFF)
    body = _REQUEST_BODY.pack(family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED) + wanted
    diag.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST | _DUMP, 1, 0) + body)
    for message in _messages(diag):
        raw_id = message[_MESSAGE_HEAD.size : _MESSAGE_HEAD.size + _SOCKET_ID.size]
        _, peer_port, _, peer, _, cookie = _SOCKET_ID.unpack(raw_id)
        if family == socket.AF_INET:
            peer = _V4_PREFIX + peer[:4]
        yield UdpSocket(family, peer, int.from_bytes(peer_port, "big"), cookie, raw_id)


def _messages(diag: socket.socket) -> Iterator[bytes]:
    """Bodies up to the end of a dump or an acknowledgement; OSError with the kernel's reason."""
    while True:
        data = diag.recv(1 << 16)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind == _DONE:
                return
            if kind == _ERROR:
                (negative,) = struct.unpack_from("=i", body)
                if negative:
                    raise OSError(-negative, os.strerror(-negative))
                return
            yield body
            at += (length + 3) & ~3
