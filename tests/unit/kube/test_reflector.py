"""Reflectors against a scripted API server over real HTTP: resume, relist, bookmarks, bad objects, back-off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from stentor.api.core import NODES, Node
from stentor.api.meta import ObjectKey
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.kube.errors import Retryable
from stentor.kube.reflector import Reflector

Object = dict[str, Any]


def node(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def event(kind: str, obj: Object) -> Object:
    return {"type": kind, "object": obj}


GONE = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


class Script:
    """Answers lists and watches in the order given; the last watch stays open."""

    def __init__(self, lists: list[Object | int], watches: list[list[Object]]) -> None:
        self.lists = lists
        self.watches = watches
        self.asked: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append(query)
        if "watch" not in query:
            item = self.lists.pop(0)
            if isinstance(item, int):
                return web.json_response({"kind": "Status", "code": item, "message": "no"}, status=item)
            return web.json_response(item)
        response = web.StreamResponse()
        await response.prepare(request)
        for each in self.watches.pop(0):
            await response.write(json.dumps(each).encode() + b"\n")
        if not self.watches:
            await asyncio.Event().wait()
        return response


def listing(version: int, *names: str, token: str = "") -> Object:
    return {
        "metadata": {"resourceVersion": str(version), "continue": token},
        "items": [node(n, version) for n in names],
    }


class Mirror:
    """What a sink was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.batches: list[tuple[list[str], list[str]]] = []
        self.changed = asyncio.Event()

    def __call__(self, upserts: Sequence[Node], gone: Sequence[ObjectKey]) -> None:
        self.names |= {obj.metadata.name for obj in upserts}
        self.names -= {key.name for key in gone}
        self.batches.append(([obj.metadata.name for obj in upserts], [key.name for key in gone]))
        self.changed.set()

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while self.names != set(names):
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    runners: list[web.AppRunner] = []

    async def start(script: Script) -> str:
        app = web.Application()
        app.router.add_get("/api/v1/nodes", script.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def mirror(url: str, wanted: Sequence[str]) -> tuple[Mirror, Reflector[Node]]:
    sink = Mirror()
    async with Client(Connection(server=url)) as client:
        reflector = Reflector(client, NODES, sink)
        task = asyncio.ensure_future(reflector.run())
        try:
            await sink.until(*wanted)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return sink, reflector


async def test_pages_make_one_list(serve: Any) -> None:
    script = Script([listing(5, "a", token="next"), listing(5, "b")], [[]])
    sink, reflector = await mirror(await serve(script), ["a", "b"])
    assert sink.batches == [(["a", "b"], [])]
    assert reflector.synced.is_set()
    assert script.asked[0]["resourceVersion"] == "0"
    assert script.asked[1]["continue"] == "next"
    assert "resourceVersion" not in script.asked[1]


async def test_a_broken_watch_resumes_from_the_last_version(serve: Any) -> None:
    first = [event("ADDED", node("b", 6)), event("BOOKMARK", node("", 9))]
    script = Script([listing(5, "a")], [first, [event("DELETED", node("a", 10))]])
    await mirror(await serve(script), ["b"])
    watches = [query["resourceVersion"] for query in script.asked if "watch" in query]
    assert watches == ["5", "9"]


async def test_too_old_a_version_lists_again_and_reports_what_went_away(serve: Any) -> None:
    script = Script([listing(5, "a", "b"), listing(20, "b", "c")], [[GONE], []])
    sink, _ = await mirror(await serve(script), ["b", "c"])
    assert sink.batches[-1] == (["b", "c"], ["a"])
    lists = [query for query in script.asked if "watch" not in query]
    assert lists[0].get("resourceVersion") == "0"
    assert "resourceVersion" not in lists[1]


async def test_lists_that_are_too_old_each_time_are_asked_for_ever_more_rarely(serve: Any) -> None:
    script = Script([listing(number, "a") for number in range(5, 15)] + [listing(20, "b")], [[GONE]] * 10 + [[]])
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    sink = Mirror()
    async with Client(Connection(server=await serve(script))) as client:
        task = asyncio.ensure_future(Reflector(client, NODES, sink, sleep=sleep).run())
        try:
            await sink.until("b")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert len(pauses) == 10
    assert pauses[0] < 0.1
    assert min(pauses[-2:]) > 2


async def test_a_burst_for_one_object_is_its_last_state(serve: Any) -> None:
    burst = [event("ADDED", node("b", 6)), event("DELETED", node("b", 7)), event("ADDED", node("c", 8))]
    sink, reflector = await mirror(await serve(Script([listing(5)], [burst])), ["c"])
    assert "b" not in sink.names
    assert reflector.events == 3


async def test_an_event_that_does_not_fit_is_skipped(serve: Any) -> None:
    bad = event("ADDED", {"metadata": {"name": 7, "resourceVersion": "6"}})
    sink, _ = await mirror(await serve(Script([listing(5)], [[bad, event("ADDED", node("c", 8))]])), ["c"])
    assert sink.names == {"c"}


async def test_an_object_that_does_not_fit_can_be_deleted(serve: Any) -> None:
    bad = event("DELETED", {"metadata": {"name": "a", "resourceVersion": "6", "labels": 7}})
    sink, _ = await mirror(await serve(Script([listing(5, "a")], [[bad, event("ADDED", node("c", 8))]])), ["c"])
    assert sink.names == {"c"}


async def test_errors_are_tried_again(serve: Any) -> None:
    script = Script([503, 404, listing(5, "a")], [[]])
    _, reflector = await mirror(await serve(script), ["a"])
    assert len(script.asked) >= 3
    assert reflector.synced.is_set()


async def test_a_token_that_cannot_be_read_is_tried_again() -> None:
    async with Client(Connection(server="http://[::1]:1", token_file="/nowhere/token")) as client:
        with pytest.raises(Retryable, match="/nowhere/token"):
            await client.get(NODES, "n")
