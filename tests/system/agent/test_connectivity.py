"""Who reaches whom: pods of one node and of two, the nodes, and the world outside; both families, ICMP, TCP and UDP."""

from __future__ import annotations

import itertools

import pytest

from agents.cluster import NODES, Cluster
from agents.place import Place, exchange_tcp, exchange_udp, ping

_ports = itertools.count(20000)

PATHS = [
    ("a", "b", "a"),
    ("a", "c", "a"),
    ("c", "a", "c"),
    ("a", "a", "a"),
    ("node-1", "a", "router"),
    ("node-2", "a", "router"),
    ("a", "node-1", "a"),
    # What leaves the cluster gets the node's address.
    ("a", "node-2", "node-1"),
    ("a", "outside", "node-1"),
    ("c", "outside", "node-2"),
]


def expected(cluster: Cluster, seen_as: str, client: str, family: int) -> set[str]:
    """Addresses that the server may see."""
    if seen_as != "router":
        return {cluster.places[seen_as].addresses[family]}
    nodes = {node["metadata"]["name"]: node for node in cluster.lab.objects("ciliumnodes")["items"]}
    own = [each["ip"] for each in nodes[client]["spec"]["addresses"] if each["type"] == "CiliumInternalIP"]
    return {ip for ip in own if (":" in ip) == (family == 6)}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("client", "server", "seen_as"), PATHS, ids=lambda value: str(value))
def test_paths(cluster: Cluster, client: str, server: str, seen_as: str, family: int) -> None:
    here, there = cluster.places[client], cluster.places[server]
    target = there.addresses[family]
    allowed = expected(cluster, seen_as, client, family)
    assert ping(here, target)
    assert exchange_tcp(here, there, target, next(_ports)) in allowed
    assert exchange_udp(here, there, target, next(_ports)) in allowed


def mtu_of(place: Place, family: int) -> int:
    """The largest packet, from the route that the agent gave to the pod."""
    done = place.run("ip", f"-{family}", "route", "show", "default")
    words = done.stdout.split()
    return int(words[words.index("mtu") + 1])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("client", "server"), [("a", "b"), ("a", "c"), ("a", "outside"), ("node-1", "c")])
def test_full_packets_and_large_segments(cluster: Cluster, client: str, server: str, family: int) -> None:
    here, there = cluster.places[client], cluster.places[server]
    target = there.addresses[family]
    mtu = mtu_of(cluster.places["a"], family)
    assert mtu == 1450
    header = 20 if family == 4 else 40
    assert ping(here, target, size=mtu - header - 8)
    exchange_udp(here, there, target, next(_ports), size=mtu - header - 8)
    exchange_tcp(here, there, target, next(_ports), total=8 << 20)


def test_a_packet_over_the_limit_is_refused_at_home(cluster: Cluster) -> None:
    assert not ping(cluster.places["a"], cluster.places["c"].addresses[4], size=1450 - 28 + 1)


def test_what_the_cluster_says(cluster: Cluster) -> None:
    endpoints = {each["metadata"]["name"]: each["status"] for each in cluster.lab.objects("ciliumendpoints")["items"]}
    for name in "abc":
        place, status = cluster.places[name], endpoints[name]
        assert status["state"] == "ready"
        assert status["networking"]["addressing"] == [{"ipv4": place.addresses[4], "ipv6": place.addresses[6]}]
        assert f"k8s:app={name}" in status["identity"]["labels"]
    identities = {each["metadata"]["name"]: each for each in cluster.lab.objects("ciliumidentities")["items"]}
    for status in endpoints.values():
        labels = identities[str(status["identity"]["id"])]["security-labels"]
        assert labels["k8s:io.cilium.k8s.policy.cluster"] == "c1"
    nodes = {each["metadata"]["name"]: each for each in cluster.lab.objects("ciliumnodes")["items"]}
    prefixes = [cidr for node in nodes.values() for cidr in node["spec"]["ipam"]["podCIDRs"]]
    assert len(set(prefixes)) == 4
    for name in NODES:
        conditions = cluster.lab.objects("node", name)["status"]["conditions"]
        found = next(each for each in conditions if each["type"] == "NetworkUnavailable")
        assert (found["status"], found["reason"]) == ("False", "CiliumIsUp")


def test_an_endpoint_by_each_of_its_names(cluster: Cluster) -> None:
    address = cluster.places["a"].addresses[4]
    row = cluster.lab.stentor("endpoint", "get", "default/a", "-o", "table").stdout
    assert row == cluster.lab.stentor("endpoint", "get", address, "-o", "table").stdout
    assert {"k8s:app=a", address, "ready"} <= set(row.split())
    refused = cluster.lab.stentor("endpoint", "get", "default/nobody", check=False)
    assert (refused.returncode, "no endpoint default/nobody" in refused.stderr) == (1, True)


def test_nothing_is_dropped_on_the_way(cluster: Cluster) -> None:
    """All of the above was allowed: no program may have dropped any of it."""
    shown = cluster.lab.stentor("bpf", "metrics", "list").stdout
    assert [line for line in shown.splitlines()[1:] if "Success" not in line] == []
