"""EndpointSlices' controller: acts on `endpointslice.compute`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stentor.api.core import ENDPOINT_SLICES, EndpointSlice, Node, Service
from stentor.api.meta import ObjectKey
from stentor.api.pod import Pod
from stentor.kube import patch
from stentor.kube.errors import AlreadyExists, NotFound
from stentor.lab.controllers import endpointslice
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue


class EndpointSliceController:
    """Keys are Services."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.queue = WorkQueue("endpointslice", self._sync)
        cluster.services.listen(lambda services: self.queue.add(service.key for service in services))
        cluster.pods.listen(self._note_pods)
        cluster.slices.listen(self._note_slices)
        cluster.nodes.listen(lambda _: self.queue.add(service.key for service in cluster.services))

    def _note_pods(self, pods: Sequence[Pod]) -> None:
        for service in self._cluster.services:
            selector = service.spec.selector
            if selector and any(_selects(service, pod) for pod in pods):
                self.queue.add([service.key])

    def _note_slices(self, slices: Sequence[EndpointSlice]) -> None:
        """Somebody may have changed or deleted ours."""
        for entry in slices:
            labels = entry.metadata.labels
            if labels.get(endpointslice.MANAGED_BY) == endpointslice.MANAGER:
                name = labels.get(endpointslice.SERVICE_NAME, "")
                self.queue.add([ObjectKey(entry.metadata.namespace, name)])

    async def _sync(self, key: ObjectKey) -> float | None:
        service = self._cluster.services.get(key)
        wanted: dict[ObjectKey, EndpointSlice] = {}
        if service is not None:
            pods = [pod for pod in self._cluster.pods if pod.metadata.namespace == key.namespace]
            wanted = {entry.key: entry for entry in endpointslice.compute(service, pods, self._node)}
        present = {entry.key: entry for entry in self._cluster.slices if self._is_ours(entry, key)}
        for entry in wanted.values():
            await self._write(entry, present.get(entry.key))
        for surplus in present.keys() - wanted.keys():
            try:
                await self._cluster.client.delete(ENDPOINT_SLICES, surplus.name, surplus.namespace)
            except NotFound:
                continue
        return None

    async def _write(self, wanted: EndpointSlice, present: EndpointSlice | None) -> None:
        client = self._cluster.client
        if present is None:
            try:
                self._cluster.slices.assume(await client.create(ENDPOINT_SLICES, wanted))
            except AlreadyExists:
                present = await client.get(ENDPOINT_SLICES, wanted.key.name, wanted.key.namespace)
        if present is None or _same(wanted, present):
            return
        fields = msgspec.to_builtins(wanted)
        document = {"metadata": {"labels": fields["metadata"]["labels"]}}
        document |= {"endpoints": fields.get("endpoints", []), "ports": fields.get("ports", [])}
        updated = await client.patch(ENDPOINT_SLICES, wanted.key.name, patch.merge(document), wanted.key.namespace)
        self._cluster.slices.assume(updated)

    def _is_ours(self, entry: EndpointSlice, service: ObjectKey) -> bool:
        labels = entry.metadata.labels
        return (
            entry.metadata.namespace == service.namespace
            and labels.get(endpointslice.SERVICE_NAME) == service.name
            and labels.get(endpointslice.MANAGED_BY) == endpointslice.MANAGER
        )

    def _node(self, name: str) -> Node | None:
        return self._cluster.nodes.get(ObjectKey("", name))


def _selects(service: Service, pod: Pod) -> bool:
    same = service.metadata.namespace == pod.metadata.namespace
    return same and service.spec.selector.items() <= pod.metadata.labels.items()


def _same(wanted: EndpointSlice, present: EndpointSlice) -> bool:
    return (
        wanted.metadata.labels.items() <= present.metadata.labels.items()
        and tuple(wanted.endpoints or ()) == tuple(present.endpoints or ())
        and tuple(wanted.ports or ()) == tuple(present.ports or ())
    )
