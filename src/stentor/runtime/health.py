"""Health of a process as named parts, each ok, degraded or stopped, with why and since when."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

import msgspec


class Level(Enum):
    """How a part is; a stopped one has ended as it should."""

    OK = "OK"
    DEGRADED = "Degraded"
    STOPPED = "Stopped"


class Part(msgspec.Struct, frozen=True):
    """One part's state; `since` is Unix time of the last change of level."""

    name: str
    level: Level
    message: str
    since: float


class Health:
    """Parts by name. Asking is cheap; whoever notices a change reports it here."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._parts: dict[str, Part] = {}

    def report(self, name: str, level: Level, message: str = "") -> None:
        """Set a part's level; `since` moves only when the level does."""
        before = self._parts.get(name)
        since = before.since if before is not None and before.level is level else self._clock()
        self._parts[name] = Part(name, level, message, since)

    def ok(self, name: str, message: str = "") -> None:
        self.report(name, Level.OK, message)

    def degraded(self, name: str, message: str) -> None:
        self.report(name, Level.DEGRADED, message)

    def forget(self, name: str) -> None:
        self._parts.pop(name, None)

    @property
    def parts(self) -> list[Part]:
        """All parts, by name."""
        return sorted(self._parts.values(), key=lambda part: part.name)

    @property
    def is_ok(self) -> bool:
        return all(part.level is not Level.DEGRADED for part in self._parts.values())
