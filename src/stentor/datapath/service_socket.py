"""UDP sockets whose backend is gone: they are destroyed, so that their owners connect to another one (as upstream does).

A connected socket was translated once, by connect; its datagrams never meet a program again. `lb_origins` tells which socket
came by which service. TCP is left to its own end: a reset, or a time-out.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Final

from stentor.datapath.maps import LB_KEY, LB_ORIGIN_KEY
from stentor.net.address import Addr
from stentor.sys import diag
from stentor.sys.bpf import Map
from stentor.sys.namespace import visit_network
from stentor.tables.service import FrontendKey, Protocol

End = tuple[Addr, int]
"""A backend's address and port."""

Lost = Mapping[End, frozenset[FrontendKey]]
"""Backends that are gone, and from which frontends."""

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT})

log = logging.getLogger(__name__)


class SocketEnder:
    """Destroys sockets, in as many namespaces as it is told of. Blocking: for an executor."""

    def __init__(self, origins: Map) -> None:
        self._origins = origins
        self.is_supported = True

    def end(self, lost: Lost, namespaces: Iterable[str]) -> int:
        """Go through the caller's namespace and those at the given paths; how many sockets ended."""
        ended = self._end_here(lost)
        for path in namespaces:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # the pod is gone meanwhile
                continue
            try:
                with visit_network(fd):
                    ended += self._end_here(lost)
            finally:
                os.close(fd)
        return ended

    def _end_here(self, lost: Lost) -> int:
        if not self.is_supported:
            return 0
        ended = 0
        try:
            for port in {port for _, port in lost}:
                for found in diag.connected_udp(port):
                    if self._is_stranded(found, lost):
                        diag.destroy(found)
                        ended += 1
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise
            self.is_supported = False
            log.warning("This kernel does not end sockets: UDP sockets stay with a backend that is gone")
        return ended

    def _is_stranded(self, found: diag.UdpSocket, lost: Lost) -> bool:
        peer = Addr.from_bytes16(found.peer)
        frontends = lost.get((peer, found.peer_port))
        if frontends is None:
            return False
        origin = self._origins.get(LB_ORIGIN_KEY.pack(found.cookie, peer, found.peer_port))
        if origin is None:
            return False
        addr, port, protocol = LB_KEY.unpack(origin)
        at = FrontendKey(addr, port, Protocol(protocol))
        return at in frontends or any(
            each.port == port and each.addr.ip.is_unspecified and each.addr.family == addr.family for each in frontends
        )
