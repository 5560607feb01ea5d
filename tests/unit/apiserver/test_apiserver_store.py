"""The store: order, visibility, restart, forgetting, and failing commits."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stentor.apiserver import store as module
from stentor.apiserver.store import Event, Key, Store


def document(name: str, **data: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": f"uid-{name}"}, "data": data}


def key(name: str) -> Key:
    return ("ns", name)


async def put(store: Store, name: str, operation: Any = "ADDED", **data: Any) -> int:
    entry, done = store.write("/configmaps", operation, key(name), document(name, **data))
    await done
    return entry.rv


def opened(path: Path | None = None) -> Store:
    store = Store(path)
    store.open()
    return store


async def test_a_write_is_visible_to_writers_at_once_and_to_readers_when_committed() -> None:
    store = opened()
    entry, done = store.write("/configmaps", "ADDED", key("a"), document("a"))
    assert store.get("/configmaps", key("a")) is None
    assert store.head("/configmaps", key("a")) is entry
    await done
    assert store.get("/configmaps", key("a")) is entry
    assert store.revision == entry.rv
    store.close()


async def test_all_writes_of_a_turn_share_a_transaction(tmp_path: Path) -> None:
    store = opened(tmp_path / "db")
    batches: list[int] = []
    commit = store._commit

    def counted(batch: Any) -> None:
        batches.append(len(batch))
        commit(batch)

    store._commit = counted  # type: ignore[method-assign]
    await asyncio.gather(*(put(store, f"n{i}") for i in range(100)))
    assert batches == [100]
    store.close()


async def test_a_restart_finds_everything(tmp_path: Path) -> None:
    store = opened(tmp_path / "db")
    await put(store, "a", x=1)
    await put(store, "b")
    await put(store, "a", "MODIFIED", x=2)
    last = await put(store, "b", "DELETED")
    store.close()
    again = opened(tmp_path / "db")
    assert [e.name for e in again.bucket("/configmaps").select("ns")] == ["a"]
    entry = again.get("/configmaps", key("a"))
    assert entry is not None
    assert entry.decode()["data"] == {"x": 2}
    assert again.revision == last
    assert await put(again, "c") == last + 1
    missed = again.bucket("/configmaps").since(1)
    assert missed is not None
    assert [(e.operation, e.entry.name) for e in missed] == [
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
        ("ADDED", "c"),
    ]
    again.close()


async def test_two_servers_cannot_share_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "db")
    await put(store, "a")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0}))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        opened(tmp_path / "db")
    store.close()


async def test_old_events_are_forgotten_and_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "HISTORY", 10)
    store = opened(tmp_path / "db")
    for number in range(30):
        await put(store, f"n{number}")
    bucket = store.bucket("/configmaps")
    assert bucket.since(1) is None
    recent = bucket.since(store.revision - 5)
    assert recent is not None
    assert [e.entry.name for e in recent] == [f"n{n}" for n in range(25, 30)]
    store.close()
    rows = sqlite3.connect(tmp_path / "db").execute("SELECT count(*) FROM log").fetchone()
    assert rows == (30,)  # all of them are current


async def test_the_log_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "HISTORY", 20)
    store = opened(tmp_path / "db")
    await put(store, "a")
    for number in range(200):
        await put(store, "a", "MODIFIED", x=number)
    store.close()
    (rows,) = sqlite3.connect(tmp_path / "db").execute("SELECT count(*) FROM log").fetchone()
    assert rows <= 30


async def test_a_failed_commit_undoes_what_was_built_on_it() -> None:
    store = opened()
    await put(store, "a", x=1)
    seen: list[Event] = []
    store.listeners.append(lambda bucket, event: seen.append(event))
    commit = store._commit

    def failing(batch: Any) -> None:
        raise sqlite3.OperationalError("disk full")

    store._commit = failing  # type: ignore[method-assign]
    _, first = store.write("/configmaps", "MODIFIED", key("a"), document("a", x=2))
    _, second = store.write("/configmaps", "ADDED", key("b"), document("b"))
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(r) for r in results] == [sqlite3.OperationalError] * 2
    assert not seen
    entry = store.head("/configmaps", key("a"))
    assert entry is not None
    assert entry.decode()["data"] == {"x": 1}
    store._commit = commit  # type: ignore[method-assign]
    await put(store, "b")
    assert store.get("/configmaps", key("b")) is not None
    store.close()


async def test_a_failing_listener_holds_nobody_up() -> None:
    store = opened()

    def fail(bucket: str, event: Event) -> None:
        raise KeyError("listener")

    store.listeners.append(fail)
    async with asyncio.timeout(5):
        await put(store, "a")
        await put(store, "b")
    assert store.get("/configmaps", key("b")) is not None
    store.close()


async def test_the_write_ahead_log_is_copied_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_EVERY", 50)
    store = opened(tmp_path / "db")
    for number in range(400):
        await put(store, f"n{number}", x="y" * 2000)
    assert (tmp_path / "db-wal").stat().st_size < 1_000_000
    store.close()
