"""Probes: asking a container how it is, and counting the answers.

Readiness and startup are asked more often at first: a pod that is up within milliseconds should not wait a period of
seconds. Early failures are not counted, so thresholds mean what they mean in Kubernetes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import aiohttp

from stentor.api.pod import Container, HttpGetAction, Probe
from stentor.runtime.fault import describe

_EAGER_FIRST_S: Final = 0.02
_MESSAGE_LIMIT: Final = 1024


class Outcome(NamedTuple):
    """One answer; `message` says what was wrong."""

    good: bool
    message: str = ""


Check = Callable[[], Awaitable[Outcome]]
Report = Callable[[Outcome], None]


class Tally:
    """Counts answers in a row until a threshold makes them a verdict."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._last: bool | None = None
        self._run = 0

    def feed(self, good: bool) -> bool:
        """Whether this answer completes its threshold (and thus stands)."""
        self._run = self._run + 1 if good == self._last else 1
        self._last = good
        return self._run >= (self._probe.success_threshold if good else self._probe.failure_threshold)


async def ask_forever(
    probe: Probe, check: Check, on_verdict: Report, on_failure: Callable[[str], None], *, eager: bool
) -> None:
    """Asks until cancelled. `on_failure` hears each counted failure, `on_verdict` each answer that stands."""
    await asyncio.sleep(probe.initial_delay_seconds)
    tally = Tally(probe)
    if eager:
        first = await _ask_eagerly(probe, check)
        if tally.feed(first.good) and first.good:
            on_verdict(first)
        await asyncio.sleep(probe.period_seconds)
    while True:
        outcome = await _ask(probe, check)
        if not outcome.good:
            on_failure(outcome.message)
        if tally.feed(outcome.good):
            on_verdict(outcome)
        await asyncio.sleep(probe.period_seconds)


async def _ask(probe: Probe, check: Check) -> Outcome:
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            return await check()
    except TimeoutError:
        return Outcome(False, f"command timed out or no answer within {probe.timeout_seconds} s")


async def _ask_eagerly(probe: Probe, check: Check) -> Outcome:
    """The first good answer within a period, or the last bad one."""
    pause_s, spent_s = _EAGER_FIRST_S, 0.0
    outcome = await _ask(probe, check)
    while not outcome.good and spent_s + pause_s < probe.period_seconds:
        await asyncio.sleep(pause_s)
        spent_s += pause_s
        pause_s *= 1.5
        outcome = await _ask(probe, check)
    return outcome


def port_number(port: int | str, container: Container) -> int:
    """Number of a port given by number or name. ValueError when the container has none of that name."""
    if isinstance(port, int):
        return port
    for entry in container.ports:
        if entry.name == port:
            return entry.container_port
    if port.isdecimal():
        return int(port)
    raise ValueError(f"couldn't find port: {port!r}")


async def ask_http(session: aiohttp.ClientSession, action: HttpGetAction, host: str, port: int) -> Outcome:
    """Statuses 200–399 are good; certificates are not verified (as kubelets do)."""
    name = action.host or host
    bracketed = f"[{name}]" if ":" in name else name
    url = f"{action.scheme.lower()}://{bracketed}:{port}{action.path if action.path.startswith('/') else '/' + action.path}"
    headers = {"User-Agent": "kube-probe/1.33", "Accept": "*/*"} | {h.name: h.value for h in action.http_headers}
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            if 200 <= response.status < 400:
                return Outcome(True)
            return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")
    except (aiohttp.ClientError, OSError, ValueError) as e:
        return Outcome(False, f'Get "{url}": {describe(e)}'[:_MESSAGE_LIMIT])


async def ask_tcp(host: str, port: int) -> Outcome:
    """Good when a connection is accepted."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as e:
        return Outcome(False, f"dial tcp {host}:{port}: {describe(e)}")
    writer.close()
    return Outcome(True)
