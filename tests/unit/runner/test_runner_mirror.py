"""What a mirror pod says about its component's process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from stentor.api.meta import ObjectMeta
from stentor.api.pod import Container, ContainerStatus, Pod, PodSpec
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.mirror import CONFIG_HASH, Seen, look, mirror_status

HERE = Path("/nonexistent")
MACHINE = Machine(
    node_name="n", addresses=("192.0.2.1",), run_dir=HERE, state_dir=HERE, cgroup=HERE, bin_dir=HERE
)  # fmt: skip
POD = Pod(
    metadata=ObjectMeta(name="c", namespace="kube-system", annotations={CONFIG_HASH: "ab"}),
    spec=PodSpec(containers=(Container(name="c", image="x"),)),
)


def reported(seen: Seen) -> ContainerStatus:
    return mirror_status(POD, seen, MACHINE, 0).container_statuses[0]


def follow(*pids: int) -> Seen:
    """The view after the pid file has said each of these, 0 for nothing."""
    seen: Seen | None = None
    for at, pid in enumerate(pids):
        seen = look(seen, pid, POD, at)
    assert seen is not None
    return seen


def test_the_first_start_is_no_restart() -> None:
    waiting = reported(follow(0))
    assert waiting.state.waiting is not None
    assert (waiting.state.waiting.reason, waiting.container_id, waiting.ready) == ("ContainerCreating", "", False)
    running = reported(follow(0, 0, 7))
    assert (running.restart_count, running.ready, running.container_id) == (0, True, "stentor://ab")


def test_each_later_process_is_a_restart() -> None:
    assert [reported(follow(*pids)).restart_count for pids in ((7,), (7, 8), (7, 0), (7, 0, 8), (0, 7, 8, 0, 9))] == [
        0, 1, 0, 1, 2,
    ]  # fmt: skip
    ended = reported(follow(7, 0))
    assert ended.state.waiting is not None
    assert ended.state.waiting.reason == "CrashLoopBackOff"


def test_a_new_runner_goes_on_counting() -> None:
    known = msgspec.structs.replace(POD, status=mirror_status(POD, follow(7, 8, 0), MACHINE, 0))
    seen = look(look(None, 0, known, 5), 9, known, 6)
    assert reported(seen).restart_count == 2
