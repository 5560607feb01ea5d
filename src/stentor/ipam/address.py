"""Addresses of one node's pod CIDRs. In memory only: what is in use is reserved again from the restored endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stentor.ipam.errors import AlreadyAllocated, PoolExhausted, PoolMissing
from stentor.net.address import Addr, Prefix


class AddressPool:
    """Free addresses of one prefix, handed out in rising order and around: an address given back rests longest.

    The first address of the prefix, and the last one of IPv4, are never given out.
    """

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix
        edges = 2 if prefix.family == 4 and prefix.size > 2 else 1
        self._first = int(prefix.addr) + (1 if prefix.size > 1 else 0)
        self.capacity = max(1, prefix.size - edges)
        self._owners: dict[Addr, str] = {}
        self._next = 0

    @property
    def owners(self) -> Mapping[Addr, str]:
        """Addresses in use, and by whom."""
        return self._owners

    def allocate(self, owner: str) -> Addr:
        """The next free address; PoolExhausted when there is none."""
        if len(self._owners) < self.capacity:
            for _ in range(len(self._owners) + 1):
                candidate = Addr(self._first + self._next)
                self._next = (self._next + 1) % self.capacity
                if candidate not in self._owners:
                    self._owners[candidate] = owner
                    return candidate
        raise PoolExhausted(str(self.prefix), self.capacity)

    def reserve(self, addr: Addr, owner: str) -> None:
        """Take one certain address; repeating it for the same owner does nothing, AlreadyAllocated for another."""
        holder = self._owners.setdefault(addr, owner)
        if holder != owner:
            raise AlreadyAllocated(addr, holder)

    def release(self, addr: Addr, owner: str) -> None:
        """Give an address back; one that is free already or somebody else's stays as it is."""
        if self._owners.get(addr) == owner:
            del self._owners[addr]


class NodePools:
    """One pool a family. A prefix that was withdrawn keeps its addresses in use until they are released."""

    def __init__(self) -> None:
        self._current: dict[int, AddressPool] = {}
        self._retired: list[AddressPool] = []

    def set_prefixes(self, prefixes: Iterable[Prefix]) -> None:
        """Use the first prefix of each family from now on."""
        first: dict[int, Prefix] = {}
        for prefix in prefixes:
            first.setdefault(prefix.family, prefix)
        for family, prefix in first.items():
            current = self._current.get(family)
            if current is None or current.prefix != prefix:
                returning = next((pool for pool in self._retired if pool.prefix == prefix), None)
                if current is not None:
                    self._retired.append(current)
                self._current[family] = returning or AddressPool(prefix)
        self._retired = [pool for pool in self._retired if pool.owners and pool not in self._current.values()]

    def pool(self, family: int) -> AddressPool:
        """PoolMissing until the family has a prefix."""
        try:
            return self._current[family]
        except KeyError:
            raise PoolMissing(family) from None

    @property
    def pools(self) -> list[AddressPool]:
        """The pools in use, IPv4 first."""
        return [self._current[family] for family in sorted(self._current)]

    def reserve(self, addr: Addr, owner: str) -> None:
        """Take an address of a restored endpoint; an address outside all prefixes is remembered too."""
        for pool in (*self._current.values(), *self._retired):
            if pool.prefix.covers(addr):
                pool.reserve(addr, owner)
                return
        foreign = AddressPool(addr.host_prefix)
        foreign.reserve(addr, owner)
        self._retired.append(foreign)

    def release(self, addr: Addr, owner: str) -> None:
        """Give an address back, wherever it came from; another owner's is left alone."""
        for pool in (*self._current.values(), *self._retired):
            if pool.prefix.covers(addr):
                pool.release(addr, owner)

    def usage(self) -> dict[str, str]:
        """Every address in use with its owner, as CiliumNode's status shows it."""
        pools = (*self._current.values(), *self._retired)
        return {str(addr): owner for pool in pools for addr, owner in pool.owners.items()}
