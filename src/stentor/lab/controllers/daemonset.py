"""DaemonSet: one pod on each node that its template fits, replaced one by one when the template changes."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from stentor.api.core import Node
from stentor.api.meta import JsonObject, ObjectKey
from stentor.api.pod import PODS, Pod, PodSpec, Toleration
from stentor.api.workload import DAEMON_SETS, DaemonSet, DaemonSetStatus
from stentor.kube import patch
from stentor.kube.errors import NotFound
from stentor.kube.event import reference
from stentor.lab.controllers import owner, placement, readiness
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue
from stentor.lab.controllers.replicaset import controlled_pods, controller_key

HASH: Final = "controller-revision-hash"
_COMPONENT: Final = "daemonset-controller"

# https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#taints-and-tolerations
TOLERATIONS: Final = (
    Toleration(key="node.kubernetes.io/not-ready", operator="Exists", effect="NoExecute"),
    Toleration(key="node.kubernetes.io/unreachable", operator="Exists", effect="NoExecute"),
    Toleration(key="node.kubernetes.io/disk-pressure", operator="Exists", effect="NoSchedule"),
    Toleration(key="node.kubernetes.io/memory-pressure", operator="Exists", effect="NoSchedule"),
    Toleration(key="node.kubernetes.io/pid-pressure", operator="Exists", effect="NoSchedule"),
    Toleration(key="node.kubernetes.io/unschedulable", operator="Exists", effect="NoSchedule"),
)
_HOST_NETWORK: Final = Toleration(key="node.kubernetes.io/network-unavailable", operator="Exists", effect="NoSchedule")


class Plan(msgspec.Struct, frozen=True):
    """Nodes that lack a pod, and pods that have to go."""

    create: tuple[str, ...]
    delete: tuple[Pod, ...]
    status: DaemonSetStatus


def plan(daemon_set: DaemonSet, nodes: Sequence[Node], pods: Sequence[Pod], now_s: float) -> Plan:
    """`pods` are those that the set controls."""
    digest = owner.hash_text(daemon_set.spec.template)
    spec = msgspec.convert(daemon_set.spec.template.get("spec") or {}, PodSpec)
    wanted = {node.metadata.name for node in nodes if _fits(spec, node)}
    by_node: dict[str, list[Pod]] = {}
    victims: list[Pod] = []
    for pod in pods:
        place = pod.spec.node_name or _assigned_node(pod)
        if place not in wanted and not pod.is_terminating:
            victims.append(pod)
        elif readiness.is_finished(pod) and not pod.is_terminating:
            victims.append(pod)  # a daemon that ended is made again
        else:
            by_node.setdefault(place, []).append(pod)
    for crowd in by_node.values():
        alive = sorted((pod for pod in crowd if not pod.is_terminating), key=readiness.created_s)
        victims.extend(alive[1:])
    status = _status(daemon_set, digest, wanted, pods, now_s)
    victims.extend(_outdated(daemon_set, digest, by_node, status))
    missing = sorted(name for name in wanted if not by_node.get(name))
    return Plan(tuple(missing), tuple({pod.metadata.uid: pod for pod in victims}.values()), status)


def _fits(spec: PodSpec, node: Node) -> bool:
    extra = (*TOLERATIONS, _HOST_NETWORK) if spec.host_network else TOLERATIONS
    # Not ready is no reason to keep a daemon away: it waits there, and may be what makes the node ready.
    waiting = (
        Toleration(key=placement.NOT_READY, operator="Exists"),
        Toleration(key=placement.UNREACHABLE, operator="Exists"),
    )
    return placement.fits_labels(spec, node) and placement.untolerated(spec, node, (*extra, *waiting)) is None


def _assigned_node(pod: Pod) -> str:
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    for term in required.node_selector_terms if required is not None else ():
        for field in term.match_fields:
            if field.key == "metadata.name" and field.values:
                return field.values[0]
    return ""


def _outdated(daemon_set: DaemonSet, digest: str, by_node: dict[str, list[Pod]], status: DaemonSetStatus) -> list[Pod]:
    """Pods of an older template that may go now: no more than maxUnavailable are missing at a time."""
    if daemon_set.spec.update_strategy.type == "OnDelete":
        return []
    rolling = daemon_set.spec.update_strategy.rolling_update
    limit = rolling.max_unavailable if rolling is not None and rolling.max_unavailable is not None else 1
    allowed = (
        limit if isinstance(limit, int) else max(1, status.desired_number_scheduled * int(limit.rstrip("%")) // 100)
    )
    budget = allowed - status.number_unavailable
    chosen = []
    for crowd in by_node.values():
        for pod in crowd:
            if pod.is_terminating or pod.metadata.labels.get(HASH) == digest:
                continue
            if not readiness.is_ready(pod):
                chosen.append(pod)  # it does not serve: replacing it makes nothing worse
            elif budget > 0:
                chosen.append(pod)
                budget -= 1
    return chosen


def _status(daemon_set: DaemonSet, digest: str, wanted: set[str], pods: Sequence[Pod], now_s: float) -> DaemonSetStatus:
    running = [pod for pod in pods if readiness.is_active(pod) and pod.spec.node_name]
    placed = [pod for pod in running if pod.spec.node_name in wanted]
    waits = [readiness.available_in_s(pod, daemon_set.spec.min_ready_seconds, now_s) for pod in placed]
    available = sum(1 for wait in waits if wait == 0)
    return DaemonSetStatus(
        current_number_scheduled=len({pod.spec.node_name for pod in placed}),
        number_misscheduled=len(running) - len(placed),
        desired_number_scheduled=len(wanted),
        number_ready=sum(1 for wait in waits if wait is not None),
        updated_number_scheduled=sum(1 for pod in placed if pod.metadata.labels.get(HASH) == digest),
        number_available=available,
        number_unavailable=len(wanted) - available,
        observed_generation=daemon_set.metadata.generation,
    )


def node_template(template: JsonObject, node: str) -> JsonObject:
    """The template bound to one node by affinity (the scheduler places it), tolerating what daemons tolerate."""
    bound = copy.deepcopy(template)
    spec = bound.setdefault("spec", {})
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    bound_terms = [{**term, "matchFields": [field]} for term in terms]
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": bound_terms}
    extra = (*TOLERATIONS, _HOST_NETWORK) if spec.get("hostNetwork") else TOLERATIONS
    spec["tolerations"] = [*(spec.get("tolerations") or []), *msgspec.to_builtins(extra)]
    return bound


class DaemonSetController:
    """Acts on `plan`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._deleted: set[str] = set()
        self.queue = WorkQueue("daemonset", self._sync)
        cluster.daemon_sets.listen(lambda sets: self.queue.add(entry.key for entry in sets))
        cluster.nodes.listen(lambda _: self.queue.add(entry.key for entry in cluster.daemon_sets))
        cluster.pods.listen(self._note_pods)

    def _note_pods(self, pods: Sequence[Pod]) -> None:
        self.queue.add(key for pod in pods if (key := controller_key(pod, "DaemonSet")) is not None)

    async def _sync(self, key: ObjectKey) -> float | None:
        daemon_set = self._cluster.daemon_sets.get(key)
        if daemon_set is None or daemon_set.is_terminating:
            return None
        pods = list(controlled_pods(self._cluster.pods, daemon_set.metadata.uid, self._deleted))
        decided = plan(daemon_set, list(self._cluster.nodes), pods, time.time())
        await asyncio.gather(
            *(self._delete(daemon_set, pod) for pod in decided.delete),
            *(self._create(daemon_set, node) for node in decided.create),
        )
        if decided.status != daemon_set.status:
            change = patch.merge({"status": decided.status})
            await self._cluster.client.patch(DAEMON_SETS, key.name, change, key.namespace, subresource="status")
        return None

    async def _create(self, daemon_set: DaemonSet, node: str) -> None:
        meta, template = daemon_set.metadata, daemon_set.spec.template
        labels = {HASH: owner.hash_text(template)}
        reference_ = owner.reference(DAEMON_SETS, daemon_set)
        bound = node_template(template, node)
        document = owner.pod_document(meta.namespace, bound, f"{meta.name}-", reference_, labels)
        created = await owner.create_pod(self._cluster.client, document)
        self._cluster.pods.assume(created)
        about, message = reference(DAEMON_SETS, daemon_set), f"Created pod: {created.metadata.name}"
        self._cluster.tell(about, "SuccessfulCreate", message, component=_COMPONENT)

    async def _delete(self, daemon_set: DaemonSet, pod: Pod) -> None:
        meta = pod.metadata
        self._deleted.add(meta.uid)
        try:
            await self._cluster.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid)
        except NotFound:
            return
        about, message = reference(DAEMON_SETS, daemon_set), f"Deleted pod: {meta.name}"
        self._cluster.tell(about, "SuccessfulDelete", message, component=_COMPONENT)
