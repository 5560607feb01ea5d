"""Keeps the speaker, a process of its own, at what the tables say.

After each (re)connection everything is stated, then only changes. A speaker that ran all the while finds nothing new in that,
so that an agent that starts again touches neither sessions nor routes; one that was started anew gets all of it at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from stentor.bgp.config import Route
from stentor.bgp.errors import Unreachable
from stentor.bgp.resource.plan import Plan
from stentor.bgp.resource.route import BGPRoute
from stentor.bgp.resource.speaker import speaker_config
from stentor.bgp.resource.table import BGPTables
from stentor.runtime.duration import Durations

OWNER = "stentor-agent"
_MOST_LINE_BYTES = 64 << 20
_ANSWER_DEADLINE_S = 30.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.02, 0.25
_RETRY_S = 5.0

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class _Protocol(asyncio.StreamReaderProtocol):
    """Wakes whoever waits for changes when the speaker hangs up."""

    def __init__(self, reader: asyncio.StreamReader, wake: Callable[[], None]) -> None:
        super().__init__(reader)
        self._wake = wake

    def eof_received(self) -> bool | None:
        self._wake()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._wake()


class Link:
    """One connection to the speaker at `path`. `on_missing` is called while nobody serves it, with the seconds so far."""

    def __init__(self, path: str, tables: BGPTables, on_missing: Callable[[float], None] = lambda _: None) -> None:
        self.path = path
        self.is_connected = False
        self.fault = "not asked yet"  # why the speaker does not do what the tables say; empty when it does
        self.since: dict[tuple[str, str], float] = {}  # when each of our routes was announced, by instance and prefix
        self.errors: dict[str, int] = {}  # problems of plans and refusals of the speaker so far, by instance
        self.runs = Durations()
        self._tables = tables
        self._on_missing = on_missing
        self._wake = asyncio.Event()
        self._plan_tracker = tables.plans.track(replay=False, wake=self._wake.set)
        self._route_tracker = tables.routes.track(replay=False, wake=self._wake.set)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        pause_s, missing_since = _FIRST_PAUSE_S, time.monotonic()
        while True:
            try:
                reader, writer = await self._connect()
            except OSError as error:
                self.fault = f"no speaker at {self.path}: {error.strerror or error}"
                self._on_missing(time.monotonic() - missing_since)
                await asyncio.sleep(pause_s)
                pause_s = min(_MOST_PAUSE_S, pause_s * 2)
                continue
            try:
                self.is_connected = True
                await self._follow(reader, writer)
            except (OSError, EOFError, TimeoutError) as error:
                self.fault = f"the speaker went away: {error}"
                log.warning("Lost the BGP speaker", extra={"path": self.path, "error": str(error)})
            finally:
                self.is_connected = False
                writer.close()
            pause_s, missing_since = _FIRST_PAUSE_S, time.monotonic()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_MOST_LINE_BYTES, loop)
        transport, protocol = await loop.create_unix_connection(lambda: _Protocol(reader, self._wake.set), self.path)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan, is_stated = self._tables.plan, False
        while not reader.at_eof():
            self._wake.clear()
            began = time.monotonic()
            changed = {change.key for change in self._route_tracker.drain()}
            if self._plan_tracker.drain() or not is_stated or self.fault:
                plan = self._tables.plan
                for problem in plan.problems:
                    if not problem.is_waiting:
                        self.errors[problem.instance] = self.errors.get(problem.instance, 0) + 1
                requests = list(self._everything(plan))
            else:
                requests = list(self._changes(plan, changed))
            fault = await self._ask(reader, writer, requests)
            if fault != self.fault:
                (log.info if not fault else log.error)("Told the BGP speaker", extra={"fault": fault or "none"})
            self.fault, is_stated = fault, True
            self.runs.add(time.monotonic() - began)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if fault else None):
                    await self._wake.wait()
        raise EOFError("it closed the connection")

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: list[dict[str, Any]]
    ) -> str:
        """What the speaker had against any of these, empty for nothing."""
        fault = ""
        writer.write(b"".join(_encode(request) + b"\n" for request in requests))
        async with asyncio.timeout(_ANSWER_DEADLINE_S):
            await writer.drain()
            for request in requests:
                line = await reader.readline()
                if not line:
                    raise EOFError("it closed the connection")
                answer = msgspec.json.decode(line)
                if "error" in answer:
                    self._count(request)
                    fault = fault or f"{answer.get('field', '')}: {answer['error']}".removeprefix(": ")
        return fault

    def _count(self, request: Mapping[str, Any]) -> None:
        names = [request["instance"]] if "instance" in request else [each.name for each in self._tables.plan.instances]
        for name in names:
            self.errors[name] = self.errors.get(name, 0) + 1

    def _everything(self, plan: Plan) -> Iterator[dict[str, Any]]:
        """The whole configuration, then all routes of each instance, which leaves alone what is there already."""
        known, self.since = self.since, {}
        routes = []
        for instance in plan.instances:
            rows = [row for row in self._tables.routes if row.instance == instance.name]
            for row in rows:
                key = (instance.name, str(row.prefix))
                self.since[key] = known.get(key, time.time())
            routes.append(_set_routes(instance.name, rows, replace=True))
        yield {"request": "apply", "config": speaker_config(plan), "routes": routes, "drained": plan.is_drained}

    def _changes(self, plan: Plan, changed: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
        names = {instance.name for instance in plan.instances}
        fresh: dict[str, list[BGPRoute]] = {}
        gone: dict[str, list[str]] = {}
        for key in changed:
            instance, prefix = key
            row = self._tables.routes.get(key)
            if instance not in names:
                continue
            if row is None:
                gone.setdefault(instance, []).append(str(prefix))
                self.since.pop((instance, str(prefix)), None)
            else:
                fresh.setdefault(instance, []).append(row)
                self.since.setdefault((instance, str(prefix)), time.time())
        for instance in dict.fromkeys((*fresh, *gone)):
            yield _set_routes(instance, fresh.get(instance, ()), withdraw=gone.get(instance, ()))


def _set_routes(
    instance: str, rows: Iterable[BGPRoute], *, replace: bool = False, withdraw: Iterable[str] = ()
) -> dict[str, Any]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        groups.setdefault(row.entries, []).append(str(row.prefix))
    routes = [Route(prefixes=tuple(prefixes), tags=entries) for entries, prefixes in groups.items()]
    request = {"request": "setRoutes", "instance": instance, "owner": OWNER, "replace": replace}
    return {**request, "routes": routes, "withdraw": tuple(withdraw)}


async def ask(path: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All answers to one request over a connection of its own; Unreachable when there is no speaker."""
    try:
        async with asyncio.timeout(_ANSWER_DEADLINE_S):
            answers = [answer async for answer in stream(path, request)]
    except TimeoutError as error:
        raise Unreachable(path, "no answer") from error
    if not answers and request["request"] != "routes":
        raise Unreachable(path, "it closed the connection")
    return answers


async def stream(
    path: str, request: Mapping[str, Any], *, tick_s: float | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Answers as they come, until the last one; of a watch for ever. With `tick_s` an empty one after each such silence, for
    readers that have to look around meanwhile."""
    is_many = request["request"] in ("routes", "watch")
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_LINE_BYTES)
        try:
            writer.write(_encode(request) + b"\n")
            while True:
                try:
                    async with asyncio.timeout(tick_s):
                        line = await reader.readline()
                except TimeoutError:
                    yield {}
                    continue
                answer = msgspec.json.decode(line) if line else {"done": True}
                if answer.get("done"):
                    return
                yield answer
                if not is_many or "error" in answer:
                    return
        finally:
            writer.close()
    except OSError as error:
        raise Unreachable(path, error.strerror or str(error)) from error
