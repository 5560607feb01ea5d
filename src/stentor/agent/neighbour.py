"""The agent's part on links: telling neighbours of announced addresses, and listening where they ask for IPv6 ones.

The answers themselves are the datapath's; see `bpf/lib/neighbour.h`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pyroute2 import IPRoute

from stentor.datapath.targets import MapTarget
from stentor.l2.neighbour import REPEATS_S, announcements, solicited_group
from stentor.net.address import Addr
from stentor.state import Table
from stentor.tables.announcement import Announcement, AnnouncementKey, Link

_ETHERNET: Final = 1  # ARPHRD_ETHER
_GROUPS_PER_SOCKET: Final = 64
"""The kernel limits a socket's memberships by net.core.optmem_max, which holds a few hundred."""

log = logging.getLogger(__name__)


def read_links(names: Iterable[str]) -> list[Link]:
    """Those of the devices that speak Ethernet, with their MAC addresses of now. Blocks."""
    wanted = set(names)
    found = []
    with IPRoute() as ipr:
        for message in ipr.get_links():
            name, mac = str(message.get_attr("IFLA_IFNAME")), message.get_attr("IFLA_ADDRESS") or ""
            if name in wanted and message["ifi_type"] == _ETHERNET:
                found.append(Link(name=name, ifindex=message["index"], mac=bytes.fromhex(mac.replace(":", ""))))
    return found


class Groups:
    """Memberships in solicited-node groups: without one, a network card or a switch may keep questions away."""

    def __init__(self) -> None:
        self._members: dict[tuple[int, Addr], set[Addr]] = defaultdict(set)
        self._sockets: dict[tuple[int, Addr], socket.socket] = {}
        self._used: dict[socket.socket, int] = {}

    def join(self, key: AnnouncementKey) -> None:
        """Repeating it does nothing. A device without IPv6 has no groups: that is logged and nothing else."""
        place = (key.ifindex, solicited_group(key.addr))
        if key.addr.family == 4 or key.addr in self._members[place]:
            return
        self._members[place].add(key.addr)
        if place not in self._sockets:
            sock = self._a_socket()
            if self._change(sock, socket.IPV6_JOIN_GROUP, place):
                self._sockets[place] = sock
                self._used[sock] += 1

    def leave(self, key: AnnouncementKey) -> None:
        """The other way round; what was never joined is no error."""
        place = (key.ifindex, solicited_group(key.addr))
        members = self._members.get(place)
        if not members:
            return
        members.discard(key.addr)
        if members:
            return
        del self._members[place]
        sock = self._sockets.pop(place, None)
        if sock is not None:
            self._change(sock, socket.IPV6_LEAVE_GROUP, place)
            self._used[sock] -= 1

    def close(self) -> None:
        for sock in self._used:
            sock.close()

    def _a_socket(self) -> socket.socket:
        for sock, count in self._used.items():
            if count < _GROUPS_PER_SOCKET:
                return sock
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._used[sock] = 0
        return sock

    def _change(self, sock: socket.socket, option: int, place: tuple[int, Addr]) -> bool:
        ifindex, group = place
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, option, group.packed + struct.pack("=I", ifindex))
        except OSError as e:
            log.info("No membership", extra={"group": str(group), "ifindex": ifindex, "error": e.strerror})
            return False
        return True


class Announcer:
    """Target for the announcements table: rows into the map, and what neighbours have to hear of it."""

    def __init__(
        self, target: MapTarget[AnnouncementKey, Announcement], table: Table[AnnouncementKey, Announcement]
    ) -> None:
        self.sent = 0
        self._target = target
        self._table = table
        self._groups = Groups()
        self._socket: socket.socket | None = None

    async def apply(
        self, upserts: Sequence[tuple[AnnouncementKey, Announcement]], deletes: Sequence[AnnouncementKey]
    ) -> Mapping[AnnouncementKey, Exception]:
        """The map first: who hears of an address may ask for it at once."""
        for key, _ in upserts:
            self._groups.join(key)
        failed = await self._target.apply(upserts, deletes)
        loop = asyncio.get_running_loop()
        told = [(key, row) for key, row in upserts if key not in failed]
        for pause_s in REPEATS_S if told else ():
            loop.call_later(pause_s, self._tell, told)
        for key in deletes:
            self._groups.leave(key)
        return failed

    async def dump(self) -> Mapping[AnnouncementKey, Announcement]:
        return await self._target.dump()

    def close(self) -> None:
        self._groups.close()
        if self._socket is not None:
            self._socket.close()

    def _tell(self, rows: Sequence[tuple[AnnouncementKey, Announcement]]) -> None:
        """Only of what still holds: another node may have the address by now."""
        for key, row in rows:
            if self._table.get(key) == row:
                for frame in announcements(row.addr, row.mac):
                    self._send(row.interface, frame)

    def _send(self, interface: str, frame: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.sendto(frame, (interface, 0))
        except OSError as e:
            log.info("Could not tell the neighbours", extra={"interface": interface, "error": e.strerror})
        else:
            self.sent += 1
