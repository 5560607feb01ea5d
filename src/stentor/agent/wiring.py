"""How the agent's parts hang together:

Pods, Namespaces ─► pod-labels ─┐
CiliumIdentities ─► identities ─┴► resolver ─► endpoints ◄─ CNI requests
endpoints, policy-rules ─► policy-peers ─► endpoint-entries ─► kernel
endpoints, CiliumEndpoints, CiliumNodes ─► ipcache ─► kernel
endpoints, CiliumNodes ─► routes, node-addresses, masquerade-exclusions ─► kernel
endpoints, Pods ─► published-endpoints ─► CiliumEndpoints
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Final

from stentor.agent.publish import PublishedTarget, derive_published, endpoint_row
from stentor.agent.recorded import Recorded
from stentor.agent.route import KernelRoutes
from stentor.agent.state import Tables
from stentor.api.cilium import CILIUM_ENDPOINTS, CILIUM_IDENTITIES, CILIUM_NODES, CiliumNode
from stentor.api.core import NAMESPACES
from stentor.api.meta import ObjectKey
from stentor.api.pod import POD_SUMMARIES
from stentor.datapath import targets
from stentor.identity.filter import LabelFilter
from stentor.identity.ipcache import derive_ipcache
from stentor.identity.label import derive_pod_labels
from stentor.ipam.route import derive_masquerade_exclusions, derive_node_addresses, derive_routes
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.rows import identity_row, namespace_row, node_row, pod_row
from stentor.kube.source import table_source
from stentor.net.address import Addr, Prefix
from stentor.policy.compile import derive_policy_peers
from stentor.policy.entry import derive_endpoint_entries
from stentor.runtime.config import Values
from stentor.state import Graph, Reconciler
from stentor.sys.bpf import Map
from stentor.tables.node import Node

_BEHIND_ADD_S: Final = 0.004
"""What nobody waits for goes behind the answer to a CNI ADD, which has made the pod's routes by itself."""

POLICY_WRITERS: Final = ("policy-peers", "endpoints")
"""Reconcilers that put a pod's policy in force, in this order."""


def sources(
    tables: Tables,
    client: Client,
    values: Values,
    node_name: str,
    *,
    own_row: Callable[[Node], Node],
    own_gone: Callable[[], None],
) -> tuple[Reflector[Any], ...]:
    """What the agent watches. `own_row` completes the row of this node; `own_gone` hears of its CiliumNode's deletion, which
    leaves the row in place: the node is still here, and so are its pods."""

    def row_of_node(obj: CiliumNode) -> Node:
        row = node_row(obj, values.cluster.name, node_name)
        return own_row(row) if row.is_local else row

    def keep_own(key: tuple[str, str]) -> bool:
        is_own = key == (cluster, node_name)
        if is_own:
            own_gone()
        return is_own

    cluster = values.cluster.name
    database = tables.database
    return (
        table_source(
            client,
            POD_SUMMARIES,
            database,
            tables.pods,
            row_of=pod_row,
            key_of=_pair,
            field_selector=f"spec.nodeName={node_name}",
        ),
        table_source(
            client, NAMESPACES, database, tables.namespaces, row_of=namespace_row, key_of=lambda key: key.name
        ),
        table_source(
            client,
            CILIUM_IDENTITIES,
            database,
            tables.identities,
            row_of=identity_row,
            key_of=lambda key: int(key.name) if key.name.isdecimal() else 0,
        ),
        table_source(
            client,
            CILIUM_NODES,
            database,
            tables.nodes,
            row_of=row_of_node,
            key_of=lambda key: (cluster, key.name),
            keep=keep_own,
        ),
        table_source(client, CILIUM_ENDPOINTS, database, tables.cilium_endpoints, row_of=endpoint_row, key_of=_pair),
    )


def _pair(key: ObjectKey) -> tuple[str, str]:
    return (key.namespace, key.name)


def derive(
    tables: Tables,
    values: Values,
    schedule: Callable[[Callable[[], object]], object],
    *,
    node: Addr,
    underlay: tuple[int, ...],
    route_mtu: int,
) -> Graph:
    """Every derivation, inputs before readers. `node` is this node's address in CiliumEndpoints."""
    t = tables
    graph = Graph(t.database, schedule)
    label_filter, cluster = LabelFilter(values.labels), values.cluster.name
    graph.add(derive_pod_labels(t.pods, t.namespaces, t.pod_labels, cluster=cluster, label_filter=label_filter))
    node_ports = tuple(map(Prefix.parse, values.node_port.addresses))
    graph.add(
        derive_ipcache(t.endpoints, t.cilium_endpoints, t.nodes, t.ipcache, families=underlay, node_ports=node_ports)
    )
    graph.add(
        derive_policy_peers(
            t.endpoints,
            t.policy_rules,
            t.realized_rules,
            t.realized_entries,
            t.policy_peers,
            mode=values.policy_enforcement_mode,
        )
    )
    graph.add(
        derive_endpoint_entries(t.endpoints, t.policy_peers, t.realized_peers, t.realized_entries, t.endpoint_entries)
    )
    graph.add(derive_routes(t.endpoints, t.nodes, t.routes, mtu=route_mtu))
    graph.add(derive_node_addresses(t.nodes, t.node_addresses))
    native = tuple(
        Prefix.parse(text) for text in (values.ipv4_native_routing_cidr, values.ipv6_native_routing_cidr) if text
    )
    graph.add(derive_masquerade_exclusions(t.nodes, t.exclusions, native=native))
    graph.add(derive_published(t.endpoints, t.pods, t.published, node=node))
    return graph


def reconcile(
    tables: Tables, maps: Mapping[str, Map], client: Client, link_thread: Executor, *, node: Addr
) -> tuple[Reconciler[Any, Any], ...]:
    """Every reconciler, in the order in which they must run once before traffic may rely on them."""
    t = tables
    rules = Recorded(targets.rules(maps), t.policy_rules, t.database, t.realized_rules)
    peers = Recorded(targets.peers(maps), t.policy_peers, t.database, t.realized_peers)
    entries = Recorded(targets.endpoints(maps), t.endpoint_entries, t.database, t.realized_entries)
    return (
        Reconciler("policy-rules", t.policy_rules, rules),
        Reconciler("policy-peers", t.policy_peers, peers),
        Reconciler("endpoints", t.endpoint_entries, entries),
        Reconciler("ipcache", t.ipcache, targets.ipcache(maps)),
        Reconciler("nodes", t.node_addresses, targets.nodes(maps)),
        Reconciler("masquerade-exclusions", t.exclusions, targets.exclusions(maps)),
        Reconciler("uplinks", t.uplinks, targets.uplinks(maps)),
        Reconciler("routes", t.routes, KernelRoutes(link_thread), linger_s=_BEHIND_ADD_S),
        Reconciler(
            "cilium-endpoints", t.published, PublishedTarget(client, t.cilium_endpoints, node), linger_s=_BEHIND_ADD_S
        ),
    )
