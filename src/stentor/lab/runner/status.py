"""A pod's status from what its containers do: pure; kubelet's words for phases, conditions and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from stentor.api.meta import Condition, JsonObject
from stentor.api.pod import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodIP,
    PodStatus,
)
from stentor.lab.runner import clock
from stentor.lab.runner.container import NOT_STARTED, Record, RunStatus

# The conditions a kubelet owns; all others in a status belong to others and stay.
OWN_CONDITIONS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One container as the runner sees it. `waiting` explains why it does not run; `last` is its earlier run.

    `earlier` is what the API server knew before a restart of the machine, which loses all runs.
    """

    record: Record | None = None
    run: RunStatus = RunStatus()
    message: str = ""
    ready: bool = False
    started: bool = False
    waiting: tuple[str, str] | None = None
    last: tuple[Record, RunStatus] | None = None
    earlier: ContainerStatus | None = None


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The pod around its containers. `phase` is set once all is over; `failure` is of the pod as a whole."""

    observed: Mapping[str, Observed]
    host_ips: tuple[str, ...]
    pod_ips: tuple[str, ...]
    has_sandbox: bool
    initialized: bool
    phase: str = ""
    start_time_ns: int
    now_ns: int


def compute(pod: Pod, situation: Situation) -> PodStatus:
    """The status to publish."""
    init = [_container_status(entry, situation, is_init=True) for entry in pod.spec.init_containers]
    main = [_container_status(entry, situation, is_init=False) for entry in pod.spec.containers]
    phase = situation.phase or _phase(main, situation)
    before = pod.status
    return PodStatus(
        phase=phase,
        conditions=_conditions(pod, situation, phase, init, main),
        pod_ip=situation.pod_ips[0] if situation.pod_ips else "",
        pod_ips=tuple(PodIP(ip=address) for address in situation.pod_ips),
        host_ip=situation.host_ips[0] if situation.host_ips else "",
        host_ips=tuple(PodIP(ip=address) for address in situation.host_ips),
        start_time=before.start_time or clock.stamp(situation.start_time_ns),
        qos_class=before.qos_class or qos_class(pod),
        init_container_statuses=tuple(init),
        container_statuses=tuple(main),
    )


def document(status: PodStatus) -> JsonObject:
    """As a merge patch: what is empty is removed, not left as it was."""
    cleared: JsonObject = {"podIP": None, "podIPs": None, "reason": None, "message": None}
    fields: JsonObject = msgspec.to_builtins(status)
    return cleared | fields


def qos_class(pod: Pod) -> str:
    """https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/"""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    if not any(entry.resources.requests or entry.resources.limits for entry in containers):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= set(entry.resources.limits)
        and all(entry.resources.requests.get(key, value) == value for key, value in entry.resources.limits.items())
        for entry in containers
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _phase(main: Sequence[ContainerStatus], situation: Situation) -> str:
    ran = any(entry.state.running or entry.state.terminated or entry.last_state.terminated for entry in main)
    return "Running" if situation.initialized and ran else "Pending"


def _container_status(container: Container, situation: Situation, *, is_init: bool) -> ContainerStatus:
    seen = situation.observed.get(container.name, Observed())
    state = _state(seen, situation, is_init=is_init)
    terminated = state.terminated
    ready = seen.ready if not is_init else seen.ready or (terminated is not None and terminated.exit_code == 0)
    record = seen.record
    return ContainerStatus(
        name=container.name,
        ready=ready,
        restart_count=record.attempt if record is not None else _earlier_count(seen),
        image=container.image,
        image_id=container.image if record is not None else "",
        container_id=f"stentor://{record.id}" if record is not None else "",
        started=seen.started if state.running is not None or not is_init else False,
        state=state,
        last_state=_last_state(seen, state),
    )


def _state(seen: Observed, situation: Situation, *, is_init: bool) -> ContainerState:
    if seen.record is not None and seen.run.started_ns and seen.run.exit_code is None:
        return ContainerState(running=ContainerStateRunning(started_at=clock.stamp(seen.run.started_ns)))
    if seen.waiting is not None:
        reason, message = seen.waiting
        return ContainerState(waiting=ContainerStateWaiting(reason=reason, message=message))
    if seen.record is not None and seen.run.exit_code is not None:
        return ContainerState(terminated=terminated_state(seen.record, seen.run, seen.message))
    waits_for_init = not situation.initialized and (not is_init or situation.has_sandbox)
    return ContainerState(
        waiting=ContainerStateWaiting(reason="PodInitializing" if waits_for_init else "ContainerCreating")
    )


def _last_state(seen: Observed, state: ContainerState) -> ContainerState:
    if seen.record is not None and seen.run.exit_code is not None and state.terminated is None:
        return ContainerState(terminated=terminated_state(seen.record, seen.run, seen.message))
    if seen.last is not None:
        return ContainerState(terminated=terminated_state(*seen.last, ""))
    if seen.earlier is not None:
        return lost_state(seen.earlier)
    return ContainerState()


def _earlier_count(seen: Observed) -> int:
    return seen.earlier.restart_count if seen.earlier is not None else 0


def lost_state(earlier: ContainerStatus) -> ContainerState:
    """Of a run that ended unseen: with its machine (kubelet's reason and exit code)."""
    state = earlier.state
    if state.running is None:
        return state if state.terminated is not None else earlier.last_state
    started = state.running.started_at
    return ContainerState(
        terminated=ContainerStateTerminated(
            exit_code=255, reason="Unknown", started_at=started, container_id=earlier.container_id
        )
    )


def terminated_state(record: Record, run: RunStatus, message: str) -> ContainerStateTerminated:
    """`message` is the termination message, if any."""
    code = run.exit_code or 0
    reason = "Completed" if code == 0 else "Error"
    if run.failure and code == NOT_STARTED:
        reason, message = "StartError", run.failure
    return ContainerStateTerminated(
        exit_code=code,
        signal=run.signal,
        reason=reason,
        message=message,
        started_at=clock.stamp(run.started_ns) if run.started_ns else None,
        finished_at=clock.stamp(run.finished_ns),
        container_id=f"stentor://{record.id}",
    )


def _conditions(
    pod: Pod, situation: Situation, phase: str, init: Sequence[ContainerStatus], main: Sequence[ContainerStatus]
) -> tuple[Condition, ...]:
    unready = [entry.name for entry in main if not entry.ready]
    uninitialized = [entry.name for entry in init if not entry.ready]
    containers_ready = _containers_ready(phase, unready)
    verdicts = {
        "PodReadyToStartContainers": (situation.has_sandbox, "", ""),
        "Initialized": _initialized(situation, phase, uninitialized),
        "Ready": _pod_ready(pod, containers_ready),
        "ContainersReady": containers_ready,
    }
    before = {condition.type: condition for condition in pod.status.conditions}
    own = [_condition(kind, *verdicts[kind], before.get(kind), situation.now_ns) for kind in OWN_CONDITIONS]
    return (*own, *(condition for condition in pod.status.conditions if condition.type not in OWN_CONDITIONS))


Verdict = tuple[bool, str, str]


def _containers_ready(phase: str, unready: list[str]) -> Verdict:
    if phase in ("Succeeded", "Failed"):
        return (False, "PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    if unready:
        return (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    return (True, "", "")


def _initialized(situation: Situation, phase: str, uninitialized: list[str]) -> Verdict:
    if phase == "Succeeded":
        return (True, "PodCompleted", "")
    if situation.initialized:
        return (True, "", "")
    return (False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(uninitialized)}]")


def _pod_ready(pod: Pod, containers_ready: Verdict) -> Verdict:
    if not containers_ready[0]:
        return containers_ready
    conditions = {condition.type: condition.status for condition in pod.status.conditions}
    for gate in pod.spec.readiness_gates:
        held = conditions.get(gate.condition_type)
        if held != "True":
            what = "does not exist" if held is None else f'status is "{held}"'
            return (
                False,
                "ReadinessGatesNotReady",
                f'corresponding condition of pod readiness gate "{gate.condition_type}" {what}.',
            )
    return (True, "", "")


def _condition(kind: str, holds: bool, reason: str, message: str, before: Condition | None, now_ns: int) -> Condition:
    value = "True" if holds else "False"
    same = before is not None and before.status == value
    since = before.last_transition_time if same and before is not None else clock.stamp(now_ns)
    return Condition(type=kind, status=value, reason=reason, message=message, last_transition_time=since)
