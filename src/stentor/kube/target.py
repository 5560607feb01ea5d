"""Rows as Kubernetes objects: what the targets of reconcilers that write to the API have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from stentor.kube.errors import ApiError, NotFound

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_PARALLEL: Final = 32


class ObjectTarget(ABC, Generic[K, R]):
    """One object a row, written one by one, many at a time. A subclass says how a row is written and removed, and dumps."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_PARALLEL)

    @abstractmethod
    async def write(self, row: R) -> None:
        """Create the object or bring it up to date; ApiError when the API refuses."""

    @abstractmethod
    async def remove(self, key: K) -> None:
        """Delete the object. NotFound is as good."""

    @abstractmethod
    async def dump(self) -> Mapping[K, R]:
        """What is there, usually from a reflected table."""

    async def apply(self, upserts: Sequence[tuple[K, R]], deletes: Sequence[K]) -> Mapping[K, Exception]:
        """All at once, bounded; returns what the API refused."""
        calls = [self._bounded(self.write(row)) for _, row in upserts] + [
            self._bounded(self.remove(key), may_be_gone=True) for key in deletes
        ]
        results = await asyncio.gather(*calls)
        keys = [*(key for key, _ in upserts), *deletes]
        return {key: error for key, error in zip(keys, results, strict=True) if error is not None}

    async def _bounded(self, call: Awaitable[None], *, may_be_gone: bool = False) -> ApiError | None:
        async with self._slots:
            try:
                await call
            except NotFound as e:
                return None if may_be_gone else e
            except ApiError as e:
                return e
            return None
