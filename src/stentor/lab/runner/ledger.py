"""What the containers of a pod did: their runs, back-offs and refusals. Memory of a worker, without I/O but for one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from stentor.api.pod import Container, ContainerStatus, Pod
from stentor.lab.runner import decision
from stentor.lab.runner.container import Container as Run
from stentor.lab.runner.container import Record, RunStatus
from stentor.lab.runner.decision import View
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.status import Observed

_NS: Final = 1_000_000_000
_REFUSAL_RETRY_S: Final = 10.0
_MESSAGE_BYTES: Final = 4096


class Refusal(NamedTuple):
    """Why a container could not even be made; tried again at `retry_at_ns`."""

    reason: str
    message: str
    pause_s: float
    retry_at_ns: int


class Ledger:
    """`runs` holds the present or last run of each container, by name."""

    def __init__(self, pod: Pod) -> None:
        self.runs: dict[str, Run] = {}
        self._last: dict[str, tuple[Record, RunStatus]] = {}
        known = (*pod.status.container_statuses, *pod.status.init_container_statuses)
        self._earlier: dict[str, ContainerStatus] = {entry.name: entry for entry in known if entry.container_id}
        self._delays: dict[str, float] = {}
        self._refusals: dict[str, Refusal] = {}

    def next_attempt(self, name: str) -> int:
        """Number of the next run; a machine that was restarted goes on from what the API server knew."""
        if name in self.runs:
            return self.runs[name].record.attempt + 1
        earlier = self._earlier.get(name)
        return earlier.restart_count + 1 if earlier is not None else 0

    def begin(self, run: Run) -> None:
        """A new run; the one before becomes the last, and its end decides about the next pause."""
        name = run.record.name
        self._refusals.pop(name, None)
        previous = self.runs.get(name)
        if previous is not None:
            self._last[name] = (previous.record, previous.status)
            ran_s = (previous.status.finished_ns - previous.status.started_ns) / _NS
            self._delays[name] = decision.next_back_off_s(self._delays.get(name, 0.0), ran_s)
        self.runs[name] = run

    def adopt(self, run: Run) -> None:
        """A run of an earlier runner."""
        name = run.record.name
        self.runs[name] = run
        self._earlier.pop(name, None)
        self._delays[name] = decision.back_off_of_attempt_s(run.record.attempt)

    def refuse(self, name: str, failure: StartFailure, now_ns: int) -> None:
        """A run that could not be made; the pauses between tries grow."""
        before = self._refusals.get(name)
        pause_s = min(decision.BACK_OFF_MOST_S, before.pause_s * 2) if before else _REFUSAL_RETRY_S
        self._refusals[name] = Refusal(failure.reason, failure.message, pause_s, now_ns + int(pause_s * _NS))

    def pause_s(self, run: Run, policy: str) -> float:
        """How long an ended run waits before the next; 0 when it is not restarted, or at once."""
        view = View(attempt=run.record.attempt, exit_code=run.status.exit_code or 0)
        return self._delays.get(run.record.name, 0.0) if decision.should_restart(policy, view) else 0.0

    def views(self) -> Mapping[str, View]:
        """As `decision` wants them."""
        views = {name: self._view(run) for name, run in self.runs.items()}
        for name, refusal in self._refusals.items():
            before = views.get(name, decision.NEVER)
            later = max(before.retry_at_ns, refusal.retry_at_ns)
            views[name] = msgspec.structs.replace(before, retry_at_ns=later)
        return views

    def _view(self, run: Run) -> View:
        state = run.status
        retry_ns = state.finished_ns + int(self._delays.get(run.record.name, 0.0) * _NS)
        return View(
            attempt=run.record.attempt,
            running=run.is_running,
            started=run.started,
            unhealthy=run.unhealthy,
            exit_code=state.exit_code or 0,
            finished_ns=state.finished_ns,
            retry_at_ns=retry_ns if state.exit_code is not None else 0,
        )

    def observe(self, pod: Pod, container: Container, *, restarts: bool) -> Observed:
        """As `status` wants it; `restarts`: whether the pod still restarts its containers."""
        name = container.name
        run, refusal, earlier = self.runs.get(name), self._refusals.get(name), self._earlier.get(name)
        waiting = (refusal.reason, refusal.message) if refusal is not None else None
        if run is None:
            return Observed(waiting=waiting, earlier=earlier)
        if waiting is None and restarts and not run.is_running:
            waiting = self._back_off(pod, container, run)
        return Observed(
            record=run.record,
            run=run.status,
            message=_termination_message(run) if run.status.exit_code is not None else "",
            ready=run.ready and run.is_running,
            started=run.started and run.is_running,
            waiting=waiting,
            last=self._last.get(name),
            earlier=earlier,
        )

    def _back_off(self, pod: Pod, container: Container, run: Run) -> tuple[str, str] | None:
        policy = "Always" if decision.is_sidecar(container) else pod.spec.restart_policy
        pause_s = self.pause_s(run, policy)
        if pause_s <= 0:
            return None
        text = f"back-off {duration(pause_s)} restarting failed container={container.name} pod={full_name(pod)}"
        return "CrashLoopBackOff", text


def full_name(pod: Pod) -> str:
    """As kubelet's messages name pods."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def duration(seconds: float) -> str:
    """As Go prints durations: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _termination_message(run: Run) -> str:
    try:
        with open(run.directory / "termination-log", "rb") as file:
            return file.read(_MESSAGE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
