"""What BGP has to know of this machine: default routes and devices' addresses, read again when the kernel reports a change."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pyroute2 import IPRoute

from stentor.agent.device import HOST, NET, OVERLAY
from stentor.bgp.resource.node import Gateway, Machine
from stentor.net.address import Addr

_GROUPS: Final = 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_ADDRESSES: Final = (20, 21)  # RTM_NEWADDR, RTM_DELADDR
_ROUTES: Final = (24, 25)  # RTM_NEWROUTE, RTM_DELROUTE
_PAUSE_S: Final = 0.05
_COMPARE_S: Final = 60.0
_MAIN_TABLE: Final = 254
_OWN: Final = (HOST, NET, OVERLAY)


async def follow(read: Callable[[], Awaitable[Machine]], put: Callable[[Machine], None]) -> None:
    """Put what `read` finds, now and after each change, until cancelled. Routes of pods come and go without a look."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0) as sock:
        sock.bind((0, _GROUPS))

        def take() -> None:
            try:
                if matters(sock.recv(1 << 16)):
                    changed.set()
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: messages were lost
                changed.set()

        loop.add_reader(sock.fileno(), take)
        try:
            while True:
                changed.clear()
                put(await read())
                try:
                    async with asyncio.timeout(_COMPARE_S):
                        await changed.wait()
                    await asyncio.sleep(_PAUSE_S)
                except TimeoutError:
                    continue
        finally:
            loop.remove_reader(sock.fileno())


def matters(messages: bytes) -> bool:
    """Whether one of these netlink messages is about an address or a default route."""
    offset = 0
    while offset + 18 <= len(messages):
        length, kind = struct.unpack_from("=IH", messages, offset)
        if kind in _ADDRESSES or (kind in _ROUTES and messages[offset + 17] == 0):  # rtmsg.rtm_dst_len
            return True
        offset += max(16, length + (-length % 4))
    return False


def read() -> Machine:
    """The machine as it is; blocks."""
    with IPRoute() as ipr:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in ipr.get_links()}
        found: dict[str, list[Addr]] = {}
        for message in ipr.get_addr():
            name = names.get(message["index"], "")
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if message["scope"] == 0 and text and name and name not in _OWN and not name.startswith("lxc"):
                found.setdefault(name, []).append(Addr.parse(text))
        gateways = tuple(
            gateway for family in (4, 6) for gateway in _gateways(ipr, family, names) if gateway.interface not in _OWN
        )
    return Machine(
        gateways=gateways, addresses=tuple(sorted((name, tuple(sorted(own))) for name, own in found.items()))
    )


def _gateways(ipr: Any, family: int, names: dict[int, str]) -> Iterator[Gateway]:
    for message in ipr.get_default_routes(family=socket.AF_INET if family == 4 else socket.AF_INET6):
        if (message.get_attr("RTA_TABLE") or message["table"]) != _MAIN_TABLE:
            continue
        metric = message.get_attr("RTA_PRIORITY") or 0
        hops = message.get_attr("RTA_MULTIPATH") or ()
        pairs = [(hop.get_attr("RTA_GATEWAY"), hop["oif"]) for hop in hops] or [
            (message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_OIF"))
        ]
        for text, index in pairs:
            if text:
                yield Gateway(family, Addr.parse(text), names.get(index, ""), metric)
