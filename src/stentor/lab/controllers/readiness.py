"""What a pod's status says to controllers."""

from __future__ import annotations

from datetime import datetime

from stentor.api.meta import Condition, Resource
from stentor.api.pod import Pod


def condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    return next((entry for entry in conditions if entry.type == kind), None)


def is_ready(pod: Pod) -> bool:
    found = condition(pod.status.conditions, "Ready")
    return found is not None and found.status == "True"


def is_finished(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Counts as a replica."""
    return not pod.is_terminating and not is_finished(pod)


def available_in_s(pod: Pod, min_ready_s: int, now_s: float) -> float | None:
    """Seconds until the pod counts as available: 0 when it does, None when it is not ready."""
    found = condition(pod.status.conditions, "Ready")
    if found is None or found.status != "True":
        return None
    if min_ready_s <= 0 or found.last_transition_time is None:
        return 0.0
    return max(0.0, seconds(found.last_transition_time) + min_ready_s - now_s)


def created_s(obj: Resource) -> float:
    """Unix time of an object; 0 when it does not say."""
    stamp = obj.metadata.creation_timestamp
    return seconds(stamp) if stamp else 0.0


def seconds(stamp: str) -> float:
    """Unix time of an RFC 3339 time."""
    return datetime.fromisoformat(stamp).timestamp()
