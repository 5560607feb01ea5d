"""What leaves the cluster under the node's address: by which device, and to where not."""

from __future__ import annotations

import msgspec

from stentor.net.address import Addr, Prefix
from stentor.state import Column, Table


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """A device to the outside, and the addresses that pods' packets get there; None: that family is not masqueraded."""

    ifindex: int
    ipv4: Addr | None = None
    ipv6: Addr | None = None


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A destination that sees pods' own addresses."""

    prefix: Prefix


def uplinks() -> Table[int, Uplink]:
    """By device index."""
    return Table(
        "uplinks",
        lambda row: row.ifindex,
        columns=(
            Column("IFINDEX", lambda row: row.ifindex),
            Column("IPv4", lambda row: row.ipv4 or ""),
            Column("IPv6", lambda row: row.ipv6 or ""),
        ),
    )


def masquerade_exclusions() -> Table[Prefix, Exclusion]:
    """By prefix."""
    return Table("masquerade-exclusions", lambda row: row.prefix, columns=(Column("PREFIX", lambda row: row.prefix),))
