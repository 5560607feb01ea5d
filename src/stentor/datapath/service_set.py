"""Sets of backends in the kernel: numbered, never changed, shared by all services with equal backends.

`acquire` and `release` count who uses a set; what they return has to be written before, and removed after, rows name the set.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from stentor.datapath.maps import LB_BACKEND, LB_MAGLEV_KEY, LB_MEMBER_KEY, LB_SLOT_KEY, NUMBER
from stentor.net.address import Addr
from stentor.tables.service import Backend, Backends

MAGLEV_PART: Final = 64
"""Buckets in one row of `lb_maglev`, as in bpf/lib/limits.h."""

LookupTable = Callable[[Backends], "array[int]"]
"""Makes a look-up table: positions of backends by bucket."""


def choosable(backends: Backends) -> int:
    """How many, from the first on, may get new connections: the active ones, or all when none is."""
    active = sum(1 for each in backends if not each.is_terminating)
    return active or len(backends)


class BackendSet(msgspec.Struct):
    """One set; `maglev_users` of its `users` want a look-up table."""

    id: int
    backends: Backends
    users: int = 0
    maglev_users: int = 0
    has_table: bool = False
    is_damaged: bool = False
    choosable: int = 0

    def __post_init__(self) -> None:
        self.choosable = choosable(self.backends)

    def slot_rows(self) -> Iterator[tuple[bytes, bytes]]:
        for slot, each in enumerate(self.backends):
            value = LB_BACKEND.pack(each.addr, each.port, each.is_terminating)
            yield LB_SLOT_KEY.pack(self.id, slot), value

    def member_rows(self) -> Iterator[tuple[bytes, bytes]]:
        for each in self.backends:
            yield LB_MEMBER_KEY.pack(self.id, each.addr, each.port), NUMBER.pack(each.is_terminating)

    def table_rows(self, make: LookupTable) -> Iterator[tuple[bytes, bytes]]:
        slots = array("H", make(self.backends[: self.choosable]))
        for part, start in enumerate(range(0, len(slots), MAGLEV_PART)):
            value = slots[start : start + MAGLEV_PART].tobytes()
            yield LB_MAGLEV_KEY.pack(self.id, part), value.ljust(2 * MAGLEV_PART, b"\0")

    def table_keys(self, parts: int) -> list[bytes]:
        return [LB_MAGLEV_KEY.pack(self.id, part) for part in range(parts)]


class BackendSets:
    """All sets of a node. Set 0 is the empty one and has no rows."""

    def __init__(self) -> None:
        self._by_backends: dict[Backends, BackendSet] = {}
        self._next = 1

    def __iter__(self) -> Iterator[BackendSet]:
        return iter(self._by_backends.values())

    def find(self, backends: Backends) -> BackendSet | None:
        return self._by_backends.get(backends)

    def adopt(self, number: int, backends: Backends) -> None:
        """Take over a set found in the kernel, unless it is known already."""
        self._next = max(self._next, number + 1)
        self._by_backends.setdefault(backends, BackendSet(number, backends))

    def acquire(self, backends: Backends, *, maglev: bool) -> tuple[BackendSet, bool]:
        """The set of these backends with one more user, and whether its rows have to be written."""
        found = self._by_backends.get(backends)
        is_new = found is None or found.is_damaged
        if found is None:
            found = self._by_backends[backends] = BackendSet(self._next, backends)
            self._next += 1
        found.is_damaged = False
        found.users += 1
        found.maglev_users += maglev
        return found, is_new

    def release(self, backends: Backends, *, maglev: bool) -> BackendSet | None:
        """One user less; the set when that was the last one and its rows have to go."""
        found = self._by_backends[backends]
        found.users -= 1
        found.maglev_users -= maglev
        if found.users:
            return None
        return self._by_backends.pop(backends)


def read_sets(slots: Iterable[tuple[bytes, bytes]]) -> Mapping[int, Backends]:
    """Sets by number, from the rows of `lb_slots`."""
    found: dict[int, dict[int, Backend]] = {}
    for key, value in slots:
        number, slot = LB_SLOT_KEY.unpack(key)
        addr, port, terminating = LB_BACKEND.unpack(value)
        found.setdefault(number, {})[slot] = Backend(Addr(addr), port, bool(terminating))
    return {number: tuple(each[slot] for slot in sorted(each)) for number, each in found.items()}
