"""Objects of one kind as the API server has them, with what this process has just written and not seen come back yet.

A controller that creates a pod must not create it again because the watch is behind: the object is *assumed* until the
watch shows it, or for ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from stentor.api.meta import ObjectKey, Resource

T = TypeVar("T", bound=Resource)

_ASSUME_S: Final = 10.0

Listener = Callable[[Sequence[T]], None]
"""Hears of objects that are new, changed or gone (as they were last)."""


class Store(Generic[T]):
    """Filled by a reflector through `take`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[ObjectKey, T] = {}
        self._assumed: dict[ObjectKey, tuple[T, float]] = {}
        self._listeners: list[Listener[T]] = []

    def listen(self, listener: Listener[T]) -> None:
        self._listeners.append(listener)

    def take(self, changed: Sequence[T], gone: Sequence[ObjectKey]) -> None:
        """A batch of the reflector."""
        touched: list[T] = []
        for obj in changed:
            before = self._seen.get(obj.key)
            if before is not None:
                touched.append(before)  # whoever it concerned before hears of it too
            self._seen[obj.key] = obj
            self._assumed.pop(obj.key, None)
            touched.append(obj)
        for key in gone:
            self._assumed.pop(key, None)
            last = self._seen.pop(key, None)
            if last is not None:
                touched.append(last)
        for listener in self._listeners:
            listener(touched)

    def assume(self, obj: T) -> None:
        """An object just written."""
        self._assumed[obj.key] = (obj, self._clock() + _ASSUME_S)

    def get(self, key: ObjectKey) -> T | None:
        assumed = self._assumption(key)
        return assumed if assumed is not None else self._seen.get(key)

    def __iter__(self) -> Iterator[T]:
        for key in list(self._assumed):
            assumed = self._assumption(key)
            if assumed is not None:
                yield assumed
        for key, obj in self._seen.items():
            if key not in self._assumed:
                yield obj

    def _assumption(self, key: ObjectKey) -> T | None:
        entry = self._assumed.get(key)
        if entry is None:
            return None
        if entry[1] < self._clock():
            del self._assumed[key]
            return None
        return entry[0]
