"""Who gets an address and port, and the derivations that keep `frontends` and `lb_entries` up to date."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stentor.api.meta import ObjectKey
from stentor.services.frontend import Settings, frontends_of, host_port_frontends
from stentor.state import Derivation, Graph, Input, Table
from stentor.tables.realized import Realized
from stentor.tables.service import (
    EndpointSlice,
    Frontend,
    FrontendKey,
    HostPorts,
    LBEntry,
    LocalNode,
    Service,
    ServiceType,
)

Frontends = Table[tuple[FrontendKey, ObjectKey, ServiceType], Frontend]


class ServiceTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of this subject; `realized` is what the kernel holds of `entries`."""

    services: Table[ObjectKey, Service]
    slices: Table[ObjectKey, EndpointSlice]
    host_ports: Table[ObjectKey, HostPorts]
    nodes: Table[str, LocalNode]
    frontends: Frontends
    entries: Table[FrontendKey, LBEntry]
    realized: Table[FrontendKey, Realized[FrontendKey, LBEntry]]


def winner(claims: Iterable[Frontend]) -> Frontend | None:
    """Of several claims of one address and port: by type, then by name, so that every node decides alike."""
    return min(claims, key=lambda claim: claim.precedence, default=None)


def derive(graph: Graph, tables: ServiceTables, settings: Settings) -> None:
    """Add to `graph` what keeps frontends and entries up to date."""

    def local() -> LocalNode | None:
        return next(iter(tables.nodes), None)

    def claims(key: ObjectKey) -> Iterable[Frontend]:
        service, node = tables.services.get(key), local()
        if service is None or node is None:
            return ()
        return frontends_of(service, tables.slices.by("service", key), node, settings)

    def host_claims(key: ObjectKey) -> Iterable[Frontend]:
        row, node = tables.host_ports.get(key), local()
        return () if row is None or node is None else host_port_frontends(row, node, settings)

    def entries(key: FrontendKey) -> Iterable[LBEntry]:
        chosen = winner(tables.frontends.by("key", key))
        return () if chosen is None else (chosen.entry,)

    from_services = [
        Input(tables.services, lambda row: (row.key,)),
        Input(tables.slices, lambda row: (row.service,)),
        Input(tables.nodes, lambda _: [row.key for row in tables.services]),
    ]
    from_host_ports = [
        Input(tables.host_ports, lambda row: (row.pod,)),
        Input(tables.nodes, lambda _: [row.pod for row in tables.host_ports]),
    ]
    graph.add(Derivation("service-frontends", tables.frontends, claims, from_services))
    graph.add(Derivation("host-port-frontends", tables.frontends, host_claims, from_host_ports))
    graph.add(
        Derivation("lb-entries", tables.entries, entries, [Input(tables.frontends, lambda row: (row.entry.key,))])
    )
