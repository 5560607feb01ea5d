"""Deployments' controller: acts on `deployment.plan`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from stentor.api.meta import JsonObject, ObjectKey
from stentor.api.workload import DEPLOYMENTS, REPLICA_SETS, Deployment, ReplicaSet
from stentor.kube import patch, raw
from stentor.kube.errors import AlreadyExists, NotFound
from stentor.kube.event import reference
from stentor.lab.controllers import deployment as decision
from stentor.lab.controllers import owner
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.deployment import Plan, Scale
from stentor.lab.controllers.queue import WorkQueue

_COMPONENT: Final = "deployment-controller"
_STUCK_CHECK_S: Final = 5.0
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


class DeploymentController:
    """Creates, scales and removes ReplicaSets; writes the status."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.queue = WorkQueue("deployment", self._sync)
        cluster.deployments.listen(lambda entries: self.queue.add(entry.key for entry in entries))
        cluster.replica_sets.listen(self._note_sets)

    def _note_sets(self, sets: Sequence[ReplicaSet]) -> None:
        for entry in sets:
            found = owner.controller_of(entry)
            if found is not None and found.kind == "Deployment":
                self.queue.add([ObjectKey(entry.metadata.namespace, found.name)])

    async def _sync(self, key: ObjectKey) -> float | None:
        found = self._cluster.deployments.get(key)
        if found is None or found.is_terminating:
            return None
        sets = self._sets_of(found)
        plan = decision.plan(found, sets)
        await self._act(found, sets, plan)
        return await self._report(found)

    def _sets_of(self, found: Deployment) -> list[ReplicaSet]:
        uid = found.metadata.uid
        return [entry for entry in self._cluster.replica_sets if owner.is_controlled_by(entry, uid)]

    async def _act(self, found: Deployment, sets: Sequence[ReplicaSet], plan: Plan) -> None:
        if plan.create is not None:
            await self._create(found, plan)
        for scale in plan.scale:
            await self._scale(found, scale)
        current = decision.current_set(found, sets)
        if current is not None and decision.revision_of(current) != plan.revision:
            await self._annotate(current, {decision.REVISION: str(plan.revision)})
        if found.metadata.annotations.get(decision.REVISION) != str(plan.revision) and not found.spec.paused:
            change = patch.merge({"metadata": {"annotations": {decision.REVISION: str(plan.revision)}}})
            await self._cluster.client.patch(DEPLOYMENTS, found.key.name, change, found.key.namespace)
        for surplus in plan.delete:
            try:
                await self._cluster.client.delete(REPLICA_SETS, surplus.key.name, surplus.key.namespace)
            except NotFound:
                continue

    async def _create(self, found: Deployment, plan: Plan) -> None:
        digest = decision.template_hash(found)
        document = new_set_document(found, digest, plan)
        path = REPLICA_SETS.path(found.metadata.namespace)
        try:
            answer = await self._cluster.client.request("POST", path, body=raw.encode_document(document))
        except AlreadyExists:
            return  # ours, and the watch is behind; a stranger's would be a collision of hashes
        created = raw.decode(REPLICA_SETS, answer)
        self._cluster.replica_sets.assume(created)
        self._tell_scaled(found, created.metadata.name, 0, created.spec.replicas)

    async def _scale(self, found: Deployment, scale: Scale) -> None:
        entry = scale.replica_set
        change = {"spec": {"replicas": scale.replicas}, "metadata": {"annotations": _sizes(found)}}
        updated = await self._cluster.client.patch(
            REPLICA_SETS, entry.key.name, patch.merge(change), entry.key.namespace
        )
        self._cluster.replica_sets.assume(updated)
        self._tell_scaled(found, entry.metadata.name, entry.spec.replicas, scale.replicas)

    async def _annotate(self, entry: ReplicaSet, annotations: dict[str, str]) -> None:
        change = patch.merge({"metadata": {"annotations": annotations}})
        updated = await self._cluster.client.patch(REPLICA_SETS, entry.key.name, change, entry.key.namespace)
        self._cluster.replica_sets.assume(updated)

    async def _report(self, found: Deployment) -> float | None:
        sets = self._sets_of(found)
        current = decision.current_set(found, sets)
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
        status = decision.compute_status(found, current, sets, stamp, now_s)
        if status != found.status:
            fields: JsonObject = msgspec.to_builtins(status)
            counts = dict.fromkeys(
                ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")
            )
            change = patch.merge({"status": {**counts, **fields}})
            await self._cluster.client.patch(
                DEPLOYMENTS, found.key.name, change, found.key.namespace, subresource="status"
            )
        rolling = status.available_replicas != found.spec.replicas or status.replicas != status.updated_replicas
        return _STUCK_CHECK_S if rolling else None

    def _tell_scaled(self, found: Deployment, name: str, before: int, after: int) -> None:
        direction = "up" if after >= before else "down"
        message = f"Scaled {direction} replica set {name} from {before} to {after}"
        about = reference(DEPLOYMENTS, found)
        self._cluster.tell(about, "ScalingReplicaSet", message, component=_COMPONENT)


def new_set_document(found: Deployment, digest: str, plan: Plan) -> JsonObject:
    """The ReplicaSet of the deployment's present template, in JSON form."""
    template = found.spec.template
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), owner.TEMPLATE_HASH: digest}
    selector = msgspec.structs.replace(
        found.spec.selector, match_labels={**found.spec.selector.match_labels, owner.TEMPLATE_HASH: digest}
    )
    inherited = {key: value for key, value in found.metadata.annotations.items() if key != _LAST_APPLIED}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{found.metadata.name}-{digest}",
            "namespace": found.metadata.namespace,
            "labels": labels,
            "annotations": {**inherited, **_sizes(found), decision.REVISION: str(plan.revision)},
            "ownerReferences": [msgspec.to_builtins(owner.reference(DEPLOYMENTS, found))],
        },
        "spec": {
            "replicas": plan.create,
            "minReadySeconds": found.spec.min_ready_seconds,
            "selector": msgspec.to_builtins(selector),
            "template": {**template, "metadata": {**meta, "labels": labels}},
        },
    }


def _sizes(found: Deployment) -> dict[str, str]:
    wanted = found.spec.replicas
    return {decision.DESIRED: str(wanted), decision.MAXIMUM: str(wanted + decision.limits(found).surge)}
