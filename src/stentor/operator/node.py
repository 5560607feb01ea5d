"""Pod CIDRs: the nodes table → prefixes for each node → CiliumNode objects."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence

from stentor.api.cilium import CILIUM_NODES
from stentor.ipam.cluster import ClusterPool, assign
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import NotFound
from stentor.kube.target import ObjectTarget
from stentor.net.address import Prefix
from stentor.runtime.config import IPAMOperator, Values
from stentor.state import Database, Table
from stentor.tables.node import Node, NodePrefixes

log = logging.getLogger(__name__)


def pools_of(values: Values) -> tuple[ClusterPool, ...]:
    """The cluster's pools, one a family that is on."""
    settings: IPAMOperator = values.ipam.operator
    families = (
        (values.ipv4.enabled, settings.cluster_pool_ipv4_pod_cidr_list, settings.cluster_pool_ipv4_mask_size),
        (values.ipv6.enabled, settings.cluster_pool_ipv6_pod_cidr_list, settings.cluster_pool_ipv6_mask_size),
    )
    return tuple(
        ClusterPool([Prefix.parse(c) for c in cidrs], size) for enabled, cidrs, size in families if enabled and cidrs
    )


class PrefixAssigner:
    """Keeps `output` at the prefixes that each known node should have."""

    def __init__(
        self,
        database: Database,
        nodes: Table[tuple[str, str], Node],
        output: Table[str, NodePrefixes],
        pools: Sequence[ClusterPool],
    ) -> None:
        self.pools = tuple(pools)
        self._database = database
        self._nodes = nodes
        self._output = output
        self._tracker = nodes.track()
        output.expect("assigner")

    def settle(self) -> None:
        """Take in what changed. Nothing is assigned before all nodes are known: a prefix could belong to one unseen."""
        if not self._nodes.is_synced:
            return
        changes = self._tracker.drain()
        for change in changes:
            if change.new is None:
                for pool in self.pools:
                    pool.release(change.key[1])
        present = [(change.new, self._prefixes_of(change.new)) for change in changes if change.new is not None]
        exchanged = [self._withdraw(node.name, prefixes) for node, prefixes in present]
        # Nodes that have prefixes keep them, so they go first.
        present.sort(key=lambda each: (not each[1], each[0].name))
        with self._database.write() as txn:
            for change in changes:
                if change.new is None:
                    txn.delete(self._output, change.key[1])
            for node, kept in present:
                prefixes, faults = assign(self.pools, node.name, kept)
                txn.put(self._output, NodePrefixes(node.name, prefixes, "; ".join(faults)))
        if any(exchanged) or any(change.new is None for change in changes):
            self._retry_refused()
        self._output.synced("assigner")

    def _prefixes_of(self, node: Node) -> tuple[Prefix, ...]:
        """What a node says that it has; of a family of which it says nothing yet, what was decided for it."""
        decided = self._output.get(node.name)
        said = {prefix.family for prefix in node.pod_cidrs}
        others = (prefix for prefix in decided.pod_cidrs if prefix.family not in said) if decided is not None else ()
        return (*node.pod_cidrs, *others)

    def _withdraw(self, name: str, present: Sequence[Prefix]) -> bool:
        """Take back what a node has exchanged for something else; whether there was anything."""
        decided = self._output.get(name)
        gone = [prefix for prefix in decided.pod_cidrs if prefix not in present] if decided is not None else []
        for prefix in gone:
            for pool in self.pools:
                pool.withdraw(prefix, name)
        return bool(gone)

    def _retry_refused(self) -> None:
        """A prefix came free: whoever went without may have it."""
        for row in [row for row in self._output if row.error]:
            prefixes, faults = assign(self.pools, row.name, row.pod_cidrs)
            self._database.put(self._output, NodePrefixes(row.name, prefixes, "; ".join(faults)))


class NodePrefixTarget(ObjectTarget[str, NodePrefixes]):
    """Writes prefixes and errors into CiliumNodes. What is there is what the nodes table says."""

    def __init__(self, client: Client, nodes: Table[tuple[str, str], Node]) -> None:
        super().__init__()
        self._client = client
        self._nodes = nodes

    async def write(self, row: NodePrefixes) -> None:
        """Patch what differs. A node that is gone needs nothing."""
        node = next(iter(self._nodes.by("name", row.name)), None)
        if node is None:
            return
        with contextlib.suppress(NotFound):
            if row.pod_cidrs != node.pod_cidrs:
                cidrs = [str(prefix) for prefix in row.pod_cidrs]
                await self._client.patch(CILIUM_NODES, row.name, patch.merge({"spec": {"ipam": {"podCIDRs": cidrs}}}))
                log.info("Gave pod CIDRs to a node", extra={"node": row.name, "podCIDRs": ",".join(cidrs)})
            if row.error != node.operator_error:
                change = patch.merge({"status": {"ipam": {"operator-status": {"error": row.error or None}}}})
                await self._client.patch(CILIUM_NODES, row.name, change, subresource="status")

    async def remove(self, key: str) -> None:
        """The prefixes of a node go with its CiliumNode."""

    async def dump(self) -> Mapping[str, NodePrefixes]:
        """From the nodes table, which mirrors the API."""
        return {node.name: NodePrefixes(node.name, node.pod_cidrs, node.operator_error) for node in self._nodes}
