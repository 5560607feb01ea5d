"""Which addresses of a service this node advertises, and why not the others.

An address counts once every port of it that the service owns is in the kernel's load balancer. With a traffic policy `Local` it
also needs a ready endpoint on this node, both wanted and in the kernel: the route goes the moment the endpoint goes, and comes
only after the kernel knows the endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from stentor.bgp.resource.plan import AddressKind, Entry, Origin, Plan
from stentor.bgp.resource.pool import Pool
from stentor.bgp.resource.route import Contribution
from stentor.net.address import Addr, Prefix
from stentor.net.label import selectable_service_labels
from stentor.tables.service import Frontend, FrontendKey, LBEntry, Service, ServiceType

LOAD_BALANCER_CLASS = "io.cilium/bgp-control-plane"
_KINDS = {
    ServiceType.LOAD_BALANCER: AddressKind.LOAD_BALANCER,
    ServiceType.CLUSTER_IP: AddressKind.CLUSTER,
    ServiceType.EXTERNAL_IPS: AddressKind.EXTERNAL,
}

Lookup = Callable[[FrontendKey], LBEntry | None]


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a service on this node; `obstacle` says why it must not be advertised now, empty when it may."""

    addr: Addr
    kind: AddressKind
    is_local: bool
    obstacle: str = ""


def addresses(service: Service, frontends: Iterable[Frontend], wanted: Lookup, in_kernel: Lookup) -> Iterator[Address]:
    """Every address that the service claims on this node. `wanted` is what the load balancer should have, whoever owns it."""
    groups: dict[tuple[AddressKind, Addr], list[Frontend]] = {}
    for frontend in frontends:
        kind = _KINDS.get(frontend.type)
        if kind is not None:
            groups.setdefault((kind, frontend.entry.key.addr), []).append(frontend)
    for (kind, addr), members in groups.items():
        is_local = service.internal_local if kind is AddressKind.CLUSTER else service.external_local
        obstacle = _class_obstacle(service, kind) or _obstacle(kind, members, wanted, in_kernel, is_local=is_local)
        yield Address(addr=addr, kind=kind, is_local=is_local, obstacle=obstacle)


def of_service(plan: Plan, service: Service, found: Sequence[Address], pools: Sequence[Pool]) -> Iterator[Contribution]:
    """The contributions of a service with these addresses."""
    ready = [address for address in found if not address.obstacle]
    origin = f"Service {service.key}"
    labels = selectable_labels(service)
    for instance in plan.instances if ready and not plan.is_excluded else ():
        names: dict[Prefix, list[str]] = {}
        for entry in instance.entries:
            if selects(entry, labels):
                for address in ready:
                    if address.kind in entry.addresses and in_pools(entry, address.addr, pools):
                        names.setdefault(prefix_of(entry, address), []).append(entry.name)
        for prefix, entries in names.items():
            entry_names = tuple(sorted(set(entries)))
            yield Contribution(instance=instance.name, prefix=prefix, origin=origin, entries=entry_names)


def selectable_labels(service: Service) -> dict[str, str]:
    """A service's labels with those that selectors may use for its name and namespace."""
    return selectable_service_labels(dict(service.labels), service.key.namespace, service.key.name)


def selects(entry: Entry, labels: dict[str, str]) -> bool:
    """Whether an entry is about services with these labels; without a selector it is about none."""
    return entry.origin is Origin.SERVICE and entry.selector is not None and entry.selector.matches(labels)


def in_pools(entry: Entry, addr: Addr, pools: Iterable[Pool]) -> bool:
    """Whether the entry takes addresses of any pool, or the address is of one that it selects."""
    selector = entry.pools
    return selector is None or any(pool.holds(addr) and selector.matches(dict(pool.labels)) for pool in pools)


def prefix_of(entry: Entry, address: Address) -> Prefix:
    """The host's prefix, or the aggregate; a Local policy is about this address alone."""
    host = 32 if address.addr.family == 4 else 128
    length = host if address.is_local else entry.length(address.addr.family, host)
    return Prefix(address.addr, 128 - host + length)


def _class_obstacle(service: Service, kind: AddressKind) -> str:
    wanted = service.load_balancer_class
    if kind is AddressKind.LOAD_BALANCER and wanted not in ("", LOAD_BALANCER_CLASS):
        return f"spec.loadBalancerClass {wanted!r} is not {LOAD_BALANCER_CLASS}"
    return ""


def _obstacle(
    kind: AddressKind, members: Iterable[Frontend], wanted: Lookup, in_kernel: Lookup, *, is_local: bool
) -> str:
    own = [each.entry for each in members if wanted(each.entry.key) == each.entry]
    if not own:
        return "another service has its address and ports"
    present = [in_kernel(entry.key) for entry in own]
    if not all(present):
        return "not in the kernel's load balancer yet"
    if is_local and not any(_has_backend(kind, entry) for entry in own):
        return "no ready endpoint on this node, and its traffic policy is Local"
    if is_local and not any(_has_backend(kind, entry) for entry in present if entry is not None):
        return "its endpoint on this node is not in the kernel's load balancer yet"
    return ""


def _has_backend(kind: AddressKind, entry: LBEntry) -> bool:
    backends = entry.internal if kind is AddressKind.CLUSTER else entry.external
    return any(not backend.is_terminating for backend in backends)
