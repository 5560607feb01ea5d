"""Sets of backends in the kernel: numbered, never changed, shared by all services with equal backends.

`acquire` and `release` count who uses a set; its rows have to be written before, and removed after, rows name the set. A set
whose rows somebody else has touched is not mended: it is given up, and its services get another.
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

_NEVER_REACHED: Final = 1 << 31

LookupTable = Callable[[Backends], "array[int]"]
"""Makes a look-up table: positions of backends by bucket."""


def choosable(backends: Backends) -> int:
    """How many, from the first on, may get new connections: the active ones, or all when none is."""
    active = sum(1 for each in backends if not each.is_terminating)
    return active or len(backends)


def beyond(number: int, following: int) -> int:
    """The number to go on with after one that is in use. Nobody counts as far as the upper half: what is there is no work of
    ours, will never be met, and must not use the numbers up."""
    return max(following, number + 1) if number < _NEVER_REACHED else following


def digest(rows: Iterable[tuple[bytes, bytes]]) -> int:
    """Of rows in any order, to tell within this process whether they are still the same."""
    return sum(hash(key + value) for key, value in rows)


class BackendSet(msgspec.Struct, eq=False):
    """One set; `maglev_users` of its `users` want a look-up table.

    `digest` is of its rows in `lb_slots` and `lb_members`. It has rows 0 to `parts` - 1 of `lb_maglev`; with `has_table` they
    are the table that this agent makes, of the given digest, else what an earlier one left.
    """

    id: int
    backends: Backends
    digest: int = 0
    users: int = 0
    maglev_users: int = 0
    parts: int = 0
    has_table: bool = False
    table_digest: int = 0
    is_damaged: bool = False
    choosable: int = 0

    def __post_init__(self) -> None:
        self.choosable = choosable(self.backends)

    def slot_keys(self) -> list[bytes]:
        return [LB_SLOT_KEY.pack(self.id, slot) for slot in range(len(self.backends))]

    def slot_rows(self) -> dict[bytes, bytes]:
        values = (LB_BACKEND.pack(each.addr, each.port, each.is_terminating) for each in self.backends)
        return dict(zip(self.slot_keys(), values, strict=True))

    def member_rows(self) -> dict[bytes, bytes]:
        return {
            LB_MEMBER_KEY.pack(self.id, each.addr, each.port): NUMBER.pack(each.is_terminating)
            for each in self.backends
        }

    def table_rows(self, make: LookupTable) -> dict[bytes, bytes]:
        slots = array("H", make(self.backends[: self.choosable]))
        return {
            LB_MAGLEV_KEY.pack(self.id, part): slots[start : start + MAGLEV_PART]
            .tobytes()
            .ljust(2 * MAGLEV_PART, b"\0")
            for part, start in enumerate(range(0, len(slots), MAGLEV_PART))
        }

    def table_keys(self, start: int = 0) -> list[bytes]:
        return [LB_MAGLEV_KEY.pack(self.id, part) for part in range(start, self.parts)]


class BackendSets:
    """All sets of a node. Set 0 is the empty one and has no rows."""

    def __init__(self) -> None:
        self._by_id: dict[int, BackendSet] = {}
        self._by_backends: dict[Backends, BackendSet] = {}
        self._next = 1

    def __iter__(self) -> Iterator[BackendSet]:
        return iter(self._by_id.values())

    def __contains__(self, number: object) -> bool:
        return number in self._by_id

    def get(self, number: int) -> BackendSet | None:
        return self._by_id.get(number)

    def skip(self, number: int) -> None:
        """Make no set of this number or a lower one: the kernel has rows of it."""
        self._next = beyond(number, self._next)

    def acquire(self, backends: Backends, *, maglev: bool) -> tuple[BackendSet, bool]:
        """The set of these backends with one more user, and whether it is new: its rows have to be written."""
        found = self._by_backends.get(backends)
        if found is not None:
            self.use(found, maglev=maglev)
            return found, False
        found = BackendSet(self._next, backends)
        self._next += 1
        self.use(found, maglev=maglev)
        return found, True

    def use(self, found: BackendSet, *, maglev: bool) -> None:
        """One user more, of a set that may have been found in the kernel."""
        self._by_id[found.id] = found
        if not found.is_damaged:
            self._by_backends.setdefault(found.backends, found)
        found.users += 1
        found.maglev_users += maglev

    def release(self, found: BackendSet, *, maglev: bool) -> None:
        """One user less. Without any the set is known no longer; its rows have to go."""
        found.users -= 1
        found.maglev_users -= maglev
        if not found.users:
            del self._by_id[found.id]
            self._forget(found)

    def give_up(self, found: BackendSet) -> None:
        """Let nobody else use it."""
        found.is_damaged = True
        self._forget(found)

    def _forget(self, found: BackendSet) -> None:
        if self._by_backends.get(found.backends) is found:
            del self._by_backends[found.backends]


def read_sets(slots: Iterable[tuple[bytes, bytes]]) -> Mapping[int, Backends]:
    """Sets by number, from rows of `lb_slots`."""
    found: dict[int, dict[int, Backend]] = {}
    for key, value in slots:
        number, slot = LB_SLOT_KEY.unpack(key)
        addr, port, terminating = LB_BACKEND.unpack(value)
        found.setdefault(number, {})[slot] = Backend(Addr(addr), port, bool(terminating))
    return {number: tuple(each[slot] for slot in sorted(each)) for number, each in found.items()}
