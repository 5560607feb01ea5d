"""A pod's status in kubelet's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.api.meta import Condition, ObjectMeta
from stentor.api.pod import Container, Pod, PodSpec, PodStatus, ReadinessGate, ResourceRequirements
from stentor.lab.runner import status
from stentor.lab.runner.container import Record, RunStatus
from stentor.lab.runner.status import Observed, Situation

SECOND = 1_000_000_000


def record(name: str, attempt: int = 0) -> Record:
    return Record(
        id="ab" * 32, name=name, attempt=attempt, image="x", cgroup="", log="", credential=(), env={}, working_dir="/"
    )


RUNS = RunStatus(monitor=1, pid=2, started_ns=5 * SECOND)
ENDED = RunStatus(monitor=1, pid=2, started_ns=5 * SECOND, exit_code=3, finished_ns=6 * SECOND)


def compute(pod: Pod, observed: dict[str, Observed], **fields: Any) -> PodStatus:
    values: dict[str, Any] = {
        "host_ips": ("192.0.2.1",),
        "pod_ips": ("10.0.0.1", "fd00::1"),
        "has_sandbox": True,
        "initialized": True,
        "start_time_ns": SECOND,
        "now_ns": 10 * SECOND,
    }
    return status.compute(pod, Situation(observed=observed, **(values | fields)))


def pod(*names: str, **fields: Any) -> Pod:
    containers = tuple(Container(name=name, image="x") for name in names)
    return Pod(metadata=ObjectMeta(name="p", namespace="n"), spec=PodSpec(containers=containers, **fields))


def verdicts(found: PodStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in found.conditions}


def test_a_running_pod_is_ready() -> None:
    found = compute(pod("a"), {"a": Observed(record=record("a"), run=RUNS, ready=True, started=True)})
    assert found.phase == "Running"
    assert (found.pod_ip, [entry.ip for entry in found.pod_ips]) == ("10.0.0.1", ["10.0.0.1", "fd00::1"])
    assert set(verdicts(found).values()) == {"True"}
    container = found.container_statuses[0]
    assert (container.ready, container.started, container.restart_count) == (True, True, 0)
    assert container.state.running is not None
    assert container.state.running.started_at == "1970-01-01T00:00:05Z"


def test_unready_containers_are_named() -> None:
    found = compute(pod("a", "b"), {"a": Observed(record=record("a"), run=RUNS)})
    assert found.phase == "Running"
    ready = next(condition for condition in found.conditions if condition.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "ContainersNotReady")
    assert ready.message == "containers with unready status: [a b]"
    waiting = found.container_statuses[1].state.waiting
    assert waiting is not None
    assert waiting.reason == "ContainerCreating"


def test_a_pod_that_initializes_is_pending() -> None:
    base = pod("a", init_containers=(Container(name="i", image="x"),))
    found = compute(base, {"i": Observed(record=record("i"), run=RUNS)}, initialized=False)
    assert found.phase == "Pending"
    assert verdicts(found)["Initialized"] == "False"
    waiting = found.container_statuses[0].state.waiting
    assert waiting is not None
    assert waiting.reason == "PodInitializing"


def test_back_off_shows_the_last_run() -> None:
    seen = Observed(record=record("a", 2), run=ENDED, waiting=("CrashLoopBackOff", "back-off"), message="why")
    container = compute(pod("a"), {"a": seen}).container_statuses[0]
    assert container.state.waiting is not None
    assert container.restart_count == 2
    terminated = container.last_state.terminated
    assert terminated is not None
    assert (terminated.exit_code, terminated.reason, terminated.message) == (3, "Error", "why")


@pytest.mark.parametrize(
    ("run", "reason", "code"),
    [
        (msgspec.structs.replace(ENDED, exit_code=0), "Completed", 0),
        (ENDED, "Error", 3),
        (msgspec.structs.replace(ENDED, exit_code=128, failure="exec: no"), "StartError", 128),
    ],
)
def test_ended_containers(run: RunStatus, reason: str, code: int) -> None:
    found = compute(pod("a"), {"a": Observed(record=record("a"), run=run)}, phase="Failed")
    terminated = found.container_statuses[0].state.terminated
    assert terminated is not None
    assert (terminated.reason, terminated.exit_code) == (reason, code)
    assert found.phase == "Failed"
    assert verdicts(found)["Ready"] == "False"


def test_a_restarted_machine_has_lost_its_runs() -> None:
    before = compute(pod("a"), {"a": Observed(record=record("a", 3), run=RUNS, ready=True)}).container_statuses[0]
    for seen in (Observed(earlier=before), Observed(record=record("a", 4), run=RUNS, earlier=before)):
        container = compute(pod("a"), {"a": seen}, pod_ips=()).container_statuses[0]
        assert container.restart_count == (4 if seen.record else 3)
        lost = container.last_state.terminated
        assert lost is not None
        assert (lost.exit_code, lost.reason, lost.started_at) == (255, "Unknown", "1970-01-01T00:00:05Z")


def test_conditions_of_others_stay_and_transitions_are_kept() -> None:
    observed = {"a": Observed(record=record("a"), run=RUNS, ready=True, started=True)}
    first = compute(pod("a"), observed)
    scheduled = Condition(type="PodScheduled", status="True", last_transition_time="x")
    before = msgspec.structs.replace(first, conditions=(*first.conditions, scheduled))
    later = compute(msgspec.structs.replace(pod("a"), status=before), observed, now_ns=99 * SECOND)
    assert later == before


def test_readiness_gates() -> None:
    base = pod("a", readiness_gates=(ReadinessGate(condition_type="x/y"),))
    observed = {"a": Observed(record=record("a"), run=RUNS, ready=True, started=True)}
    assert verdicts(compute(base, observed))["Ready"] == "False"
    assert verdicts(compute(base, observed))["ContainersReady"] == "True"
    held = PodStatus(conditions=(Condition(type="x/y", status="True"),))
    assert verdicts(compute(msgspec.structs.replace(base, status=held), observed))["Ready"] == "True"


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, "BestEffort"),
        ({"cpu": "1"}, {}, "Burstable"),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({"cpu": "1"}, {"cpu": "2", "memory": "1Gi"}, "Burstable"),
    ],
)
def test_qos_class(requests: dict[str, str], limits: dict[str, str], expected: str) -> None:
    resources = ResourceRequirements(requests=dict(requests), limits=dict(limits))
    found = Pod(spec=PodSpec(containers=(Container(name="a", resources=resources),)))
    assert status.qos_class(found) == expected


def test_a_patch_removes_what_is_empty() -> None:
    document = status.document(PodStatus(phase="Pending"))
    assert document["podIP"] is None
    assert document["podIPs"] is None
    assert document["phase"] == "Pending"
