"""From Services to what they ask of load-balancer address management, and which of them may share an address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from stentor.api import core
from stentor.api.lbipam import REQUEST_SATISFIED
from stentor.net.address import Addr
from stentor.net.label import selectable_service_labels
from stentor.tables.loadbalancer import ServiceRequest

IPS: Final = ("lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips")
SHARING_KEY: Final = ("lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key")
SHARING_NAMESPACES: Final = (
    "lbipam.cilium.io/sharing-cross-namespace",
    "io.cilium/lb-ipam-sharing-cross-namespace",
)
PERMIT_DIFFERENT_PODS: Final = (
    "lbipam.cilium.io/sharing-permit-different-pods",
    "io.cilium/lb-ipam-sharing-permit-different-pods",
)


class Scope(msgspec.Struct, frozen=True):
    """Which services are ours, and which families there are: out of the values."""

    families: tuple[int, ...] = (4,)
    classes: frozenset[str] = frozenset()
    """Values of loadBalancerClass that are ours."""
    is_default: bool = True
    """Whether services without a class are ours."""

    def includes(self, spec: core.ServiceSpec) -> bool:
        if spec.type != "LoadBalancer":
            return False
        return self.is_default if spec.load_balancer_class is None else spec.load_balancer_class in self.classes


def parse_request(service: core.Service, scope: Scope) -> tuple[ServiceRequest | None, list[str]]:
    """A row, and which requested addresses are none. No row for services that neither ask for addresses nor show any."""
    spec, notes = service.spec, service.metadata.annotations
    is_marked = any(condition.type == REQUEST_SATISFIED for condition in service.status.conditions)
    wanted = scope.includes(spec)
    shown = tuple(_addresses((each.ip for each in service.status.load_balancer.ingress if each.ip), []))
    if not (wanted or is_marked or shown):
        return None, []
    faults: list[str] = []
    listed = (part.strip() for part in annotation(notes, IPS).split(","))
    texts = [text for text in (spec.load_balancer_ip, *listed) if text]
    namespaces = (part.strip() for part in annotation(notes, SHARING_NAMESPACES).split(","))
    meta = service.metadata
    request = ServiceRequest(
        key=(meta.namespace, meta.name),
        uid=meta.uid,
        version=meta.resource_version,
        created=meta.creation_timestamp or "",
        generation=meta.generation,
        wanted=wanted,
        labels=selectable_service_labels(meta.labels, meta.namespace, meta.name),
        families=families_of(spec, scope.families),
        requested=tuple(dict.fromkeys(_addresses(texts, faults))),
        sharing_key=annotation(notes, SHARING_KEY),
        sharing_namespaces=tuple(name for name in namespaces if name),
        permits_different_pods=annotation(notes, PERMIT_DIFFERENT_PODS) == "true",
        ports=frozenset((port.protocol, port.port) for port in spec.ports),
        external_local=spec.external_traffic_policy == "Local",
        selector=tuple(sorted(spec.selector.items())),
        shown=shown,
        status=service.status,
        is_marked=is_marked,
    )
    return request, faults


def annotation(notes: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Value of the first of some names of one annotation; empty when there is none."""
    return next((notes[name] for name in names if name in notes), "")


def _addresses(texts: Iterable[str], faults: list[str]) -> list[Addr]:
    found = []
    for text in texts:
        try:
            found.append(Addr.parse(text))
        except ValueError as e:
            faults.append(str(e))
    return found


def families_of(spec: core.ServiceSpec, enabled: tuple[int, ...]) -> tuple[int, ...]:
    """Families of which the service wants an address."""
    listed = tuple({"IPv4": 4, "IPv6": 6}[family] for family in spec.ip_families if family in ("IPv4", "IPv6"))
    if spec.ip_family_policy == "RequireDualStack":
        return tuple(sorted(enabled))
    if spec.ip_family_policy == "PreferDualStack":
        return tuple(sorted(family for family in enabled if family in listed or not listed))
    return listed[:1] or tuple(sorted(enabled))[:1]


def incompatibility(one: ServiceRequest, other: ServiceRequest) -> str:
    """Why two services may not share an address, in upstream's words; empty when they may."""
    if not one.sharing_key or one.sharing_key != other.sharing_key:
        return "different sharing key"
    spaces = one.key[0], other.key[0]
    if spaces[0] != spaces[1] and not (_permits(one, spaces[1]) and _permits(other, spaces[0])):
        return "different and not permitted namespace"
    if one.ports & other.ports:
        return "same port"
    if one.external_local != other.external_local:
        return "different ExternalTrafficPolicy"
    permitted = one.permits_different_pods and other.permits_different_pods
    has_selectors = bool(one.selector and other.selector)
    if one.external_local and not (has_selectors and (permitted or one.selector == other.selector)):
        return "compatible ExternalTrafficPolicy local but selecting different set of pods"
    return ""


def _permits(service: ServiceRequest, namespace: str) -> bool:
    return not {"*", namespace}.isdisjoint(service.sharing_namespaces)
