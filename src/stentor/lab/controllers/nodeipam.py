"""Node IPAM: `Node.spec.podCIDRs`, as kube-controller-manager gives them where the network's own IPAM does not.

https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/ (--allocate-node-cidrs)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from stentor.api.core import NODES, Node
from stentor.api.meta import ObjectKey
from stentor.ipam.cluster import ClusterPool, assign
from stentor.ipam.errors import AlreadyAllocated
from stentor.kube import patch
from stentor.kube.event import reference
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.queue import WorkQueue
from stentor.net.address import Prefix

_COMPONENT: Final = "cidrAllocator"
_RETRY_S: Final = 30.0


class NodeIpam:
    """Keys are nodes. A node keeps what it has; one without gets a prefix of each pool."""

    def __init__(self, cluster: Cluster, pools: Sequence[ClusterPool]) -> None:
        self._cluster = cluster
        self._pools = pools
        self._given: dict[str, tuple[Prefix, ...]] = {}
        self.queue = WorkQueue("node-ipam", self._sync)
        cluster.nodes.listen(self._note)

    def _note(self, nodes: Sequence[Node]) -> None:
        self.queue.add(node.key for node in nodes)

    async def _sync(self, key: ObjectKey) -> float | None:
        node = self._cluster.nodes.get(key)
        if node is None:
            self._given.pop(key.name, None)
            for pool in self._pools:
                pool.release(key.name)
            return None
        if node.spec.pod_cidrs:
            return None
        self._occupy()
        prefixes, faults = assign(self._pools, key.name, self._given.get(key.name, ()))
        if faults:
            message = f"Node {key.name} status is now: CIDRNotAvailable: {'; '.join(faults)}"
            self._cluster.tell(reference(NODES, node), "CIDRNotAvailable", message, component=_COMPONENT, warning=True)
            return _RETRY_S
        self._given[key.name] = prefixes
        cidrs = [str(prefix) for prefix in prefixes]
        await self._cluster.client.patch(
            NODES, key.name, patch.merge({"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
        )
        return None

    def _occupy(self) -> None:
        """What nodes have already, whoever gave it: two that have the same are not this controller's business."""
        for node in self._cluster.nodes:
            for prefix in map(Prefix.parse, node.spec.pod_cidrs):
                for pool in self._pools:
                    if pool.family == prefix.family:
                        with suppress(AlreadyAllocated):
                            pool.occupy(prefix, node.metadata.name)
