"""Which containers to start and to kill, from their histories."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.api.pod import Container, PodSpec
from stentor.lab.runner import decision
from stentor.lab.runner.decision import Decision, View

RUNNING = View(attempt=0, running=True, started=True)
STARTING = View(attempt=0, running=True)
DONE = View(attempt=0, exit_code=0, finished_ns=5)
BROKEN = View(attempt=0, exit_code=3, finished_ns=5)
WAITING = View(attempt=1, exit_code=3, finished_ns=5, retry_at_ns=100)
REFUSED = View(retry_at_ns=100)
NOW = 50


def spec(policy: str = "Always", init: tuple[str, ...] = (), main: tuple[str, ...] = ("m",)) -> PodSpec:
    """Names with a + are sidecars."""
    return PodSpec(
        restart_policy=policy,
        init_containers=tuple(
            Container(name=name.rstrip("+"), restart_policy="Always" if name.endswith("+") else None) for name in init
        ),
        containers=tuple(Container(name=name) for name in main),
    )


def starts(found: Decision) -> list[str]:
    return [container.name for container in found.start]


@pytest.mark.parametrize(
    ("pod", "views", "expected"),
    [
        pytest.param(spec(main=("a", "b")), {}, {"start": ["a", "b"]}, id="all containers start together"),
        pytest.param(spec(), {"m": RUNNING}, {}, id="nothing to do"),
        pytest.param(spec(init=("i", "j")), {}, {"start": ["i"], "initialized": False}, id="init: one by one"),
        pytest.param(spec(init=("i", "j")), {"i": RUNNING}, {"initialized": False}, id="init: waits"),
        pytest.param(spec(init=("i", "j")), {"i": DONE}, {"start": ["j"], "initialized": False}, id="init: the next"),
        pytest.param(spec(init=("i",)), {"i": DONE}, {"start": ["m"]}, id="init done"),
        pytest.param(spec("Never", ("i",)), {"i": BROKEN}, {"phase": "Failed", "initialized": False}, id="init failed"),
        pytest.param(spec("Always", ("i",)), {"i": BROKEN}, {"start": ["i"], "initialized": False}, id="init again"),
        pytest.param(spec("Always", ("i",)), {"i": WAITING}, {"retry": 100, "initialized": False}, id="init later"),
        pytest.param(spec(init=("s+",)), {"s": STARTING}, {"initialized": False}, id="sidecar has to be started"),
        pytest.param(spec(init=("s+",)), {"s": RUNNING}, {"start": ["m"]}, id="sidecar runs beside"),
        pytest.param(spec(init=("s+",)), {"s": DONE, "m": RUNNING}, {"start": ["s"]}, id="sidecar restarts"),
        pytest.param(spec(init=("i",)), {"m": BROKEN}, {"start": ["m"]}, id="init is not repeated"),
        pytest.param(spec("Always"), {"m": DONE}, {"start": ["m"]}, id="Always"),
        pytest.param(spec("OnFailure"), {"m": DONE}, {"phase": "Succeeded"}, id="OnFailure, good"),
        pytest.param(spec("OnFailure"), {"m": BROKEN}, {"start": ["m"]}, id="OnFailure, bad"),
        pytest.param(spec("Never"), {"m": BROKEN}, {"phase": "Failed"}, id="Never"),
        pytest.param(spec("Never", (), ("a", "b")), {"a": DONE, "b": RUNNING}, {}, id="one still runs"),
        pytest.param(spec("Never", (), ("a", "b")), {"a": DONE, "b": DONE}, {"phase": "Succeeded"}, id="all done"),
        pytest.param(spec(), {"m": WAITING}, {"retry": 100}, id="back-off"),
        pytest.param(spec(), {"m": REFUSED}, {"retry": 100}, id="refused before it ran"),
        pytest.param(
            spec(), {"m": View(attempt=0, running=True, unhealthy="liveness")}, {"kill": ["m"]}, id="unhealthy"
        ),
    ],
)
def test_decide(pod: PodSpec, views: dict[str, View], expected: dict[str, Any]) -> None:
    found = decision.decide(pod, views, NOW)
    assert starts(found) == expected.get("start", [])
    assert list(found.kill) == expected.get("kill", [])
    assert found.retry_at_ns == expected.get("retry", 0)
    assert found.phase == expected.get("phase", "")
    assert found.initialized is expected.get("initialized", True)


def test_back_off_doubles_and_is_forgotten() -> None:
    pause_s, pauses = 0.0, []
    for _ in range(8):
        pause_s = decision.next_back_off_s(pause_s, ran_s=1)
        pauses.append(pause_s)
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert decision.next_back_off_s(300, ran_s=700) == 10
    assert [decision.back_off_of_attempt_s(attempt) for attempt in (0, 1, 2, 30)] == [0, 10, 20, 300]


views = st.builds(
    View,
    attempt=st.integers(-1, 3),
    running=st.booleans(),
    started=st.booleans(),
    exit_code=st.sampled_from([0, 1]),
    retry_at_ns=st.sampled_from([0, 10, 100]),
).filter(lambda view: view.attempt >= 0 or not view.running)


@given(
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    init=st.lists(st.booleans(), max_size=3),
    found=st.lists(views, min_size=6, max_size=6),
)
def test_a_decision_is_consistent(policy: str, init: list[bool], found: list[View]) -> None:
    names = tuple(f"i{n}{'+' if sidecar else ''}" for n, sidecar in enumerate(init))
    pod = spec(policy, names, ("a", "b", "c"))
    keys = [name.rstrip("+") for name in names] + ["a", "b", "c"]
    chosen = decision.decide(pod, dict(zip(keys, found, strict=False)), NOW)
    by_name = dict(zip(keys, found, strict=False))
    assert all(not by_name[name].running for name in starts(chosen))
    assert all(by_name[name].retry_at_ns <= NOW for name in starts(chosen))
    if chosen.phase:
        assert not {"a", "b", "c"} & set(starts(chosen))
    if policy == "Always":
        assert not chosen.phase
    if not chosen.initialized:
        assert not {"a", "b", "c"} & set(starts(chosen))
    if chosen.phase == "Succeeded":
        assert all(by_name[name].ended and by_name[name].exit_code == 0 for name in ("a", "b", "c"))
