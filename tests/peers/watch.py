"""When a route leaves a kernel, to the fraction of a millisecond: deletions as the namespace's netlink tells them."""

from __future__ import annotations

import os
import select
import socket
import time

from stentor.bgp import fib
from stentor.bgp.nlri import parse_prefix
from stentor.sys.namespace import visit_network

_IPV4_ROUTE_GROUP = 0x40


class RouteWatch:
    """Listens from its creation on; ``gone`` waits for one IPv4 prefix."""

    def __init__(self, space: str) -> None:
        fd = os.open(f"/run/netns/{space}", os.O_RDONLY)
        try:
            with visit_network(fd):
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        finally:
            os.close(fd)
        self._socket.bind((0, _IPV4_ROUTE_GROUP))

    def gone(self, prefix: str, deadline_s: float = 30) -> float:
        """The monotonic time at which the kernel told that the route is gone; TimeoutError when it does not."""
        address = parse_prefix(prefix)[1][1:]
        end = time.monotonic() + deadline_s
        while select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
            now = time.monotonic()
            for kind, _, body in fib.split(self._socket.recv(1 << 16)):
                if kind == fib.DELETE_ROUTE and address in body:
                    return now
        raise TimeoutError(f"{prefix} is still there")

    def close(self) -> None:
        self._socket.close()
