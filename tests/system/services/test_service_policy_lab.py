"""Each policy and annotation of a Service end to end: who answers whom, from pods, nodes and a host outside, both families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from balancing.cluster import (
    NODES,
    SELF_PORT,
    SLEEP,
    TOPOLOGY,
    WEB,
    apply,
    cluster_ips,
    fetch,
    pod,
    reach_itself,
    service,
    url,
)
from labs.lab import Lab, LabFactory, eventually, remove

HTTP = {"name": "http", "port": 80, "targetPort": 3000}
OUTSIDE = ("172.18.0.99/32", "fd00:18::99/128")
INGRESS = {"ranged": "192.0.2.81", "denied": "192.0.2.82"}


def node_port(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "NodePort", "ports": [{**HTTP, "nodePort": number}], **more}


def annotated(made: dict[str, Any], **annotations: str) -> dict[str, Any]:
    notes = {f"service.cilium.io/{name.replace('_', '-')}": text for name, text in annotations.items()}
    return {**made, "metadata": {**made["metadata"], "annotations": notes}}


def balancer(name: str, ranges: tuple[str, ...]) -> dict[str, Any]:
    return service(name, type="LoadBalancer", ports=[HTTP], loadBalancerSourceRanges=list(ranges))


OBJECTS = [
    pod("web-1", "node-1"),
    pod("web-2", "node-2"),
    pod("solo", "node-1", ports=[{"containerPort": 3000, "hostPort": 8081}]),
    pod("client-1", "node-1", "nicolaka/netshoot", **SLEEP),
    pod("client-2", "node-2", "nicolaka/netshoot", **SLEEP),
    service("itself", app="client", internalTrafficPolicy="Local", ports=[{"port": SELF_PORT}]),
    service("local", **node_port(30081, externalTrafficPolicy="Local")),
    service("solo-local", app="solo", **node_port(30082, externalTrafficPolicy="Local")),
    service("both-local", **node_port(30083, externalTrafficPolicy="Local", internalTrafficPolicy="Local")),
    service("near", trafficDistribution="PreferSameNode"),
    service("several", ports=[HTTP, {"name": "alt", "port": 8080, "targetPort": 3000}]),
    service("sticky", **node_port(30084, sessionAffinity="ClientIP")),
    annotated(service("inner", **node_port(30085)), type="ClusterIP"),
    annotated(service("picked", **node_port(30086)), node_selector="kubernetes.io/hostname=node-1"),
    annotated(service("odd", **node_port(30087)), forwarding_mode="dsr", type="ClusterIP,Nonsense"),
    balancer("ranged", ("10.99.0.0/16", "2001:db8:99::/48")),
    annotated(balancer("denied", OUTSIDE), src_ranges_policy="deny"),
    service("foreign") | {"metadata": {
        "name": "foreign", "namespace": "default", "labels": {"service.kubernetes.io/service-proxy-name": "other"},
    }},
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "abroad", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "targetPort": 9090}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "abroad", "namespace": "default", "labels": {"kubernetes.io/service-name": "abroad"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 9090}],
        "endpoints": [{"addresses": ["172.18.0.99"]}],
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "dns-outside", "namespace": "kube-system"},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53, "nodePort": 30053}],
        },
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(TOPOLOGY)
    try:
        apply(made, OBJECTS)
        for name, ip in INGRESS.items():
            status = {"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}
            made.kubectl("patch", "service", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        eventually(lambda: fetch(made, "client-1", cluster_ips(made, "near")[0]) == {"web-1"})
        eventually(lambda: fetch(made, "client-2", cluster_ips(made, "near")[0]) == {"web-2"})
        yield made
    finally:
        remove(made)


@pytest.mark.parametrize("where", ["client-1", "client-2", "node-1", "node-2", "outside"])
def test_host_ports_are_served_at_the_pods_node_only(lab: Lab, where: str) -> None:
    for ip in NODES["node-1"]:
        assert fetch(lab, where, ip, 8081) == {"solo"}
    for ip in NODES["node-2"]:
        assert fetch(lab, where, ip, 8081) == {""}


def test_local_external_policy_keeps_the_outside_to_the_node(lab: Lab) -> None:
    for name, backend in (("node-1", "web-1"), ("node-2", "web-2")):
        for ip in NODES[name]:
            assert fetch(lab, "outside", ip, 30081, times=8) == {backend}
            assert fetch(lab, "client-1", ip, 30081, times=24) == WEB  # clients in the cluster may use all
    for ip in NODES["node-2"]:
        assert fetch(lab, "outside", ip, 30082) == {""}  # nobody is behind it there
    for ip in NODES["node-1"]:
        assert fetch(lab, "outside", ip, 30082) == {"solo"}


def test_both_policies_local(lab: Lab) -> None:
    for ip in cluster_ips(lab, "both-local"):
        assert fetch(lab, "client-1", ip, times=8) == {"web-1"}
        assert fetch(lab, "node-2", ip, times=8) == {"web-2"}
    assert fetch(lab, "outside", NODES["node-2"][1], 30083, times=8) == {"web-2"}


def test_traffic_distribution_prefers_the_own_node(lab: Lab) -> None:
    for ip in cluster_ips(lab, "near"):
        assert fetch(lab, "node-1", ip, times=8) == {"web-1"}
        assert fetch(lab, "client-2", ip, times=8) == {"web-2"}


def test_every_port_of_a_service(lab: Lab) -> None:
    for ip in cluster_ips(lab, "several"):
        for port in (80, 8080):
            assert fetch(lab, "client-1", ip, port, times=24) == WEB


def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    own = {each["ip"] for each in lab.objects("pod", "client-1")["status"]["podIPs"]}
    assert {reach_itself(lab, "client-1", ip) for ip in cluster_ips(lab, "itself")} == own


def test_affinity_holds_for_the_outside(lab: Lab) -> None:
    for ip in NODES["node-1"]:
        answering = fetch(lab, "outside", ip, 30084, times=8)
        assert len(answering) == 1
        assert answering <= WEB


def test_annotations_limit_how_and_where_a_service_is_served(lab: Lab) -> None:
    v4, _ = NODES["node-1"]
    assert fetch(lab, "client-1", cluster_ips(lab, "inner")[0]) <= WEB
    assert fetch(lab, "outside", v4, 30085) == {""}
    assert fetch(lab, "outside", v4, 30086, times=24) == WEB
    assert fetch(lab, "outside", NODES["node-2"][0], 30086) == {""}


def test_annotations_that_cannot_be_used_are_named(lab: Lab) -> None:
    (view, *_) = json.loads(lab.stentor("service", "get", "default/odd", "--node", "node-1", "-o", "json").stdout)
    assert view["problems"] == [
        "metadata.annotations[service.cilium.io/type]: 'Nonsense' is not one of ClusterIP, NodePort, LoadBalancer",
        "metadata.annotations[service.cilium.io/forwarding-mode]: 'dsr': only snat so far",
    ]
    assert fetch(lab, "client-1", cluster_ips(lab, "odd")[0]) <= WEB


def test_source_ranges(lab: Lab) -> None:
    for ip in INGRESS.values():
        assert fetch(lab, "outside", ip) == {""}
        assert fetch(lab, "client-1", ip) <= WEB  # they are for the outside


def test_another_proxys_services_are_left_alone(lab: Lab) -> None:
    ip = cluster_ips(lab, "foreign")[0]
    assert ip not in lab.stentor("service", "list", "--node", "node-1").stdout
    assert ip not in lab.stentor("bpf", "lb", "list", "--node", "node-1").stdout


@pytest.mark.parametrize("where", ["node-1", "node-2", "outside"])
def test_datagrams(lab: Lab, where: str) -> None:
    expected = cluster_ips(lab, "near")[0]
    for server in (*NODES["node-1"], *NODES["node-2"]):
        query = ["dig", "+short", "+time=3", "-p", "30053", f"@{server}", "near.default.svc.cluster.local"]
        assert lab.exec(where, *query).stdout.strip() == expected


def test_backends_outside_the_cluster(lab: Lab) -> None:
    lab.exec("outside", "sh", "-c", "cd /proc/self && nohup python3 -m http.server 9090 >/dev/null 2>&1 &")
    ask = ["curl", "-s", "-o", "/dev/null", "-m", "3", "-w", "%{http_code}", url(cluster_ips(lab, "abroad")[0])]
    eventually(lambda: lab.kubectl("exec", "client-1", "--", *ask, check=False).stdout == "200")
    assert lab.exec("node-2", *ask).stdout == "200"


def test_nobody_on_the_node_takes_a_node_port(lab: Lab) -> None:
    bind = "import socket; socket.create_server(('0.0.0.0', 30081))"
    done = lab.exec("node-1", "python3", "-c", bind, check=False)
    assert "PermissionError" in done.stderr


def test_pods_that_are_not_ready_serve_only_where_the_service_wants_them(lab: Lab) -> None:
    never = {"exec": {"command": ["false"]}}
    lab.kubectl(
        "apply",
        "-f",
        "-",
        input="\n---\n".join(
            map(
                json.dumps,
                [
                    pod("late-1", "node-2", readinessProbe=never),
                    service("late", app="late"),
                    service("early", app="late", publishNotReadyAddresses=True),
                ],
            )
        ),
    )
    for ip in cluster_ips(lab, "early"):
        eventually(lambda ip=ip: fetch(lab, "client-1", ip) == {"late-1"})
    for ip in cluster_ips(lab, "late"):
        assert fetch(lab, "client-1", ip) == {""}
