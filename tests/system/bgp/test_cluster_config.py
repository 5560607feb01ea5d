"""From a CiliumBGPClusterConfig to routes at a router: operator, agents and speakers together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fabric.cluster import (
    NODES,
    TOR_1,
    TOR_1_ASN,
    TOR_2,
    TOR_2_ASN,
    apply,
    bird_neighbor_id,
    bird_paths,
    bird_since,
    frr_paths,
    pod_cidrs,
    resource,
    topology,
    up_since,
)
from labs.lab import Lab, LabFactory, eventually, remove

RACK = {"nodeSelector": {"matchLabels": {"rack": "r1"}}}


def peer(name: str, address: str, asn: int, config: str = "tor") -> dict[str, Any]:
    return {"name": name, "peerAddress": address, "peerASN": asn, "peerConfigRef": {"name": config}}


def cluster_config(*peers: dict[str, Any]) -> dict[str, Any]:
    instance = {"name": "main", "localASN": 65100, "peers": list(peers)}
    return resource("CiliumBGPClusterConfig", "rack", RACK | {"bgpInstances": [instance]})


QUICK = {"connectRetryTimeSeconds": 1}
FIRST = peer("tor-1", TOR_1[4], TOR_1_ASN)
FAMILIES = [
    {"afi": afi, "safi": "unicast", "advertisements": {"matchLabels": {"advertise": "bgp"}}} for afi in ("ipv4", "ipv6")
]
OBJECTS = (
    cluster_config(FIRST),
    resource("CiliumBGPPeerConfig", "tor", {"families": FAMILIES, "timers": QUICK}),
    resource("CiliumBGPPeerConfig", "keyed", {"families": FAMILIES, "timers": QUICK, "authSecretRef": "tor-key"}),
    resource("CiliumBGPAdvertisement", "pods", {"advertisements": [{"advertisementType": "PodCIDR"}]}, advertise="bgp"),
)


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(topology())
    try:
        made.kubectl("label", "node", *NODES, "rack=r1")
        apply(made, *OBJECTS)
        for node in NODES:
            eventually(lambda node=node: set(bird_paths(made, pod_cidrs(made, node)[0])) == {node})
        yield made
    finally:
        remove(made)


def test_nodes_come_and_go_by_their_labels(lab: Lab) -> None:
    before, cidr = up_since(lab, "node-1"), pod_cidrs(lab, "node-2")[0]
    lab.kubectl("label", "node", "node-2", "rack-")
    eventually(lambda: not bird_paths(lab, cidr))
    eventually(lambda: not bird_since(lab, "node-2"))
    lab.kubectl("label", "node", "node-2", "rack=r1")
    eventually(lambda: set(bird_paths(lab, cidr)) == {"node-2"})
    assert bird_since(lab, "node-1") == before


def test_an_override_is_about_one_node(lab: Lab) -> None:
    other = up_since(lab, "node-2")
    spec = {"bgpInstances": [{"name": "main", "routerID": "10.9.8.7", "peers": [{"name": "tor-1"}]}]}
    apply(lab, resource("CiliumBGPNodeConfigOverride", "node-1", spec))
    eventually(lambda: bird_neighbor_id(lab, "node-1") == "10.9.8.7")
    assert bird_neighbor_id(lab, "node-2") == NODES["node-2"][4]
    lab.kubectl("delete", "ciliumbgpnodeconfigoverride", "node-1")
    eventually(lambda: bird_neighbor_id(lab, "node-1") == NODES["node-1"][4])
    assert bird_since(lab, "node-2") == other


def test_a_second_peer_with_a_password_leaves_the_first_session_alone(lab: Lab) -> None:
    before = [up_since(lab, node) for node in NODES]
    lab.exec("tor-2", "vtysh", "-c", "conf t", "-c", "router bgp 6600", "-c", "neighbor nodes password s3cret")
    lab.kubectl("-n", "kube-system", "create", "secret", "generic", "tor-key", "--from-literal=password=s3cret")
    apply(lab, cluster_config(FIRST, peer("tor-2", TOR_2[4], TOR_2_ASN, "keyed")))
    for node, addresses in NODES.items():
        eventually(lambda node=node, a=addresses: a[4] in frr_paths(lab, pod_cidrs(lab, node)[0]))
    apply(lab, cluster_config(FIRST))
    eventually(lambda: frr_paths(lab, pod_cidrs(lab, "node-1")[0]) == set())
    assert [bird_since(lab, node) for node in NODES] == before


def test_a_peering_policy_takes_over_and_gives_back(lab: Lab) -> None:
    def superseded() -> str:
        conditions = lab.objects("ciliumbgpclusterconfig", "rack").get("status", {}).get("conditions", [])
        found = [each["status"] for each in conditions if each["type"] == "stentor.io/SupersededByPeeringPolicy"]
        return str(found[0]) if found else ""

    router = {"localASN": 65100, "neighbors": [{"peerAddress": f"{TOR_1[4]}/32", "peerASN": TOR_1_ASN}]}
    apply(lab, resource("CiliumBGPPeeringPolicy", "old", {"virtualRouters": [router]}, "cilium.io/v2alpha1"))
    cidr = pod_cidrs(lab, "node-1")[0]
    eventually(lambda: not bird_paths(lab, cidr))  # the policy exports no pod CIDRs
    eventually(lambda: superseded() == "True")
    lab.kubectl("delete", "ciliumbgppeeringpolicy", "old")
    eventually(lambda: set(bird_paths(lab, cidr)) == {"node-1"})
    eventually(lambda: superseded() != "True")
