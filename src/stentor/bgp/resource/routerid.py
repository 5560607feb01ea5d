"""BGP identifiers out of a pool (`bgpControlPlane.routerIDAllocation.mode: ip-pool`), one an instance and node. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from stentor.net.address import Addr, Prefix

InstanceKey = tuple[str, str]
"""Node and instance."""


def allocate(
    pool: Prefix, wanted: Iterable[InstanceKey], present: Mapping[InstanceKey, Addr], others: Collection[Addr]
) -> dict[InstanceKey, Addr]:
    """An identifier for each that is wanted, as far as the pool reaches. Who has one of the pool keeps it; `others` are in use
    otherwise."""
    keys = sorted(wanted)
    given: dict[InstanceKey, Addr] = {}
    taken = set(others)
    for key in keys:
        addr = present.get(key)
        if addr is not None and pool.covers(addr) and addr not in taken:
            given[key] = addr
            taken.add(addr)
    free = (addr for addr in map(Addr, range(max(pool.addr, _ZERO + 1), pool.last + 1)) if addr not in taken)
    for key in keys:
        if key not in given:
            addr = next(free, None)
            if addr is None:
                break
            given[key] = addr
    return given


_ZERO = Addr.parse("0.0.0.0")  # no identifier (RFC 6286 §2.1)
