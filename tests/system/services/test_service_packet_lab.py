"""A cluster whose pods' sockets are not translated: everything is balanced on packets, by Maglev, for the outside too,
whose known flows XDP sends on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from balancing.cluster import (
    OBJECTS,
    SELF_PORT,
    TOPOLOGY,
    WEB,
    apply,
    cluster_ips,
    fetch,
    reach_itself,
    service,
    url,
)
from labs.lab import Lab, LabFactory, eventually, remove

VALUES = {
    "socketLB": {"hostNamespaceOnly": True},
    "loadBalancer": {"algorithm": "maglev", "acceleration": "native"},
    "bpf": {"lbExternalClusterIP": True, "lbSourceRangeAllTypes": True},
}


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    topology = json.loads(json.dumps(TOPOLOGY))
    topology["spec"]["clusters"][0]["values"] = VALUES
    made = lab_maker(topology)
    try:
        itself = service("itself", app="client", internalTrafficPolicy="Local", ports=[{"port": SELF_PORT}])
        ranged = service("ranged", type="LoadBalancer", loadBalancerSourceRanges=["10.99.0.0/16"])
        apply(made, [*OBJECTS, itself, ranged])
        eventually(lambda: all(fetch(made, "client-1", ip) <= WEB for ip in cluster_ips(made, "cluster")))
        yield made
    finally:
        remove(made)


@pytest.mark.parametrize("where", ["client-1", "client-2", "node-1", "outside"])
def test_cluster_addresses(lab: Lab, where: str) -> None:
    v4, v6 = cluster_ips(lab, "cluster")
    for ip in (v4,) if where == "outside" else (v4, v6):
        assert fetch(lab, where, ip, times=24) == WEB


@pytest.mark.parametrize("where", ["client-2", "outside"])
def test_node_ports(lab: Lab, where: str) -> None:
    for ip in ("172.18.0.11", "fd00:18::12"):
        assert fetch(lab, where, ip, 30080, times=24) == WEB


def test_the_external_policy_is_not_about_cluster_addresses(lab: Lab) -> None:
    assert fetch(lab, "outside", cluster_ips(lab, "balancer")[0], times=24) == WEB


def test_source_ranges_guard_cluster_addresses_that_the_outside_may_use(lab: Lab) -> None:
    v4 = cluster_ips(lab, "ranged")[0]
    eventually(lambda: fetch(lab, "client-2", v4) <= WEB)
    assert fetch(lab, "outside", v4) == {""}


def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    seen = [reach_itself(lab, "client-1", ip) for ip in cluster_ips(lab, "itself")]
    assert seen == ["169.254.42.1", "fe80::1"]


def test_nobody_behind_a_service_is_told_at_once(lab: Lab) -> None:
    for ip in cluster_ips(lab, "nobody"):
        done = lab.kubectl("exec", "client-1", "--", "curl", "-s", "-m", "10", url(ip), check=False)
        assert "exit code 7" in done.stderr  # could not connect, as opposed to 28: timed out


def test_names_lead_to_services(lab: Lab) -> None:
    assert fetch(lab, "client-1", "cluster") <= WEB


def test_flows_are_listed(lab: Lab) -> None:
    fetch(lab, "client-1", cluster_ips(lab, "cluster")[0])
    assert "TO_BACKEND" in lab.stentor("bpf", "lb-flow", "list", "--node", "node-1").stdout
