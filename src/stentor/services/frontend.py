"""From a service and its slices to the frontends that it claims on this node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from stentor.api.meta import ObjectKey
from stentor.net.address import Addr
from stentor.services.selection import Candidate, candidates, select
from stentor.services.selector import parse_selector
from stentor.tables.service import (
    Algorithm,
    Backend,
    Backends,
    EndpointSlice,
    EntryFlag,
    Frontend,
    FrontendKey,
    HostPorts,
    LBEntry,
    LocalNode,
    Port,
    Service,
    ServiceType,
)

ANY_NODE: Mapping[int, Addr] = {4: Addr.parse("0.0.0.0"), 6: Addr.parse("::")}
"""The address of node ports: every node's, whichever it is."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of services."""

    families: tuple[int, ...] = (4, 6)
    algorithm: Algorithm = Algorithm.RANDOM
    allow_algorithm_annotation: bool = False
    topology_hints: bool = False
    external_cluster_ip: bool = False
    source_range_all_types: bool = False
    node_port_min: int = 30000
    node_port_max: int = 32767


class Exposure(NamedTuple):
    """One way in which a service can be reached: its type, its addresses, and which of a port's numbers applies."""

    type: ServiceType
    addresses: Callable[[Service], Iterable[Addr]]
    number: Callable[[Port], int]


EXPOSURES = (
    Exposure(ServiceType.CLUSTER_IP, lambda service: service.cluster_ips, lambda port: port.port),
    Exposure(ServiceType.NODE_PORT, lambda service: _families_of(service), lambda port: port.node_port),
    Exposure(ServiceType.LOAD_BALANCER, lambda service: service.ingress_ips, lambda port: port.port),
    Exposure(ServiceType.EXTERNAL_IPS, lambda service: service.external_ips, lambda port: port.port),
)


def _families_of(service: Service) -> Iterator[Addr]:
    """Node ports are served in the families of the cluster addresses."""
    for family in dict.fromkeys(addr.family for addr in service.cluster_ips):
        yield ANY_NODE[family]


class PortBackends(NamedTuple):
    """Backends of one service port and family, for clients of both kinds."""

    internal: Backends
    external: Backends


def frontends_of(
    service: Service, slices: Sequence[EndpointSlice], node: LocalNode, settings: Settings
) -> Iterator[Frontend]:
    """Every frontend that the service claims on this node; headless and ExternalName ones have none."""
    if service.is_headless or service.type == "ExternalName" or not _is_served_on(service, node):
        return
    for port in service.ports:
        chosen = {
            family: _port_backends(service, candidates(port, slices, family), node, settings)
            for family in settings.families
        }
        for exposure in EXPOSURES:
            if service.exposed_as is not None and not _is_exposed(service.exposed_as, exposure.type):
                continue
            number = exposure.number(port)
            for addr in exposure.addresses(service) if number else ():
                if addr.family in chosen:
                    key = FrontendKey(addr, number, port.protocol)
                    entry = _entry(service, exposure.type, key, chosen[addr.family], settings)
                    yield Frontend(service=service.key, type=exposure.type, port_name=port.name, entry=entry)


def host_port_frontends(row: HostPorts, node: LocalNode, settings: Settings) -> Iterator[Frontend]:
    """Host ports on the node's addresses; in the range of node ports they are not served, as upstream."""
    pod_of = {addr.family: addr for addr in reversed(row.addresses) if addr.family in settings.families}
    for port in row.ports:
        if settings.node_port_min <= port.host_port <= settings.node_port_max:
            continue
        owner = ObjectKey(row.pod.namespace, f"{row.pod.name}:{port.container}")
        for addr in (port.host_ip,) if port.host_ip is not None else node.addresses:
            if addr.family in pod_of:
                backends = (Backend(pod_of[addr.family], port.port),)
                entry = LBEntry(
                    key=FrontendKey(addr, port.host_port, port.protocol),
                    internal=backends,
                    external=backends,
                    flags=EntryFlag.EXTERNAL | EntryFlag.EXTERNAL_LOCAL,
                )
                yield Frontend(service=owner, type=ServiceType.HOST_PORT, port_name="", entry=entry)


def _is_served_on(service: Service, node: LocalNode) -> bool:
    return not service.node_selector or parse_selector(service.node_selector).matches(dict(node.labels))


def _is_exposed(allowed: frozenset[ServiceType], kind: ServiceType) -> bool:
    return kind in allowed or (kind is ServiceType.EXTERNAL_IPS and ServiceType.LOAD_BALANCER in allowed)


def _port_backends(service: Service, found: Sequence[Candidate], node: LocalNode, settings: Settings) -> PortBackends:
    def chosen(local: bool) -> Backends:
        return select(found, node, local=local, distribution=service.distribution, hints=settings.topology_hints)

    internal = chosen(service.internal_local)
    same = service.internal_local == service.external_local
    return PortBackends(internal, internal if same else chosen(service.external_local))


def _entry(
    service: Service, kind: ServiceType, key: FrontendKey, backends: PortBackends, settings: Settings
) -> LBEntry:
    external = _is_external(kind, settings)
    # The external policy is about node ports, external addresses and load balancers' only.
    outside = backends.external if kind.is_external else backends.internal
    is_guarded = _is_guarded(service, kind, settings)
    family = key.addr.family
    algorithm = (service.algorithm if settings.allow_algorithm_annotation else None) or settings.algorithm
    flags = EntryFlag.NONE
    for condition, flag in (
        (kind.is_external, EntryFlag.EXTERNAL),
        (kind is ServiceType.CLUSTER_IP and settings.external_cluster_ip, EntryFlag.ROUTABLE),
        (service.affinity_s > 0, EntryFlag.AFFINITY),
        (is_guarded, EntryFlag.SOURCE_RANGES),
        (is_guarded and service.source_ranges_deny, EntryFlag.SOURCE_RANGES_DENY),
        (kind.is_external and service.external_local, EntryFlag.EXTERNAL_LOCAL),
        (external and algorithm is Algorithm.MAGLEV, EntryFlag.MAGLEV),
    ):
        flags |= flag if condition else EntryFlag.NONE
    return LBEntry(
        key=key,
        internal=backends.internal,
        external=outside if external else (),
        flags=flags,
        affinity_s=service.affinity_s,
        source_ranges=tuple(sorted(each for each in service.source_ranges if is_guarded and each.family == family)),
    )


def _is_external(kind: ServiceType, settings: Settings) -> bool:
    """Whether clients outside reach it."""
    return kind.is_external or settings.external_cluster_ip


def _is_guarded(service: Service, kind: ServiceType, settings: Settings) -> bool:
    """Source ranges guard the load balancer's addresses only, or with `bpf.lbSourceRangeAllTypes` all that the outside
    reaches; those of both families, also when only one of them has ranges: nobody of the other is listed.
    """
    is_of_kind = kind is ServiceType.LOAD_BALANCER or (settings.source_range_all_types and _is_external(kind, settings))
    return is_of_kind and service.type == "LoadBalancer" and bool(service.source_ranges)
