"""The reconciler's target for `lb_entries`: services with their backends in the load-balancing maps.

A change writes new sets, then source ranges, then the services' rows that name them, and removes afterwards what nothing names
any more. What is in the kernel from an earlier agent is taken over before the first change.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from stentor.datapath.errors import MapFull
from stentor.datapath.maps import LB_KEY, LB_MEMBER_KEY, LB_SERVICE, LB_SOURCE_KEY, NUMBER
from stentor.datapath.service_set import MAGLEV_PART, BackendSet, BackendSets, LookupTable, read_sets
from stentor.datapath.service_socket import End
from stentor.net.address import Prefix
from stentor.sys.bpf import Map
from stentor.tables.service import Backends, EntryFlag, FrontendKey, LBEntry, Protocol

MAPS: Final = ("lb_services", "lb_slots", "lb_members", "lb_sources", "lb_maglev")
_SLICE: Final = 512
_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})
_MAGLEV: Final = EntryFlag.MAGLEV.value  # flags as plain numbers: operations of enums cost ten times as much
_NOBODY: Final = BackendSet(0, ())
_SERVICE_BITS: Final = 32  # of an lb_source_key, in front of the address


class Written(msgspec.Struct, frozen=True):
    """A row that is in the kernel."""

    id: int
    entry: LBEntry
    value: bytes


class Found(msgspec.Struct, frozen=True):
    """A row as the kernel has it; `sets` are the numbers of the sets that it names."""

    id: int
    entry: LBEntry
    value: bytes
    sets: frozenset[int]


class MaglevUse(msgspec.Struct, frozen=True):
    """Look-up tables: how many rows they take of how many, and how many sets found no room."""

    rows: int
    capacity: int
    refused: int

    @property
    def pressure(self) -> float:
        return self.rows / self.capacity if self.capacity else 0.0


class ServiceTarget:
    """Owner of the load-balancing maps. `lookup_table` makes Maglev tables of `maglev_size` buckets."""

    def __init__(self, maps: Mapping[str, Map], lookup_table: LookupTable, maglev_size: int) -> None:
        self._maps = {name: maps[name] for name in MAPS}
        self._lookup_table = lookup_table
        self._parts = -(-maglev_size // MAGLEV_PART)
        self._sets = BackendSets()
        self._written: dict[FrontendKey, Written] = {}
        self._next_id = 1
        self._refused: set[int] = set()
        self._has_adopted = False
        self._lost: dict[End, set[FrontendKey]] = {}
        self._has_lost = asyncio.Event()

    # ---- what others ask

    def id(self, key: FrontendKey) -> int:
        """The number under which people see a service's row; 0 when it is not in the kernel."""
        found = self._written.get(key)
        return found.id if found else 0

    @property
    def slots(self) -> int:
        """Rows that sets of backends take."""
        return sum(len(each.backends) for each in self._sets)

    @property
    def maglev(self) -> MaglevUse:
        rows = self._parts * sum(1 for each in self._sets if each.has_table)
        return MaglevUse(rows, self._maps["lb_maglev"].spec.max_entries, len(self._refused))

    async def lost(self) -> Mapping[End, frozenset[FrontendKey]]:
        """Waits for UDP backends that the kernel names no longer: each with the frontends that it is gone from."""
        await self._has_lost.wait()
        self._has_lost.clear()
        found, self._lost = self._lost, {}
        return {end: frozenset(frontends) for end, frontends in found.items()}

    # ---- the reconciler's calls

    async def apply(
        self, upserts: Sequence[tuple[FrontendKey, LBEntry]], deletes: Sequence[FrontendKey]
    ) -> Mapping[FrontendKey, Exception]:
        """Upserts first. Returns what found no room (MapFull) or was refused (OSError); rows before stay as they were."""
        if not self._has_adopted:  # numbers of rows and sets go on where a predecessor stopped
            await self.dump()
        failed: dict[FrontendKey, Exception] = {}
        for start in range(0, len(upserts), _SLICE):
            failed |= await self._write([entry for _, entry in upserts[start : start + _SLICE]])
            await asyncio.sleep(0)
        for start in range(0, len(deletes), _SLICE):
            failed |= self._remove(deletes[start : start + _SLICE])
            await asyncio.sleep(0)
        return failed

    async def dump(self) -> Mapping[FrontendKey, LBEntry]:
        """All services in the kernel; one whose set is damaged shows without backends, so that it is written again."""
        self._has_adopted = True
        sets = read_sets(self._maps["lb_slots"].items())
        await asyncio.sleep(0)
        ranges = self._read_ranges()
        await asyncio.sleep(0)
        rows = [_decode(raw, value, sets, ranges) for raw, value in self._maps["lb_services"].items()]
        for row in rows:
            self._next_id = max(self._next_id, row.id + 1)
            if row.entry.key not in self._written:
                self._adopt(row, sets)
        await asyncio.sleep(0)
        self._check_sets(sets)
        self._drop_orphans(set(sets).difference(*(row.sets for row in rows)), sets)
        return {row.entry.key: self._as_written(row) for row in rows}

    # ---- writing

    async def _write(self, entries: Sequence[LBEntry]) -> dict[FrontendKey, Exception]:
        failed: dict[FrontendKey, Exception] = {}
        rows: dict[bytes, tuple[LBEntry, Written]] = {}
        new: list[BackendSet] = []
        acquired: dict[FrontendKey, tuple[BackendSet, BackendSet]] = {}
        for entry in entries:
            acquired[entry.key] = (self._acquire(entry.internal, False, new), self._acquire_external(entry, new))
        bad = self._write_sets(new)
        bad_tables = await self._write_tables({s.id: s for _, s in acquired.values() if s.maglev_users})
        for entry in entries:
            internal, external = acquired[entry.key]
            error = bad.get(internal.id) or bad.get(external.id)
            if error is not None:
                failed[entry.key] = error
                continue
            has_table = external.id not in bad_tables
            rows[_raw_key(entry.key)] = entry, self._row(entry, internal, external, has_table)
        failed |= self._write_ranges(rows)
        failed |= self._write_services({raw: row for raw, row in rows.items() if row[0].key not in failed})
        for entry in entries:
            if entry.key in failed:
                self._release(entry)
        for entry, row in rows.values():
            if entry.key not in failed:
                self._replace(row)
        return failed

    def _acquire(self, backends: Backends, maglev: bool, new: list[BackendSet]) -> BackendSet:
        if not backends:
            return _NOBODY
        found, is_new = self._sets.acquire(backends, maglev=maglev)
        if is_new:
            new.append(found)
        return found

    def _acquire_external(self, entry: LBEntry, new: list[BackendSet]) -> BackendSet:
        return self._acquire(entry.external, bool(entry.external) and _wants_table(entry), new)

    def _write_sets(self, new: Sequence[BackendSet]) -> dict[int, Exception]:
        """Errors by set."""
        bad: dict[int, Exception] = {}
        for name, rows_of in (("lb_slots", BackendSet.slot_rows), ("lb_members", BackendSet.member_rows)):
            owner = {key: (each.id, value) for each in new for key, value in rows_of(each)}
            failed = self._maps[name].update_batch({key: value for key, (_, value) in owner.items()})
            bad |= {owner[key][0]: self._explain(name, error) for key, error in failed.items()}
        for each in new:
            each.is_damaged = each.id in bad
        return bad

    async def _write_tables(self, wanted: Mapping[int, BackendSet]) -> set[int]:
        """Sets without a look-up table for want of room: their backends are chosen at random."""
        target, missing = self._maps["lb_maglev"], set()
        for each in wanted.values():
            if each.has_table:
                continue
            if self.maglev.rows + self._parts > target.spec.max_entries:
                missing.add(each.id)
                continue
            each.has_table = not target.update_batch(dict(each.table_rows(self._lookup_table)))
            if not each.has_table:
                target.delete_batch(each.table_keys(self._parts))
                missing.add(each.id)
            await asyncio.sleep(0)
        self._refused = (self._refused - wanted.keys()) | missing
        return missing

    def _row(self, entry: LBEntry, internal: BackendSet, external: BackendSet, has_table: bool) -> Written:
        known = self._written.get(entry.key)
        number = known.id if known else self._next_id
        self._next_id += not known
        flags = entry.flags.value if has_table and external.id else entry.flags.value & ~_MAGLEV
        value = LB_SERVICE.pack(
            number, flags, internal.id, internal.choosable, external.id, external.choosable, entry.affinity_s
        )
        return Written(number, entry, value)

    def _write_ranges(self, rows: Mapping[bytes, tuple[LBEntry, Written]]) -> dict[FrontendKey, Exception]:
        owner = {_range_key(row.id, each): entry.key for entry, row in rows.values() for each in entry.source_ranges}
        failed = self._maps["lb_sources"].update_batch(dict.fromkeys(owner, NUMBER.pack(1)))
        return {owner[key]: self._explain("lb_sources", error) for key, error in failed.items()}

    def _write_services(self, rows: Mapping[bytes, tuple[LBEntry, Written]]) -> dict[FrontendKey, Exception]:
        failed = self._maps["lb_services"].update_batch({raw: row.value for raw, (_, row) in rows.items()})
        return {rows[raw][0].key: self._explain("lb_services", error) for raw, error in failed.items()}

    def _replace(self, row: Written) -> None:
        """The kernel has the new row: let go of what only the old one named."""
        old = self._written.get(row.entry.key)
        self._written[row.entry.key] = row
        if old is not None:
            gone = set(old.entry.source_ranges) - set(row.entry.source_ranges)
            self._maps["lb_sources"].delete_batch([_range_key(old.id, each) for each in gone])
            self._note_lost(old.entry, row.entry.internal)
            self._release(old.entry)

    def _remove(self, keys: Sequence[FrontendKey]) -> dict[FrontendKey, Exception]:
        raw = {_raw_key(key): key for key in keys}
        failed: dict[FrontendKey, Exception] = {
            raw[each]: error for each, error in self._maps["lb_services"].delete_batch(raw).items()
        }
        for key in keys:
            old = self._written.pop(key, None) if key not in failed else None
            if old is not None:
                self._maps["lb_sources"].delete_batch([_range_key(old.id, each) for each in old.entry.source_ranges])
                self._note_lost(old.entry, ())
                self._release(old.entry)
        return failed

    def _note_lost(self, old: LBEntry, left: Backends) -> None:
        if old.key.protocol is not Protocol.UDP:
            return
        gone = {(each.addr, each.port) for each in old.internal} - {(each.addr, each.port) for each in left}
        for end in gone:
            self._lost.setdefault(end, set()).add(old.key)
        if gone:
            self._has_lost.set()

    def _release(self, entry: LBEntry) -> None:
        gone = []
        if entry.internal:
            gone.append(self._sets.release(entry.internal, maglev=False))
        if entry.external:
            gone.append(self._sets.release(entry.external, maglev=_wants_table(entry)))
        self._delete_sets([each for each in gone if each is not None])

    def _delete_sets(self, gone: Sequence[BackendSet]) -> None:
        if not gone:
            return
        self._maps["lb_slots"].delete_batch([key for each in gone for key, _ in each.slot_rows()])
        self._maps["lb_members"].delete_batch([key for each in gone for key, _ in each.member_rows()])
        self._maps["lb_maglev"].delete_batch(
            [key for each in gone if each.has_table for key in each.table_keys(self._parts)]
        )
        self._refused -= {each.id for each in gone}

    def _explain(self, name: str, error: OSError) -> Exception:
        return MapFull(name, self._maps[name].spec.max_entries) if error.errno in _FULL else error

    # ---- reading

    def _check_sets(self, sets: Mapping[int, Backends]) -> None:
        """Mark the sets of ours whose rows are not what was written."""
        members: dict[int, set[bytes]] = {}
        for raw in [key for key, _ in self._maps["lb_members"].items()]:
            members.setdefault(LB_MEMBER_KEY.unpack(raw)[0], set()).add(raw)
        for each in self._sets:
            expected = {raw for raw, _ in each.member_rows()}
            each.is_damaged = sets.get(each.id) != each.backends or members.get(each.id) != expected

    def _as_written(self, row: Found) -> LBEntry:
        """As it was written while all its bytes are the same; with a damaged set, as nobody would have written it."""
        known = self._written.get(row.entry.key)
        if known is None or known.value != row.value or known.entry.source_ranges != row.entry.source_ranges:
            return row.entry
        used = [self._sets.find(each) for each in (known.entry.internal, known.entry.external) if each]
        if all(each is not None and not each.is_damaged for each in used):
            return known.entry
        return msgspec.structs.replace(known.entry, internal=(), external=())

    def _read_ranges(self) -> dict[int, list[Prefix]]:
        ranges: dict[int, list[Prefix]] = {}
        for raw in [key for key, _ in self._maps["lb_sources"].items()]:
            bits, service, addr = LB_SOURCE_KEY.unpack(raw)
            ranges.setdefault(service, []).append(Prefix(addr, bits - _SERVICE_BITS))
        return ranges

    def _adopt(self, row: Found, sets: Mapping[int, Backends]) -> None:
        """A row that an earlier agent wrote is as good as one of ours, if its sets are there and not known by other numbers."""
        for number in row.sets:
            known = self._sets.find(sets.get(number, ()))
            if number not in sets or (known is not None and known.id != number):
                return
        for number in row.sets:
            self._sets.adopt(number, sets[number])
        kept = msgspec.structs.replace(
            row.entry, flags=row.entry.flags & ~EntryFlag.MAGLEV
        )  # its table is written again
        self._acquire(kept.internal, False, [])
        self._acquire(kept.external, False, [])
        self._written[kept.key] = Written(row.id, kept, row.value)

    def _drop_orphans(self, orphans: Iterable[int], sets: Mapping[int, Backends]) -> None:
        """Sets that no row names: left by an agent that died between two writes."""
        ours = {each.id for each in self._sets}
        self._delete_sets([BackendSet(each, sets[each]) for each in orphans if each not in ours])


def _wants_table(entry: LBEntry) -> bool:
    return bool(entry.flags.value & _MAGLEV)


def _raw_key(key: FrontendKey) -> bytes:
    return LB_KEY.pack(key.addr, key.port, key.protocol)


def _range_key(number: int, prefix: Prefix) -> bytes:
    return LB_SOURCE_KEY.pack(_SERVICE_BITS + prefix.bits, number, prefix.addr)


def _decode(raw: bytes, value: bytes, sets: Mapping[int, Backends], ranges: Mapping[int, Sequence[Prefix]]) -> Found:
    addr, port, protocol = LB_KEY.unpack(raw)
    number, flags, internal, _, external, _, affinity_s = LB_SERVICE.unpack(value)
    entry = LBEntry(
        key=FrontendKey(addr, port, Protocol(protocol)),
        internal=sets.get(internal, ()),
        external=sets.get(external, ()),
        flags=EntryFlag(flags),
        affinity_s=affinity_s,
        source_ranges=tuple(sorted(ranges.get(number, ()))),
    )
    return Found(number, entry, value, frozenset({internal, external} - {0}))
