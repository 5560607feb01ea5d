"""Lists and watches: selection, pages of one state, events in order, resuming, bookmarks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from apiservers.memory import Memory, config_map, pod
from stentor.apiserver.errors import BadRequest, Expired, Timeout
from stentor.apiserver.listing import Listing
from stentor.apiserver.watch import Watcher
from stentor.apiserver.wire import Form


def labelled(name: str, **labels: str) -> dict[str, Any]:
    document = config_map(name)
    document["metadata"]["labels"] = labels
    return document


def listed(memory: Memory, listing: Listing, kind: str = "ConfigMap", **query: str) -> dict[str, Any]:
    body = listing.answer(memory.call("list", kind, **query), Form.OBJECT)
    value: dict[str, Any] = msgspec.json.decode(body)
    return value


@pytest.fixture
async def listing(memory: Memory) -> Listing:
    await memory.delete("ConfigMap", "kube-root-ca.crt")
    for name in "abcde":
        await memory.create(labelled(name, group="x" if name in "abc" else "y"))
    return Listing(memory.store, memory.registry)


def names(document: dict[str, Any]) -> str:
    return "".join(i["metadata"]["name"] for i in document["items"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "abcde"),
        ({"labelSelector": "group=x"}, "abc"),
        ({"labelSelector": "group!=x"}, "de"),
        ({"labelSelector": "group in (x, y),group notin (y)"}, "abc"),
        ({"labelSelector": "!group"}, ""),
        ({"labelSelector": "group"}, "abcde"),
        ({"fieldSelector": "metadata.name=b"}, "b"),
        ({"fieldSelector": "metadata.name!=b"}, "acde"),
        ({"fieldSelector": "metadata.name=b,metadata.namespace=other"}, ""),
    ],
)
async def test_selectors(memory: Memory, listing: Listing, query: dict[str, str], expected: str) -> None:
    assert names(listed(memory, listing, **query)) == expected


@pytest.mark.parametrize(
    "query", [{"labelSelector": "a in"}, {"labelSelector": "=x"}, {"fieldSelector": "spec.x=1"}, {"limit": "x"}]
)
async def test_bad_selectors(memory: Memory, listing: Listing, query: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        listed(memory, listing, **query)


async def test_pages_show_one_state(memory: Memory, listing: Listing) -> None:
    first = listed(memory, listing, limit="2")
    assert (names(first), first["metadata"]["remainingItemCount"]) == ("ab", 3)
    await memory.delete("ConfigMap", "c")
    await memory.create(labelled("cc"))
    second = listed(memory, listing, limit="2", **{"continue": first["metadata"]["continue"]})
    third = listed(memory, listing, limit="2", **{"continue": second["metadata"]["continue"]})
    assert (names(second), names(third)) == ("cd", "e")
    assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_bad_and_forgotten_continue_tokens(memory: Memory, listing: Listing) -> None:
    with pytest.raises(BadRequest, match="continue key is not valid"):
        listed(memory, listing, **{"continue": "garbage"})
    token = listed(memory, listing, limit="2")["metadata"]["continue"]
    with pytest.raises(Expired):
        listed(memory, Listing(memory.store, memory.registry), **{"continue": token})


async def test_a_revision_from_the_future_is_refused(memory: Memory, listing: Listing) -> None:
    with pytest.raises(Timeout, match="Too large resource version: 999999"):
        listed(memory, listing, resourceVersion="999999")


async def test_pods_of_a_node(memory: Memory, listing: Listing) -> None:
    await memory.create(pod("one", nodeName="n1"))
    await memory.create(pod("two", nodeName="n2"))
    assert names(listed(memory, listing, "Pod", fieldSelector="spec.nodeName=n1")) == "one"
    assert names(listed(memory, listing, "Pod", fieldSelector="spec.nodeName=n1,status.phase!=Pending")) == ""


class Follower:
    """Reads one event after the other."""

    def __init__(self, memory: Memory, form: Form = Form.OBJECT, kind: str = "ConfigMap", **query: str) -> None:
        self.watcher = Watcher(memory.call("watch", kind, **query), form, memory.store)
        self._frames: AsyncIterator[bytes] = self.watcher.frames()
        self._lines: list[bytes] = []

    async def next(self) -> tuple[str, dict[str, Any]]:
        while not self._lines:
            self._lines = (await anext(self._frames)).splitlines()
        event = msgspec.json.decode(self._lines.pop(0))
        return event["type"], event["object"]

    async def named(self) -> tuple[str, str]:
        kind, document = await self.next()
        return kind, document["metadata"]["name"]


async def test_a_watch_begins_with_the_present(memory: Memory, listing: Listing) -> None:
    follower = Follower(memory, labelSelector="group=y")
    assert [await follower.named() for _ in range(2)] == [("ADDED", "d"), ("ADDED", "e")]


async def test_a_watch_goes_on_where_a_list_ended(memory: Memory, listing: Listing) -> None:
    revision = listed(memory, listing)["metadata"]["resourceVersion"]
    await memory.create(labelled("f"))
    follower = Follower(memory, resourceVersion=revision)
    assert await follower.named() == ("ADDED", "f")
    await memory.patch("ConfigMap", "f", {"data": {"x": "1"}})
    await memory.delete("ConfigMap", "f")
    assert [await follower.named() for _ in range(2)] == [("MODIFIED", "f"), ("DELETED", "f")]


async def test_objects_enter_and_leave_a_selection(memory: Memory, listing: Listing) -> None:
    follower = Follower(memory, resourceVersion=str(memory.store.revision), labelSelector="group=x")
    await memory.patch("ConfigMap", "d", {"metadata": {"labels": {"group": "x"}}})
    assert await follower.named() == ("ADDED", "d")
    await memory.patch("ConfigMap", "a", {"metadata": {"labels": {"group": "y"}}})
    await memory.patch("ConfigMap", "b", {"data": {"x": "1"}})
    assert [await follower.named() for _ in range(2)] == [("DELETED", "a"), ("MODIFIED", "b")]


async def test_a_forgotten_revision_is_gone(memory: Memory, listing: Listing) -> None:
    memory.store.bucket("/configmaps").floor = 5
    kind, status = await Follower(memory, resourceVersion="2").next()
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


async def test_initial_events_end_with_a_bookmark(memory: Memory, listing: Listing) -> None:
    follower = Follower(
        memory,
        labelSelector="group=y",
        sendInitialEvents="true",
        resourceVersionMatch="NotOlderThan",
        allowWatchBookmarks="true",
    )
    assert [(await follower.next())[0] for _ in range(3)] == ["ADDED", "ADDED", "BOOKMARK"]


async def test_a_watch_ends_with_a_bookmark(memory: Memory, listing: Listing) -> None:
    follower = Follower(
        memory, resourceVersion=str(memory.store.revision), timeoutSeconds="1", allowWatchBookmarks="true"
    )
    kind, document = await follower.next()
    assert (kind, document["metadata"]["resourceVersion"]) == ("BOOKMARK", str(memory.store.revision))


async def test_the_last_bookmark_is_behind_every_event(
    memory: Memory, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(memory, resourceVersion=str(memory.store.revision), allowWatchBookmarks="true")
    for name in "ef":
        await memory.patch("ConfigMap", "e", {"data": {"x": name}})
        assert await follower.named() == ("MODIFIED", "e")
    await memory.create(labelled("g"))  # while the client is slow to take the frame before
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda now=loop.time() + 86400: now)
    assert await follower.named() == ("ADDED", "g")
    kind, document = await follower.next()
    assert (kind, document["metadata"]["resourceVersion"]) == ("BOOKMARK", str(memory.store.revision))


async def test_tables_name_their_columns_once(memory: Memory, listing: Listing) -> None:
    follower = Follower(memory, Form.TABLE, labelSelector="group=y")
    (_, first), (_, second) = await follower.next(), await follower.next()
    assert [c["name"] for c in first["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["columnDefinitions"] is None
    assert second["rows"][0]["cells"][:2] == ["e", 0]


async def test_a_slow_client_is_cut_off(memory: Memory, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stentor.apiserver.watch._MAX_PENDING", 5)
    follower = Follower(memory, labelSelector="group=y")
    frames = follower.watcher.frames()
    assert b'"e"' in await anext(frames)
    for number in range(10):
        await memory.patch("ConfigMap", "e", {"data": {"x": str(number)}})
    with pytest.raises(StopAsyncIteration):
        await anext(frames)
