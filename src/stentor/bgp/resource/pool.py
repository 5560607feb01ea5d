"""Load balancer pools as attributes of advertised addresses need them: whose labels hold for which addresses."""

from __future__ import annotations

import msgspec

from stentor.net.address import Addr
from stentor.state import Column, Table


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A CiliumLoadBalancerIPPool: its labels and its blocks, each from a first to a last address."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    blocks: tuple[tuple[Addr, Addr], ...] = ()

    def holds(self, addr: Addr) -> bool:
        return any(first <= addr <= last for first, last in self.blocks)


def pools() -> Table[str, Pool]:
    """By name."""
    return Table(
        "bgp-pools",
        lambda row: row.name,
        columns=(
            Column("NAME", lambda row: row.name),
            Column("BLOCKS", lambda row: ", ".join(f"{first}-{last}" for first, last in row.blocks)),
        ),
    )
