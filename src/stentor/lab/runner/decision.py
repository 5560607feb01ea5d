"""What to do next with a pod's containers: pure, from its spec and what its containers did so far.

Init containers run one after the other, each to success; those with restartPolicy Always (sidecars) only have to be
started. Then all containers run; restartPolicy decides about those that end. Restarts wait for their back-off: none for
the first, then 10 s doubling to 5 min, forgotten after 10 min of running (kubelet's numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from stentor.api.pod import Container, PodSpec

BACK_OFF_FIRST_S: Final = 10.0
BACK_OFF_MOST_S: Final = 300.0
BACK_OFF_RESET_S: Final = 600.0


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a container did. `attempt` counts from 0; -1: it never ran, perhaps because of `retry_at_ns`."""

    attempt: int = -1
    running: bool = False
    started: bool = False
    unhealthy: str = ""
    exit_code: int = 0
    finished_ns: int = 0
    retry_at_ns: int = 0

    @property
    def ended(self) -> bool:
        return self.attempt >= 0 and not self.running


class Decision(msgspec.Struct, frozen=True):
    """Containers to start and to kill now; `retry_at_ns` is when to decide again, 0: when something happens.

    `phase` is Succeeded or Failed once all is over. `initialized`: all init containers have done their part.
    """

    start: tuple[Container, ...] = ()
    kill: tuple[str, ...] = ()
    retry_at_ns: int = 0
    phase: str = ""
    initialized: bool = False


NEVER: Final = View()


def decide(spec: PodSpec, views: Mapping[str, View], now_ns: int) -> Decision:
    """The next step; `views` is by container name, those that never ran may be missing."""
    began = any(views.get(container.name, NEVER).attempt >= 0 for container in spec.containers)
    init = _decide_init(spec, views, now_ns, began=began)
    if not init.initialized:
        return init
    starts, kills, retries = list(init.start), list(init.kill), [init.retry_at_ns]
    over = 0
    for container in spec.containers:
        view = views.get(container.name, NEVER)
        if view.running:
            if view.unhealthy:
                kills.append(container.name)
        elif view.ended and not should_restart(spec.restart_policy, view):
            over += 1
        elif view.retry_at_ns > now_ns:
            retries.append(view.retry_at_ns)
        else:
            starts.append(container)
    phase = ""
    if over == len(spec.containers):
        good = all(views[container.name].exit_code == 0 for container in spec.containers)
        phase = "Succeeded" if good else "Failed"
        starts = []
    return Decision(tuple(starts), tuple(kills), _soonest(retries), phase, initialized=True)


def _decide_init(spec: PodSpec, views: Mapping[str, View], now_ns: int, *, began: bool) -> Decision:
    starts: list[Container] = []
    kills: list[str] = []
    retries: list[int] = []
    for container in spec.init_containers:
        view = views.get(container.name, NEVER)
        sidecar = is_sidecar(container)
        if view.running:
            if view.unhealthy:
                kills.append(container.name)
            if began or (sidecar and view.started):
                continue
        elif (began and not sidecar) or (view.ended and view.exit_code == 0 and not sidecar):
            continue
        elif view.ended and not sidecar and spec.restart_policy == "Never":
            return Decision(kill=tuple(kills), phase="Failed")
        elif view.retry_at_ns > now_ns:
            retries.append(view.retry_at_ns)
        else:
            starts.append(container)
        if not began:
            return Decision(tuple(starts), tuple(kills), _soonest(retries))
    return Decision(tuple(starts), tuple(kills), _soonest(retries), initialized=True)


def is_sidecar(container: Container) -> bool:
    """An init container that keeps running beside the others."""
    return container.restart_policy == "Always"


def should_restart(policy: str, view: View) -> bool:
    return policy == "Always" or (policy == "OnFailure" and view.exit_code != 0)


def next_back_off_s(before_s: float, ran_s: float) -> float:
    """Pause before the restart after this one; `before_s` is the pause that preceded the run that ended (0: none)."""
    if ran_s > BACK_OFF_RESET_S or before_s <= 0:
        return BACK_OFF_FIRST_S
    return min(BACK_OFF_MOST_S, before_s * 2)


def back_off_of_attempt_s(attempt: int) -> float:
    """The pause that has led to this attempt, for a runner that did not see the earlier ones."""
    return 0.0 if attempt <= 0 else min(BACK_OFF_MOST_S, BACK_OFF_FIRST_S * 2.0 ** min(attempt - 1, 8))


def _soonest(times_ns: list[int]) -> int:
    return min((time for time in times_ns if time), default=0)
