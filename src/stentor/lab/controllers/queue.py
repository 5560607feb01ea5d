"""Keys that wait to be worked on: each once, those that failed again after a growing pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from stentor.api.meta import ObjectKey
from stentor.kube.errors import ApiError, Conflict, NotFound

_PARALLEL: Final = 16
_RETRY_FIRST_S: Final = 0.05
_RETRY_MOST_S: Final = 30.0

log = logging.getLogger(__name__)

Sync = Callable[[ObjectKey], Awaitable[float | None]]
"""Works on a key; returns seconds after which to look at it again, or None."""


class WorkQueue:
    """One controller's keys; `run` works on up to 16 at once, never twice on one key."""

    def __init__(self, name: str, sync: Sync) -> None:
        self.name = name
        self._sync = sync
        self._waiting: dict[ObjectKey, None] = {}
        self._active: set[ObjectKey] = set()
        self._failures: dict[ObjectKey, int] = {}
        self._wake = asyncio.Event()
        self._timers: dict[ObjectKey, asyncio.TimerHandle] = {}

    def add(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            self._waiting[key] = None
        if self._waiting:
            self._wake.set()

    def add_later(self, key: ObjectKey, pause_s: float) -> None:
        """The earliest of several times counts."""
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None and not known.cancelled() and known.when() <= loop.time() + pause_s:
            return
        if known is not None:
            known.cancel()
        self._timers[key] = loop.call_later(pause_s, self._fire, key)

    async def run(self) -> None:
        """Works until cancelled."""
        await asyncio.gather(*(self._work() for _ in range(_PARALLEL)))

    def _fire(self, key: ObjectKey) -> None:
        self._timers.pop(key, None)
        self.add([key])

    async def _work(self) -> None:
        while True:
            key = await self._next()
            self._active.add(key)
            try:
                pause_s = await self._sync(key)
                self._failures.pop(key, None)
            except (Conflict, NotFound):
                pause_s = _RETRY_FIRST_S  # the watch is behind: decide again on what is true now
            except ApiError as e:
                pause_s = self._note_failure(key, e)
            finally:
                self._active.discard(key)
                self._wake.set()
            if pause_s is not None:
                self.add_later(key, pause_s)

    async def _next(self) -> ObjectKey:
        while True:
            for key in self._waiting:
                if key not in self._active:
                    del self._waiting[key]
                    return key
            self._wake.clear()
            await self._wake.wait()

    def _note_failure(self, key: ObjectKey, error: ApiError) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        log.warning("Not reconciled", extra={"controller": self.name, "object": str(key), "problem": error.message})
        return min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(count, 12))
