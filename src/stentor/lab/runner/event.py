"""Events of pods and of the node, written in the background: telling never delays starting."""

from __future__ import annotations

import asyncio
from typing import Final

from stentor.api.core import ObjectReference
from stentor.api.pod import PODS, Pod
from stentor.kube.client import Client
from stentor.kube.event import EventRecorder, reference

_LIMIT: Final = 2000


class EventQueue:
    """Events wait here for `drain`; when the API server is away for long, the newest are dropped."""

    def __init__(self, client: Client, host: str) -> None:
        self._recorder = EventRecorder(client, "kubelet", host)
        self._queue: asyncio.Queue[tuple[ObjectReference, str, str, bool]] = asyncio.Queue(_LIMIT)

    def tell(self, pod: Pod, reason: str, message: str, *, warning: bool = False) -> None:
        self.tell_of(reference(PODS, pod), reason, message, warning=warning)

    def tell_of(self, about: ObjectReference, reason: str, message: str, *, warning: bool = False) -> None:
        if not self._queue.full():
            self._queue.put_nowait((about, reason, message, warning))

    async def drain(self) -> None:
        """Writes events until cancelled."""
        while True:
            about, reason, message, warning = await self._queue.get()
            await self._recorder.record(about, reason, message, warning=warning)
