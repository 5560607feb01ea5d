"""The kernel's routes as a reconciler's target. Only routes with the agent's own protocol number belong to it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from pyroute2 import IPRoute

from stentor.agent.link import PROTOCOL
from stentor.net.address import Addr, Prefix
from stentor.sys.netlink import DeviceRoute, Message, NetlinkError, delete_route, put_route
from stentor.sys.netlink import Route as Socket
from stentor.tables.route import Route, RouteKey

_GONE: Final = (errno.ESRCH, errno.ENODEV, errno.ENOENT)
_IPV6_DEFAULT_METRIC: Final = 1024
_UNREACHABLE: Final = 7


class KernelRoutes:
    """Target for the routes table."""

    def __init__(self, thread: Executor) -> None:
        self._thread = thread

    async def apply(
        self, upserts: Sequence[tuple[RouteKey, Route]], deletes: Sequence[RouteKey]
    ) -> Mapping[RouteKey, Exception]:
        """One request a route, so that a failure is one route's."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _apply, list(upserts), list(deletes))

    async def dump(self) -> Mapping[RouteKey, Route]:
        """Every route with our protocol number."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _dump)


def _apply(upserts: list[tuple[RouteKey, Route]], deletes: list[RouteKey]) -> dict[RouteKey, Exception]:
    failed: dict[RouteKey, Exception] = {}
    with Socket() as route:
        for key, row in upserts:
            try:
                route.send(_put(row))
            except OSError as e:
                failed[key] = e
        for key in deletes:
            try:
                route.send(
                    delete_route(
                        DeviceRoute(_network(key.prefix), priority=key.metric, table=key.table, protocol=PROTOCOL)
                    )
                )
            except NetlinkError as e:
                if e.errno not in _GONE:
                    failed[key] = e
    return failed


def _put(row: Route) -> Message:
    """OSError when the device is not there (yet)."""
    return put_route(
        DeviceRoute(
            _network(row.prefix),
            socket.if_nametoindex(row.device) if row.device else 0,
            source=row.source.ip if row.source is not None else None,
            gateway=row.gateway.ip if row.gateway is not None else None,
            mtu=row.mtu,
            priority=row.metric,
            table=row.table,
            protocol=PROTOCOL,
        )
    )


def _network(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(str(prefix))


def _dump() -> dict[RouteKey, Route]:
    names = dict(socket.if_nameindex())
    found: dict[RouteKey, Route] = {}
    with IPRoute() as ipr:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in ipr.get_routes(family=family, proto=PROTOCOL):
                row = _row(message, names)
                if row is not None:
                    found[row.key] = row
    return found


def _row(message: Any, names: Mapping[int, str]) -> Route | None:
    if message["proto"] != PROTOCOL:
        return None
    is_ipv6 = message["family"] == socket.AF_INET6
    destination = message.get_attr("RTA_DST") or ("::" if is_ipv6 else "0.0.0.0")
    metrics = message.get_attr("RTA_METRICS")
    priority = message.get_attr("RTA_PRIORITY") or 0
    gateway, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    return Route(
        prefix=Prefix.parse(f"{destination}/{message['dst_len']}"),
        device="" if message["type"] == _UNREACHABLE else names.get(message.get_attr("RTA_OIF"), "?"),
        gateway=Addr.parse(gateway) if gateway else None,
        source=Addr.parse(source) if source else None,
        mtu=(metrics.get_attr("RTAX_MTU") or 0) if metrics else 0,
        metric=0 if is_ipv6 and priority == _IPV6_DEFAULT_METRIC else priority,
        table=message.get_attr("RTA_TABLE") or message["table"],
    )
