"""Supervised jobs: failures are counted, reported and followed by a new start."""

from __future__ import annotations

import asyncio

import pytest

from stentor.runtime.duration import parse_duration_s
from stentor.runtime.health import Health, Level
from stentor.runtime.job import JobGroup


async def test_a_failing_job_is_reported_and_started_again() -> None:
    health, runs, recovered = Health(), [], asyncio.Event()

    async def work() -> None:
        runs.append(None)
        if len(runs) == 1:
            raise OSError("no such thing")
        recovered.set()
        await asyncio.Event().wait()

    async with JobGroup(health) as jobs, asyncio.timeout(10):
        jobs.keep("worker", work)
        await recovered.wait()
        assert jobs.failures == {"worker": 1}
        part = health.parts[0]
        assert (part.name, part.level, part.message) == ("worker", Level.DEGRADED, "OSError: no such thing")


async def test_a_job_that_runs_again_is_well_again() -> None:
    health, runs = Health(), []

    async def work() -> None:
        runs.append(None)
        if len(runs) == 1:
            raise OSError("no such thing")
        await asyncio.Event().wait()

    async with JobGroup(health, well_after_s=0.0) as jobs, asyncio.timeout(10):
        jobs.keep("worker", work)
        while not (health.parts and health.is_ok):
            await asyncio.sleep(0.01)
        assert jobs.failures == {"worker": 1}


async def test_leaving_the_group_ends_every_job() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("worker")

    async with JobGroup(Health()) as jobs:
        jobs.keep("worker", work)
        await asyncio.sleep(0)
    assert ended == ["worker"]


def test_since_moves_only_with_the_level() -> None:
    now = [1.0]
    health = Health(clock=lambda: now[0])
    health.degraded("a", "x")
    now[0] = 2.0
    health.degraded("a", "y")
    assert (health.parts[0].since, health.parts[0].message) == (1.0, "y")
    health.ok("a")
    assert (health.parts[0].since, health.is_ok) == (2.0, True)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1h30m", 5400), ("250ms", 0.25), ("0", 0), ("1.5m", 90)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-1s", "5s!"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration_s(text)
