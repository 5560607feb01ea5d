"""Traffic between hosts of a test: sockets made in their namespaces, driven from here."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, closing

from datapaths.nodes import Host

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
DEADLINE_S = 5.0


def listen(host: Host, family: int, address: str = "", port: int = 0) -> socket.socket:
    """A TCP listener; the port is the kernel's choice unless given."""
    s = host.socket(FAMILIES[family], socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(8)
    s.settimeout(DEADLINE_S)
    return s


def dial(
    host: Host, family: int, address: str, port: int, source: str = "", timeout_s: float = DEADLINE_S
) -> socket.socket:
    """A TCP connection; TimeoutError or OSError when there is none to be had."""
    s = host.socket(FAMILIES[family], socket.SOCK_STREAM)
    s.settimeout(timeout_s)
    if source:
        s.bind((source, 0))
    s.connect((address, port))
    return s


def read_exactly(s: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = s.recv(1 << 20)
        if not part:
            raise ConnectionError(f"closed after {len(data)} of {length} bytes")
        data += part
    return bytes(data)


def carry(client: Host, server: Host, family: int, address: str, size: int = 4 << 20, source: str = "") -> str:
    """Send `size` bytes there and back on one TCP connection, larger than any segment; the client's address as seen there."""
    payload = bytes(range(256)) * (size // 256)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(listen(server, family)))
        c = stack.enter_context(closing(dial(client, family, address, listener.getsockname()[1], source)))
        accepted, peer = listener.accept()
        s = stack.enter_context(closing(accepted))
        s.settimeout(DEADLINE_S)
        echo = threading.Thread(target=lambda: s.sendall(read_exactly(s, size)))
        writer = threading.Thread(target=c.sendall, args=(payload,))
        echo.start()
        writer.start()
        received = read_exactly(c, size)
        writer.join()
        echo.join()
    assert received == payload
    return str(peer[0])


def exchange(client: Host, server: Host, family: int, address: str, size: int = 1200, source: str = "") -> str:
    """One datagram there and back; the client's address as seen there."""
    with ExitStack() as stack:
        s = stack.enter_context(closing(server.socket(FAMILIES[family], socket.SOCK_DGRAM)))
        c = stack.enter_context(closing(client.socket(FAMILIES[family], socket.SOCK_DGRAM)))
        s.bind((address, 0))  # an unbound one would answer from whatever address the route likes
        s.settimeout(DEADLINE_S)
        c.settimeout(DEADLINE_S)
        if source:
            c.bind((source, 0))
        c.connect((address, s.getsockname()[1]))
        payload = b"x" * size
        c.send(payload)
        data, peer = s.recvfrom(1 << 16)
        assert data == payload
        s.sendto(data, peer)
        assert c.recv(1 << 16) == payload
    return str(peer[0])


def ping(client: Host, address: str, *options: str) -> bool:
    """One echo, answered or not."""
    with client.inside():
        return " 1 received" in client.run("ping", "-c1", "-W2", *options, address, check=False)


def send_frame(host: Host, data: bytes) -> None:
    """A whole frame, by hand."""
    with closing(host.socket(socket.AF_PACKET, socket.SOCK_RAW)) as s:
        with host.inside():
            s.bind(("eth0", 0))
        s.send(data)
