"""Where objects live: SQLite on disk, every object's JSON in memory, and the events that watchers follow.

A write is validated against the newest state including writes that are not committed yet (`head`), becomes visible to
readers and watchers when it is committed, and only then is acknowledged. All writes of one turn of the event loop, and all
that arrive while a transaction runs, share the next one. Transactions that wait for the disk run in a thread.

    log      one row a revision, append-only; the value of a deletion is the object's last state
    current  the newest revision of every object that exists

Log rows that are neither current nor among the newest `HISTORY` are removed now and then.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

log = logging.getLogger(__name__)

HISTORY: Final = 10_000
"""Events a bucket keeps for watchers that come back, and revisions the log keeps."""

Operation = Literal["ADDED", "MODIFIED", "DELETED"]
Key = tuple[str, str]
"""(namespace, name); the namespace of cluster-wide objects is empty."""

_CHECKPOINT_EVERY: Final = 2_000
"""Writes between two copies of the write-ahead log into the database."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  rv INTEGER PRIMARY KEY, bucket TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  operation TEXT NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS current (
  bucket TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, rv INTEGER NOT NULL,
  PRIMARY KEY (bucket, namespace, name)) WITHOUT ROWID;
"""


class _Owner(msgspec.Struct, frozen=True, gc=False):
    uid: str = ""


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    uid: str = ""
    labels: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    metadata: _Meta = _Meta()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Entry:
    """One state of one object. Never changed: a write makes a new one."""

    __slots__ = ("_fields", "api_version", "labels", "name", "namespace", "owners", "raw", "rv", "uid")

    def __init__(self, rv: int, key: Key, raw: bytes) -> None:
        envelope = _decode_envelope(raw)
        self.rv = rv
        self.namespace, self.name = key
        self.raw = raw
        self.api_version = envelope.api_version
        self.uid = envelope.metadata.uid
        self.labels: dict[str, str] = envelope.metadata.labels or {}
        self.owners: tuple[str, ...] = tuple(o.uid for o in envelope.metadata.owner_references or ())
        self._fields: dict[str, str] | None = None

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)

    def decode(self) -> dict[str, Any]:
        """The object; the caller owns what it gets."""
        value: dict[str, Any] = msgspec.json.decode(self.raw)
        return value

    def field(self, path: str) -> str:
        """Value at a dotted path as a field selector compares it."""
        if path == "metadata.name":
            return self.name
        if path == "metadata.namespace":
            return self.namespace
        if self._fields is None:
            self._fields = {}
        value = self._fields.get(path)
        if value is None:
            value = self._fields[path] = _field_text(self.decode(), path)
        return value


def _field_text(document: Any, path: str) -> str:
    if path == "source":  # Event.source is compared by its component
        path = "source.component"
    for step in path.split("."):
        document = document.get(step) if isinstance(document, dict) else None
    if isinstance(document, bool):
        return str(document).lower()
    return "" if document is None else str(document)


class Event:
    """A committed change. `previous` is the state before it, None for the first one known."""

    __slots__ = ("entry", "forms", "operation", "previous")

    def __init__(self, operation: Operation, entry: Entry, previous: Entry | None) -> None:
        self.operation = operation
        self.entry = entry
        self.previous = previous
        self.forms: dict[Any, bytes] = {}
        """Encoded forms, shared by the watchers that want the same one."""


class Bucket:
    """All objects of one resource, ordered by (namespace, name), with their recent events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[Key, Entry] = {}
        self.keys: list[Key] = []
        self.events: deque[Event] = deque(maxlen=HISTORY)
        self.floor = 0
        """Events at or below this revision are forgotten."""
        self.listeners: set[Callable[[Event], None]] = set()

    def apply(self, event: Event) -> None:
        key = event.entry.key
        if event.operation == "DELETED":
            if self.entries.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
        else:
            if key not in self.entries:
                insort(self.keys, key)
            self.entries[key] = event.entry
        if len(self.events) == HISTORY:
            self.floor = self.events[0].entry.rv
        self.events.append(event)
        for listener in tuple(self.listeners):
            listener(event)

    def select(self, namespace: str) -> list[Entry]:
        """Entries of one namespace in order, or all with an empty one."""
        if not namespace:
            return [self.entries[k] for k in self.keys]
        start = bisect_left(self.keys, (namespace, ""))
        end = bisect_left(self.keys, (namespace + "\0", ""))
        return [self.entries[k] for k in self.keys[start:end]]

    def since(self, rv: int) -> Iterator[Event] | None:
        """Events after revision `rv`; None when some of them are forgotten."""
        if rv < self.floor:
            return None
        first = bisect_left(self.events, rv + 1, key=lambda e: e.entry.rv)
        return (self.events[i] for i in range(first, len(self.events)))


class _Write(msgspec.Struct, frozen=True, gc=False):
    bucket: str
    operation: Operation
    entry: Entry
    done: asyncio.Future[None]


class Store:
    """The objects of one cluster. Everything but the commit itself runs in the event loop's thread."""

    def __init__(self, path: Path | None, *, durable: bool = False) -> None:
        """`path` None keeps everything in memory. `durable` survives power loss, not only the process's death."""
        self._path = path
        self._durable = durable
        self._database: sqlite3.Connection | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._buckets: dict[str, Bucket] = {}
        self._heads: dict[tuple[str, Key], tuple[Entry | None, int]] = {}
        self._pending: list[_Write] = []
        self._flushing = False
        self._assigned = 0
        self._since_trim = 0
        self._since_checkpoint = 0
        self.revision = 0
        """The newest committed revision."""
        self.listeners: list[Callable[[str, Event], None]] = []
        """Called for every event of every bucket, before its write is acknowledged."""

    def open(self) -> None:
        """Load what is on the disk. Raises sqlite3.Error, also when another process uses it."""
        database = sqlite3.connect(self._path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5)
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        if not self._durable:
            database.execute("PRAGMA wal_autocheckpoint=0")  # a checkpoint waits for the disk: `_commit_and_sync`
        database.executescript(_SCHEMA)
        self._database = database
        self._load(database)

    def close(self) -> None:
        """Finish the running transaction and close."""
        self._writer.shutdown(wait=True)
        if self._database is not None:
            self._database.close()
            self._database = None

    def _load(self, database: sqlite3.Connection) -> None:
        rows = database.execute(
            "SELECT c.bucket, c.namespace, c.name, c.rv, l.value FROM current c JOIN log l ON l.rv = c.rv"
            " ORDER BY c.bucket, c.namespace, c.name"
        )
        for name, namespace, object_name, rv, value in rows:
            bucket = self.bucket(name)
            key = (namespace, object_name)
            bucket.entries[key] = Entry(rv, key, value)
        for bucket in self._buckets.values():
            bucket.keys = sorted(bucket.entries)
        self.revision = self._assigned = database.execute("SELECT coalesce(max(rv), 0) FROM log").fetchone()[0]
        self._load_events(database)

    def _load_events(self, database: sqlite3.Connection) -> None:
        """The log's tail, so that watchers go on where they were before a restart."""
        horizon = max(0, self.revision - HISTORY)
        rows = database.execute(
            "SELECT rv, bucket, namespace, name, operation, value FROM log WHERE rv > ? ORDER BY rv", (horizon,)
        )
        seen: dict[tuple[str, Key], Entry] = {}
        for rv, name, namespace, object_name, operation, value in rows:
            key = (namespace, object_name)
            entry = Entry(rv, key, value)
            self.bucket(name).events.append(Event(operation, entry, seen.get((name, key))))
            seen[name, key] = entry
        for bucket in self._buckets.values():
            bucket.floor = horizon

    def bucket(self, name: str) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(name)
        return bucket

    def buckets(self) -> Iterable[Bucket]:
        return tuple(self._buckets.values())

    def get(self, bucket: str, key: Key) -> Entry | None:
        """The committed state."""
        return self.bucket(bucket).entries.get(key)

    def head(self, bucket: str, key: Key) -> Entry | None:
        """The newest state, which may not be committed yet: what a write must be compared with."""
        pending = self._heads.get((bucket, key))
        return pending[0] if pending is not None else self.bucket(bucket).entries.get(key)

    def write(
        self, bucket: str, operation: Operation, key: Key, document: dict[str, Any]
    ) -> tuple[Entry, asyncio.Future[None]]:
        """Give `document` the next revision and queue it; the future ends when it is committed or has failed."""
        self._assigned += 1
        rv = self._assigned
        document["metadata"]["resourceVersion"] = str(rv)
        entry = Entry(rv, key, msgspec.json.encode(document))
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._heads[bucket, key] = (None if operation == "DELETED" else entry, rv)
        self._pending.append(_Write(bucket, operation, entry, done))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return entry, done

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        self._since_checkpoint += len(batch)
        if not self._durable and self._since_checkpoint < _CHECKPOINT_EVERY:
            self._commit_now(batch)
            return
        self._since_checkpoint = 0
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._writer, self._commit_and_sync, batch)
        future.add_done_callback(lambda f: self._committed(batch, f.exception()))

    def _commit_now(self, batch: list[_Write]) -> None:
        """Without a sync a transaction costs less than handing it to a thread."""
        failure: BaseException | None = None
        try:
            self._commit(batch)
        except Exception as fault:
            failure = fault
        self._committed(batch, failure)

    def _commit_and_sync(self, batch: list[_Write]) -> None:
        """In the writer's thread: what may wait for the disk."""
        self._commit(batch)
        assert self._database is not None
        if not self._durable:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _commit(self, batch: list[_Write]) -> None:
        """One transaction."""
        database = self._database
        assert database is not None
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", [self._row(w) for w in batch])
            for write in batch:
                entry = write.entry
                if write.operation == "DELETED":
                    database.execute(
                        "DELETE FROM current WHERE bucket = ? AND namespace = ? AND name = ?",
                        (write.bucket, entry.namespace, entry.name),
                    )
                else:
                    database.execute(
                        "INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?)",
                        (write.bucket, entry.namespace, entry.name, entry.rv),
                    )
            self._trim(database, batch)
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    @staticmethod
    def _row(write: _Write) -> tuple[int, str, str, str, str, bytes]:
        entry = write.entry
        return entry.rv, write.bucket, entry.namespace, entry.name, write.operation, entry.raw

    def _trim(self, database: sqlite3.Connection, batch: list[_Write]) -> None:
        self._since_trim += len(batch)
        if self._since_trim < HISTORY // 4:
            return
        self._since_trim = 0
        database.execute(
            "DELETE FROM log WHERE rv <= ? AND rv NOT IN (SELECT rv FROM current)", (batch[-1].entry.rv - HISTORY,)
        )

    def _committed(self, batch: list[_Write], failure: BaseException | None) -> None:
        if failure is not None:
            self._fail(batch, failure)
            return
        for write in batch:
            self._publish(write)
        for write in batch:
            if not write.done.done():
                write.done.set_result(None)
        if self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._flushing = False

    def _publish(self, write: _Write) -> None:
        entry = write.entry
        bucket = self.bucket(write.bucket)
        event = Event(write.operation, entry, bucket.entries.get(entry.key))
        self.revision = entry.rv
        if self._heads.get((write.bucket, entry.key), (None, 0))[1] == entry.rv:
            del self._heads[write.bucket, entry.key]
        bucket.apply(event)
        for listener in self.listeners:
            try:
                listener(write.bucket, event)
            except Exception:  # the write has happened: no listener may keep it from being acknowledged
                log.exception("a listener failed", extra={"bucket": write.bucket, "object": entry.name})

    def _fail(self, batch: list[_Write], failure: BaseException) -> None:
        """Nothing of the batch, nor of what was validated against it, has happened."""
        lost, self._pending = batch + self._pending, []
        self._heads.clear()
        self._flushing = False
        for write in lost:
            if not write.done.done():
                write.done.set_exception(failure)
