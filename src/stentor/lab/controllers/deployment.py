"""Deployment: a ReplicaSet a template, replaced by the next one step by step. Pure: what to do with the sets.

Names, annotations and conditions are the Deployment controller's, so that `kubectl rollout status|history|undo` work.
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from stentor.api.meta import Condition, JsonObject
from stentor.api.workload import Deployment, DeploymentStatus, ReplicaSet
from stentor.lab.controllers import owner, readiness

REVISION: Final = "deployment.kubernetes.io/revision"
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
MAXIMUM: Final = "deployment.kubernetes.io/max-replicas"
_HISTORY: Final = 10
_DEADLINE_S: Final = 600


class Limits(msgspec.Struct, frozen=True):
    """How far a rollout may leave the wanted number, in pods."""

    surge: int
    unavailable: int


class Scale(msgspec.Struct, frozen=True):
    """A set and the number of pods it is to have."""

    replica_set: ReplicaSet
    replicas: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `create` is the size of the new set when it is missing (None: it is there)."""

    create: int | None = None
    revision: int = 1
    scale: tuple[Scale, ...] = ()
    delete: tuple[ReplicaSet, ...] = ()


def limits(deployment: Deployment) -> Limits:
    """Percentages: surge is rounded up, unavailability down; both cannot be 0."""
    rolling = deployment.spec.strategy.rolling_update
    wanted = deployment.spec.replicas
    surge = rolling.max_surge if rolling is not None and rolling.max_surge is not None else "25%"
    spare = rolling.max_unavailable if rolling is not None and rolling.max_unavailable is not None else "25%"
    found = Limits(_amount(surge, wanted, up=True), _amount(spare, wanted, up=False))
    if deployment.spec.strategy.type == "Recreate":
        return Limits(0, 0)
    return Limits(0, 1) if found == Limits(0, 0) else found


def _amount(value: int | str, total: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    share = total * int(value.removesuffix("%")) / 100
    return math.ceil(share) if up else math.floor(share)


def template_hash(deployment: Deployment) -> str:
    """The label `pod-template-hash` of what the template makes."""
    return owner.hash_text(deployment.spec.template)


def current_set(deployment: Deployment, sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The oldest set whose template is the deployment's."""
    wanted = deployment.spec.template
    same = [entry for entry in sets if _without_hash(entry.spec.template) == wanted]
    return min(same, key=lambda entry: (readiness.created_s(entry), entry.metadata.name), default=None)


def _without_hash(template: JsonObject) -> JsonObject:
    meta = dict(template.get("metadata") or {})
    meta["labels"] = {key: value for key, value in (meta.get("labels") or {}).items() if key != owner.TEMPLATE_HASH}
    return {**template, "metadata": meta}


def revision_of(replica_set: ReplicaSet) -> int:
    """0 without a revision that can be read."""
    text = replica_set.metadata.annotations.get(REVISION, "0")
    return int(text) if text.isdecimal() else 0


def plan(deployment: Deployment, sets: Sequence[ReplicaSet]) -> Plan:
    """The next step towards the wanted state; `sets` are those that the deployment controls."""
    new = current_set(deployment, sets)
    old = [entry for entry in sets if entry is not new]
    newest = max((revision_of(entry) for entry in old), default=0)
    revision = newest + 1 if new is None or revision_of(new) <= newest else revision_of(new)
    if deployment.spec.paused:
        return _plan_paused(deployment, new, old, revision)
    if deployment.spec.strategy.type == "Recreate":
        return _plan_recreate(deployment, new, old, revision)
    create, scale_new = _grow(deployment, new, old)
    scales = [*scale_new, *_shrink(deployment, new, old)]
    return Plan(create=create, revision=revision, scale=tuple(scales), delete=_surplus(deployment, old))


def _plan_paused(deployment: Deployment, new: ReplicaSet | None, old: list[ReplicaSet], revision: int) -> Plan:
    """A paused deployment is scaled, not rolled out: its largest set takes the difference."""
    sets = [entry for entry in (*old, *([new] if new is not None else [])) if entry.spec.replicas > 0]
    total = sum(entry.spec.replicas for entry in sets)
    if not sets or total == deployment.spec.replicas:
        return Plan(revision=revision)
    largest = max(sets, key=lambda entry: entry.spec.replicas)
    size = max(0, largest.spec.replicas + deployment.spec.replicas - total)
    return Plan(revision=revision, scale=(Scale(largest, size),))


def _plan_recreate(deployment: Deployment, new: ReplicaSet | None, old: list[ReplicaSet], revision: int) -> Plan:
    stopping = tuple(Scale(entry, 0) for entry in old if entry.spec.replicas)
    if stopping or any(entry.status.replicas for entry in old):
        return Plan(revision=revision, scale=stopping)
    wanted = deployment.spec.replicas
    if new is None:
        return Plan(create=wanted, revision=revision)
    scale = (Scale(new, wanted),) if new.spec.replicas != wanted else ()
    return Plan(revision=revision, scale=scale, delete=_surplus(deployment, old))


def _grow(deployment: Deployment, new: ReplicaSet | None, old: list[ReplicaSet]) -> tuple[int | None, list[Scale]]:
    """The new set's size: as large as the surge allows."""
    wanted = deployment.spec.replicas
    size = new.spec.replicas if new is not None else 0
    total = sum(entry.spec.replicas for entry in old) + size
    room = wanted + limits(deployment).surge - total
    grown = wanted if size > wanted else min(wanted, size + max(0, room))
    if new is None:
        return grown, []
    return None, [Scale(new, grown)] if grown != size else []


def _shrink(deployment: Deployment, new: ReplicaSet | None, old: list[ReplicaSet]) -> list[Scale]:
    """Old sets lose pods that do not serve first, then those that are not missed any more."""
    least = deployment.spec.replicas - limits(deployment).unavailable
    total = sum(entry.spec.replicas for entry in old) + (new.spec.replicas if new is not None else 0)
    not_yet = new.spec.replicas - new.status.available_replicas if new is not None else 0
    budget = total - least - not_yet
    sizes = {entry.metadata.uid: entry.spec.replicas for entry in old}
    for entry in sorted(old, key=readiness.created_s):
        cut = min(budget, max(0, entry.spec.replicas - entry.status.available_replicas))
        if cut > 0:
            sizes[entry.metadata.uid] -= cut
            budget -= cut
    serving = sum(entry.status.available_replicas for entry in (*old, *([new] if new is not None else [])))
    budget = min(budget, serving - least)
    for entry in sorted(old, key=readiness.created_s):
        cut = min(budget, sizes[entry.metadata.uid])
        if cut > 0:
            sizes[entry.metadata.uid] -= cut
            budget -= cut
    return [
        Scale(entry, sizes[entry.metadata.uid]) for entry in old if sizes[entry.metadata.uid] != entry.spec.replicas
    ]


def _surplus(deployment: Deployment, old: list[ReplicaSet]) -> tuple[ReplicaSet, ...]:
    """Empty sets beyond the history that is kept for undo."""
    kept = deployment.spec.revision_history_limit
    empty = [entry for entry in old if not entry.spec.replicas and not entry.status.replicas]
    return tuple(sorted(empty, key=revision_of)[: max(0, len(empty) - (_HISTORY if kept is None else kept))])


def compute_status(
    deployment: Deployment, new: ReplicaSet | None, sets: Sequence[ReplicaSet], now: str, now_s: float
) -> DeploymentStatus:
    """Counts and conditions; `now` is the same moment as RFC 3339."""
    wanted = deployment.spec.replicas
    available = sum(entry.status.available_replicas for entry in sets)
    fields = DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=sum(entry.status.replicas for entry in sets),
        updated_replicas=new.status.replicas if new is not None else 0,
        ready_replicas=sum(entry.status.ready_replicas for entry in sets),
        available_replicas=available,
        unavailable_replicas=max(0, max(wanted, sum(entry.status.replicas for entry in sets)) - available),
    )
    before = {entry.type: entry for entry in deployment.status.conditions}
    enough = available >= wanted - limits(deployment).unavailable
    verdict = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    if not enough:
        verdict = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    conditions = (
        _condition("Available", *verdict, before.get("Available"), now, moved=False),
        _progress(deployment, fields, new, before.get("Progressing"), now, now_s),
    )
    return msgspec.structs.replace(fields, conditions=conditions)


def _progress(
    deployment: Deployment,
    fresh: DeploymentStatus,
    new: ReplicaSet | None,
    before: Condition | None,
    now: str,
    now_s: float,
) -> Condition:
    name = new.metadata.name if new is not None else deployment.metadata.name
    wanted, old = deployment.spec.replicas, deployment.status
    complete = fresh.updated_replicas == fresh.replicas == fresh.available_replicas == wanted
    moved = (
        fresh.updated_replicas > old.updated_replicas
        or fresh.ready_replicas > old.ready_replicas
        or fresh.available_replicas > old.available_replicas
        or fresh.observed_generation != old.observed_generation
        or fresh.replicas - fresh.updated_replicas < old.replicas - old.updated_replicas
    )
    if complete:
        text = f'ReplicaSet "{name}" has successfully progressed.'
        return _condition("Progressing", "True", "NewReplicaSetAvailable", text, before, now, moved=moved)
    updated = before.last_update_time if before is not None else None
    limit_s = deployment.spec.progress_deadline_seconds or _DEADLINE_S
    stuck = before is not None and before.reason == "ProgressDeadlineExceeded"
    done = before is not None and before.reason == "NewReplicaSetAvailable"
    late = updated is not None and now_s - readiness.seconds(updated) > limit_s
    if not moved and not done and (stuck or late) and not deployment.spec.paused:
        text = f'ReplicaSet "{name}" has timed out progressing.'
        return _condition("Progressing", "False", "ProgressDeadlineExceeded", text, before, now, moved=False)
    text = f'ReplicaSet "{name}" is progressing.'
    return _condition("Progressing", "True", "ReplicaSetUpdated", text, before, now, moved=moved)


def _condition(
    kind: str, value: str, reason: str, message: str, before: Condition | None, now: str, *, moved: bool
) -> Condition:
    changed = before is None or before.status != value
    same = before is not None and (before.status, before.reason, before.message) == (value, reason, message)
    return Condition(
        type=kind,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=now if changed or before is None else before.last_transition_time,
        last_update_time=before.last_update_time if same and not moved and before is not None else now,
    )
