"""The agent's tables, all in one place."""

from __future__ import annotations

from stentor.agent import l2, service
from stentor.l2.selection import AnnouncementTables
from stentor.net.address import Addr, Prefix
from stentor.services.claim import ServiceTables
from stentor.state import Database, Table
from stentor.tables.endpoint import (
    Endpoint,
    EndpointEntry,
    PublishedEndpoint,
    endpoint_entries,
    endpoints,
    published_endpoints,
    realized_entries,
)
from stentor.tables.identity import IdentityRow, identities
from stentor.tables.ipcache import IPCacheEntry, ipcache
from stentor.tables.masquerade import Exclusion, Uplink, masquerade_exclusions, uplinks
from stentor.tables.node import Node, NodeAddress, node_addresses, nodes
from stentor.tables.pod import Namespace, Pod, PodKey, PodLabels, namespaces, pod_labels, pods
from stentor.tables.policy import PeerKey, PolicyPeer, PolicyRule, RuleKey, policy_peers, policy_rules
from stentor.tables.realized import Realized, realized
from stentor.tables.route import Route, RouteKey, routes


class Tables:
    """Sources' tables first, then what is derived from them, then what the kernel holds of it."""

    def __init__(self) -> None:
        self.database = Database()
        add = self.database.add
        self.pods: Table[PodKey, Pod] = add(pods())
        self.namespaces: Table[str, Namespace] = add(namespaces())
        self.identities: Table[int, IdentityRow] = add(identities())
        self.nodes: Table[tuple[str, str], Node] = add(nodes())
        self.cilium_endpoints: Table[PodKey, PublishedEndpoint] = add(published_endpoints())
        self.endpoints: Table[int, Endpoint] = add(endpoints())
        self.uplinks: Table[int, Uplink] = add(uplinks())
        self.policy_rules: Table[RuleKey, PolicyRule] = add(policy_rules())

        self.services: ServiceTables = service.make_tables(self.database)
        self.l2: AnnouncementTables = l2.make_tables(self.database, self.services, self.nodes)

        self.pod_labels: Table[PodKey, PodLabels] = add(pod_labels())
        self.ipcache: Table[Prefix, IPCacheEntry] = add(ipcache())
        self.policy_peers: Table[PeerKey, PolicyPeer] = add(policy_peers())
        self.endpoint_entries: Table[Addr, EndpointEntry] = add(endpoint_entries())
        self.node_addresses: Table[Addr, NodeAddress] = add(node_addresses())
        self.routes: Table[RouteKey, Route] = add(routes())
        self.exclusions: Table[Prefix, Exclusion] = add(masquerade_exclusions())
        self.published: Table[PodKey, PublishedEndpoint] = add(published_endpoints("published-endpoints"))

        self.realized_rules: Table[RuleKey, Realized[RuleKey, PolicyRule]] = add(realized("policy-rules"))
        self.realized_peers: Table[PeerKey, Realized[PeerKey, PolicyPeer]] = add(realized("policy-peers"))
        self.realized_entries: Table[Addr, Realized[Addr, EndpointEntry]] = add(realized_entries())
