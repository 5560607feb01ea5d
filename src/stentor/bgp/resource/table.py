"""The control plane's tables and derivations.

policies, node configuration, peer configurations,
advertisements, options, secrets, Node, machine     ─► bgp-plan
bgp-plan, services, frontends, kernel, pools,
pod CIDRs, interfaces                                ─► bgp-contributions ─► bgp-routes
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import msgspec

from stentor.api.meta import ObjectKey
from stentor.bgp.resource import node, nodeconfig, peering, plan, pool, route, secret, service
from stentor.bgp.resource.node import BGPNode, Machine, default_router_id
from stentor.bgp.resource.nodeconfig import Resources
from stentor.bgp.resource.options import with_options
from stentor.bgp.resource.plan import Origin, Plan, PlanRow
from stentor.bgp.resource.pool import Pool
from stentor.bgp.resource.route import BGPRoute, Contribution, RouteKey
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.session import Facts
from stentor.bgp.resource.speaker import checked
from stentor.net.address import Prefix
from stentor.state import Database, Derivation, Graph, Input, Table
from stentor.tables import bgp as rows
from stentor.tables.bgp import Advertisement, InstanceOptions, NodeConfig, PeerConfig, PeeringPolicy, PeerOptions
from stentor.tables.node import Node
from stentor.tables.realized import Realized
from stentor.tables.service import Frontend, FrontendKey, LBEntry, Service, ServiceType

Group = ObjectKey | Origin
"""What contributions are computed for: one service, or all prefixes of another origin."""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of services that are read here; `realized` is what the kernel's load balancer holds."""

    services: Table[ObjectKey, Service]
    frontends: Table[tuple[FrontendKey, ObjectKey, ServiceType], Frontend]
    entries: Table[FrontendKey, LBEntry]
    realized: Table[FrontendKey, Realized[FrontendKey, LBEntry]]


class BGPTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of this subject: sources first, then what is derived."""

    policies: Table[str, PeeringPolicy]
    node_configs: Table[str, NodeConfig]
    peer_configs: Table[str, PeerConfig]
    advertisements: Table[str, Advertisement]
    peer_options: Table[str, PeerOptions]
    instance_options: Table[str, InstanceOptions]
    passwords: Table[str, Password]
    pools: Table[str, Pool]
    nodes: Table[str, BGPNode]
    machines: Table[str, Machine]
    plans: Table[str, PlanRow]
    contributions: Table[tuple[str, Prefix, str], Contribution]
    routes: Table[RouteKey, BGPRoute]

    @property
    def plan(self) -> Plan:
        """The plan in force; an empty one before there is any."""
        row = self.plans.get("plan")
        return row.plan if row is not None else Plan()

    @property
    def sources(self) -> tuple[Table[str, Any], ...]:
        """Tables that come from the API or the kernel."""
        return (
            self.policies,
            self.node_configs,
            self.peer_configs,
            self.advertisements,
            self.peer_options,
            self.instance_options,
            self.passwords,
            self.pools,
            self.nodes,
            self.machines,
        )


def make_tables(database: Database) -> BGPTables:
    """The tables, registered."""
    return BGPTables(
        policies=database.add(rows.peering_policies()),
        node_configs=database.add(rows.node_configs()),
        peer_configs=database.add(rows.peer_configs()),
        advertisements=database.add(rows.advertisements()),
        peer_options=database.add(rows.peer_options()),
        instance_options=database.add(rows.instance_options()),
        passwords=database.add(secret.passwords()),
        pools=database.add(pool.pools()),
        nodes=database.add(node.nodes()),
        machines=database.add(node.machines()),
        plans=database.add(plan.plans()),
        contributions=database.add(route.contributions()),
        routes=database.add(route.routes()),
    )


def uses_secrets(tables: BGPTables) -> bool:
    """Whether anything refers to a Secret."""
    of_options = any(row.spec.tcp_ao is not None for row in tables.peer_options)
    return (
        of_options
        or any(row.spec.auth_secret_ref for row in tables.peer_configs)
        or any(
            neighbor.auth_secret_ref
            for row in tables.policies
            for router in row.spec.virtual_routers
            for neighbor in router.neighbors
        )
    )


def make_plan(
    tables: BGPTables, cluster_nodes: Table[tuple[str, str], Node], node_name: str, secrets_namespace: str
) -> Plan:
    """The plan of this node from the tables as they are. CiliumBGPPeeringPolicy comes first, as upstream."""
    own = tables.nodes.get(node_name) or BGPNode(name=node_name, is_leaving=True)
    address = next((a for row in cluster_nodes.by("local", True) if (a := row.address("InternalIP", 4))), None)
    facts = Facts(
        node=own,
        machine=tables.machines.get("machine") or Machine(),
        router_id=default_router_id(node_name, address),
        password=tables.passwords.get,
        secrets_namespace=secrets_namespace,
    )
    found = peering.plan(tables.policies, facts)
    config = tables.node_configs.get(node_name)
    if found is None and config is not None:
        peers = {row.name: row for row in tables.peer_configs}
        found = nodeconfig.plan(config, Resources(peers, list(tables.advertisements)), facts)
    if found is None:
        return Plan()
    found = with_options(found, tables.peer_options, tables.instance_options, facts)
    found = msgspec.structs.replace(
        found, is_drained=own.is_drained, is_excluded=own.is_excluded, is_leaving=own.is_leaving
    )
    return checked(found)


def derive(
    graph: Graph,
    tables: BGPTables,
    services: ServiceView,
    cluster_nodes: Table[tuple[str, str], Node],
    *,
    node_name: str,
    secrets_namespace: str,
) -> None:
    """Add to `graph` what keeps plan and routes up to date."""

    def everything(_: object) -> Iterator[Hashable]:
        yield "plan"

    def plans(_: str) -> Iterator[PlanRow]:
        yield PlanRow(make_plan(tables, cluster_nodes, node_name, secrets_namespace))

    inputs = [Input(cluster_nodes, everything), *(Input(each, everything) for each in tables.sources)]
    graph.add(Derivation("bgp-plan", tables.plans, plans, inputs))
    graph.add(_contributions(tables, services, cluster_nodes))
    graph.add(
        Derivation(
            "bgp-routes",
            tables.routes,
            lambda key: route.merge(tables.contributions.by("route", key)),
            [Input(tables.contributions, lambda row: ((row.instance, row.prefix),))],
        )
    )


def _contributions(
    tables: BGPTables, services: ServiceView, cluster_nodes: Table[tuple[str, str], Node]
) -> Derivation[Group, tuple[str, Prefix, str], Contribution]:
    def all_services(_: object) -> Iterator[Hashable]:
        return (row.key for row in services.services)

    def of_plan(_: object) -> Iterator[Hashable]:
        yield Origin.POD_CIDR
        yield Origin.INTERFACE
        yield from all_services(None)

    def of_key(key: FrontendKey) -> Iterator[Hashable]:
        return (row.service for row in services.frontends.by("key", key))

    inputs = [
        Input(tables.plans, of_plan),
        Input(tables.pools, all_services),
        Input(tables.machines, lambda _: (Origin.INTERFACE,)),
        Input(cluster_nodes, lambda row: (Origin.POD_CIDR,) if row.is_local else ()),
        Input(services.services, lambda row: (row.key,)),
        Input(services.frontends, lambda row: (row.service,)),
        Input(services.entries, lambda row: of_key(row.key)),
        Input(services.realized, lambda row: of_key(row.key)),
    ]
    return Derivation(
        "bgp-contributions",
        tables.contributions,
        lambda group: _contribute(group, tables, services, cluster_nodes),
        inputs,
    )


def _contribute(
    group: Group, tables: BGPTables, services: ServiceView, cluster_nodes: Table[tuple[str, str], Node]
) -> Iterable[Contribution]:
    if group is Origin.POD_CIDR:
        prefixes = [prefix for row in cluster_nodes.by("local", True) for prefix in row.pod_cidrs]
        return route.of_prefixes(tables.plan, Origin.POD_CIDR, prefixes)
    if group is Origin.INTERFACE:
        return route.of_interfaces(tables.plan, tables.machines.get("machine") or Machine())
    assert isinstance(group, ObjectKey)
    row = services.services.get(group)
    if row is None or not tables.plan.instances:
        return ()
    return service.of_service(tables.plan, row, service_addresses(services, row), list(tables.pools))


def service_addresses(services: ServiceView, row: Service) -> list[service.Address]:
    """Every address of a service on this node, with what keeps it from being advertised."""

    def in_kernel(key: FrontendKey) -> LBEntry | None:
        found = services.realized.get(key)
        return found.row if found is not None else None

    return list(service.addresses(row, services.frontends.by("service", row.key), services.entries.get, in_kernel))
