"""Which frontends a service claims on a node, with which backends and flags."""

from __future__ import annotations

from typing import Any

import pytest

from stentor.api.meta import ObjectKey
from stentor.net.address import Addr, Prefix
from stentor.services.claim import winner
from stentor.services.frontend import Settings, frontends_of, host_port_frontends
from stentor.tables.service import (
    Algorithm,
    Distribution,
    EndpointSlice,
    EntryFlag,
    Frontend,
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

KEY = ObjectKey("default", "web")
NODE = LocalNode(
    name="node-1", zone="a", labels=(("rack", "r1"),), addresses=(Addr.parse("172.18.1.11"), Addr.parse("fd00:18::11"))
)
HTTP = Port(name="http", port=80, node_port=30080)


def service(**fields: Any) -> Service:
    cluster_ips = (Addr.parse("10.96.0.7"), Addr.parse("fd00:96::7"))
    return Service(**{"key": KEY, "cluster_ips": cluster_ips, "ports": (HTTP,), **fields})


def endpoint(ip: str, node: str = "node-1", zone: str = "a", **fields: Any) -> SliceEndpoint:
    return SliceEndpoint(addr=Addr.parse(ip), node=node, zone=zone, **fields)


def slices(*endpoints: SliceEndpoint, port: int = 8080) -> list[EndpointSlice]:
    ports = (SlicePort("http", Protocol.TCP, port),)
    return [EndpointSlice(key=ObjectKey("default", "web-x"), service=KEY, ports=ports, endpoints=endpoints)]


BOTH = slices(endpoint("10.0.1.1"), endpoint("10.0.2.1", "node-2", "b"), endpoint("fd00::1"))


def claims(
    of: Service, found: list[EndpointSlice] = BOTH, settings: Settings | None = None, node: LocalNode = NODE
) -> dict[str, Frontend]:
    return {f"{row.type.value} {row.entry.key}": row for row in frontends_of(of, found, node, settings or Settings())}


def backends(row: Frontend, side: str = "internal") -> list[str]:
    return [str(each) for each in getattr(row.entry, side)]


def test_each_kind_of_frontend() -> None:
    found = claims(
        service(type="LoadBalancer", external_ips=(Addr.parse("192.0.2.1"),), ingress_ips=(Addr.parse("192.0.2.9"),))
    )
    assert sorted(found) == [
        "ClusterIP 10.96.0.7:80/TCP",
        "ClusterIP [fd00:96::7]:80/TCP",
        "ExternalIPs 192.0.2.1:80/TCP",
        "LoadBalancer 192.0.2.9:80/TCP",
        "NodePort 0.0.0.0:30080/TCP",
        "NodePort [::]:30080/TCP",
    ]
    assert backends(found["ClusterIP 10.96.0.7:80/TCP"]) == ["10.0.1.1:8080", "10.0.2.1:8080"]
    assert backends(found["ClusterIP [fd00:96::7]:80/TCP"]) == ["[fd00::1]:8080"]
    assert found["ClusterIP 10.96.0.7:80/TCP"].entry.external == ()
    assert backends(found["NodePort 0.0.0.0:30080/TCP"], "external") == ["10.0.1.1:8080", "10.0.2.1:8080"]


@pytest.mark.parametrize("fields", [{"is_headless": True}, {"type": "ExternalName"}])
def test_headless_and_external_names_have_no_frontend(fields: dict[str, Any]) -> None:
    assert claims(service(**fields)) == {}


@pytest.mark.parametrize(
    ("internal_local", "external_local", "internal", "external"),
    [
        (False, False, 2, 2),
        (False, True, 2, 1),
        (True, False, 1, 2),
        (True, True, 1, 1),
    ],
)
def test_traffic_policies(internal_local: bool, external_local: bool, internal: int, external: int) -> None:
    row = claims(service(internal_local=internal_local, external_local=external_local))["NodePort 0.0.0.0:30080/TCP"]
    assert (len(row.entry.internal), len(row.entry.external)) == (internal, external)
    assert bool(row.entry.flags & EntryFlag.EXTERNAL_LOCAL) == external_local


def test_terminating_backends_come_last_and_are_marked() -> None:
    found = slices(
        endpoint("10.0.1.1", is_ready=False, is_terminating=True),
        endpoint("10.0.1.9"),
        endpoint("10.0.1.5", is_ready=False),
    )
    row = claims(service(), found)["ClusterIP 10.96.0.7:80/TCP"]
    assert [(str(each), each.is_terminating) for each in row.entry.internal] == [
        ("10.0.1.9:8080", False),
        ("10.0.1.1:8080", True),
    ]


def test_one_that_does_not_serve_any_more_is_gone() -> None:
    found = slices(endpoint("10.0.1.1", is_ready=False, is_serving=False, is_terminating=True))
    assert claims(service(), found)["ClusterIP 10.96.0.7:80/TCP"].entry.internal == ()


def test_published_not_ready_addresses_are_ready_in_the_slice() -> None:
    found = slices(endpoint("10.0.1.1", is_ready=True, is_terminating=True))
    row = claims(service(), found)["ClusterIP 10.96.0.7:80/TCP"]
    assert [each.is_terminating for each in row.entry.internal] == [False]


ZONES = slices(endpoint("10.0.1.1"), endpoint("10.0.2.1", "node-2"), endpoint("10.0.3.1", "node-3", "b"))


@pytest.mark.parametrize(
    ("distribution", "node", "expected"),
    [
        (Distribution.NONE, NODE, ["10.0.1.1:8080", "10.0.2.1:8080", "10.0.3.1:8080"]),
        (Distribution.SAME_ZONE, NODE, ["10.0.1.1:8080", "10.0.2.1:8080"]),
        (Distribution.SAME_NODE, NODE, ["10.0.1.1:8080"]),
        (Distribution.SAME_NODE, LocalNode(name="node-9", zone="b"), ["10.0.3.1:8080"]),
        (
            Distribution.SAME_ZONE,
            LocalNode(name="node-9", zone="z"),
            ["10.0.1.1:8080", "10.0.2.1:8080", "10.0.3.1:8080"],
        ),
    ],
)
def test_traffic_distribution(distribution: Distribution, node: LocalNode, expected: list[str]) -> None:
    row = claims(service(distribution=distribution), ZONES, node=node)["ClusterIP 10.96.0.7:80/TCP"]
    assert backends(row) == expected


def test_hints_count_only_when_every_endpoint_has_one_and_hints_are_on() -> None:
    hinted = slices(endpoint("10.0.1.1", zones=frozenset("b")), endpoint("10.0.2.1", zones=frozenset("a")))
    settings = Settings(topology_hints=True)
    name = "ClusterIP 10.96.0.7:80/TCP"
    assert backends(claims(service(), hinted, settings)[name]) == ["10.0.2.1:8080"]
    assert len(backends(claims(service(), hinted)[name])) == 2
    partly = slices(endpoint("10.0.1.1"), endpoint("10.0.2.1", zones=frozenset("a")))
    assert len(backends(claims(service(), partly, settings)[name])) == 2


def test_source_ranges_guard_the_load_balancer_of_their_family_only() -> None:
    ranges = (Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8"))
    of = service(
        type="LoadBalancer", ingress_ips=(Addr.parse("192.0.2.9"),), source_ranges=ranges, source_ranges_deny=True
    )
    found = claims(of)
    guarded = found["LoadBalancer 192.0.2.9:80/TCP"].entry
    assert guarded.source_ranges == (Prefix.parse("10.0.0.0/8"),)
    assert guarded.flags & EntryFlag.SOURCE_RANGES
    assert guarded.flags & EntryFlag.SOURCE_RANGES_DENY
    assert found["NodePort 0.0.0.0:30080/TCP"].entry.source_ranges == ()
    everywhere = claims(of, settings=Settings(source_range_all_types=True))
    assert everywhere["NodePort [::]:30080/TCP"].entry.source_ranges == (Prefix.parse("fd00::/8"),)
    assert everywhere["ClusterIP 10.96.0.7:80/TCP"].entry.source_ranges == ()
    outside = claims(of, settings=Settings(source_range_all_types=True, external_cluster_ip=True))
    assert outside["ClusterIP 10.96.0.7:80/TCP"].entry.source_ranges == (Prefix.parse("10.0.0.0/8"),)
    assert outside["ClusterIP 10.96.0.7:80/TCP"].entry.flags & EntryFlag.SOURCE_RANGES_DENY


def test_source_ranges_of_one_family_admit_nobody_of_the_other() -> None:
    addresses = (Addr.parse("192.0.2.9"), Addr.parse("2001:db8::9"))
    found = claims(service(type="LoadBalancer", ingress_ips=addresses, source_ranges=(Prefix.parse("10.0.0.0/8"),)))
    other = found["LoadBalancer [2001:db8::9]:80/TCP"].entry
    assert other.source_ranges == ()
    assert other.flags & EntryFlag.SOURCE_RANGES


def test_maglev_is_for_what_the_outside_reaches() -> None:
    found = claims(service(), settings=Settings(algorithm=Algorithm.MAGLEV))
    assert found["NodePort 0.0.0.0:30080/TCP"].entry.flags & EntryFlag.MAGLEV
    assert not found["ClusterIP 10.96.0.7:80/TCP"].entry.flags & EntryFlag.MAGLEV
    annotated = service(algorithm=Algorithm.MAGLEV)
    assert not claims(annotated)["NodePort 0.0.0.0:30080/TCP"].entry.flags & EntryFlag.MAGLEV
    allowed = claims(annotated, settings=Settings(allow_algorithm_annotation=True))
    assert allowed["NodePort 0.0.0.0:30080/TCP"].entry.flags & EntryFlag.MAGLEV


def test_annotations_choose_types_and_nodes() -> None:
    assert list(claims(service(exposed_as=frozenset({ServiceType.NODE_PORT})))) == [
        "NodePort 0.0.0.0:30080/TCP",
        "NodePort [::]:30080/TCP",
    ]
    assert claims(service(node_selector="rack=r1"))
    assert claims(service(node_selector="rack=r2")) == {}


def test_a_cluster_address_for_outside_when_configured() -> None:
    entry = claims(service(), settings=Settings(external_cluster_ip=True))["ClusterIP 10.96.0.7:80/TCP"].entry
    assert entry.flags & EntryFlag.ROUTABLE
    assert entry.external == entry.internal


@pytest.mark.parametrize(("internal", "external"), [(False, True), (True, False)])
def test_a_cluster_address_follows_the_internal_policy_for_the_outside_too(internal: bool, external: bool) -> None:
    """`externalTrafficPolicy` is about node ports, external addresses and load balancers' only."""
    of = service(internal_local=internal, external_local=external)
    found = claims(of, ZONES, Settings(external_cluster_ip=True))
    entry = found["ClusterIP 10.96.0.7:80/TCP"].entry
    assert entry.external == entry.internal
    assert entry.internal != found["NodePort 0.0.0.0:30080/TCP"].entry.external


def test_one_family_only() -> None:
    assert sorted(claims(service(), settings=Settings(families=(4,)))) == [
        "ClusterIP 10.96.0.7:80/TCP",
        "NodePort 0.0.0.0:30080/TCP",
    ]


def host_port(number: int, host_ip: str | None = None) -> HostPorts:
    port = HostPort(
        container="c",
        protocol=Protocol.TCP,
        host_ip=Addr.parse(host_ip) if host_ip else None,
        host_port=number,
        port=8080,
    )
    addresses = (Addr.parse("10.0.1.1"), Addr.parse("fd00::1"))
    return HostPorts(pod=ObjectKey("default", "p"), addresses=addresses, ports=(port,))


def test_host_ports() -> None:
    rows = list(host_port_frontends(host_port(8080), NODE, Settings()))
    assert [str(row.entry.key) for row in rows] == ["172.18.1.11:8080/TCP", "[fd00:18::11]:8080/TCP"]
    assert [backends(row) for row in rows] == [["10.0.1.1:8080"], ["[fd00::1]:8080"]]
    only = list(host_port_frontends(host_port(8080, "192.0.2.1"), NODE, Settings()))
    assert [str(row.entry.key) for row in only] == ["192.0.2.1:8080/TCP"]
    assert list(host_port_frontends(host_port(30001), NODE, Settings())) == []


def test_the_winner_of_an_address_does_not_depend_on_order() -> None:
    mine = claims(service(external_ips=(Addr.parse("10.96.0.7"),)))
    rows = [mine["ExternalIPs 10.96.0.7:80/TCP"], mine["ClusterIP 10.96.0.7:80/TCP"]]
    assert winner(rows) is winner(rows[::-1]) is rows[1]
    assert winner([]) is None
