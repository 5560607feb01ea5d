"""API objects become rows; what is wrong is named and the rest is used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.api import core
from stentor.api.meta import ObjectKey
from stentor.api.pod import Pod
from stentor.net.address import Addr, Prefix
from stentor.services.parse import parse_host_ports, parse_node, parse_service, parse_slice
from stentor.services.selector import parse_selector
from stentor.tables.service import Algorithm, Distribution, Port, Protocol, ServiceType, SlicePort


def service(spec: dict[str, Any], **meta: Any) -> core.Service:
    return msgspec.convert(
        {"metadata": {"name": "web", "namespace": "default", **meta}, "spec": spec, "status": meta.pop("status", {})},
        core.Service,
    )


def test_a_service_becomes_a_row() -> None:
    row = parse_service(
        service(
            {
                "type": "LoadBalancer",
                "clusterIPs": ["10.96.0.7", "fd00:96::7"],
                "externalIPs": ["192.0.2.1"],
                "ports": [
                    {"name": "http", "port": 80, "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                ],
                "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "ClientIP",
                "trafficDistribution": "PreferClose",
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
                "healthCheckNodePort": 31000,
            },
            annotations={"service.cilium.io/lb-algorithm": "maglev", "service.cilium.io/type": "NodePort"},
        )
    )
    assert row is not None
    assert row.key == ObjectKey("default", "web")
    assert row.cluster_ips == (Addr.parse("10.96.0.7"), Addr.parse("fd00:96::7"))
    assert row.ports == (
        Port(name="http", port=80, node_port=30080),
        Port(name="dns", port=53, protocol=Protocol.UDP),
    )
    assert (row.external_local, row.internal_local) == (True, False)
    assert row.affinity_s == 10800
    assert row.distribution is Distribution.SAME_ZONE
    assert row.source_ranges == (Prefix.parse("10.0.0.0/8"),)
    assert row.health_check_node_port == 31000
    assert row.algorithm is Algorithm.MAGLEV
    assert row.exposed_as == {ServiceType.NODE_PORT}
    assert row.problems == ()


@pytest.mark.parametrize(
    ("spec", "annotations", "problem"),
    [
        ({"ports": [{"port": 0}]}, {}, "spec.ports[0].port: 0: from 1 to 65535"),
        ({"ports": [{"port": 80}, {"port": 80}]}, {}, "spec.ports[1]: 80/TCP is there twice"),
        ({"ports": [{"port": 80, "nodePort": 70000}]}, {}, "spec.ports[0].nodePort: 70000: from 1 to 65535"),
        ({"ports": [{"port": 80, "protocol": "FOO"}]}, {}, "'FOO' is not one of TCP, UDP, SCTP"),
        ({"clusterIPs": ["10.96.0.300"]}, {}, "spec.clusterIPs[0]"),
        ({"externalIPs": ["a"]}, {}, "spec.externalIPs[0]"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/33"]}, {}, "spec.loadBalancerSourceRanges[0]"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}},
            {},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 90000: from 1 to 86400",
        ),
        ({}, {"service.cilium.io/lb-algorithm": "best"}, "'best' is not one of random, maglev"),
        ({}, {"service.cilium.io/type": "NodePort, X"}, "'X' is not one of ClusterIP, NodePort, LoadBalancer"),
        ({}, {"service.cilium.io/node-selector": "a=="}, ""),
        ({}, {"service.cilium.io/node-selector": "?"}, "'?' is not a label requirement"),
        ({}, {"service.cilium.io/forwarding-mode": "dsr"}, "'dsr': only snat so far"),
        ({}, {"service.cilium.io/src-ranges-policy": "maybe"}, "'maybe' is not one of allow, deny"),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, Any], annotations: dict[str, str], problem: str) -> None:
    row = parse_service(service(spec, annotations=annotations))
    assert row is not None
    assert problem in "\n".join(row.problems)
    assert bool(row.problems) == bool(problem)


def test_a_wrong_part_leaves_the_rest_in_use() -> None:
    row = parse_service(service({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 0}, {"port": 81}]}))
    assert row is not None
    assert row.ports == (Port(port=81),)


def test_a_service_of_another_proxy_is_none_of_ours() -> None:
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    assert parse_service(service({}, labels=labels)) is None
    assert parse_service(service({}, labels=labels), "other") is not None
    assert parse_service(service({}), "other") is None


def test_load_balancer_addresses_come_from_the_status_unless_a_proxy_is_in_front() -> None:
    status = {
        "loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}, {"hostname": "x"}]}
    }
    raw = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "LoadBalancer"}, "status": status}
    row = parse_service(msgspec.convert(raw, core.Service))
    assert row is not None
    assert row.ingress_ips == (Addr.parse("192.0.2.9"),)


def slice_of(**fields: Any) -> core.EndpointSlice:
    meta = {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}
    return msgspec.convert({"metadata": meta, "addressType": "IPv4", **fields}, core.EndpointSlice)


def test_a_slice_becomes_a_row() -> None:
    row = parse_slice(
        slice_of(
            ports=[{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "any"}],
            endpoints=[
                {"addresses": ["10.0.1.1"], "conditions": {}, "nodeName": "node-1", "zone": "a"},
                {
                    "addresses": ["10.0.1.2"],
                    "conditions": {"ready": False, "serving": True, "terminating": True},
                    "hints": {"forZones": [{"name": "b"}], "forNodes": [{"name": "node-2"}]},
                },
            ],
        )
    )
    assert row is not None
    assert row.service == ObjectKey("default", "web")
    assert row.ports == (SlicePort("http", Protocol.TCP, 8080),)
    first, second = row.endpoints
    assert (first.is_ready, first.is_serving, first.is_terminating, first.zone) == (True, True, False, "a")
    assert (second.is_ready, second.is_serving, second.is_terminating) == (False, True, True)
    assert (second.zones, second.nodes) == ({"b"}, {"node-2"})


def test_a_slice_leaves_out_foreign_families_and_wrong_ports() -> None:
    row = parse_slice(
        slice_of(ports=[{"port": 0}], endpoints=[{"addresses": ["fd00::1"]}, {"addresses": ["x"]}, {"addresses": []}])
    )
    assert row is not None
    assert (row.ports, row.endpoints) == ((), ())
    assert [problem.split(":")[0] for problem in row.problems] == [
        "ports[0].port",
        "endpoints[0].addresses[0]",
        "endpoints[1].addresses[0]",
    ]


def test_a_slice_of_no_service_or_of_names_is_ignored() -> None:
    assert parse_slice(core.EndpointSlice(address_type="IPv4")) is None
    assert parse_slice(slice_of(addressType="FQDN")) is None
    assert parse_slice(slice_of(endpoints=None, ports=None)) is not None


def test_host_ports_of_a_pod() -> None:
    ports = [
        {"containerPort": 8080, "hostPort": 8080},
        {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"containerPort": 1, "hostPort": 1, "hostIP": "127.0.0.1"},
        {"containerPort": 2},
    ]
    raw: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]},
        "status": {"podIPs": [{"ip": "10.0.1.5"}]},
    }
    found = parse_host_ports(msgspec.convert(raw, Pod))
    assert found is not None
    assert found.addresses == (Addr.parse("10.0.1.5"),)
    assert [(row.protocol, row.host_ip, row.host_port, row.port) for row in found.ports] == [
        (Protocol.TCP, None, 8080, 8080),
        (Protocol.UDP, Addr.parse("192.0.2.1"), 5353, 53),
    ]
    raw["spec"]["hostNetwork"] = True
    assert parse_host_ports(msgspec.convert(raw, Pod)) is None


def test_the_local_node() -> None:
    raw = {
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "172.18.1.11"}, {"type": "Hostname", "address": "x"}]
        },
    }
    row = parse_node(msgspec.convert(raw, core.Node))
    assert (row.name, row.zone, row.addresses) == ("node-1", "a", (Addr.parse("172.18.1.11"),))


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("a=b", {"a": "b"}, {"a": "c"}),
        ("a==b", {"a": "b"}, {}),
        ("a!=b", {}, {"a": "b"}),
        ("a in (b, c),d", {"a": "c", "d": ""}, {"a": "c"}),
        ("a notin (b,c)", {"a": "d"}, {"a": "b"}),
        ("!a", {}, {"a": "b"}),
        ("", {"x": "y"}, None),
    ],
)
def test_selectors(text: str, matching: dict[str, str], other: dict[str, str] | None) -> None:
    selector = parse_selector(text)
    assert selector.matches(matching)
    assert other is None or not selector.matches(other)
