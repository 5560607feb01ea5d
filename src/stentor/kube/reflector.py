"""Reflectors: a kind's objects, listed once and then watched, handed on in batches.

List in pages (from the server's cache first), watch from there with bookmarks, resume after a break from the last version
seen; when that is too old (410 Gone), list again and report what disappeared meanwhile. Errors back off with jitter.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, Generic, TypeVar

from stentor.api.meta import Kind, ObjectKey, Resource
from stentor.kube import raw
from stentor.kube.client import Client, selection
from stentor.kube.errors import ApiError, BadInput, Gone, Retryable
from stentor.kube.raw import EventType

T = TypeVar("T", bound=Resource)

Sink = Callable[[Sequence[T], Sequence[ObjectKey]], None]
"""Takes objects that are new or changed, and keys of those that are gone."""

_FIRST_PAUSE_S: Final = 0.05
_MOST_PAUSE_S: Final = 5.0
_WATCH_S: Final = (300, 600)
_IDLE_SLACK_S: Final = 30.0

log = logging.getLogger(__name__)


class Reflector(Generic[T]):
    """Mirrors one kind into `sink`. `synced` is set once the first list has been handed on."""

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        sink: Sink[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        on_synced: Callable[[], None] | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self.fault = ""  # why the last attempt failed; empty while the watch stands
        self.events = 0
        self._client = client
        self._sink = sink
        self._namespace = namespace
        self._selectors = (label_selector, field_selector)
        self._on_synced = on_synced
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._known: dict[ObjectKey, None] = {}
        self._version = ""
        self._first_list = True

    async def run(self) -> None:
        """List and watch until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            events = self.events
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                await self._sleep(_FIRST_PAUSE_S * self._rng.random())
            except ApiError as e:
                if isinstance(e, Gone):  # list again; not at once for ever, should that be too old each time
                    self._version = ""
                    has_stood = self.events > events
                else:
                    has_stood = not self.fault
                    self._note_fault(e)
                if has_stood:
                    pause_s = _FIRST_PAUSE_S
                hint = e.retry_after_s if isinstance(e, Retryable) else 0.0
                await self._sleep(max(hint, pause_s * (0.5 + self._rng.random())))
                pause_s = min(_MOST_PAUSE_S, pause_s * 2)

    def _note_fault(self, error: ApiError) -> None:
        if not self.fault:
            log.warning("Lost the watch", extra={"kind": str(self.kind), "error": error.message})
        self.fault = error.message

    async def _list(self) -> None:
        # "0" lets the server answer from its cache; after that may have been too old, ask for the newest state.
        version = "0" if self._first_list else None
        labels, fields = self._selectors
        page = await self._client.list(
            self.kind, self._namespace, label_selector=labels, field_selector=fields, resource_version=version
        )
        self._first_list = False
        present = {obj.key: None for obj in page.items}
        gone = [key for key in self._known if key not in present]
        self._known = present
        self._version = page.resource_version
        self._sink(page.items, gone)
        if not self.synced.is_set():
            self.synced.set()
            if self._on_synced is not None:
                self._on_synced()

    async def _watch(self) -> None:
        window_s = self._rng.randint(*_WATCH_S)
        labels, fields = self._selectors
        query = selection(labels, fields) | {
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(window_s),
        }
        lines: AsyncGenerator[Sequence[bytes], None] = self._client.watch_lines(
            self.kind, self._namespace, query, connect_timeout_s=10, idle_timeout_s=window_s + _IDLE_SLACK_S
        )
        async with aclosing(lines) as stream:
            async for batch in stream:
                self.fault = ""
                self._take(batch)

    def _take(self, lines: Sequence[bytes]) -> None:
        """Hand on what came together as one batch; only the last state of each object counts."""
        changed: dict[ObjectKey, T | None] = {}
        try:
            for line in lines:
                self._take_line(line, changed)
        finally:
            upserts = [obj for obj in changed.values() if obj is not None]
            gone = [key for key, obj in changed.items() if obj is None]
            if changed:
                self._sink(upserts, gone)

    def _take_line(self, line: bytes, changed: dict[ObjectKey, T | None]) -> None:
        try:
            event = raw.decode_event(self.kind, line)
        except BadInput as e:
            log.warning("Skipped an event that does not fit its type", extra={"fault": e.message})
            return
        self.events += 1
        self._version = event.resource_version or self._version
        if event.type is EventType.BOOKMARK:
            return
        changed[event.key] = event.object
        if event.object is None:
            self._known.pop(event.key, None)
        else:
            self._known[event.key] = None
