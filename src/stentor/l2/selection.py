"""Which addresses this node may announce, on which links and by which lease; and which it does.

An address that services share has one lease, that of the first of them by name: every node comes to the same one, so that no
two nodes answer for it. An address of a node is never announced: its owner answers by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from stentor.api.l2 import LOAD_BALANCER_CLASS
from stentor.api.meta import ObjectKey
from stentor.l2.expression import compile_expression
from stentor.net.address import Addr
from stentor.net.label import selectable_service_labels
from stentor.state import Derivation, Graph, Input, Table
from stentor.tables.announcement import (
    Announcement,
    AnnouncementKey,
    L2Lease,
    L2Policy,
    Link,
    WantedAnnouncement,
)
from stentor.tables.node import Node
from stentor.tables.service import EndpointSlice, Frontend, FrontendKey, LocalNode, Service, ServiceType

LEASE_PREFIX: Final = "cilium-l2announce-"
_KINDS: Final = (ServiceType.LOAD_BALANCER, ServiceType.EXTERNAL_IPS)


class AnnouncementTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of this subject, and those of others that it reads."""

    policies: Table[str, L2Policy]
    links: Table[str, Link]
    leases: Table[str, L2Lease]
    wanted: Table[Addr, WantedAnnouncement]
    announcements: Table[AnnouncementKey, Announcement]
    services: Table[ObjectKey, Service]
    slices: Table[ObjectKey, EndpointSlice]
    frontends: Table[tuple[FrontendKey, ObjectKey, ServiceType], Frontend]
    local_nodes: Table[str, LocalNode]
    nodes: Table[tuple[str, str], Node]


def lease_name(service: ObjectKey) -> str:
    """As upstream names it."""
    return f"{LEASE_PREFIX}{service.namespace}-{service.name}"


def selects_service(policy: L2Policy, service: Service) -> bool:
    """By class and by labels, the two synthetic ones among them."""
    if service.load_balancer_class not in ("", LOAD_BALANCER_CLASS):
        return False
    labels = selectable_service_labels(dict(service.labels), service.key.namespace, service.key.name)
    return policy.service_selector is None or policy.service_selector.matches(labels)


def selects_node(policy: L2Policy, node: LocalNode) -> bool:
    """Whether this node may announce for the policy."""
    return policy.node_selector is None or policy.node_selector.matches(dict(node.labels))


def selected_links(policy: L2Policy, names: Iterable[str]) -> Iterator[str]:
    """Links whose name one of the expressions matches; all without expressions."""
    for name in names:
        if not policy.interfaces or any(compile_expression(text).search(name) for text in policy.interfaces):
            yield name


def covers(policy: L2Policy, service: Service, addr: Addr) -> bool:
    """Whether the policy means this kind of address."""
    return (policy.load_balancer_ips and addr in service.ingress_ips) or (
        policy.external_ips and addr in service.external_ips
    )


def is_served(service: Service, frontends: Iterable[Frontend], slices: Iterable[EndpointSlice], addr: Addr) -> bool:
    """Whether this node serves clients outside at the address. With `externalTrafficPolicy: Local` it needs a ready endpoint
    of its own; one that terminates but still serves will do while no node has a ready one."""
    here = [row.entry for row in frontends if row.entry.key.addr == addr and row.type in _KINDS]
    if not service.external_local:
        return bool(here)
    if any(not backend.is_terminating for entry in here for backend in entry.external):
        return True
    is_ready_elsewhere = any(endpoint.is_ready for found in slices for endpoint in found.endpoints)
    return any(entry.external for entry in here) and not is_ready_elsewhere


def addresses_of(service: Service) -> Iterator[Addr]:
    """All that might be announced."""
    yield from service.ingress_ips
    yield from service.external_ips


def derive(graph: Graph, t: AnnouncementTables, *, external_ips: bool) -> None:
    """Add to `graph` what keeps wanted and real announcements up to date. `external_ips`: externalIPs.enabled."""

    def every(_: object) -> set[Addr]:
        return {addr for service in t.services for addr in addresses_of(service)}

    def of_slice(row: EndpointSlice) -> Iterable[Addr]:
        service = t.services.get(row.service)
        return addresses_of(service) if service is not None and service.external_local else ()

    def wanted(addr: Addr) -> Iterable[WantedAnnouncement]:
        sharing = t.services.by("address", addr)
        node = next(iter(t.local_nodes), None)
        if not sharing or node is None or t.nodes.by("address", addr):
            return ()
        return _wanted(t, addr, sharing, node, external_ips=external_ips)

    def announced(addr: Addr) -> Iterator[Announcement]:
        row = t.wanted.get(addr)
        lease = t.leases.get(row.lease) if row is not None else None
        if row is None or lease is None or not lease.is_ours:
            return
        for name in row.interfaces:
            link = t.links.get(name)
            if link is not None:
                yield Announcement(
                    addr=addr,
                    ifindex=link.ifindex,
                    mac=link.mac,
                    lease=row.lease,
                    interface=name,
                    services=row.services,
                )

    from_all = (
        Input(t.services, addresses_of),
        Input(t.frontends, lambda row: (row.entry.key.addr,) if row.type in _KINDS else ()),
        Input(t.slices, of_slice),
        Input(t.nodes, lambda row: (addr for _, addr in row.addresses)),
        *(Input(table, every) for table in (t.policies, t.local_nodes, t.links)),
    )
    from_wanted = (
        Input(t.wanted, lambda row: (row.addr,)),
        Input(t.leases, lambda row: (each.addr for each in t.wanted.by("lease", row.name))),
        Input(t.links, lambda _: [row.addr for row in t.wanted]),
    )
    graph.add(Derivation("l2-wanted", t.wanted, wanted, from_all))
    graph.add(Derivation("l2-announce", t.announcements, announced, from_wanted))


def _wanted(
    t: AnnouncementTables, addr: Addr, sharing: list[Service], node: LocalNode, *, external_ips: bool
) -> Iterator[WantedAnnouncement]:
    links: set[str] = set()
    services: set[ObjectKey] = set()
    policies: set[str] = set()
    for service in sharing:
        if addr not in service.ingress_ips and not external_ips:
            continue
        meant = [
            policy
            for policy in t.policies
            if not policy.problems
            and covers(policy, service, addr)
            and selects_service(policy, service)
            and selects_node(policy, node)
        ]
        key = service.key
        if not meant or not is_served(service, t.frontends.by("service", key), t.slices.by("service", key), addr):
            continue
        for policy in meant:
            found = set(selected_links(policy, (link.name for link in t.links)))
            if found:
                links |= found
                services.add(key)
                policies.add(policy.name)
    if links:
        yield WantedAnnouncement(
            addr=addr,
            lease=lease_name(min(service.key for service in sharing)),
            interfaces=tuple(sorted(links)),
            services=tuple(sorted(services)),
            policies=tuple(sorted(policies)),
        )
