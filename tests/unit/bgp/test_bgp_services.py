"""Which addresses of services a node advertises: selectors, kinds, aggregates, traffic policies, the kernel's state."""

from __future__ import annotations

from typing import Any

import pytest

from stentor.api.meta import LabelSelector, ObjectKey
from stentor.bgp.resource import service as subject
from stentor.bgp.resource.plan import AddressKind, Entry, InstancePlan, Origin, Plan
from stentor.bgp.resource.pool import Pool
from stentor.net.address import Addr, Prefix
from stentor.tables.service import Backend, Frontend, FrontendKey, LBEntry, Protocol, Service, ServiceType

VIP, VIP6, CLUSTER, EXTERNAL = map(Addr.parse, ("198.18.7.1", "2001:db8::1", "10.96.0.7", "203.0.113.9"))
READY = Backend(Addr.parse("10.0.0.9"), 8080)
LEAVING = Backend(Addr.parse("10.0.0.8"), 8080, True)
ALL = frozenset(AddressKind)
WEB = ObjectKey("default", "web")


def row(**fields: Any) -> Service:
    return Service(key=WEB, type="LoadBalancer", labels=(("app", "nginx"),), **fields)


def frontend(addr: Addr, kind: ServiceType, *backends: Backend, port: int = 80) -> Frontend:
    entry = LBEntry(key=FrontendKey(addr, port, Protocol.TCP), internal=backends, external=backends)
    return Frontend(service=WEB, type=kind, port_name="", entry=entry)


EVERY_KIND = (
    frontend(VIP, ServiceType.LOAD_BALANCER, READY),
    frontend(VIP6, ServiceType.LOAD_BALANCER, READY),
    frontend(CLUSTER, ServiceType.CLUSTER_IP, READY),
    frontend(EXTERNAL, ServiceType.EXTERNAL_IPS, READY),
    frontend(Addr.parse("0.0.0.0"), ServiceType.NODE_PORT, READY, port=30080),
)


def entry(name: str = "e", **fields: Any) -> Entry:
    given = {"selector": LabelSelector(), "addresses": ALL} | fields
    return Entry(name=name, origin=Origin.SERVICE, **given)


def plan(*entries: Entry, **fields: Any) -> Plan:
    instance = InstancePlan(name="i", local_asn=65100, router_id="1.1.1.1", entries=entries)
    return Plan(instances=(instance,), **fields)


def advertised(
    found: Plan,
    service: Service,
    frontends: tuple[Frontend, ...] = EVERY_KIND,
    kernel: tuple[Frontend, ...] | None = None,
    pools: tuple[Pool, ...] = (),
) -> dict[str, tuple[str, ...]]:
    wanted = {each.entry.key: each.entry for each in frontends}
    held = {each.entry.key: each.entry for each in (frontends if kernel is None else kernel)}
    addresses = list(subject.addresses(service, frontends, wanted.get, held.get))
    return {str(each.prefix): each.entries for each in subject.of_service(found, service, addresses, pools)}


@pytest.mark.parametrize(
    ("kinds", "prefixes"),
    [
        (["LoadBalancerIP"], ["198.18.7.1/32", "2001:db8::1/128"]),
        (["ClusterIP"], ["10.96.0.7/32"]),
        (["ExternalIP"], ["203.0.113.9/32"]),
        (["ClusterIP", "ExternalIP"], ["10.96.0.7/32", "203.0.113.9/32"]),
        ([], []),
    ],
)
def test_kinds_of_addresses(kinds: list[str], prefixes: list[str]) -> None:
    wanted = entry(addresses=frozenset(map(AddressKind, kinds)))
    assert sorted(advertised(plan(wanted), row())) == prefixes


@pytest.mark.parametrize(
    ("selector", "is_selected"),
    [
        (None, False),
        (LabelSelector(), True),
        (LabelSelector(match_labels={"app": "nginx"}), True),
        (LabelSelector(match_labels={"app": "other"}), False),
        (LabelSelector(match_labels={"io.kubernetes.service.name": "web"}), True),
        (LabelSelector(match_labels={"io.kubernetes.service.namespace": "default"}), True),
        (LabelSelector(match_labels={"io.kubernetes.service.namespace": "prod"}), False),
    ],
)
def test_selectors(selector: LabelSelector | None, is_selected: bool) -> None:
    assert bool(advertised(plan(entry(selector=selector)), row())) == is_selected


def test_only_our_load_balancer_class_or_none() -> None:
    wanted = plan(entry(addresses=frozenset((AddressKind.LOAD_BALANCER,))))
    assert advertised(wanted, row(load_balancer_class="io.cilium/bgp-control-plane"))
    assert not advertised(wanted, row(load_balancer_class="example.com/other"))


def test_the_class_matters_to_load_balancer_addresses_only() -> None:
    assert set(advertised(plan(entry()), row(load_balancer_class="example.com/other"))) == {
        "10.96.0.7/32",
        "203.0.113.9/32",
    }


def test_an_aggregate_and_what_of_it_is_local() -> None:
    wanted = plan(entry(aggregation=((4, 24), (6, 64)), addresses=frozenset((AddressKind.LOAD_BALANCER,))))
    assert set(advertised(wanted, row())) == {"198.18.7.0/24", "2001:db8::/64"}
    assert set(advertised(wanted, row(external_local=True))) == {"198.18.7.1/32", "2001:db8::1/128"}


def test_entries_for_one_prefix_are_united() -> None:
    assert advertised(plan(entry("b"), entry("a")), row())["198.18.7.1/32"] == ("a", "b")


def test_nothing_before_the_kernel_has_every_port() -> None:
    frontends = (
        frontend(VIP, ServiceType.LOAD_BALANCER, READY),
        frontend(VIP, ServiceType.LOAD_BALANCER, READY, port=443),
    )
    assert advertised(plan(entry()), row(), frontends, kernel=()) == {}
    assert advertised(plan(entry()), row(), frontends, kernel=frontends[:1]) == {}
    assert set(advertised(plan(entry()), row(), frontends)) == {"198.18.7.1/32"}


def test_an_address_that_another_service_has_is_not_ours() -> None:
    ours = (frontend(VIP, ServiceType.LOAD_BALANCER, READY),)
    theirs = LBEntry(key=ours[0].entry.key, internal=(LEAVING,))
    (address,) = subject.addresses(row(), ours, lambda _: theirs, lambda _: theirs)
    assert address.obstacle == "another service has its address and ports"


@pytest.mark.parametrize(
    ("wanted", "kernel", "is_advertised"),
    [
        ((READY,), (READY,), True),
        ((READY, LEAVING), (READY,), True),
        ((LEAVING,), (READY,), False),  # the last one goes: withdrawn before the kernel knows
        ((), (READY,), False),
        ((READY,), (), False),  # the first one comes: only when the kernel knows it
        ((READY,), (LEAVING,), False),
    ],
)
def test_a_local_policy_needs_a_ready_endpoint_here(
    wanted: tuple[Backend, ...], kernel: tuple[Backend, ...], is_advertised: bool
) -> None:
    for addr, kind, policy in (
        (VIP, ServiceType.LOAD_BALANCER, {"external_local": True}),
        (EXTERNAL, ServiceType.EXTERNAL_IPS, {"external_local": True}),
        (CLUSTER, ServiceType.CLUSTER_IP, {"internal_local": True}),
    ):
        ours, theirs = (frontend(addr, kind, *wanted),), (frontend(addr, kind, *kernel),)
        assert bool(advertised(plan(entry()), row(**policy), ours, theirs)) == is_advertised


def test_a_cluster_policy_needs_no_endpoint() -> None:
    assert advertised(plan(entry()), row(), (frontend(VIP, ServiceType.LOAD_BALANCER),))


def test_pools_by_their_labels() -> None:
    gold = Pool(name="gold", labels=(("tier", "gold"),), blocks=((Addr.parse("198.18.7.0"), Addr.parse("198.18.7.9")),))
    wanted = entry(pools=LabelSelector(match_labels={"tier": "gold"}))
    assert set(advertised(plan(wanted), row(), pools=(gold,))) == {"198.18.7.1/32"}
    assert advertised(plan(wanted), row()) == {}
    assert advertised(plan(entry(pools=LabelSelector(match_labels={"tier": "tin"}))), row(), pools=(gold,)) == {}


def test_an_excluded_node_advertises_no_service() -> None:
    assert advertised(plan(entry(), is_excluded=True), row()) == {}


def test_prefixes_have_their_own_length() -> None:
    address = subject.Address(addr=VIP6, kind=AddressKind.LOAD_BALANCER, is_local=False)
    assert subject.prefix_of(entry(aggregation=((6, 32),)), address) == Prefix.parse("2001:db8::/32")
