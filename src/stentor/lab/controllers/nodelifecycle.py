"""Node lifecycle: a node whose heartbeats stop is unreachable, its pods are not ready; taints say so.

A heartbeat counts when the node's lease changes, measured by this process's clock: machines' clocks need not agree.
https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from stentor.api.core import NODES, Node, Taint
from stentor.api.meta import Condition, JsonObject, ObjectKey
from stentor.api.pod import PODS, Pod
from stentor.kube import patch
from stentor.kube.errors import Conflict, NotFound
from stentor.kube.event import reference
from stentor.lab.controllers import placement, readiness
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue

GRACE_S: Final = 40.0
_CHECK_S: Final = 5.0
_COMPONENT: Final = "node-controller"
_KUBELET_CONDITIONS: Final = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def wanted_taints(node: Node) -> tuple[Taint, ...]:
    """The node's taints, with those of its Ready condition and of cordoning as they should be."""
    ready = readiness.condition(node.status.conditions, "Ready")
    value = ready.status if ready is not None else "Unknown"
    held = {"False": placement.NOT_READY, "Unknown": placement.UNREACHABLE}.get(value)
    wanted: list[tuple[str, str]] = []
    if held is not None:
        wanted += [(held, "NoSchedule"), (held, "NoExecute")]
    if node.spec.unschedulable:
        wanted.append((placement.UNSCHEDULABLE, "NoSchedule"))
    ours = (placement.NOT_READY, placement.UNREACHABLE, placement.UNSCHEDULABLE)
    kept = [taint for taint in node.spec.taints if taint.key not in ours or (taint.key, taint.effect) in wanted]
    present = {(taint.key, taint.effect) for taint in kept}
    return (*kept, *(Taint(key=key, effect=effect) for key, effect in wanted if (key, effect) not in present))


def unknown_conditions(node: Node, now: str) -> tuple[Condition, ...]:
    """Conditions of a node whose kubelet has stopped reporting; those of others (NetworkUnavailable) are theirs."""
    known = {condition.type: condition for condition in node.status.conditions}
    fresh = []
    for kind in _KUBELET_CONDITIONS:
        before = known.get(kind)
        since = before.last_transition_time if before is not None and before.status == "Unknown" else now
        fresh.append(
            Condition(
                type=kind,
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                last_heartbeat_time=before.last_heartbeat_time if before is not None else None,
                last_transition_time=since,
            )
        )
    return tuple(fresh)


def unready_pod_conditions(pod: Pod, now: str) -> tuple[Condition, ...] | None:
    """The pod's conditions with Ready turned off; None when it is off already."""
    if not readiness.is_ready(pod):
        return None
    off = Condition(type="Ready", status="False", last_transition_time=now)
    return tuple(off if condition.type == "Ready" else condition for condition in pod.status.conditions)


class NodeLifecycle:
    """Keys are nodes."""

    def __init__(self, cluster: Cluster, grace_s: float = GRACE_S) -> None:
        self._cluster = cluster
        self._grace_s = grace_s
        self._beats: dict[str, tuple[str, float]] = {}
        self.queue = WorkQueue("node-lifecycle", self._sync)
        cluster.nodes.listen(self._note)

    def _note(self, nodes: Sequence[Node]) -> None:
        self.queue.add(node.key for node in nodes)

    async def _sync(self, key: ObjectKey) -> float | None:
        node = self._cluster.nodes.get(key)
        if node is None:
            self._beats.pop(key.name, None)
            return None
        ready = readiness.condition(node.status.conditions, "Ready")
        silent = self._silence_s(node) > self._grace_s
        if silent and ready is not None and ready.status != "Unknown":
            await self._mark_unknown(node)
        taints = wanted_taints(node)
        if ready is not None and taints != node.spec.taints:
            # The version makes it fail when somebody else taints at the same time.
            document: JsonObject = {"metadata": {"resourceVersion": node.metadata.resource_version}}
            document["spec"] = {"taints": msgspec.to_builtins(taints)}
            await self._cluster.client.patch(NODES, key.name, patch.merge(document))
        if ready is not None and ready.status == "Unknown":
            await self._mark_pods(key.name)
        return _CHECK_S

    def _silence_s(self, node: Node) -> float:
        name = node.metadata.name
        lease = self._cluster.leases.get(ObjectKey("kube-node-lease", name))
        stamp = (lease.spec.renew_time if lease is not None else None) or ""
        known = self._beats.get(name)
        if known is None or known[0] != stamp:
            self._beats[name] = (stamp, time.monotonic())
            return 0.0
        return time.monotonic() - known[1]

    async def _mark_unknown(self, node: Node) -> None:
        conditions = unknown_conditions(node, _now())
        change = patch.strategic({"status": {"conditions": msgspec.to_builtins(conditions)}})
        await self._cluster.client.patch(NODES, node.metadata.name, change, subresource="status")
        message = f"Node {node.metadata.name} status is now: NodeNotReady"
        self._cluster.tell(reference(NODES, node), "NodeNotReady", message, component=_COMPONENT)

    async def _mark_pods(self, name: str) -> None:
        for pod in self._cluster.pods:
            conditions = unready_pod_conditions(pod, _now()) if pod.spec.node_name == name else None
            if conditions is None:
                continue
            document = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}}
            change = patch.merge(msgspec.to_builtins(document))
            try:
                await self._cluster.client.patch(PODS, pod.key.name, change, pod.key.namespace, subresource="status")
            except (NotFound, Conflict):
                continue
            message = f"Node is not ready: {name}"
            self._cluster.tell(reference(PODS, pod), "NodeNotReady", message, component=_COMPONENT, warning=True)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
