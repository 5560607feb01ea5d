"""How the operator's parts hang together:

Pods, Namespaces ─► pod-labels ─► wanted-labels ─► allocator ─► identity-allocations ─► CiliumIdentities
CiliumNodes ─► nodes ─► assigner ─► node-prefixes ─► CiliumNodes
CiliumEndpoints, CiliumNodes, Pods, Nodes ─► collectors
Services, CiliumLoadBalancerIPPools ─► lb-services, lb-pools ─► assigner ─► lb-assignments ─► Services' statuses
CiliumBGPClusterConfigs, overrides, Nodes ─► bgp-node-configs-wanted ─► CiliumBGPNodeConfigs (`bgp.py`)
what is judged on the way ─► conditions-wanted ─► conditions of custom resources
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from stentor.api.cilium import CILIUM_ENDPOINTS, CILIUM_IDENTITIES, CILIUM_NODES
from stentor.api.core import NAMESPACES, NODES
from stentor.api.definition import needed
from stentor.api.meta import ObjectKey
from stentor.api.pod import POD_SUMMARIES
from stentor.identity.filter import LabelFilter
from stentor.identity.label import derive_pod_labels, derive_wanted_labels
from stentor.ipam.cluster import ClusterPool
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.rows import identity_row, namespace_row, node_row, pod_row
from stentor.kube.source import table_source
from stentor.net.identity import cluster_range, cluster_shift
from stentor.operator.bgp import ClusterBGP
from stentor.operator.collection import Collector, endpoint_collector, node_collector
from stentor.operator.condition import ConditionTarget
from stentor.operator.identity import IdentityAllocator, IdentityTarget
from stentor.operator.l2 import L2Policies
from stentor.operator.loadbalancer import LoadBalancers
from stentor.operator.node import NodePrefixTarget, PrefixAssigner, pools_of
from stentor.runtime.config import Values
from stentor.runtime.duration import parse_duration_s
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.state import Database, Graph, Reconciler
from stentor.tables.condition import judged, observed
from stentor.tables.identity import identities
from stentor.tables.node import node_prefixes, nodes
from stentor.tables.owner import EndpointOwner, KnownNode, endpoint_owners, known_nodes
from stentor.tables.pod import namespaces, pod_labels, pods, wanted_labels


def _pair(key: ObjectKey) -> tuple[str, str]:
    return (key.namespace, key.name)


class Operator:
    """All of an operator's state; `start` begins its work, once it leads."""

    def __init__(self, values: Values, client: Client, schedule: Callable[[Callable[[], object]], object]) -> None:
        self.values = values
        self.client = client
        self.is_leading = False
        self.identities_alive = 0
        self.identities_deleted = 0
        self.identity_rounds = 0
        self.health = Health()
        self._schedule = schedule
        self.database = Database()
        add = self.database.add
        self.pods = add(pods())
        self.namespaces = add(namespaces())
        self.nodes = add(nodes())
        self.known_nodes = add(known_nodes())
        self.endpoint_owners = add(endpoint_owners())
        self.identities = add(identities())
        self.pod_labels = add(pod_labels())
        self.wanted_labels = add(wanted_labels())
        self.allocations = add(identities("identity-allocations"))
        self.prefixes = add(node_prefixes())
        self.conditions = add(observed())
        self.judged = add(judged())
        self.load_balancers = LoadBalancers(values, client, self.database, self.conditions, self.judged)
        self.l2_policies: L2Policies | None = None
        self.bgp: ClusterBGP | None = None
        self.sources = (*self._sources(), *self.load_balancers.sources)
        if values.l2announcements.enabled:
            self.l2_policies = L2Policies(client, self.database, self.conditions, self.judged)
            self.sources += self.l2_policies.sources
        if values.bgp_control_plane.enabled:
            self.bgp = ClusterBGP(
                values.bgp_control_plane, client, self.database, self.known_nodes, self.conditions, self.judged
            )
            self.sources += self.bgp.sources
        self.graph = self._derivations()
        self.pools: tuple[ClusterPool, ...] = pools_of(values) if values.ipam.mode == "cluster-pool" else ()
        self.assigner = PrefixAssigner(self.database, self.nodes, self.prefixes, self.pools)
        numbers = cluster_range(values.cluster.id, cluster_shift(values.clustermesh.max_connected_clusters))
        self.allocator = IdentityAllocator(
            self.database, self.wanted_labels, self.identities, self.allocations, numbers
        )
        self.reconcilers = self._reconcilers()
        self.collectors: tuple[Collector[Any], ...] = (
            endpoint_collector(client, self.endpoint_owners, self.pods),
            node_collector(client, self.nodes, self.known_nodes),
        )

    @property
    def pending(self) -> int:
        """Label sets in use that no identity in the API has."""
        return sum(1 for row in self.wanted_labels if not self.identities.by("labels", row.labels))

    def _sources(self) -> tuple[Reflector[Any], ...]:
        cluster = self.values.cluster.name
        return (
            table_source(self.client, POD_SUMMARIES, self.database, self.pods, row_of=pod_row, key_of=_pair),
            table_source(
                self.client,
                NAMESPACES,
                self.database,
                self.namespaces,
                row_of=namespace_row,
                key_of=lambda key: key.name,
            ),
            table_source(
                self.client,
                CILIUM_NODES,
                self.database,
                self.nodes,
                row_of=lambda obj: node_row(obj, cluster, ""),
                key_of=lambda key: (cluster, key.name),
            ),
            table_source(
                self.client,
                CILIUM_IDENTITIES,
                self.database,
                self.identities,
                row_of=identity_row,
                key_of=lambda key: int(key.name) if key.name.isdecimal() else 0,
            ),
            table_source(
                self.client,
                CILIUM_ENDPOINTS,
                self.database,
                self.endpoint_owners,
                row_of=lambda obj: EndpointOwner(obj.metadata.namespace, obj.metadata.name, obj.metadata.uid),
                key_of=_pair,
            ),
            table_source(
                self.client,
                NODES,
                self.database,
                self.known_nodes,
                row_of=lambda obj: KnownNode(obj.metadata.name, obj.metadata.labels),
                key_of=lambda key: key.name,
            ),
        )

    def _derivations(self) -> Graph:
        graph = Graph(self.database, self._schedule)
        label_filter = LabelFilter(self.values.labels)
        cluster = self.values.cluster.name
        graph.add(
            derive_pod_labels(self.pods, self.namespaces, self.pod_labels, cluster=cluster, label_filter=label_filter)
        )
        graph.add(derive_wanted_labels(self.pod_labels, self.wanted_labels))
        if self.l2_policies is not None:
            self.l2_policies.derive(graph)
        return graph

    def _reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        identity = Reconciler("identities", self.allocations, IdentityTarget(self.client, self.identities))
        self.allocator.on_drift = identity.compare_soon
        kinds = [definition.kind for definition in needed(self.values)]
        conditions = ConditionTarget(self.client, self.database, kinds, self.conditions, self.judged)
        made: tuple[Reconciler[Any, Any], ...] = (
            identity,
            self.load_balancers.reconciler,
            Reconciler("conditions", self.judged, conditions, linger_s=0.02),
        )
        if self.bgp is not None:
            made += (self.bgp.reconciler,)
        if self.pools:
            made += (Reconciler("pod-cidrs", self.prefixes, NodePrefixTarget(self.client, self.nodes)),)
        return made

    def start(self, jobs: JobGroup) -> None:
        """Begin all work; called when this operator has become the leader."""
        self.is_leading = True
        for table, settle in ((self.wanted_labels, self.allocator.settle), (self.identities, self.allocator.settle)):
            self._follow(table, settle)
        self._follow(self.nodes, self.assigner.settle)
        self.load_balancers.follow(self._follow)
        if self.bgp is not None:
            jobs.keep("bgp-decisions", self.bgp.run)
            jobs.keep("bgp-events", self.bgp.tell)
            jobs.keep("bgp-secrets-namespace", self.bgp.keep_namespace)
        for source in self.sources:
            jobs.keep(f"watch-{source.kind}", source.run)
        for reconciler in self.reconcilers:
            jobs.keep(f"reconcile-{reconciler.name}", reconciler.run)
        interval_s = parse_duration_s(self.values.operator.endpoint_gc_interval)
        for collector in self.collectors:
            jobs.every(f"collect-{collector.what}", interval_s, collector.round)
        grace_s = parse_duration_s(self.values.operator.identity_gc_interval)
        jobs.every("identity-gc", min(60.0, max(1.0, grace_s / 2)), self._collect_identities)

    def _follow(self, table: Any, settle: Callable[[], None]) -> None:
        """Call `settle` in the turn after each commit to `table`."""
        waiting = False

        def run() -> None:
            nonlocal waiting
            waiting = False
            settle()

        def wake() -> None:
            nonlocal waiting
            if not waiting:
                waiting = True
                self._schedule(run)

        table.track(replay=False, wake=wake)
        wake()

    async def _collect_identities(self) -> None:
        grace_s = parse_duration_s(self.values.operator.identity_gc_interval)
        self.identities_alive, deleted = self.allocator.collect(time.time(), grace_s)
        self.identities_deleted += deleted
        self.identity_rounds += 1
        if self.allocator.fault:
            self.health.degraded("identity-allocation", self.allocator.fault)
        else:
            self.health.ok("identity-allocation")
