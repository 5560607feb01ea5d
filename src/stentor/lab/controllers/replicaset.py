"""ReplicaSet: as many pods of a template as it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stentor.api.meta import ObjectKey
from stentor.api.pod import PODS, Pod
from stentor.api.workload import REPLICA_SETS, ReplicaSet, ReplicaSetStatus
from stentor.kube import patch
from stentor.kube.errors import ApiError, NotFound
from stentor.kube.event import reference
from stentor.lab.controllers import owner, readiness
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue

_BURST: Final = 100
_COMPONENT: Final = "replicaset-controller"


class Plan(msgspec.Struct, frozen=True):
    """Pods to create and to delete; `check_again_s`: when a ready pod becomes available."""

    create: int
    delete: tuple[Pod, ...]
    status: ReplicaSetStatus
    check_again_s: float | None


def plan(replica_set: ReplicaSet, pods: Sequence[Pod], now_s: float) -> Plan:
    """`pods` are those that the set controls."""
    spec = replica_set.spec
    active = [pod for pod in pods if readiness.is_active(pod)]
    missing = spec.replicas - len(active)
    waits = [readiness.available_in_s(pod, spec.min_ready_seconds, now_s) for pod in active]
    labels = (spec.template.get("metadata") or {}).get("labels") or {}
    status = ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=sum(1 for pod in active if labels.items() <= pod.metadata.labels.items()),
        ready_replicas=sum(1 for wait in waits if wait is not None),
        available_replicas=sum(1 for wait in waits if wait == 0),
        observed_generation=replica_set.metadata.generation,
        conditions=replica_set.status.conditions,
    )
    victims = sorted(active, key=_worth)[: max(0, -missing)]
    pending = [wait for wait in waits if wait]
    return Plan(min(max(0, missing), _BURST), tuple(victims), status, min(pending, default=None))


def _worth(pod: Pod) -> tuple[bool, bool, bool, float]:
    """Those that serve least go first: without node, not running, not ready, then the youngest."""
    return (
        bool(pod.spec.node_name),
        pod.status.phase == "Running",
        readiness.is_ready(pod),
        -readiness.created_s(pod),
    )


class ReplicaSetController:
    """Acts on `plan`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._deleted: set[str] = set()  # pods already told to go, which the watch may still show as they were
        self.queue = WorkQueue("replicaset", self._sync)
        cluster.replica_sets.listen(lambda sets: self.queue.add(entry.key for entry in sets))
        cluster.pods.listen(self._note_pods)

    def _note_pods(self, pods: Sequence[Pod]) -> None:
        self.queue.add(key for pod in pods if (key := controller_key(pod, "ReplicaSet")) is not None)

    async def _sync(self, key: ObjectKey) -> float | None:
        replica_set = self._cluster.replica_sets.get(key)
        if replica_set is None or replica_set.is_terminating:
            return None
        pods = list(controlled_pods(self._cluster.pods, replica_set.metadata.uid, self._deleted))
        decided = plan(replica_set, pods, time.time())
        await asyncio.gather(*(self._delete(replica_set, pod) for pod in decided.delete))
        if decided.create:
            await self._create(replica_set, decided.create)
        if decided.status != replica_set.status:
            change = patch.merge({"status": decided.status})
            await self._cluster.client.patch(REPLICA_SETS, key.name, change, key.namespace, subresource="status")
        return decided.check_again_s

    async def _create(self, replica_set: ReplicaSet, count: int) -> None:
        meta = replica_set.metadata
        document = owner.pod_document(
            meta.namespace, replica_set.spec.template, f"{meta.name}-", owner.reference(REPLICA_SETS, replica_set), {}
        )
        results = await asyncio.gather(
            *(owner.create_pod(self._cluster.client, document) for _ in range(count)), return_exceptions=True
        )
        about = reference(REPLICA_SETS, replica_set)
        failure: ApiError | None = None
        for result in results:
            if isinstance(result, Pod):
                self._cluster.pods.assume(result)
                message = f"Created pod: {result.metadata.name}"
                self._cluster.tell(about, "SuccessfulCreate", message, component=_COMPONENT)
            elif isinstance(result, ApiError):
                failure = result
            else:
                raise result
        if failure is not None:
            message = f"Error creating: {failure.message}"
            self._cluster.tell(about, "FailedCreate", message, component=_COMPONENT, warning=True)
            raise failure

    async def _delete(self, replica_set: ReplicaSet, pod: Pod) -> None:
        meta = pod.metadata
        self._deleted.add(meta.uid)
        try:
            await self._cluster.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid)
        except NotFound:
            return
        except ApiError:
            self._deleted.discard(meta.uid)
            raise
        about, message = reference(REPLICA_SETS, replica_set), f"Deleted pod: {meta.name}"
        self._cluster.tell(about, "SuccessfulDelete", message, component=_COMPONENT)


def controller_key(pod: Pod, kind: str) -> ObjectKey | None:
    """Key of the controller of that kind, if it has one."""
    found = owner.controller_of(pod)
    return ObjectKey(pod.metadata.namespace, found.name) if found is not None and found.kind == kind else None


def controlled_pods(pods: Iterable[Pod], uid: str, deleted: set[str]) -> Iterable[Pod]:
    """Pods of a controller; those that were told to go are terminating, whatever the watch still shows."""
    seen: set[str] = set()
    for pod in pods:
        seen.add(pod.metadata.uid)
        if not owner.is_controlled_by(pod, uid):
            continue
        if pod.metadata.uid in deleted and not pod.is_terminating:
            meta = msgspec.structs.replace(pod.metadata, deletion_timestamp=pod.metadata.creation_timestamp)
            yield msgspec.structs.replace(pod, metadata=meta)
        else:
            yield pod
    deleted &= seen
