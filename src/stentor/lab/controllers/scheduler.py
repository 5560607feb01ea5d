"""The scheduler: gives pods without a node one that fits, where fewest of their kind run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stentor.api.core import Node
from stentor.api.meta import Condition, ObjectKey
from stentor.api.pod import PODS, Pod
from stentor.kube import patch
from stentor.kube.event import reference
from stentor.lab.controllers import owner, placement, readiness
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue

NAME: Final = "default-scheduler"
MAX_PODS: Final = 110


class Unschedulable(msgspec.Struct, frozen=True):
    """Why no node fits, in the scheduler's words."""

    message: str


def choose(pod: Pod, nodes: Sequence[Node], pods: Iterable[Pod]) -> str | Unschedulable:
    """Name of the node for `pod`; `pods` are all pods, of which those with a node count."""
    placed: dict[str, list[Pod]] = {node.metadata.name: [] for node in nodes}
    for other in pods:
        if other.spec.node_name in placed and not readiness.is_finished(other):
            placed[other.spec.node_name].append(other)
    refusals: Counter[str] = Counter()
    fitting: list[str] = []
    for node in nodes:
        why = refusal(pod, node, placed[node.metadata.name])
        if why:
            refusals[why] += 1
        else:
            fitting.append(node.metadata.name)
    if not fitting:
        return Unschedulable(_explain(len(nodes), refusals))
    mine = owner.controller_of(pod)

    def crowd(name: str) -> tuple[int, int, str]:
        siblings = sum(1 for other in placed[name] if mine is not None and owner.is_controlled_by(other, mine.uid))
        return siblings, len(placed[name]), name

    return min(fitting, key=crowd)


def refusal(pod: Pod, node: Node, placed: Sequence[Pod]) -> str:
    """Why the pod cannot run on the node; empty when it can."""
    taint = placement.untolerated(pod.spec, node)
    if taint is not None:
        if taint.key == placement.UNSCHEDULABLE:
            return "node(s) were unschedulable"
        text = f"{taint.key}: {taint.value}" if taint.value else f"{taint.key}: "
        return f"node(s) had untolerated taint {{{text}}}"
    if not placement.fits_labels(pod.spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    if len(placed) >= MAX_PODS:
        return "Too many pods"
    wanted = _host_ports(pod)
    if wanted and any(wanted & _host_ports(other) for other in placed):
        return "node(s) didn't have free ports for the requested pod ports"
    return ""


def _host_ports(pod: Pod) -> set[tuple[int, str]]:
    host = pod.spec.host_network
    ports = [port for container in pod.spec.containers for port in container.ports]
    pairs = {(port.host_port or (port.container_port if host else 0), port.protocol) for port in ports}
    return {pair for pair in pairs if pair[0]}


def _explain(total: int, refusals: Counter[str]) -> str:
    if not total:
        return "no nodes available to schedule pods"
    reasons = ", ".join(sorted(f"{count} {why}" for why, count in refusals.items()))
    return f"0/{total} nodes are available: {reasons}."


class Scheduler:
    """Acts on `choose`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.queue = WorkQueue("scheduler", self._sync)
        cluster.pods.listen(lambda pods: self.queue.add(pod.key for pod in pods if _is_pending(pod)))
        cluster.nodes.listen(lambda _: self.queue.add(pod.key for pod in cluster.pods if _is_pending(pod)))

    async def _sync(self, key: ObjectKey) -> float | None:
        cluster = self._cluster
        pod = cluster.pods.get(key)
        if pod is None or not _is_pending(pod):
            return None
        choice = choose(pod, list(cluster.nodes), cluster.pods)
        if isinstance(choice, Unschedulable):
            await self._note_unschedulable(pod, choice.message)
            return None
        # Counted at once: the next pod must see it before the watch does.
        placed = msgspec.structs.replace(pod.spec, node_name=choice)
        cluster.pods.assume(msgspec.structs.replace(pod, spec=placed))
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": choice},
        }
        path = PODS.path(key.namespace, key.name, "binding")
        await cluster.client.request("POST", path, body=msgspec.json.encode(binding))
        message = f"Successfully assigned {key} to {choice}"
        cluster.tell(reference(PODS, pod), "Scheduled", message, component=NAME)
        return None

    async def _note_unschedulable(self, pod: Pod, message: str) -> None:
        known = readiness.condition(pod.status.conditions, "PodScheduled")
        if known is not None and known.message == message:
            return
        fresh = Condition(type="PodScheduled", status="False", reason="Unschedulable", message=message)
        others = [entry for entry in pod.status.conditions if entry.type != "PodScheduled"]
        document = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [*others, fresh]}}
        change = patch.merge(msgspec.to_builtins(document))
        await self._cluster.client.patch(PODS, pod.key.name, change, pod.key.namespace, subresource="status")
        self._cluster.tell(reference(PODS, pod), "FailedScheduling", message, component=NAME, warning=True)


def _is_pending(pod: Pod) -> bool:
    return (
        not pod.spec.node_name
        and pod.spec.scheduler_name in ("", NAME)
        and not pod.is_terminating
        and not readiness.is_finished(pod)
    )
