"""Which nodes a pod may run on: labels, affinity, taints. Pure; shared by the scheduler and the DaemonSet controller.

https://kubernetes.io/docs/concepts/scheduling-eviction/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from stentor.api.core import Node, Taint
from stentor.api.pod import NodeRequirement, NodeTerm, PodSpec, Toleration
from stentor.lab.controllers import readiness

NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"

_READY_TAINTS: Final[Mapping[str, str]] = {"False": NOT_READY, "Unknown": UNREACHABLE}


def effective_taints(node: Node) -> tuple[Taint, ...]:
    """Taints of the node, and those that its state implies before anybody has written them down."""
    implied: list[Taint] = []
    ready = readiness.condition(node.status.conditions, "Ready")
    key = NOT_READY if ready is None else _READY_TAINTS.get(ready.status, "")
    if key:
        implied.append(Taint(key=key, effect="NoSchedule"))
    if node.spec.unschedulable:
        implied.append(Taint(key=UNSCHEDULABLE, effect="NoSchedule"))
    known = {(taint.key, taint.effect) for taint in node.spec.taints}
    return (*node.spec.taints, *(taint for taint in implied if (taint.key, taint.effect) not in known))


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def untolerated(spec: PodSpec, node: Node, extra: Iterable[Toleration] = ()) -> Taint | None:
    """The first taint that keeps the pod off the node; preferences do not."""
    tolerations = (*spec.tolerations, *extra)
    for taint in effective_taints(node):
        if taint.effect != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return taint
    return None


def fits_labels(spec: PodSpec, node: Node) -> bool:
    """nodeSelector and required node affinity."""
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    affinity = spec.affinity.node_affinity if spec.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    return required is None or any(matches_term(term, node) for term in required.node_selector_terms)


def matches_term(term: NodeTerm, node: Node) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return all(_holds(entry, node.metadata.labels) for entry in term.match_expressions) and all(
        _holds(entry, fields) for entry in term.match_fields
    )


def _holds(requirement: NodeRequirement, values: Mapping[str, str]) -> bool:
    value, operator = values.get(requirement.key), requirement.operator
    if operator in ("Gt", "Lt"):
        try:
            own, limit = int(value or ""), int(requirement.values[0])
        except (ValueError, IndexError):
            return False
        return own > limit if operator == "Gt" else own < limit
    outcomes = {
        "In": value is not None and value in requirement.values,
        "NotIn": value is None or value not in requirement.values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return outcomes.get(operator, False)
