"""Garbage collection of CiliumNodes without a Node and CiliumEndpoints without a pod.

What is orphaned in two consecutive rounds is deleted: an object that is just being created has time to appear.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Generic, TypeVar

from stentor.api.cilium import CILIUM_ENDPOINTS, CILIUM_NODES
from stentor.kube.client import Client
from stentor.kube.errors import Conflict, NotFound
from stentor.state import Table
from stentor.tables.node import Node
from stentor.tables.owner import EndpointOwner, KnownNode
from stentor.tables.pod import Pod, PodKey

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Collector(Generic[K]):
    """Deletes what `orphans` names in two rounds running."""

    def __init__(self, what: str, orphans: Callable[[], Collection[K]], delete: Callable[[K], Awaitable[None]]) -> None:
        self.deleted = 0
        self.what = what
        self._orphans = orphans
        self._delete = delete
        self._suspects: frozenset[K] = frozenset()

    async def round(self) -> None:
        """One round; an object that has gone or changed meanwhile is left alone."""
        orphans = frozenset(self._orphans())
        for key in orphans & self._suspects:
            try:
                await self._delete(key)
            except (NotFound, Conflict):
                continue
            self.deleted += 1
            log.info("Deleted an orphan", extra={"kind": self.what, "object": str(key)})
        self._suspects = orphans


def endpoint_collector(
    client: Client, owners: Table[tuple[str, str], EndpointOwner], pods: Table[PodKey, Pod]
) -> Collector[EndpointOwner]:
    """CiliumEndpoints whose pod is gone, has ended, or uses the host's network."""

    def orphans() -> list[EndpointOwner]:
        if not (owners.is_synced and pods.is_synced):
            return []
        return [row for row in owners if not _has_endpoint(pods.get((row.namespace, row.name)))]

    async def delete(row: EndpointOwner) -> None:
        await client.delete(CILIUM_ENDPOINTS, row.name, row.namespace, uid=row.uid)

    return Collector("CiliumEndpoint", orphans, delete)


def _has_endpoint(pod: Pod | None) -> bool:
    return pod is not None and not pod.is_finished and not pod.host_network


def node_collector(client: Client, nodes: Table[tuple[str, str], Node], known: Table[str, KnownNode]) -> Collector[str]:
    """CiliumNodes whose Node is gone."""

    def orphans() -> list[str]:
        if not (nodes.is_synced and known.is_synced):
            return []
        return [node.name for node in nodes if node.name not in known]

    async def delete(name: str) -> None:
        await client.delete(CILIUM_NODES, name)

    return Collector("CiliumNode", orphans, delete)
