"""Reconcilers: drive a target outside the process to what a table says, and keep it there.

Each row has a status. A failed row is tried again by itself with growing, jittered pauses and holds nobody else up. At start
and then periodically the target is dumped and compared: what differs is repaired, and what the table does not know is pruned
once the table is synced. Upserts go before deletes, so that a replacement never leaves a hole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Generic, Protocol, TypeVar

import msgspec

from stentor.state.table import Table

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Target(Protocol[K, R]):
    """Something outside that holds rows: a BPF map, routes, a peer's table. Both calls may be repeated at will."""

    async def apply(self, upserts: Sequence[tuple[K, R]], deletes: Sequence[K]) -> Mapping[K, Exception]:
        """Write rows and remove keys (one that is not there is no error); returns what failed, by key. Raising fails all."""
        ...

    async def dump(self) -> Mapping[K, R]:
        """All rows that are there now and belong to this target."""
        ...


class RowState(Enum):
    """Where a row is on its way to the target."""

    PENDING = "pending"
    DONE = "done"
    ERROR = "error"


class RowStatus(msgspec.Struct, frozen=True):
    """Where one row stands; `since` is the clock's time of the last change of state, `attempts` counts failures in a row."""

    state: RowState
    since: float
    attempts: int = 0
    error: str = ""


class Backoff(msgspec.Struct, frozen=True):
    """Pause before the nth retry: doubling from `first_s` to `most_s`, spread by ± `jitter` of itself."""

    first_s: float = 0.05
    most_s: float = 30.0
    jitter: float = 0.2

    def pause_s(self, attempts: int, rng: random.Random) -> float:
        base = min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 30))
        return base * (1 + self.jitter * (2 * rng.random() - 1))


class Counters(msgspec.Struct):
    """What a reconciler did since it was made."""

    upserts: int = 0
    deletes: int = 0
    errors: int = 0
    drift_repairs: int = 0


class Reconciler(Generic[K, R]):
    """Drives `target` to `table`. `run` goes on until cancelled; `step` does what is due now (tests call it directly).

    With `linger_s` a change is acted on so much later: for work that nobody waits for, behind what somebody waits for.
    """

    def __init__(
        self,
        name: str,
        table: Table[K, R],
        target: Target[K, R],
        *,
        compare_interval_s: float = 60.0,
        batch: int = 4096,
        linger_s: float = 0.0,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.table = table
        self.target = target
        self.counters = Counters()
        self.fault = ""  # why the target as a whole cannot be read; empty when it can
        self._compare_interval_s = compare_interval_s
        self._batch = batch
        self._linger_s = linger_s
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._rng = rng or random.Random()
        self._wake = asyncio.Event()
        self._tracker = table.track(replay=False, wake=self._wake.set)
        self._status: dict[K, RowStatus] = {}
        self._due: dict[K, float] = {}
        self._next_comparison = 0.0
        self._failed_dumps = 0
        self._compared_synced = False
        self._is_at_work = False
        self._turn = asyncio.Lock()

    # ---- what others ask

    def status(self, key: K) -> RowStatus | None:
        """None for a key that was never seen or is gone for good."""
        return self._status.get(key)

    @property
    def failing(self) -> dict[K, RowStatus]:
        """Rows whose last try failed."""
        return {key: self._status[key] for key in self._due}

    @property
    def is_compared(self) -> bool:
        """The target has been compared with a synced table: what it holds is known, and what nobody wants is gone."""
        return self._compared_synced

    @property
    def is_settled(self) -> bool:
        """Everything known is applied, compared against a synced table, and nothing is waiting for a retry."""
        return self._compared_synced and not (self._is_at_work or self._due or self._tracker)

    def compare_soon(self) -> None:
        """Compare with the target at the next step: for a target that lost its content, or a readiness that changed."""
        self._next_comparison = 0.0
        self._wake.set()

    # ---- work

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            self._wake.clear()
            await self.step()
            pause = max(0.0, min([self._next_comparison, *self._due.values()]) - self._clock())
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def step(self) -> None:
        """Do all that is due: changed rows, retries, a comparison."""
        async with self._at_work():
            await self._step()

    async def flush(self) -> None:
        """Apply changed rows now: for a caller who waits for one, and would otherwise wait for the job's turn."""
        if self._tracker:
            async with self._at_work():
                await self._apply([change.key for change in self._tracker.drain()])

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """One at a time: a row that somebody read earlier must not be written later."""
        async with self._turn:
            self._is_at_work = True
            try:
                yield
            finally:
                self._is_at_work = False

    async def _step(self) -> None:
        now = self._clock()
        keys = dict.fromkeys(change.key for change in self._tracker.drain())
        keys.update(dict.fromkeys(key for key, due in self._due.items() if due <= now))
        await self._apply(list(keys))
        became_synced = self.table.is_synced and not self._compared_synced
        if now >= self._next_comparison or became_synced:
            await self._compare()

    async def _compare(self) -> None:
        now = self._clock()
        synced = self.table.is_synced
        self._next_comparison = now + self._compare_interval_s
        try:
            actual = await self.target.dump()
        except Exception as error:
            self.counters.errors += 1
            self._failed_dumps += 1
            self.fault = f"dump: {type(error).__name__}: {error}"
            self._next_comparison = now + self._backoff.pause_s(self._failed_dumps, self._rng)
            return
        self.fault = ""
        self._failed_dumps = 0
        # What changed while the target was read is no drift.
        changed = dict.fromkeys(change.key for change in self._tracker.drain())
        expected = self._due.keys() | changed.keys()
        wrong = [key for key, row in self.table.items() if actual.get(key) != row and key not in expected]
        unknown = [key for key in actual if key not in self.table and key not in expected] if synced else []
        known_before = sum(1 for key in wrong if self._is_done(key))
        self.counters.drift_repairs += known_before
        right = RowStatus(RowState.DONE, now)
        for key in set(actual) - set(wrong) - set(unknown) - changed.keys() - self._status.keys():
            if key in self.table:
                self._status[key] = right
        await self._apply([*changed, *wrong, *unknown])
        self._compared_synced = synced

    def _is_done(self, key: K) -> bool:
        status = self._status.get(key)
        return status is not None and status.state is RowState.DONE

    async def _apply(self, keys: list[K]) -> None:
        upserts = [(key, row) for key in keys if (row := self.table.get(key)) is not None]
        deletes = [key for key in keys if key not in self.table]
        for start in range(0, len(upserts), self._batch):
            await self._batch_apply(upserts[start : start + self._batch], [])
        for start in range(0, len(deletes), self._batch):
            await self._batch_apply([], deletes[start : start + self._batch])

    async def _batch_apply(self, upserts: list[tuple[K, R]], deletes: list[K]) -> None:
        keys = [key for key, _ in upserts] + deletes
        failed: Mapping[K, Exception]
        try:
            failed = await self.target.apply(upserts, deletes)
        except Exception as error:
            failed = dict.fromkeys(keys, error)
        now = self._clock()
        for key in keys:
            self._record(key, failed.get(key), now, deleted=key not in self.table)
        self.counters.upserts += sum(1 for key, _ in upserts if key not in failed)
        self.counters.deletes += sum(1 for key in deletes if key not in failed)
        self.counters.errors += len(failed)

    def _record(self, key: K, error: Exception | None, now: float, *, deleted: bool) -> None:
        before = self._status.get(key)
        if error is not None:
            attempts = (before.attempts if before else 0) + 1
            since = before.since if before and before.state is RowState.ERROR else now
            self._status[key] = RowStatus(RowState.ERROR, since, attempts, f"{type(error).__name__}: {error}")
            self._due[key] = now + self._backoff.pause_s(attempts, self._rng)
            return
        self._due.pop(key, None)
        if deleted:
            self._status.pop(key, None)
        else:
            self._status[key] = RowStatus(RowState.DONE, now)
