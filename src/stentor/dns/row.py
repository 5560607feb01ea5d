"""What the cluster's zone is made of, parsed from the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from stentor.api import core
from stentor.api.meta import ObjectKey
from stentor.net.address import Addr
from stentor.state import Table

_SERVICE_NAME: Final = "kubernetes.io/service-name"


class Port(msgspec.Struct, frozen=True):
    """A named port; `protocol` is lower case, as names in the zone are."""

    name: str
    protocol: str
    number: int


class NamedService(msgspec.Struct, frozen=True, kw_only=True):
    """A service; `target` is an ExternalName's, and without addresses it is headless."""

    key: ObjectKey
    addresses: tuple[Addr, ...] = ()
    target: str = ""
    ports: tuple[Port, ...] = ()

    @property
    def is_headless(self) -> bool:
        return not self.addresses and not self.target


class NamedEndpoint(msgspec.Struct, frozen=True):
    """A ready endpoint and the label under which it is found below its service."""

    label: str
    addr: Addr
    has_hostname: bool


class NamedSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Ready endpoints of a service."""

    key: ObjectKey
    service: ObjectKey
    endpoints: tuple[NamedEndpoint, ...] = ()
    ports: tuple[Port, ...] = ()


class Namespace(msgspec.Struct, frozen=True):
    """A namespace: its name exists in the zone even without services."""

    name: str


def parse_service(service: core.Service) -> NamedService:
    """Addresses that cannot be read are left out."""
    spec = service.spec
    texts = spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())
    is_external = spec.type == "ExternalName"
    return NamedService(
        key=service.key,
        addresses=() if is_external else _addresses(text for text in texts if text != "None"),
        target=spec.external_name.rstrip(".") if is_external else "",
        ports=tuple(Port(port.name.lower(), port.protocol.lower(), port.port) for port in spec.ports),
    )


def parse_slice(found: core.EndpointSlice) -> NamedSlice | None:
    """None for slices that belong to no service or hold no addresses."""
    name = found.metadata.labels.get(_SERVICE_NAME)
    if not name or found.address_type == "FQDN":
        return None
    endpoints = [
        NamedEndpoint((endpoint.hostname or dashed(addr)).lower(), addr, bool(endpoint.hostname))
        for endpoint in found.endpoints or ()
        if endpoint.conditions.ready is not False
        for addr in _addresses(endpoint.addresses)
    ]
    ports = [
        Port((port.name or "").lower(), (port.protocol or "TCP").lower(), port.port)
        for port in found.ports or ()
        if port.port is not None
    ]
    service = ObjectKey(found.metadata.namespace, name)
    return NamedSlice(key=found.key, service=service, endpoints=tuple(endpoints), ports=tuple(ports))


def dashed(addr: Addr) -> str:
    """``10-0-0-1``; of an IPv6 address with every group, so that no label begins or ends with a dash."""
    return str(addr).replace(".", "-") if addr.is_ipv4 else addr.ip.exploded.replace(":", "-")


def undashed(label: str) -> Addr | None:
    """The address of a pod's name, in any spelling of IPv6."""
    for separator in (".", ":"):
        try:
            return Addr.parse(label.replace("-", separator))
        except ValueError:
            continue
    return None


def _addresses(texts: Iterable[str]) -> tuple[Addr, ...]:
    found = []
    for text in texts:
        try:
            found.append(Addr.parse(text))
        except ValueError:
            continue
    return tuple(found)


def services() -> Table[ObjectKey, NamedService]:
    return Table(
        "dns-services",
        lambda row: row.key,
        indexes={"address": lambda row: row.addresses, "namespace": lambda row: (row.key.namespace,)},
    )


def slices() -> Table[ObjectKey, NamedSlice]:
    return Table(
        "dns-slices",
        lambda row: row.key,
        indexes={
            "service": lambda row: (row.service,),
            "address": lambda row: tuple(each.addr for each in row.endpoints),
        },
    )


def namespaces() -> Table[str, Namespace]:
    return Table("dns-namespaces", lambda row: row.name)
