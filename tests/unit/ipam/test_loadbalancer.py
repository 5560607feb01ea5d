"""Addresses of services, case by case: what is kept, what is given, and the races in which it must not be given."""

from __future__ import annotations

from typing import Any

import pytest

from balancing.addresses import World, blocks
from stentor.api import core
from stentor.api.lbipam import CiliumLoadBalancerIPPoolBlock, CiliumLoadBalancerIPPoolSpec
from stentor.api.meta import LabelSelector, ObjectMeta
from stentor.ipam.pool import spans_of
from stentor.ipam.request import Scope, families_of, incompatibility, parse_request
from stentor.net.address import Addr
from stentor.tables.loadbalancer import ServiceRequest

A, B, C = ("default", "a"), ("default", "b"), ("default", "c")


def shown(world: World) -> dict[str, list[str]]:
    return {name: [str(addr) for addr in service.shown] for (_, name), service in world.services.items()}


def decided(world: World, key: tuple[str, str]) -> list[str]:
    return [str(addr) for addr in world.wanted[key].addresses]


# ---- races


def test_an_address_that_may_yet_be_written_is_not_given_to_another() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/32"))
    world.put_service(A, {})
    world.turn()
    assert decided(world, A) == ["10.0.0.0"]
    world.delete_pool("p")
    world.put_pool("q", blocks("10.0.0.6/32"))
    world.settle()
    assert decided(world, A) == ["10.0.0.6"]
    world.put_pool("p", blocks("10.0.0.0/32"))
    world.put_service(B, {})
    world.deliver(9)
    world.settle()
    assert decided(world, B) == []
    world.end_write(0, arrives=True, is_answered=False)
    world.finish()
    world.check_rest()
    assert shown(world) == {"a": ["10.0.0.6"], "b": ["10.0.0.0"]}


def test_an_event_that_comes_late_frees_nothing() -> None:
    world = World()
    world.put_service(A, {})
    world.put_service(B, {"requested": (Addr.parse("10.0.0.2"),), "labels": {"color": "red"}})
    world.deliver(2)
    for pool in ("10.0.0.1/32", "10.0.0.2/32"):  # two writes whose answers overtake their events
        world.put_pool("p", blocks(pool))
        world.settle()
        world.begin_write(A)
        world.end_write(0, arrives=True, is_answered=True)
    world.put_pool("p", blocks("10.0.0.3/32"))
    red = LabelSelector(match_labels={"color": "red"})
    world.put_pool("q", CiliumLoadBalancerIPPoolSpec(blocks=blocks("10.0.0.2/32").blocks, service_selector=red))
    world.settle()
    assert (shown(world)["a"], decided(world, A), decided(world, B)) == (["10.0.0.2"], ["10.0.0.3"], [])
    world.deliver(1)
    world.settle()
    assert decided(world, B) == []
    world.finish()
    world.check_rest()
    assert shown(world) == {"a": ["10.0.0.3"], "b": ["10.0.0.2"]}


def test_an_event_of_the_version_that_a_write_names_does_not_settle_it() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.1/32"))
    world.put_service(A, {})
    world.turn()
    world.end_write(0, arrives=True, is_answered=True)
    world.put_pool("p", blocks("10.0.0.2/32"))
    world.settle()
    world.begin_write(A)
    world.put_pool("p", blocks("10.0.0.3/32"))
    world.deliver(9)
    world.settle()
    assert decided(world, A) == ["10.0.0.3"]
    world.put_pool("q", blocks("10.0.0.2/32"))
    world.put_service(B, {})
    world.deliver(9)
    world.settle()
    assert decided(world, B) == []
    world.end_write(0, arrives=True, is_answered=False)
    world.finish()
    world.check_rest()


def test_a_restart_keeps_what_services_show() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/29"))
    for key in (A, B, C):
        world.put_service(key, {})
    world.finish()
    before = shown(world)
    world.delete_service(A)
    world.start()
    world.put_service(("other", "e"), {})
    world.finish()
    assert {name: addrs for name, addrs in shown(world).items() if name != "e"} == {
        name: addrs for name, addrs in before.items() if name != "a"
    }


# ---- what is kept and given


def test_a_freed_address_helps_whoever_waits() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/32"))
    world.put_service(A, {})
    world.put_service(B, {})
    world.finish()
    assert shown(world) == {"a": ["10.0.0.0"], "b": []}
    assert world.wanted[B].reason == "out_of_ips"
    world.delete_service(A)
    world.finish()
    assert shown(world) == {"b": ["10.0.0.0"]}


def test_a_pool_that_widens_keeps_its_services() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.2/31"))
    world.put_service(A, {})
    world.put_service(B, {})
    world.turn()  # decided, but not written yet
    world.put_pool("p", blocks("10.0.0.0/29"))
    world.finish()
    assert shown(world) == {"a": ["10.0.0.2"], "b": ["10.0.0.3"]}


def test_a_disabled_pool_gives_nothing_and_takes_nothing() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/29"))
    world.put_service(A, {})
    world.finish()
    world.put_pool("p", CiliumLoadBalancerIPPoolSpec(blocks=blocks("10.0.0.0/29").blocks, disabled=True))
    world.put_service(B, {})
    world.finish()
    world.start()
    world.finish()
    assert shown(world) == {"a": ["10.0.0.0"], "b": []}
    assert world.wanted[B].reason == "no_pool"


def test_ends_that_are_reserved_later_stay_with_who_has_them() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/30"))
    world.put_service(A, {})
    world.finish()
    spec = CiliumLoadBalancerIPPoolSpec(blocks=blocks("10.0.0.0/30").blocks, allow_first_last_ips="No")
    world.put_pool("p", spec)
    for key in (B, C, ("default", "d")):
        world.put_service(key, {})
    world.finish()
    assert shown(world) == {"a": ["10.0.0.0"], "b": ["10.0.0.1"], "c": ["10.0.0.2"], "d": []}
    (use,) = world.ipam.uses()
    assert (use.total, use.used, use.available) == (4, 4, 0)


def test_nothing_is_touched_before_the_first_pool() -> None:
    world = World()
    world.put_service(A, {})
    world.turn()
    assert world.wanted == {}
    world.put_pool("p", blocks("10.0.0.0/30"))
    world.finish()
    world.delete_pool("p")
    world.finish()
    assert shown(world) == {"a": []}
    assert world.wanted[A].reason == "no_pool"
    world.put_service(B, {})
    world.finish()
    assert B not in world.wanted


def test_a_service_that_is_no_longer_ours_loses_what_we_wrote() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/30"))
    world.put_service(A, {})
    world.finish()
    assert world.services[A].is_marked
    world.put_service(A, {"wanted": False})
    world.finish()
    assert (world.services[A].shown, world.services[A].is_marked, A in world.wanted) == ((), False, False)


def test_an_address_goes_round_before_it_is_given_again() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/30"))
    for expected in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.0"):
        world.put_service(A, {})
        world.finish()
        assert shown(world) == {"a": [expected]}
        world.delete_service(A)
        world.finish()


@pytest.mark.parametrize("other", ["10.0.0.2/31", "10.0.0.3-10.0.0.5", "10.0.0.0/30"])
def test_the_newer_of_two_pools_that_overlap_gives_nothing(other: str) -> None:
    world = World()
    world.put_pool("old", blocks("10.0.0.0/30"))
    world.put_pool("new", blocks(other))
    world.put_pool("newest", blocks("10.0.0.4/31"))  # overlaps the second alone, which counts for nothing
    world.settle()
    conflicts = {use.name: use.conflict for use in world.ipam.uses()}
    assert conflicts["old"] == conflicts["newest"] == ""
    assert conflicts["new"].endswith("overlaps range '10.0.0.0 - 10.0.0.3' from IP Pool 'old'")
    world.delete_pool("old")
    world.delete_pool("newest")
    world.settle()
    assert [use.conflict for use in world.ipam.uses()] == [""]


def test_a_pool_that_overlaps_itself_gives_nothing() -> None:
    for spec in (blocks("10.0.0.0/30", "10.0.0.0/30"), blocks("10.0.0.0/30", "10.0.0.3-10.0.0.4")):
        world = World()
        world.put_pool("p", spec)
        world.put_service(A, {})
        world.finish()
        assert shown(world) == {"a": []}


# ---- parsing


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (CiliumLoadBalancerIPPoolBlock(), "spec.blocks[0]: needs cidr or start"),
        (CiliumLoadBalancerIPPoolBlock(cidr="10.0.0.0/8", start="10.0.0.1"), "cidr excludes start and stop"),
        (CiliumLoadBalancerIPPoolBlock(cidr="10.0.0.0/33"), "spec.blocks[0].cidr: '10.0.0.0/33'"),
        (CiliumLoadBalancerIPPoolBlock(start="10.0.0"), "spec.blocks[0].start: '10.0.0'"),
        (CiliumLoadBalancerIPPoolBlock(start="10.0.0.1", stop="x"), "spec.blocks[0].stop: 'x'"),
        (CiliumLoadBalancerIPPoolBlock(start="10.0.0.1", stop="fd00::1"), "not of the family of start"),
        (CiliumLoadBalancerIPPoolBlock(start="10.0.0.2", stop="10.0.0.1"), "is below start"),
    ],
)
def test_a_wrong_block_is_named_and_the_others_are_used(block: CiliumLoadBalancerIPPoolBlock, fault: str) -> None:
    good = CiliumLoadBalancerIPPoolBlock(cidr="10.9.0.1/31")
    spans, faults = spans_of(CiliumLoadBalancerIPPoolSpec(blocks=(block, good)))
    assert [str(span) for span in spans] == ["10.9.0.0 - 10.9.0.1"]
    assert len(faults) == 1
    assert fault in faults[0]


def service(notes: dict[str, str] | None = None, status: core.ServiceStatus | None = None, **spec: Any) -> core.Service:
    return core.Service(
        metadata=ObjectMeta(name="web", namespace="shop", annotations=notes or {}, labels={"app": "web"}),
        spec=core.ServiceSpec(**({"type": "LoadBalancer"} | spec)),
        status=status or core.ServiceStatus(),
    )


def test_what_a_service_asks_for() -> None:
    notes = {
        "lbipam.cilium.io/ips": " 10.0.0.1, nonsense,10.0.0.2,10.0.0.1",
        "io.cilium/lb-ipam-sharing-key": "k",
        "lbipam.cilium.io/sharing-cross-namespace": "a, b",
    }
    request, faults = parse_request(service(notes, load_balancer_ip="10.0.0.9"), Scope())
    assert request is not None
    assert [str(addr) for addr in request.requested] == ["10.0.0.9", "10.0.0.1", "10.0.0.2"]
    assert (request.sharing_key, request.sharing_namespaces) == ("k", ("a", "b"))
    assert request.labels == {
        "app": "web",
        "io.kubernetes.service.name": "web",
        "io.kubernetes.service.namespace": "shop",
    }
    assert len(faults) == 1
    assert "nonsense" in faults[0]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "ClusterIP"}, None),
        ({}, True),
        ({"load_balancer_class": "io.cilium/bgp-control-plane"}, True),
        ({"load_balancer_class": "example.org/other"}, None),
    ],
)
def test_which_services_are_ours(spec: dict[str, Any], expected: bool | None) -> None:
    request, _ = parse_request(service(**spec), Scope(classes=frozenset({"io.cilium/bgp-control-plane"})))
    assert (request and request.wanted) == expected


def test_services_that_were_ours_are_known_by_their_condition() -> None:
    status = core.ServiceStatus(
        conditions=(core.ServiceCondition(type="cilium.io/IPAMRequestSatisfied", status="True"),)
    )
    request, _ = parse_request(service(status=status), Scope(is_default=False))
    assert request is not None
    assert (request.wanted, request.is_marked) == (False, True)


@pytest.mark.parametrize(
    ("policy", "listed", "enabled", "expected"),
    [
        ("", (), (4, 6), (4,)),
        ("SingleStack", ("IPv6",), (4, 6), (6,)),
        ("SingleStack", (), (6,), (6,)),
        ("PreferDualStack", ("IPv4", "IPv6"), (4, 6), (4, 6)),
        ("PreferDualStack", ("IPv4",), (4, 6), (4,)),
        ("PreferDualStack", ("IPv4", "IPv6"), (4,), (4,)),
        ("PreferDualStack", (), (4, 6), (4, 6)),
        ("RequireDualStack", (), (4, 6), (4, 6)),
        ("RequireDualStack", ("IPv4", "IPv6"), (6,), (6,)),
    ],
)
def test_families(policy: str, listed: tuple[str, ...], enabled: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert families_of(core.ServiceSpec(ip_family_policy=policy, ip_families=listed), enabled) == expected


def request(namespace: str = "a", **fields: Any) -> ServiceRequest:
    return ServiceRequest((namespace, "s"), **({"sharing_key": "k"} | fields))


LOCAL = {"external_local": True, "selector": (("app", "a"),)}


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (request(), request(), ""),
        (request(sharing_key="x"), request(), "different sharing key"),
        (request(sharing_key=""), request(sharing_key=""), "different sharing key"),
        (request("a"), request("b"), "different and not permitted namespace"),
        (
            request("a", sharing_namespaces=("b",)),
            request("b", sharing_namespaces=("c",)),
            "different and not permitted namespace",
        ),
        (request("a", sharing_namespaces=("b",)), request("b", sharing_namespaces=("*",)), ""),
        (request(ports=frozenset({("TCP", 80)})), request(ports=frozenset({("TCP", 80), ("TCP", 81)})), "same port"),
        (request(ports=frozenset({("TCP", 53)})), request(ports=frozenset({("UDP", 53)})), ""),
        (request(external_local=True), request(), "different ExternalTrafficPolicy"),
        (request(**LOCAL), request(**LOCAL), ""),
        (
            request(**LOCAL),
            request(external_local=True, selector=(("app", "b"),)),
            "compatible ExternalTrafficPolicy local but selecting different set of pods",
        ),
        (
            request(**LOCAL, permits_different_pods=True),
            request(external_local=True, selector=(("app", "b"),), permits_different_pods=True),
            "",
        ),
    ],
)
def test_who_may_share(one: ServiceRequest, other: ServiceRequest, reason: str) -> None:
    assert incompatibility(one, other) == reason
    assert incompatibility(other, one) == reason


def test_addresses_of_another_family_are_not_adopted() -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/30", "fd00::1/128"))
    world.put_service(A, {"families": (4, 6)})
    world.finish()
    assert shown(world) == {"a": ["10.0.0.0", "fd00::1"]}
    world.put_service(A, {"families": (6,)})
    world.finish()
    assert world.services[A].shown == (Addr.parse("fd00::1"),)
