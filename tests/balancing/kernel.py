"""The load-balancing maps as the programs read them, next to a plain model of what they should hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stentor.datapath.maps import (
    LB_BACKEND,
    LB_KEY,
    LB_MAGLEV_KEY,
    LB_MEMBER_KEY,
    LB_SERVICE,
    LB_SLOT_KEY,
    LB_SOURCE_KEY,
)
from stentor.datapath.service_set import MAGLEV_PART, LookupTable
from stentor.net.address import Addr, Prefix
from stentor.sys.bpf import Map
from stentor.tables.service import Backends, EntryFlag, LBEntry


class SeenSet(NamedTuple):
    """A set: its backends with whether they terminate, how many may get connections, and who counts as a member."""

    slots: tuple[tuple[Addr, int, bool], ...]
    choosable: int
    members: frozenset[tuple[Addr, int]]


class SeenService(NamedTuple):
    """What becomes of a connection to a service."""

    flags: int
    affinity_s: int
    internal: SeenSet
    external: SeenSet
    ranges: frozenset[Prefix]
    table: tuple[int, ...]


def expected_set(backends: Backends) -> SeenSet:
    slots = tuple((each.addr, each.port, each.is_terminating) for each in backends)
    active = sum(1 for each in backends if not each.is_terminating)
    return SeenSet(slots, active or len(slots), frozenset((each.addr, each.port) for each in backends))


def expected(entry: LBEntry, lookup_table: LookupTable) -> SeenService:
    """Of an entry, when there is room for all of it."""
    external = expected_set(entry.external)
    has_table = bool(entry.flags & EntryFlag.MAGLEV and entry.external)
    return SeenService(
        flags=int(entry.flags) if has_table else int(entry.flags & ~EntryFlag.MAGLEV),
        affinity_s=entry.affinity_s,
        internal=expected_set(entry.internal),
        external=external,
        ranges=frozenset(entry.source_ranges),
        table=tuple(lookup_table(entry.external[: external.choosable])) if has_table else (),
    )


class Reading:
    """All five maps. `unnamed` are rows that no service leads to, by map."""

    def __init__(self, maps: Mapping[str, Map], maglev_size: int) -> None:
        self.services: dict[tuple[Any, ...], SeenService] = {}
        self._slots = {LB_SLOT_KEY.unpack(key): LB_BACKEND.unpack(value) for key, value in maps["lb_slots"].items()}
        self._members = {LB_MEMBER_KEY.unpack(key) for key, _ in maps["lb_members"].items()}
        self._parts = {LB_MAGLEV_KEY.unpack(key): value for key, value in maps["lb_maglev"].items()}
        self._sources = {LB_SOURCE_KEY.unpack(key) for key, _ in maps["lb_sources"].items()}
        self._maglev_size = maglev_size
        rows = [(LB_KEY.unpack(key), LB_SERVICE.unpack(value)) for key, value in maps["lb_services"].items()]
        sets, tables, ids = {0}, set(), set()
        for key, (number, flags, internal, n_internal, external, n_external, affinity_s) in rows:
            sets |= {internal, external}
            assert number not in ids, "two services have one number"
            ids.add(number)
            if flags & EntryFlag.MAGLEV:
                tables.add(external)
            ranges = (Prefix(addr, bits - 32) for bits, service, addr in self._sources if service == number)
            self.services[key] = SeenService(
                flags=flags,
                affinity_s=affinity_s,
                internal=self._set(internal, n_internal),
                external=self._set(external, n_external),
                ranges=frozenset(ranges),
                table=self._table(external) if flags & EntryFlag.MAGLEV else (),
            )
        self.unnamed = {
            "lb_slots": _unnamed((number for number, _ in self._slots), sets),
            "lb_members": _unnamed((number for number, _, _ in self._members), sets),
            "lb_maglev": _unnamed((number for number, _ in self._parts), tables),
            "lb_sources": _unnamed((number for _, number, _ in self._sources), ids),
        }
        self.repeated = [slots for slots, times in Counter(map(self._backends, sets)).items() if times > 1]

    def _backends(self, number: int) -> tuple[tuple[Addr, int, bool], ...]:
        found = sorted((slot, row) for (each, slot), row in self._slots.items() if each == number)
        assert [slot for slot, _ in found] == list(range(len(found))), "slots have a gap"
        return tuple((Addr(addr), port, bool(terminating)) for _, (addr, port, terminating) in found)

    def _set(self, number: int, count: int) -> SeenSet:
        members = frozenset((Addr(addr), port) for each, addr, port in self._members if each == number)
        return SeenSet(self._backends(number), count, members)

    def _table(self, number: int) -> tuple[int, ...]:
        parts = sorted((part, value) for (each, part), value in self._parts.items() if each == number)
        assert [part for part, _ in parts] == list(range(-(-self._maglev_size // MAGLEV_PART))), "parts of a table"
        buckets = [int.from_bytes(value[at : at + 2], "little") for _, value in parts for at in range(0, 128, 2)]
        return tuple(buckets[: self._maglev_size])


def _unnamed(found: Iterable[int], named: set[int]) -> set[int]:
    return set(found) - named
