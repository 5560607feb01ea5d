"""Events: what happened to an object, for `kubectl describe` and `kubectl get events`.

Telling is best effort: it never fails the work it tells of. Repetitions within an hour raise the count of one Event.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import msgspec

from stentor.api.core import EVENTS, Event, EventSource, ObjectReference
from stentor.api.meta import Kind, ObjectMeta, Resource
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import ApiError

_REMEMBERED = 512
_REPEAT_S = 3600.0

log = logging.getLogger(__name__)


def reference(kind: Kind[Any], obj: Resource) -> ObjectReference:
    """Reference to an object as events hold it."""
    meta = obj.metadata
    return ObjectReference(
        kind=kind.kind, api_version=kind.api_version, namespace=meta.namespace, name=meta.name, uid=meta.uid
    )


class EventRecorder:
    """Writes the events of one component."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._source = EventSource(component=component, host=host)
        self._recent: OrderedDict[tuple[str, str, str, str], tuple[Event, float]] = OrderedDict()

    async def record(self, about: ObjectReference, reason: str, message: str, *, warning: bool = False) -> None:
        """Write one event; `reason` is a CamelCase word."""
        kind = "Warning" if warning else "Normal"
        key = (about.uid or f"{about.kind}/{about.namespace}/{about.name}", kind, reason, message)
        known = self._recent.pop(key, None)
        try:
            if known is not None and time.monotonic() - known[1] < _REPEAT_S:
                event = await self._repeat(known[0])
            else:
                event = await self._first(about, kind, reason, message)
        except ApiError as e:
            log.info("Event not recorded", extra={"reason": reason, "error": e.message})
            return
        self._recent[key] = (event, time.monotonic())
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    async def _first(self, about: ObjectReference, kind: str, reason: str, message: str) -> Event:
        stamp = _now()
        namespace = about.namespace or "default"
        event = Event(
            metadata=ObjectMeta(name=f"{about.name}.{secrets.token_hex(8)}", namespace=namespace),
            involved_object=about,
            reason=reason,
            message=message[:1024],
            type=kind,
            source=self._source,
            first_timestamp=stamp,
            last_timestamp=stamp,
            reporting_component=self._source.component,
            reporting_instance=self._source.host,
        )
        return await self._client.create(EVENTS, event)

    async def _repeat(self, event: Event) -> Event:
        change = patch.merge({"count": event.count + 1, "lastTimestamp": _now()})
        meta = event.metadata
        await self._client.patch(EVENTS, meta.name, change, meta.namespace)
        return msgspec.structs.replace(event, count=event.count + 1)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
