"""Watches: the events of one bucket, filtered and encoded for one client.

A watcher sees every committed change in order, beginning after a revision that it names, with the present state first
when it names none. An object that leaves the selection is reported as deleted, one that enters it as added. Encoded
forms are kept on the event: a hundred watchers of the same form cost one encoding.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from stentor.apiserver.errors import BadRequest, Expired
from stentor.apiserver.listing import select
from stentor.apiserver.printer import Printer
from stentor.apiserver.request import Call, parse_bool, parse_count
from stentor.apiserver.store import Bucket, Entry, Event, Store
from stentor.apiserver.wire import Form, encode, show, show_metadata

_MAX_PENDING: Final = 20_000
"""Events that a slow client may be behind before its watch is ended; it then starts again."""
_BOOKMARK_S: Final = 60.0
_MIN_TIMEOUT_S: Final = 1800


class Watcher:
    """One watch. Iterate over `frames`; `close` when done."""

    def __init__(self, call: Call, form: Form, store: Store) -> None:
        """Raises BadRequest for options that contradict each other."""
        self._call = call
        self._form = form
        self._store = store
        self._bucket: Bucket = store.bucket(call.resource.bucket)
        self._selector = call.selector()
        self._printer = (
            Printer(call.resource, call.query.get("includeObject", "Metadata")) if form is Form.TABLE else None
        )
        self._header_sent = False
        self._pending: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._bookmarks = parse_bool(call.query.get("allowWatchBookmarks", ""))
        self._initial = parse_bool(call.query.get("sendInitialEvents", ""))
        if self._initial and call.query.get("resourceVersionMatch") != "NotOlderThan":
            raise BadRequest(
                "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        text = call.query.get("resourceVersion") or "0"
        if not text.isdigit():
            raise BadRequest(
                f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
            )
        self._since = int(text)
        self._timeout_s = parse_count(call.query, "timeoutSeconds") or random.randint(
            _MIN_TIMEOUT_S, 2 * _MIN_TIMEOUT_S
        )

    def close(self) -> None:
        self._bucket.listeners.discard(self._receive)

    def end(self) -> None:
        """Let `frames` end now: the server stops."""
        self._ended = True
        self._wake.set()

    def _receive(self, event: Event) -> None:
        if len(self._pending) >= _MAX_PENDING:
            self._ended = True
            self._bucket.listeners.discard(self._receive)
        else:
            self._pending.append(event)
        self._wake.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """Chunks of newline-separated watch events until the timeout."""
        first = self._begin()
        if first:
            yield first
        if self._bucket_closed():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while not self._ended:
            pause = min(_BOOKMARK_S, deadline - loop.time())
            if pause <= 0:
                break
            await self._wait(pause)
            chunk = self._drain()
            if not chunk and self._bookmarks and not self._pending:
                chunk = self._bookmark()
            if chunk:
                yield chunk
        if self._bookmarks and not self._ended:
            yield (
                self._drain() + self._bookmark()
            )  # the client goes on behind the bookmark: nothing may be left before it

    def _bucket_closed(self) -> bool:
        return self._receive not in self._bucket.listeners

    async def _wait(self, pause_s: float) -> None:
        if self._pending:
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _begin(self) -> bytes:
        """Start listening; what lies between the named revision and now."""
        now = self._store.revision
        if self._since == 0 or self._initial:
            entries = select(self._store, self._call.resource, self._call.namespace, self._selector)
            out = [self._frame("ADDED", entry, None) for entry in entries]
            if self._initial:
                out.append(self._bookmark(now, {"k8s.io/initial-events-end": "true"}))
        else:
            missed = self._bucket.since(self._since)
            if missed is None:
                error = Expired(f"too old resource version: {self._since} ({now})")
                return encode({"type": "ERROR", "object": error.status()}) + b"\n"
            out = [self._encode(event) for event in missed]
        self._bucket.listeners.add(self._receive)
        return b"".join(out)

    def _drain(self) -> bytes:
        out = []
        while self._pending:
            out.append(self._encode(self._pending.popleft()))
        return b"".join(out)

    def _accepts(self, entry: Entry) -> bool:
        call = self._call
        if call.namespace and entry.namespace != call.namespace:
            return False
        return self._selector.is_empty or self._selector.accepts(entry.labels, entry.field)

    def _encode(self, event: Event) -> bytes:
        """The event as this client sees it; empty when it concerns nothing that it selected."""
        entry, previous, operation = event.entry, event.previous, event.operation
        matches = self._accepts(entry)
        matched = self._accepts(previous) if previous is not None else operation != "ADDED" and matches
        if operation == "DELETED":
            return self._frame("DELETED", entry, event) if matches or matched else b""
        if matches:
            return self._frame("MODIFIED" if matched else "ADDED", entry, event)
        if matched or (previous is None and operation == "MODIFIED"):
            return self._frame("DELETED", entry, event)
        return b""

    def _frame(self, kind: str, entry: Entry, event: Event | None) -> bytes:
        if self._printer is not None:
            meta = {"resourceVersion": str(entry.rv)}
            table = self._printer.table([entry], meta, header=not self._header_sent)
            self._header_sent = True
            return encode({"type": kind, "object": table}) + b"\n"
        key = (kind, self._form, self._call.resource.api_version)
        if event is not None and key in event.forms:
            return event.forms[key]
        body = show_metadata(entry) if self._form is Form.METADATA else show(entry, self._call.resource)
        frame = b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"
        if event is not None:
            event.forms[key] = frame
        return frame

    def _bookmark(self, revision: int | None = None, annotations: dict[str, str] | None = None) -> bytes:
        meta: dict[str, object] = {
            "resourceVersion": str(self._store.revision if revision is None else revision),
            "creationTimestamp": None,
        }
        if annotations:
            meta["annotations"] = annotations
        resource = self._call.resource
        kind, version = resource.kind, resource.api_version
        if self._form is Form.TABLE:
            kind, version = "Table", "meta.k8s.io/v1"
        elif self._form is Form.METADATA:
            kind, version = "PartialObjectMetadata", "meta.k8s.io/v1"
        return encode({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": version, "metadata": meta}}) + b"\n"
