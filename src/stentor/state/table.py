"""Tables of immutable rows with secondary indexes, transactions over many tables, and trackers of what changed.

One event loop owns a database: nothing here locks. A tracker coalesces: however often a key changed between two drains, it
reports the row before the first change and the row now, and nothing when these are equal. So a burst costs its net effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Column(NamedTuple):
    """How one column of a table prints; `show` gets the row."""

    name: str
    show: Callable[[Any], object]


class Change(NamedTuple, Generic[K, R]):
    """A row's net change since the tracker was last drained; None stands for "was not there"."""

    key: K
    old: R | None
    new: R | None


class Tracker(Generic[K, R]):
    """Collects the changes of one table for one reader. Made by `Table.track`."""

    def __init__(self, table: Table[K, R], wake: Callable[[], None] | None) -> None:
        self._table = table
        self._before: dict[K, R | None] = {}
        self.wake = wake

    def note(self, key: K, old: R | None) -> None:
        """Remember a row as it was; called by the table on commit."""
        self._before.setdefault(key, old)

    def __bool__(self) -> bool:
        """Whether something may have changed."""
        return bool(self._before)

    def drain(self) -> list[Change[K, R]]:
        """Net changes since the last call, in the order of each key's first change."""
        before, self._before = self._before, {}
        get = self._table.get
        changes = (Change(key, old, get(key)) for key, old in before.items())
        return [change for change in changes if change.old != change.new]

    def close(self) -> None:
        """Stop collecting."""
        self._table.untrack(self)


class Table(Generic[K, R]):
    """Rows by primary key.

    `key` takes a row's primary key; `indexes` name functions from a row to the values under which `by` finds it. Rows are
    immutable values that compare by content. A table is synced once every source that announced itself has reported so;
    what a previous process left in the kernel is pruned only then.
    """

    def __init__(
        self,
        name: str,
        key: Callable[[R], K],
        *,
        indexes: Mapping[str, Callable[[R], Iterable[Hashable]]] | None = None,
        columns: Sequence[Column] = (),
    ) -> None:
        self.name = name
        self.key = key
        self.columns = tuple(columns)
        self.revision = 0
        self._rows: dict[K, R] = {}
        self._index_of = dict(indexes or {})
        self._indexes: dict[str, dict[Hashable, dict[K, None]]] = {name: {} for name in self._index_of}
        self._trackers: list[Tracker[K, R]] = []
        self._unsynced: set[str] = set()

    # ---- reading

    def get(self, key: K) -> R | None:
        return self._rows.get(key)

    def __getitem__(self, key: K) -> R:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[R]:
        """Every row; do not write while iterating."""
        return iter(self._rows.values())

    def items(self) -> Iterable[tuple[K, R]]:
        return self._rows.items()

    def by(self, index: str, value: Hashable) -> list[R]:
        """Rows that `index` puts under `value`, in order of insertion."""
        return [self._rows[key] for key in self._indexes[index].get(value, ())]

    # ---- readiness

    def expect(self, source: str) -> None:
        """Announce a source that will fill this table."""
        self._unsynced.add(source)

    def synced(self, source: str) -> None:
        """The source has delivered all that existed when it started. Repeating it does nothing; the last one wakes readers."""
        if source in self._unsynced:
            self._unsynced.discard(source)
            if not self._unsynced:
                for wake in self._wakes():
                    wake()

    @property
    def is_synced(self) -> bool:
        return not self._unsynced

    @property
    def waiting_for(self) -> frozenset[str]:
        """Sources that have not reported yet."""
        return frozenset(self._unsynced)

    # ---- change tracking

    def track(self, *, replay: bool = True, wake: Callable[[], None] | None = None) -> Tracker[K, R]:
        """A tracker that first reports every present row (unless `replay` is off); `wake` is called after each commit
        that touches this table."""
        tracker = Tracker(self, wake)
        if replay:
            for key in self._rows:
                tracker.note(key, None)
        self._trackers.append(tracker)
        return tracker

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds()` is true, which is asked now and after each commit that touches this table."""
        changed = asyncio.Event()
        tracker = self.track(replay=False, wake=changed.set)
        try:
            while not holds():
                await changed.wait()
                changed.clear()
        finally:
            tracker.close()

    def untrack(self, tracker: Tracker[K, R]) -> None:
        self._trackers.remove(tracker)

    # ---- writing: only a transaction calls these

    def _write(self, key: K, row: R | None) -> bool:
        old = self._rows.get(key)
        if old == row:
            return False
        for name, values_of in self._index_of.items():
            index = self._indexes[name]
            if old is not None:
                for value in values_of(old):
                    keys = index.get(value)
                    if keys is not None:
                        keys.pop(key, None)
                        if not keys:
                            del index[value]
            if row is not None:
                for value in values_of(row):
                    index.setdefault(value, {})[key] = None
        if row is None:
            del self._rows[key]
        else:
            self._rows[key] = row
        for tracker in self._trackers:
            tracker.note(key, old)
        return True

    def _wakes(self) -> list[Callable[[], None]]:
        return [tracker.wake for tracker in self._trackers if tracker.wake is not None]


class Transaction:
    """Writes to many tables that become visible together at the end of its `with` block; an exception drops them all."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writes: list[tuple[Table[Any, Any], Hashable, Any]] = []

    def put(self, table: Table[K, R], row: R) -> None:
        """Insert or replace."""
        self._writes.append((table, table.key(row), row))

    def delete(self, table: Table[K, R], key: K) -> None:
        """Remove; a key that is not there is no error."""
        self._writes.append((table, key, None))

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._database._commit(self._writes)


class Database:
    """The tables of one process, by name, and the revision of its last commit."""

    def __init__(self) -> None:
        self.revision = 0
        self.tables: dict[str, Table[Any, Any]] = {}

    def add(self, table: Table[K, R]) -> Table[K, R]:
        """Register a table; ValueError when its name is taken."""
        if table.name in self.tables:
            raise ValueError(f"table {table.name} exists already")
        self.tables[table.name] = table
        return table

    def write(self) -> Transaction:
        """``with database.write() as txn: txn.put(table, row)``."""
        return Transaction(self)

    def put(self, table: Table[K, R], *rows: R) -> None:
        """Insert or replace rows in a transaction of their own."""
        with self.write() as txn:
            for row in rows:
                txn.put(table, row)

    def delete(self, table: Table[K, R], *keys: K) -> None:
        """Remove keys in a transaction of their own."""
        with self.write() as txn:
            for key in keys:
                txn.delete(table, key)

    def _commit(self, writes: list[tuple[Table[Any, Any], Hashable, Any]]) -> None:
        touched = {id(table): table for table, key, row in writes if table._write(key, row)}
        if not touched:
            return
        self.revision += 1
        for table in touched.values():
            table.revision = self.revision
        for table in touched.values():
            for wake in table._wakes():
                wake()
