"""What a deletion does to an object: it goes at once, or is marked and stays while somebody holds it (finalizers, a
namespace's content, a pod's grace period)."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any

from stentor.apiserver.request import DeleteOptions
from stentor.apiserver.resource import Resource

Object = dict[str, Any]

_PROPAGATION = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}
_DEFAULT_GRACE_S = 30


class Verdict(enum.Enum):
    GONE = "gone"
    MARKED = "marked"
    UNCHANGED = "unchanged"


def find_conflict(document: Object, options: DeleteOptions) -> str:
    """The precondition that does not hold; empty when all do."""
    meta = document["metadata"]
    conditions = (
        ("UID", options.uid, meta["uid"]),
        ("ResourceVersion", options.resource_version, meta["resourceVersion"]),
    )
    return next(
        (
            f"Precondition failed: {n} in precondition: {w}, {n} in object meta: {h}"
            for n, w, h in conditions
            if w and w != h
        ),
        "",
    )


def prepare(document: Object, resource: Resource, options: DeleteOptions) -> Verdict:
    """Change `document` in place into its next state."""
    changed = _set_propagation(document["metadata"], options.propagation_policy)
    grace = _grace(document, resource, options)
    if not grace and not _has_finalizers(document, resource):
        return Verdict.GONE
    changed = _mark(document, resource, grace) or changed
    return Verdict.MARKED if changed else Verdict.UNCHANGED


def is_held(document: Object, resource: Resource) -> bool:
    """Whether an object that is marked must stay."""
    return _has_finalizers(document, resource) or bool(document["metadata"].get("deletionGracePeriodSeconds"))


def _has_finalizers(document: Object, resource: Resource) -> bool:
    if document["metadata"].get("finalizers"):
        return True
    return resource.bucket == "/namespaces" and bool(document.get("spec", {}).get("finalizers"))


def _set_propagation(meta: Object, policy: str) -> bool:
    """Set the finalizer that the garbage collector acts on; True when that changes something."""
    if not policy:
        return False
    before = list(meta.get("finalizers") or ())
    after = [f for f in before if f not in _PROPAGATION.values()]
    if policy in _PROPAGATION:
        after.append(_PROPAGATION[policy])
    meta["finalizers"] = after
    if not after:
        del meta["finalizers"]
    return after != before


def _grace(document: Object, resource: Resource, options: DeleteOptions) -> int:
    """Seconds that a running pod is given; everything else goes at once."""
    if resource.bucket != "/pods":
        return 0
    spec, phase = document["spec"], document.get("status", {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    grace = options.grace_period_seconds
    if grace is None:
        grace = spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
    return max(int(grace), 0)


def _mark(document: Object, resource: Resource, grace: int) -> bool:
    """Set the deletion's time; a repeated deletion may only shorten it. False when nothing changes."""
    meta = document["metadata"]
    if "deletionTimestamp" in meta and grace >= meta.get("deletionGracePeriodSeconds", 0):
        return False
    moment = datetime.now(UTC) + timedelta(seconds=grace)
    meta["deletionTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    meta["deletionGracePeriodSeconds"] = grace
    if "generation" in meta:
        meta["generation"] += 1
    if resource.bucket == "/namespaces":
        document.setdefault("status", {})["phase"] = "Terminating"
    return True
