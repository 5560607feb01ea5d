"""From API objects to rows. What cannot be used is left out and named in the row's `problems`; the rest is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from stentor.api import core
from stentor.api.meta import ObjectKey
from stentor.api.pod import Pod
from stentor.net.address import Addr, Prefix
from stentor.services import names
from stentor.services.selector import parse_selector
from stentor.tables.service import (
    Algorithm,
    Distribution,
    EndpointSlice,
    HostPort,
    HostPorts,
    LocalNode,
    Port,
    Protocol,
    Service,
    ServiceType,
    SliceEndpoint,
    SlicePort,
)

S = TypeVar("S")
T = TypeVar("T")

DISTRIBUTIONS: Mapping[str | None, Distribution] = {
    "PreferClose": Distribution.SAME_ZONE,
    "PreferSameZone": Distribution.SAME_ZONE,
    "PreferSameNode": Distribution.SAME_NODE,
}
AFFINITY_DEFAULT_S = 10800
AFFINITY_MOST_S = 86400


def parse_service(service: core.Service, proxy_name: str = "") -> Service | None:
    """A row, or None when another proxy serves it (`service.kubernetes.io/service-proxy-name`)."""
    if service.metadata.labels.get(names.PROXY_NAME, "") != proxy_name:
        return None
    spec, notes = service.spec, service.metadata.annotations
    problems: list[str] = []
    affinity = (
        spec.session_affinity_config.client_ip.timeout_seconds if spec.session_affinity_config else AFFINITY_DEFAULT_S
    )
    if spec.session_affinity == "ClientIP" and not 0 < affinity <= AFFINITY_MOST_S:
        problems.append(f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {affinity}: from 1 to {AFFINITY_MOST_S}")
        affinity = AFFINITY_DEFAULT_S
    return Service(
        key=service.key,
        type=spec.type,
        cluster_ips=_all("spec.clusterIPs", (ip for ip in _cluster_ips(spec) if ip != "None"), Addr.parse, problems),
        external_ips=_all("spec.externalIPs", spec.external_ips, Addr.parse, problems),
        ingress_ips=_ingress_ips(service, problems),
        ports=tuple(_ports(spec, problems)),
        is_headless=_cluster_ips(spec) == ("None",) or names.HEADLESS in service.metadata.labels,
        external_local=spec.external_traffic_policy == "Local",
        internal_local=spec.internal_traffic_policy == "Local",
        affinity_s=affinity if spec.session_affinity == "ClientIP" else 0,
        distribution=DISTRIBUTIONS.get(spec.traffic_distribution, Distribution.NONE),
        source_ranges=_all("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges, _range, problems),
        source_ranges_deny=_choice(notes, names.SRC_RANGES_POLICY, {"allow": False, "deny": True}, problems) or False,
        health_check_node_port=spec.health_check_node_port if spec.type == "LoadBalancer" else 0,
        load_balancer_class=(spec.load_balancer_class or "") if spec.type == "LoadBalancer" else "",
        algorithm=_choice(notes, names.LB_ALGORITHM, {each.value: each for each in Algorithm}, problems),
        exposed_as=_exposed_as(notes, problems),
        node_selector=_node_selector(notes, problems),
        labels=tuple(sorted(service.metadata.labels.items())),
        problems=tuple(problems) + _mode_problem(notes),
    )


def parse_slice(found: core.EndpointSlice) -> EndpointSlice | None:
    """A row, or None when the slice belongs to no service or is of domain names (FQDN)."""
    name = found.metadata.labels.get(names.SERVICE_NAME)
    if not name or found.address_type not in ("IPv4", "IPv6"):
        return None
    problems: list[str] = []
    family = 4 if found.address_type == "IPv4" else 6
    ports = [
        SlicePort(port.name or "", protocol, port.port)
        for index, port in enumerate(found.ports or ())
        if port.port is not None
        and _is_port(port.port, f"ports[{index}].port", problems)
        and (protocol := _protocol(port.protocol or "TCP", f"ports[{index}].protocol", problems)) is not None
    ]
    endpoints = [
        _slice_endpoint(endpoint, addr)
        for index, endpoint in enumerate(found.endpoints or ())
        for addr in _all(f"endpoints[{index}].addresses", endpoint.addresses[:1], Addr.parse, problems)
        if _is_family(addr, family, f"endpoints[{index}].addresses[0]", problems)
    ]
    return EndpointSlice(
        key=found.key,
        service=ObjectKey(found.metadata.namespace, name),
        ports=tuple(ports),
        endpoints=tuple(endpoints),
        problems=tuple(problems),
    )


def parse_node(node: core.Node) -> LocalNode:
    """What decisions need of this machine."""
    texts = [each.address for each in node.status.addresses if each.type in ("InternalIP", "ExternalIP")]
    return LocalNode(
        name=node.metadata.name,
        zone=node.metadata.labels.get(names.ZONE, ""),
        labels=tuple(sorted(node.metadata.labels.items())),
        addresses=_all("status.addresses", texts, Addr.parse, []),
    )


def parse_host_ports(pod: Pod) -> HostPorts | None:
    """Host ports of a running pod that has a network of its own; None without any. Those of loopback addresses are not
    served, as upstream."""
    if pod.spec.host_network or pod.status.phase in ("Succeeded", "Failed"):
        return None
    addresses = _all("status.podIPs", [each.ip for each in pod.status.pod_ips], Addr.parse, [])
    ports = tuple(_host_ports(pod))
    return HostPorts(pod=pod.key, addresses=addresses, ports=ports) if ports and addresses else None


def _host_ports(pod: Pod) -> Iterator[HostPort]:
    for container in pod.spec.containers:
        for port in container.ports:
            protocol = _protocol(port.protocol, "", [])
            host_ip = next(iter(_all("hostIP", (port.host_ip,) if port.host_ip else (), Addr.parse, [])), None)
            if not port.host_port or protocol is None or (host_ip is not None and host_ip.ip.is_loopback):
                continue
            yield HostPort(
                container=container.name,
                protocol=protocol,
                host_ip=None if host_ip is None or host_ip.ip.is_unspecified else host_ip,
                host_port=port.host_port,
                port=port.container_port,
            )


def _cluster_ips(spec: core.ServiceSpec) -> tuple[str, ...]:
    return spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())


def _ingress_ips(service: core.Service, problems: list[str]) -> tuple[Addr, ...]:
    """Addresses that arrive here unchanged; with mode Proxy somebody in front translates them."""
    if service.spec.type != "LoadBalancer":
        return ()
    texts = [each.ip for each in service.status.load_balancer.ingress if each.ip and each.ip_mode != "Proxy"]
    return _all("status.loadBalancer.ingress", texts, Addr.parse, problems)


def _ports(spec: core.ServiceSpec, problems: list[str]) -> Iterator[Port]:
    seen: set[tuple[int, Protocol]] = set()
    for index, port in enumerate(spec.ports):
        field = f"spec.ports[{index}]"
        protocol = _protocol(port.protocol, f"{field}.protocol", problems)
        if protocol is None or not _is_port(port.port, f"{field}.port", problems):
            continue
        if (port.port, protocol) in seen:
            problems.append(f"{field}: {port.port}/{port.protocol} is there twice")
            continue
        seen.add((port.port, protocol))
        has_node_port = port.node_port and _is_port(port.node_port, f"{field}.nodePort", problems)
        yield Port(name=port.name, protocol=protocol, port=port.port, node_port=port.node_port if has_node_port else 0)


def _slice_endpoint(endpoint: core.Endpoint, addr: Addr) -> SliceEndpoint:
    ready, serving = endpoint.conditions.ready, endpoint.conditions.serving
    hints = endpoint.hints
    return SliceEndpoint(
        addr=addr,
        is_ready=ready is not False,
        is_serving=(ready is not False) if serving is None else serving,
        is_terminating=bool(endpoint.conditions.terminating),
        node=endpoint.node_name or "",
        zone=endpoint.zone or "",
        zones=frozenset(each.name for each in hints.for_zones) if hints else frozenset(),
        nodes=frozenset(each.name for each in hints.for_nodes) if hints else frozenset(),
    )


def _all(field: str, values: Iterable[S], parse: Callable[[S], T], problems: list[str]) -> tuple[T, ...]:
    parsed = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except ValueError as error:
            problems.append(f"{field}[{index}]: {error}")
    return tuple(dict.fromkeys(parsed))


def _range(text: str) -> Prefix:
    return Prefix.parse(text.strip())


def _protocol(text: str, field: str, problems: list[str]) -> Protocol | None:
    try:
        return Protocol[text]
    except KeyError:
        problems.append(f"{field}: {text!r} is not one of {', '.join(each.name for each in Protocol)}")
        return None


def _is_port(port: int, field: str, problems: list[str]) -> bool:
    if 0 < port < 65536:
        return True
    problems.append(f"{field}: {port}: from 1 to 65535")
    return False


def _is_family(addr: Addr, family: int, field: str, problems: list[str]) -> bool:
    if addr.family == family:
        return True
    problems.append(f"{field}: {addr} is not IPv{family}")
    return False


def _choice(notes: Mapping[str, str], name: str, choices: Mapping[str, T], problems: list[str]) -> T | None:
    text = notes.get(name)
    if text is None:
        return None
    if text not in choices:
        problems.append(f"metadata.annotations[{name}]: {text!r} is not one of {', '.join(choices)}")
    return choices.get(text)


def _exposed_as(notes: Mapping[str, str], problems: list[str]) -> frozenset[ServiceType] | None:
    if names.TYPE not in notes:
        return None
    kinds = {each.value: each for each in (ServiceType.CLUSTER_IP, ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)}
    texts = [text.strip() for text in notes[names.TYPE].split(",")]
    problems.extend(
        f"metadata.annotations[{names.TYPE}]: {text!r} is not one of {', '.join(kinds)}"
        for text in texts
        if text not in kinds
    )
    return frozenset(kinds[text] for text in texts if text in kinds)


def _node_selector(notes: Mapping[str, str], problems: list[str]) -> str:
    if names.NODE_SELECTOR in notes:
        try:
            parse_selector(notes[names.NODE_SELECTOR])
        except ValueError as error:
            problems.append(f"metadata.annotations[{names.NODE_SELECTOR}]: {error}")
            return ""
        return notes[names.NODE_SELECTOR]
    return f"{names.NODE}={notes[names.NODE]}" if names.NODE in notes else ""


def _mode_problem(notes: Mapping[str, str]) -> tuple[str, ...]:
    mode = notes.get(names.FORWARDING_MODE, "snat")
    return () if mode == "snat" else (f"metadata.annotations[{names.FORWARDING_MODE}]: {mode!r}: only snat so far",)
