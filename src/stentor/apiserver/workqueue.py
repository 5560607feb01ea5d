"""A queue of keys for a loop that brings things to their desired state: each key waits at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from stentor.apiserver.errors import Conflict, NotFound

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys in the order in which they were first added."""

    def __init__(self) -> None:
        self._keys: dict[K, None] = {}
        self._wake = asyncio.Event()

    def add(self, key: K) -> None:
        self._keys[key] = None
        self._wake.set()

    async def run(self, work: Callable[[K], Awaitable[None]]) -> None:
        """Work on keys for ever. A key whose object changed meanwhile is tried again, one that is gone is dropped."""
        while True:
            await self._wake.wait()
            while self._keys:
                key = next(iter(self._keys))
                del self._keys[key]
                try:
                    await work(key)
                except NotFound:
                    continue
                except Conflict:
                    self.add(key)
                    await asyncio.sleep(0)
            self._wake.clear()
