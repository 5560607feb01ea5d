"""The reconciler's target for `lb_entries`: services with their backends in the load-balancing maps.

A change writes new sets, then source ranges, then the services' rows that name them, and removes afterwards what nothing names
any more. What is in the kernel from an earlier agent is taken over before the first change.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Final

import msgspec

from stentor.datapath.errors import MapFull
from stentor.datapath.maps import LB_KEY, LB_SERVICE, LB_SOURCE_KEY, NUMBER
from stentor.datapath.service_census import SET_MAPS, Census, take
from stentor.datapath.service_set import MAGLEV_PART, BackendSet, BackendSets, LookupTable, beyond, digest, read_sets
from stentor.datapath.service_socket import End
from stentor.net.address import Prefix
from stentor.sys.bpf import Map
from stentor.tables.service import Backends, EntryFlag, FrontendKey, LBEntry, Protocol

MAPS: Final = ("lb_services", "lb_sources", *SET_MAPS)
_SLICE: Final = 128
_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})
_MAGLEV: Final = EntryFlag.MAGLEV.value  # flags as plain numbers: operations of enums cost ten times as much
_NOBODY: Final = BackendSet(0, ())
_PROTOCOLS: Final = frozenset(Protocol)
_UNWANTED: Final = -1  # a time that no session affinity has
_GRACE_S: Final = 0.001  # programs that have read a service's old row have ended by then
_SERVICE_BITS: Final = 32  # of an lb_source_key, in front of the address


class Written(msgspec.Struct, frozen=True, eq=False):
    """A row that is in the kernel, and the sets that it names."""

    id: int
    entry: LBEntry
    value: bytes
    internal: BackendSet
    external: BackendSet

    @property
    def ranges(self) -> set[bytes]:
        return {_range_key(self.id, each) for each in self.entry.source_ranges} if self.entry.source_ranges else set()


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
        self._parts_used = 0
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
        """Rows that sets of backends take, in `lb_slots` as in `lb_members`."""
        return sum(len(each.backends) for each in self._sets)

    @property
    def sources(self) -> int:
        """Rows that source ranges take."""
        return sum(len(each.entry.source_ranges) for each in self._written.values())

    @property
    def maglev(self) -> MaglevUse:
        return MaglevUse(self._parts_used, self._maps["lb_maglev"].spec.max_entries, len(self._refused))

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
            failed |= await self._remove(deletes[start : start + _SLICE])
            await asyncio.sleep(0)
        await self._make_refused_tables()
        return failed

    async def dump(self) -> Mapping[FrontendKey, LBEntry]:
        """All services in the kernel; one that is not byte for byte as it should be shows as nobody would want it, so that it
        is written again. What no service leads to is removed."""
        self._has_adopted = True
        census = await take(self._maps, self._sets)
        self._skip_numbers(census)
        self._check_sets(census)
        found: dict[FrontendKey, LBEntry] = {}
        named: set[int] = set()
        ids: set[int] = set()
        owned = {row.id for row in self._written.values()}
        for count, (raw, value) in enumerate(census.services.items(), 1):
            key = _key(raw)
            if key is None:  # nobody can want it
                self._maps["lb_services"].delete_batch([raw])
                continue
            number, _, internal, _, external, _, _ = LB_SERVICE.unpack(value)
            row = self._written.get(key)
            if row is None and number not in owned and (row := self._adopt(key, value, census)) is not None:
                owned.add(number)
            named |= {internal, external}
            ids.add(number)
            is_right = row is not None and self._is_intact(row, value, census)
            found[key] = row.entry if is_right and row is not None else LBEntry(key=key, affinity_s=_UNWANTED)
            if not count % _SLICE:
                await asyncio.sleep(0)
        self._drop_orphans(census, named, ids | owned)
        await self._make_refused_tables()
        return found

    # ---- writing

    async def _write(self, entries: Sequence[LBEntry]) -> dict[FrontendKey, Exception]:
        failed: dict[FrontendKey, Exception] = {}
        rows: dict[bytes, Written] = {}
        new: list[BackendSet] = []
        acquired = {
            each.key: (self._acquire_internal(each, new), self._acquire_external(each, new)) for each in entries
        }
        bad = await self._write_sets(new)
        await self._write_tables([each for _, each in acquired.values() if each.maglev_users and each.id not in bad])
        for entry in entries:
            internal, external = acquired[entry.key]
            error = bad.get(internal.id) or bad.get(external.id)
            if error is not None:
                failed[entry.key] = error
            else:
                rows[_raw_key(entry.key)] = self._row(entry, internal, external)
        failed |= self._write_ranges(rows)
        failed |= self._write_services({raw: row for raw, row in rows.items() if row.entry.key not in failed})
        unused: list[BackendSet] = []
        for row in rows.values():
            if row.entry.key in failed:
                self._withdraw_ranges(row)
            else:
                self._replace(row, unused)
        for entry in entries:
            if entry.key in failed:
                self._release(entry, *acquired[entry.key], unused)
        await self._clear(unused)
        return failed

    def _acquire_internal(self, entry: LBEntry, new: list[BackendSet]) -> BackendSet:
        return self._acquire(entry.internal, False, new)

    def _acquire_external(self, entry: LBEntry, new: list[BackendSet]) -> BackendSet:
        return self._acquire(entry.external, _wants_table(entry), new)

    def _acquire(self, backends: Backends, maglev: bool, new: list[BackendSet]) -> BackendSet:
        if not backends:
            return _NOBODY
        found, is_new = self._sets.acquire(backends, maglev=maglev)
        if is_new:
            new.append(found)
        return found

    async def _write_sets(self, new: Sequence[BackendSet]) -> dict[int, Exception]:
        """Errors by set."""
        bad: dict[int, Exception] = {}
        for name, rows_of in (("lb_slots", BackendSet.slot_rows), ("lb_members", BackendSet.member_rows)):
            rows: dict[bytes, bytes] = {}
            owner: dict[bytes, int] = {}
            for each in new:
                own = rows_of(each)
                each.digest += digest(own.items())
                rows |= own
                owner |= dict.fromkeys(own, each.id)
            failed = self._maps[name].update_batch(rows)
            bad |= {owner[key]: self._explain(name, error) for key, error in failed.items()}
            await _turn(rows)
        return bad

    async def _write_tables(self, wanted: Iterable[BackendSet]) -> None:
        """Where there is no room for a look-up table, backends are chosen at random."""
        for each in wanted:
            if each.has_table:
                continue
            self._refused.discard(each.id)
            if self._has_room(self._parts - each.parts):
                await self._write_table(each)
            if not each.has_table:
                self._drop_table(each)
                self._refused.add(each.id)

    async def _write_table(self, of: BackendSet) -> None:
        rows, left = of.table_rows(self._lookup_table), of.table_keys(self._parts)
        failed = self._maps["lb_maglev"].update_batch(rows)
        self._maps["lb_maglev"].delete_batch(left)  # of a larger one, which an earlier agent made
        self._parts_used += len(rows) - of.parts
        of.parts, of.has_table, of.table_digest = len(rows), not failed, digest(rows.items())
        await asyncio.sleep(0)

    def _has_room(self, parts: int) -> bool:
        return self._parts_used + parts <= self._maps["lb_maglev"].spec.max_entries

    async def _make_refused_tables(self) -> None:
        """As soon as there is room for one again."""
        if self._refused and self._has_room(self._parts):
            await self._write([row.entry for row in self._written.values() if row.external.id in self._refused])

    def _row(self, entry: LBEntry, internal: BackendSet, external: BackendSet) -> Written:
        known = self._written.get(entry.key)
        number = known.id if known else self._next_id
        self._next_id += not known
        flags = entry.flags.value if external.has_table else entry.flags.value & ~_MAGLEV
        return Written(number, entry, _value(number, flags, internal, external, entry.affinity_s), internal, external)

    def _write_ranges(self, rows: Mapping[bytes, Written]) -> dict[FrontendKey, Exception]:
        owner = {raw: row.entry.key for row in rows.values() for raw in row.ranges}
        failed = self._maps["lb_sources"].update_batch(dict.fromkeys(owner, NUMBER.pack(1)))
        return {owner[key]: self._explain("lb_sources", error) for key, error in failed.items()}

    def _write_services(self, rows: Mapping[bytes, Written]) -> dict[FrontendKey, Exception]:
        failed = self._maps["lb_services"].update_batch({raw: row.value for raw, row in rows.items()})
        return {rows[raw].entry.key: self._explain("lb_services", error) for raw, error in failed.items()}

    def _withdraw_ranges(self, row: Written) -> None:
        """The kernel keeps the old row, so it keeps the old one's ranges only."""
        old = self._written.get(row.entry.key)
        self._maps["lb_sources"].delete_batch(row.ranges - (old.ranges if old else set()))

    def _replace(self, row: Written, unused: list[BackendSet]) -> None:
        """The kernel has the new row: let go of what only the old one named."""
        old = self._written.get(row.entry.key)
        self._written[row.entry.key] = row
        if old is not None:
            if old.entry.source_ranges:
                self._maps["lb_sources"].delete_batch(old.ranges - row.ranges)
            self._note_lost(old.entry, row.entry.internal)
            self._release(old.entry, old.internal, old.external, unused)

    async def _remove(self, keys: Sequence[FrontendKey]) -> dict[FrontendKey, Exception]:
        raw = {_raw_key(key): key for key in keys}
        failed: dict[FrontendKey, Exception] = {
            raw[each]: error for each, error in self._maps["lb_services"].delete_batch(raw).items()
        }
        unused: list[BackendSet] = []
        ranges: set[bytes] = set()
        for key in keys:
            old = self._written.pop(key, None) if key not in failed else None
            if old is not None:
                ranges |= old.ranges
                self._note_lost(old.entry, ())
                self._release(old.entry, old.internal, old.external, unused)
        self._maps["lb_sources"].delete_batch(ranges)
        await self._clear(unused)
        return failed

    def _note_lost(self, old: LBEntry, left: Backends) -> None:
        if old.key.protocol is not Protocol.UDP:
            return
        gone = {(each.addr, each.port) for each in old.internal} - {(each.addr, each.port) for each in left}
        for end in gone:
            self._lost.setdefault(end, set()).add(old.key)
        if gone:
            self._has_lost.set()

    def _release(self, entry: LBEntry, internal: BackendSet, external: BackendSet, unused: list[BackendSet]) -> None:
        for each, maglev in ((internal, False), (external, _wants_table(entry))):
            if each.id:
                self._sets.release(each, maglev=maglev)
                if not each.users or (maglev and not each.maglev_users):
                    unused.append(each)

    async def _clear(self, unused: Iterable[BackendSet]) -> None:
        """Remove the rows of sets, or the look-up tables of those, that have lost their last user."""
        gone = {each.id: each for each in unused if not each.users}
        if gone:
            await asyncio.sleep(_GRACE_S)
            slots = [key for each in gone.values() for key in each.slot_keys()]
            self._maps["lb_slots"].delete_batch(slots)
            await _turn(slots)
            self._maps["lb_members"].delete_batch([key for each in gone.values() for key in each.member_rows()])
            await _turn(slots)
        for each in unused:
            if not each.maglev_users:
                self._drop_table(each)
                self._refused.discard(each.id)

    def _drop_table(self, of: BackendSet) -> None:
        if of.parts:
            self._maps["lb_maglev"].delete_batch(of.table_keys())
            self._parts_used -= of.parts
            of.parts, of.has_table, of.table_digest = 0, False, 0

    def _explain(self, name: str, error: OSError) -> Exception:
        return MapFull(name, self._maps[name].spec.max_entries) if error.errno in _FULL else error

    # ---- reading

    def _skip_numbers(self, census: Census) -> None:
        """No number that any row has is given anew."""
        for number in census.sets:
            self._sets.skip(number)
        for number in census.sources:
            self._next_id = beyond(number, self._next_id)
        for value in census.services.values():
            number, _, internal, _, external, _, _ = LB_SERVICE.unpack(value)
            self._next_id = beyond(number, self._next_id)
            self._sets.skip(internal)
            self._sets.skip(external)

    def _check_sets(self, census: Census) -> None:
        for each in self._sets:
            table = census.tables.get(each.id, (0, 0))
            if census.digests.get(each.id, 0) != each.digest or table != (each.table_digest, each.parts):
                self._sets.give_up(each)

    def _is_intact(self, row: Written, value: bytes, census: Census) -> bool:
        """Whether all rows of a service are as they were written; of source ranges there may be more, which are removed."""
        if row.entry.source_ranges or row.id in census.sources:
            ranges, there = row.ranges, census.sources[row.id]
            self._maps["lb_sources"].delete_batch(there - ranges)
            if not ranges <= there:
                return False
        has_table = row.external.has_table or not LB_SERVICE.unpack(value)[1] & _MAGLEV
        return value == row.value and has_table and not (row.internal.is_damaged or row.external.is_damaged)

    def _adopt(self, key: FrontendKey, value: bytes, census: Census) -> Written | None:
        """A row that an earlier agent wrote is as good as one of ours, if it and its sets are what we would have written. Its
        look-up table is made again, in place."""
        number, flags, first, _, second, _, affinity_s = LB_SERVICE.unpack(value)
        internal, external = self._find_set(first, census), self._find_set(second, census)
        if internal is None or external is None or value != _value(number, flags, internal, external, affinity_s):
            return None
        if second == first:
            external = internal
        entry = LBEntry(
            key=key,
            internal=internal.backends,
            external=external.backends,
            flags=EntryFlag(flags),
            affinity_s=affinity_s,
            source_ranges=tuple(sorted(map(_range, census.sources.get(number, ())))),
        )
        for each, maglev in ((internal, False), (external, _wants_table(entry))):
            if each.id:
                self._parts_used += 0 if each.users else each.parts
                self._sets.use(each, maglev=maglev)
        row = self._written[key] = Written(number, entry, value, internal, external)
        return row

    def _find_set(self, number: int, census: Census) -> BackendSet | None:
        """One of ours, or what the kernel has under the number; None when that is not a whole set."""
        if not number:
            return _NOBODY
        known = self._sets.get(number)
        if known is not None:
            return None if known.is_damaged else known
        slots = census.unknown["lb_slots"].get(number, {})
        table_digest, parts = census.tables.get(number, (0, 0))
        backends = read_sets(slots.items()).get(number, ())
        found = BackendSet(number, backends, census.digests.get(number, 0), parts=parts, table_digest=table_digest)
        is_whole = (
            slots == found.slot_rows()
            and census.unknown["lb_members"].get(number) == found.member_rows()
            and census.unknown["lb_maglev"].get(number, {}).keys() == set(found.table_keys())
        )
        return found if is_whole else None

    def _drop_orphans(self, census: Census, named: set[int], ids: set[int]) -> None:
        """What no service leads to: left by an agent that died between two writes, or written by somebody else."""
        for name, sets in census.unknown.items():
            gone = [rows for number, rows in sets.items() if number not in self._sets and number not in named]
            self._maps[name].delete_batch([key for rows in gone for key in rows])
        gone_ranges = [rows for number, rows in census.sources.items() if number not in ids]
        self._maps["lb_sources"].delete_batch([key for rows in gone_ranges for key in rows])
        for each in self._sets:
            if not each.maglev_users:
                self._drop_table(each)


async def _turn(rows: Sized) -> None:
    """Let others have the event loop after many rows: a set of 5,000 backends takes 10 ms a map."""
    if len(rows) > _SLICE:
        await asyncio.sleep(0)


def _wants_table(entry: LBEntry) -> bool:
    return bool(entry.external and entry.flags.value & _MAGLEV)


def _raw_key(key: FrontendKey) -> bytes:
    return LB_KEY.pack(key.addr, key.port, key.protocol)


def _key(raw: bytes) -> FrontendKey | None:
    addr, port, protocol = LB_KEY.unpack(raw)
    return FrontendKey(addr, port, Protocol(protocol)) if protocol in _PROTOCOLS else None


def _value(number: int, flags: int, internal: BackendSet, external: BackendSet, affinity_s: int) -> bytes:
    return LB_SERVICE.pack(number, flags, internal.id, internal.choosable, external.id, external.choosable, affinity_s)


def _range_key(number: int, prefix: Prefix) -> bytes:
    return LB_SOURCE_KEY.pack(_SERVICE_BITS + prefix.bits, number, prefix.addr)


def _range(raw: bytes) -> Prefix:
    bits, _, addr = LB_SOURCE_KEY.unpack(raw)
    return Prefix(addr, bits - _SERVICE_BITS)
