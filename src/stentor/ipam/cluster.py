"""Pod CIDRs of nodes out of the cluster's pools (IPAM mode cluster-pool). Pure: the operator acts on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stentor.ipam.errors import AlreadyAllocated, PoolExhausted
from stentor.net.address import Addr, Prefix


class ClusterPool:
    """Prefixes of one family, `length` long, out of several larger ones."""

    def __init__(self, prefixes: Sequence[Prefix], length: int) -> None:
        self.prefixes = tuple(prefixes)
        self.family = self.prefixes[0].family
        self.length = length
        self._owners: dict[Prefix, str] = {}
        self._foreign: set[Prefix] = (
            set()
        )  # in use with another length than the pool's: a changed mask size leaves such
        self._bits = length + (96 if self.family == 4 else 0)
        self._next = 0
        self._counts = [1 << (self._bits - prefix.bits) for prefix in self.prefixes]

    @property
    def capacity(self) -> int:
        """How many nodes can get a prefix."""
        return sum(self._counts)

    @property
    def used(self) -> int:
        return len(self._owners)

    def allocate(self, owner: str) -> Prefix:
        """The next free prefix that overlaps none in use; PoolExhausted when there is none."""
        for _ in range(self.capacity):
            candidate = self._at(self._next)
            self._next = (self._next + 1) % self.capacity
            if candidate not in self._owners and not any(candidate.overlaps(used) for used in self._foreign):
                self._owners[candidate] = owner
                return candidate
        raise PoolExhausted(", ".join(map(str, self.prefixes)), self.capacity)

    def occupy(self, prefix: Prefix, owner: str) -> None:
        """Note a prefix that a node has already; AlreadyAllocated when it overlaps another node's."""
        is_foreign = prefix.bits != self._bits
        for used in self._owners if is_foreign else (prefix, *self._foreign):  # those of one length overlap when equal
            holder = self._owners.get(used, owner)
            if holder != owner and used.overlaps(prefix):
                raise AlreadyAllocated(prefix, holder)
        self._owners[prefix] = owner
        if is_foreign:
            self._foreign.add(prefix)

    def release(self, owner: str) -> None:
        """Take back all that a node had."""
        for prefix in [prefix for prefix, holder in self._owners.items() if holder == owner]:
            del self._owners[prefix]
            self._foreign.discard(prefix)

    def withdraw(self, prefix: Prefix, owner: str) -> None:
        """Take back one prefix that a node no longer has; another node's is left alone."""
        if self._owners.get(prefix) == owner:
            del self._owners[prefix]
            self._foreign.discard(prefix)

    def _at(self, index: int) -> Prefix:
        for prefix, count in zip(self.prefixes, self._counts, strict=True):
            if index < count:
                return Prefix(Addr(int(prefix.addr) + (index << (128 - self._bits))), self._bits)
            index -= count
        raise IndexError(index)


def assign(pools: Iterable[ClusterPool], node: str, present: Sequence[Prefix]) -> tuple[tuple[Prefix, ...], list[str]]:
    """The prefixes a node should have, keeping those it has, and what went wrong.

    Prefixes of families without a pool are kept as they are.
    """
    faults: list[str] = []
    kept: list[Prefix] = []
    pool_of = {pool.family: pool for pool in pools}
    for prefix in present:
        pool = pool_of.get(prefix.family)
        try:
            if pool is not None:
                pool.occupy(prefix, node)
            kept.append(prefix)
        except AlreadyAllocated as e:
            faults.append(str(e))
    for family, pool in sorted(pool_of.items()):
        if any(prefix.family == family for prefix in kept):
            continue
        try:
            kept.append(pool.allocate(node))
        except PoolExhausted as e:
            faults.append(str(e))
    return tuple(kept), faults
