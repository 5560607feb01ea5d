"""The probes of one running container: startup first, then liveness and readiness side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stentor.api.pod import Container, Pod, Probe
from stentor.lab.runner import hook, probe
from stentor.lab.runner.container import Container as Run
from stentor.lab.runner.context import Context
from stentor.lab.runner.probe import Outcome


class HealthWatch:
    """Sets `ready`, `started` and `unhealthy` of a run, and calls `on_change` when one of them changed."""

    def __init__(
        self,
        context: Context,
        pod: Pod,
        container: Container,
        run: Run,
        *,
        host: str,
        on_change: Callable[[], None],
        on_unhealthy: Callable[[str], None],
    ) -> None:
        self._context = context
        self._container = container
        self._run = run
        self._host = host
        self._name = f"{pod.metadata.namespace}/{pod.metadata.name}/{container.name}"
        self._on_change = on_change
        self._on_unhealthy = on_unhealthy
        self._jobs: list[asyncio.Task[None]] = []
        if container.startup_probe is None:
            self._start_others()
        else:
            self._ask("Startup", container.startup_probe, self._take_startup, eager=True)

    def stop(self) -> None:
        for job in self._jobs:
            job.cancel()
        self._jobs.clear()

    def _start_others(self) -> None:
        self._run.started = True
        self._run.ready = self._container.readiness_probe is None
        if self._container.readiness_probe is not None:
            self._ask("Readiness", self._container.readiness_probe, self._take_readiness, eager=True)
        if self._container.liveness_probe is not None:
            self._ask("Liveness", self._container.liveness_probe, self._take_liveness, eager=False)

    def _ask(self, kind: str, asked: Probe, take: Callable[[Outcome], None], *, eager: bool) -> None:
        work = probe.ask_forever(
            asked,
            lambda: self._check(asked),
            take,
            lambda message: self._on_unhealthy(f"{kind} probe failed: {message}"),
            eager=eager,
        )
        self._jobs.append(self._context.jobs.once(f"{kind.lower()} probe {self._name}", work))

    async def _check(self, asked: Probe) -> Outcome:
        try:
            if asked.exec is not None:
                return await hook.run_command(self._context, self._run, asked.exec.command, asked.timeout_seconds)
            if asked.http_get is not None:
                port = probe.port_number(asked.http_get.port, self._container)
                return await probe.ask_http(self._context.probes, asked.http_get, self._host, port)
            if asked.tcp_socket is not None:
                port = probe.port_number(asked.tcp_socket.port, self._container)
                return await probe.ask_tcp(asked.tcp_socket.host or self._host, port)
        except ValueError as e:
            return Outcome(False, str(e))
        return Outcome(True)

    def _take_startup(self, outcome: Outcome) -> None:
        if outcome.good:
            self.stop()
            self._start_others()
        else:
            self._run.unhealthy = "startup probe"
        self._on_change()

    def _take_readiness(self, outcome: Outcome) -> None:
        if self._run.ready != outcome.good:
            self._run.ready = outcome.good
            self._on_change()

    def _take_liveness(self, outcome: Outcome) -> None:
        if not outcome.good:
            self._run.unhealthy = "liveness probe"
            self._on_change()
