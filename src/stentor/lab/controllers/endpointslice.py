"""EndpointSlices: which pods are behind a Service. Pure.

One slice an address family and set of port numbers, at most 100 endpoints each.
https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from stentor.api.core import (
    SERVICES,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    Node,
    ObjectReference,
    Service,
    ServicePort,
)
from stentor.api.meta import ObjectMeta
from stentor.api.pod import ContainerPort, Pod
from stentor.lab.controllers import owner, readiness

SERVICE_NAME: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
MANAGER: Final = "endpointslice-controller.k8s.io"
HEADLESS: Final = "service.kubernetes.io/headless"
ZONE: Final = "topology.kubernetes.io/zone"
MAX_ENDPOINTS: Final = 100

_FAMILIES: Final = {"IPv4": 4, "IPv6": 6}

NodeOf = Callable[[str], Node | None]


def compute(service: Service, pods: Sequence[Pod], node_of: NodeOf) -> list[EndpointSlice]:
    """All slices of a service with a selector; `pods` are those of its namespace."""
    if not service.spec.selector or service.spec.type == "ExternalName":
        return []
    selected = [pod for pod in pods if _is_endpoint(service, pod)]
    slices: list[EndpointSlice] = []
    for family in service.spec.ip_families or ("IPv4",):
        groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
        for pod in sorted(selected, key=lambda entry: entry.metadata.name):
            address = _address(pod, _FAMILIES[family])
            if address:
                ports = tuple(_ports(service, pod))
                groups.setdefault(ports, []).append(_endpoint(service, pod, address, node_of))
        if not groups:
            groups[tuple(_ports(service, None))] = []
        for ports, endpoints in groups.items():
            slices += _chunks(service, family, ports, endpoints)
    return slices


def _chunks(
    service: Service, family: str, ports: tuple[EndpointPort, ...], endpoints: list[Endpoint]
) -> list[EndpointSlice]:
    found = []
    for start in range(0, max(1, len(endpoints)), MAX_ENDPOINTS):
        identity = [family, start, [(port.name, port.port, port.protocol) for port in ports]]
        meta = service.metadata
        labels = {**meta.labels, SERVICE_NAME: meta.name, MANAGED_BY: MANAGER}
        if service.spec.cluster_ip == "None":
            labels[HEADLESS] = ""
        found.append(
            EndpointSlice(
                metadata=ObjectMeta(
                    name=f"{meta.name[:50]}-{owner.hash_text(identity)[:5]}",
                    namespace=meta.namespace,
                    labels=labels,
                    owner_references=(owner.reference(SERVICES, service),),
                ),
                address_type=family,
                endpoints=tuple(endpoints[start : start + MAX_ENDPOINTS]),
                ports=ports,
            )
        )
    return found


def _is_endpoint(service: Service, pod: Pod) -> bool:
    return (
        service.spec.selector.items() <= pod.metadata.labels.items()
        and bool(pod.status.pod_ips)
        and not readiness.is_finished(pod)
    )


def _address(pod: Pod, version: int) -> str:
    for entry in pod.status.pod_ips:
        if ipaddress.ip_address(entry.ip).version == version:
            return entry.ip
    return ""


def _endpoint(service: Service, pod: Pod, address: str, node_of: NodeOf) -> Endpoint:
    terminating = pod.is_terminating
    serving = readiness.is_ready(pod) or service.spec.publish_not_ready_addresses
    ready = service.spec.publish_not_ready_addresses or (serving and not terminating)
    node = node_of(pod.spec.node_name)
    named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    meta = pod.metadata
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=pod.spec.hostname if named else None,
        node_name=pod.spec.node_name or None,
        zone=node.metadata.labels.get(ZONE) if node is not None else None,
        target_ref=ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid),
    )


def _ports(service: Service, pod: Pod | None) -> list[EndpointPort]:
    """Named target ports are looked up in the pod; a port that the pod does not have is left out."""
    found = []
    for port in service.spec.ports:
        number = _target(port, pod)
        if number:
            found.append(
                EndpointPort(name=port.name, port=number, protocol=port.protocol, app_protocol=port.app_protocol)
            )
    return found


def _target(port: ServicePort, pod: Pod | None) -> int:
    target = port.target_port
    if target is None or target in (0, ""):
        return port.port
    if isinstance(target, int):
        return target
    declared: list[ContainerPort] = []
    if pod is not None:
        declared = [entry for container in pod.spec.containers for entry in container.ports]
    for entry in declared:
        if entry.name == target and entry.protocol == port.protocol:
            return entry.container_port
    return 0
