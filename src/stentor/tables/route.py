"""Routes that the agent wants in this machine's kernel."""

from __future__ import annotations

import msgspec

from stentor.net.address import Addr, Prefix
from stentor.state import Column, Table


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route in table `table`; without a device it says that the prefix is unreachable. `mtu` and `metric` 0 leave the
    kernel's choice."""

    prefix: Prefix
    device: str = ""
    gateway: Addr | None = None
    source: Addr | None = None
    mtu: int = 0
    metric: int = 0
    table: int = 254

    @property
    def key(self) -> RouteKey:
        return RouteKey(self.table, self.prefix, self.metric)


class RouteKey(msgspec.Struct, frozen=True, order=True):
    """What the kernel tells routes apart by; of two with one prefix the lower `metric` wins."""

    table: int
    prefix: Prefix
    metric: int


def routes() -> Table[RouteKey, Route]:
    """Desired routes."""
    return Table(
        "routes",
        lambda row: row.key,
        indexes={"device": lambda row: (row.device,)},
        columns=(
            Column("PREFIX", lambda row: row.prefix),
            Column("DEVICE", lambda row: row.device or "unreachable"),
            Column("GATEWAY", lambda row: row.gateway or ""),
            Column("MTU", lambda row: row.mtu or ""),
        ),
    )
