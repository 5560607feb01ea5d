"""Background tasks of a process: the only place that creates them.

A job that fails is logged once with its cause, counted, reported as degraded and started again after a growing pause; the
rest goes on. Cancelling the group ends them all and waits for each.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from stentor.runtime.health import Health

_FIRST_PAUSE_S: Final = 0.1
_MOST_PAUSE_S: Final = 30.0

log = logging.getLogger(__name__)


class JobGroup:
    """Owns tasks; use as ``async with JobGroup(health) as jobs``."""

    def __init__(self, health: Health, *, well_after_s: float = 10.0) -> None:
        self.health = health
        self.failures: dict[str, int] = {}
        self._well_after_s = well_after_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> JobGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` again and again: its end, by return or by error, is followed by a new start. Once it has run for
        `well_after_s` after a failure, it counts as well again."""
        return self._start(name, self._keep(name, work))

    def every(self, name: str, interval_s: float, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` now and then every `interval_s` seconds, ±10 %."""

        async def loop() -> None:
            while True:
                await work()
                self.health.ok(name)
                await asyncio.sleep(interval_s * (0.9 + 0.2 * random.random()))

        return self._start(name, self._keep(name, loop))

    def once(self, name: str, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run to the end once; a failure is logged and leaves the part degraded."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._failed(name, error)

        return self._start(name, guarded())

    async def stop(self) -> None:
        """Cancel every job and wait until all have ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            recovery = loop.call_later(self._well_after_s, self.health.ok, name) if name in self.failures else None
            try:
                await work()
            except Exception as error:
                if loop.time() - began > _MOST_PAUSE_S:
                    pause_s = _FIRST_PAUSE_S
                self._failed(name, error)
            finally:
                if recovery is not None:
                    recovery.cancel()
            await asyncio.sleep(pause_s * (0.8 + 0.4 * random.random()))
            pause_s = min(_MOST_PAUSE_S, pause_s * 2)

    def _failed(self, name: str, error: Exception) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1
        self.health.degraded(name, f"{type(error).__name__}: {error}")
        log.error("Job failed", extra={"job": name, "failures": self.failures[name]}, exc_info=error)
