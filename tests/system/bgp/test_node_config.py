"""The newer API end to end: node configuration, peer configurations, advertisements, options, and what is wrong with them."""

from __future__ import annotations

import json
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
    bird_bfd,
    bird_communities,
    bird_neighbor_id,
    bird_paths,
    bird_since,
    frr,
    frr_paths,
    give,
    pod_cidrs,
    resource,
    topology,
    up_since,
)
from labs.lab import Lab, LabFactory, eventually, remove

ADVERTISED = {"matchLabels": {"advertise": "bgp"}}
PEER_CONFIG = {
    "timers": {"connectRetryTimeSeconds": 1},
    "families": [{"afi": afi, "safi": "unicast", "advertisements": ADVERTISED} for afi in ("ipv4", "ipv6")],
}


def peer(number: int, **fields: Any) -> dict[str, Any]:
    address, asn = ((TOR_1[4], TOR_1_ASN), (TOR_2[4], TOR_2_ASN))[number - 1]
    found = {"name": f"tor-{number}", "peerAddress": address, "peerASN": asn, "peerConfigRef": {"name": "tor"}}
    return {key: value for key, value in (found | fields).items() if value is not None}


def node_config(node: str, *peers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return resource(
        "CiliumBGPNodeConfig", node, {"bgpInstances": [{"name": "main", "localASN": 65100, "peers": peers, **fields}]}
    )


def advertisement(*communities: str) -> dict[str, Any]:
    attributes = {"communities": {"standard": list(communities)}} if communities else {}
    return resource(
        "CiliumBGPAdvertisement",
        "bgp",
        {
            "advertisements": [
                {"advertisementType": "PodCIDR", "attributes": attributes},
                {
                    "advertisementType": "Service",
                    "service": {"addresses": ["LoadBalancerIP"], "aggregationLengthIPv4": 24},
                    "selector": {"matchLabels": {"app": "web"}},
                },
            ]
        },
        advertise="bgp",
    )


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
}


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(topology())
    try:
        apply(made, resource("CiliumBGPPeerConfig", "tor", PEER_CONFIG), advertisement(), SERVICE)
        apply(made, node_config("node-1", peer(1), peer(2)), node_config("node-2", peer(1), peer(2)))
        for node in NODES:
            eventually(lambda node=node: set(bird_paths(made, pod_cidrs(made, node)[0])) == {node})
        yield made
    finally:
        remove(made)


@pytest.fixture(autouse=True)
def _same_start(lab: Lab) -> Iterator[None]:
    """Each test begins and ends with two sessions a node."""
    yield
    apply(lab, node_config("node-1", peer(1), peer(2)), resource("CiliumBGPPeerConfig", "tor", PEER_CONFIG))
    eventually(lambda: problems(lab) == "")
    eventually(lambda: bird_since(lab, "node-1"))


def problems(lab: Lab, node: str = "node-1") -> str:
    """The message of the node configuration's condition."""
    conditions = lab.objects("ciliumbgpnodeconfig", node).get("status", {}).get("conditions", [])
    found = [each for each in conditions if each["type"] == "cilium.io/BGPReconcileError"]
    assert found
    assert (found[0]["status"] == "True") == bool(found[0]["message"])
    return str(found[0]["message"])


def test_advertised_routes_at_both_routers(lab: Lab) -> None:
    give(lab, "web", "198.18.7.1", "2001:db8:7::1")
    eventually(lambda: set(bird_paths(lab, "198.18.7.0/24")) == set(NODES))
    eventually(lambda: set(bird_paths(lab, "2001:db8:7::1/128")) == set(NODES))
    eventually(lambda: frr_paths(lab, "198.18.7.0/24") == {addresses[4] for addresses in NODES.values()})
    assert bird_paths(lab, "198.18.7.1/32") == {}


def test_other_attributes_without_a_reset(lab: Lab) -> None:
    before, cidr = up_since(lab, "node-1"), pod_cidrs(lab, "node-1")[0]
    apply(lab, advertisement("65100:7"))
    eventually(lambda: bird_communities(lab, cidr, "node-1") == {"65100:7"})
    apply(lab, advertisement())
    eventually(lambda: bird_communities(lab, cidr, "node-1") == set())
    assert bird_since(lab, "node-1") == before


def test_addresses_of_a_device(lab: Lab) -> None:
    spec = {"advertisements": [{"advertisementType": "Interface", "interface": {"name": "lo"}}]}
    apply(lab, resource("CiliumBGPAdvertisement", "loopback", spec, advertise="bgp"))
    lab.exec("node-1", "ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    eventually(lambda: set(bird_paths(lab, "192.0.2.77/32")) == {"node-1"})
    lab.exec("node-1", "ip", "address", "delete", "192.0.2.77/32", "dev", "lo")
    eventually(lambda: not bird_paths(lab, "192.0.2.77/32"))
    lab.kubectl("delete", "ciliumbgpadvertisement", "loopback")


def test_the_status_of_sessions(lab: Lab) -> None:
    def tor_1() -> dict[str, Any]:
        instances = lab.objects("ciliumbgpnodeconfig", "node-1").get("status", {}).get("bgpInstances", [])
        assert len(instances) == 1
        instance = instances[0]
        assert (instance["name"], instance["localASN"]) == ("main", 65100)
        found: list[dict[str, Any]] = [each for each in instance["peers"] if each["name"] == "tor-1"]
        assert found
        return found[0]

    eventually(lambda: tor_1()["peeringState"] == "established")
    status = eventually(lambda: (found := tor_1()).get("routeCount", [{}])[0].get("advertised", 0) > 0 and found)
    assert (status["peerAddress"], status["peerASN"]) == (TOR_1[4], TOR_1_ASN)
    assert status["timers"] == {"appliedHoldTimeSeconds": 90, "appliedKeepaliveSeconds": 30}
    assert status["establishedTime"].endswith("Z")


def test_metrics_have_upstreams_names(lab: Lab) -> None:
    labels = 'neighbor="172.22.0.5:179",neighbor_asn="6500"'
    prefix = "cilium_bgp_control_plane"

    def metrics() -> str:
        return lab.exec("node-1", "curl", "-s", "http://127.0.0.1:9962/metrics").stdout

    eventually(lambda: f'{prefix}_session_state{{{labels},vrouter="65100"}} 1.0' in metrics())
    text = metrics()
    for kind in ("advertised", "received"):
        assert f'{prefix}_{kind}_routes{{afi="ipv4",{labels},safi="unicast",vrouter="65100"}} ' in text
    assert f'{prefix}_reconcile_run_duration_seconds_count{{vrouter="65100"}} ' in text
    assert f"# TYPE {prefix}_reconcile_errors_total counter" in text


def test_what_differs_on_one_node(lab: Lab) -> None:
    apply(lab, node_config("node-1", peer(1, localAddress=NODES["node-1"][4]), peer(2), routerID="10.9.8.7"))
    eventually(lambda: bird_neighbor_id(lab, "node-1") == "10.9.8.7")
    assert bird_neighbor_id(lab, "node-2") == NODES["node-2"][4]


def test_the_default_gateway_is_found(lab: Lab) -> None:
    discovery = {"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv4"}}
    apply(lab, node_config("node-1", peer(1, peerAddress=None, autoDiscovery=discovery), peer(2)))
    eventually(lambda: "autoDiscovery" in str(lab.objects("ciliumbgpnodeconfig", "node-1")["spec"]))
    eventually(lambda: bird_since(lab, "node-1"))
    assert problems(lab) == ""


def test_an_unnumbered_peer_on_a_wire(lab: Lab) -> None:
    discovery = {"mode": "Unnumbered", "unnumbered": {"interface": "eth1"}}
    wire = peer(2, name="wire", peerAddress=None, autoDiscovery=discovery)
    apply(lab, node_config("node-1", peer(1), wire))
    cidr = pod_cidrs(lab, "node-1")[0]

    def hops() -> set[str]:
        found = frr(lab, f"show bgp ipv4 unicast {cidr}").get("paths", [])
        return {hop["ip"] for path in found for hop in path["nexthops"] if path["peer"].get("interface") == "eth1"}

    assert eventually(lambda: (found := hops()) and found)
    assert all(hop.startswith("fe80:") for hop in hops())


def test_bfd_beside_the_session(lab: Lab) -> None:
    slow = {"transmitIntervalMilliseconds": 300, "detectMultiplier": 5}  # 1.5 s, for a busy machine
    spec = {"selector": {"peerConfigs": ["tor"], "instances": ["main"]}, "bfd": slow}
    before = up_since(lab, "node-2")
    apply(lab, resource("StentorBGPPeerOptions", "tors", spec, "stentor.io/v1alpha1"))
    for node in NODES:
        eventually(lambda node=node: bird_bfd(lab, node) == "Up")
    assert bird_since(lab, "node-2") == before
    lab.kubectl("delete", "stentorbgppeeroptions", "tors")
    eventually(lambda: bird_bfd(lab, "node-2") != "Up")


def test_a_password_that_both_sides_know(lab: Lab) -> None:
    lab.exec("tor-2", "vtysh", "-c", "conf t", "-c", "router bgp 6600", "-c", "neighbor nodes password s3cret")
    apply(lab, resource("CiliumBGPPeerConfig", "keyed", PEER_CONFIG | {"authSecretRef": "tor-key"}))
    apply(lab, node_config("node-1", peer(1), peer(2, peerConfigRef={"name": "keyed"})))
    eventually(lambda: "spec.authSecretRef: Secret kube-system/tor-key does not exist" in problems(lab))
    lab.kubectl("-n", "kube-system", "create", "secret", "generic", "tor-key", "--from-literal=password=s3cret")
    cidr = pod_cidrs(lab, "node-1")[0]
    eventually(lambda: NODES["node-1"][4] in frr_paths(lab, cidr))
    eventually(lambda: problems(lab) == "")
    lab.kubectl("-n", "kube-system", "delete", "secret", "tor-key")
    eventually(lambda: "tor-key does not exist" in problems(lab))
    lab.exec("tor-2", "vtysh", "-c", "conf t", "-c", "router bgp 6600", "-c", "no neighbor nodes password")


WRONG = {
    "a peer twice": ([peer(1), peer(1, name="twin"), peer(2)], "peers[1].peerAddress: 172.22.0.5 appears twice"),
    "no peer configuration": (
        [peer(1), peer(2, peerConfigRef={"name": "gone"})],
        "peers[1].peerConfigRef.name: CiliumBGPPeerConfig gone does not exist",
    ),
    "an address of the wrong family": (
        [peer(1), peer(2, localAddress="fd00:22::11")],
        "main.tor-2.transport.localAddress: is not of the family of peerAddress",
    ),
    "no default route": (
        [peer(1), peer(2, peerAddress="fe80::9")],
        "main.tor-2.interface: is missing; a link-local peerAddress needs it",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named_and_the_other_session_stays(lab: Lab, case: str) -> None:
    peers, text = WRONG[case]
    before = up_since(lab, "node-1")
    apply(lab, node_config("node-1", *peers))
    eventually(lambda: text in problems(lab))
    assert bird_since(lab, "node-1") == before
    status = json.loads(lab.stentor("status", "-o", "json", check=False).stdout)
    assert any(text in error for error in status["errors"])


def test_where_both_apis_select_a_node_the_policy_counts(lab: Lab) -> None:
    router = {"localASN": 65100, "neighbors": [{"peerAddress": f"{TOR_1[4]}/32", "peerASN": TOR_1_ASN}]}
    selector = {"matchLabels": {"kubernetes.io/hostname": "node-1"}}
    spec = {"nodeSelector": selector, "virtualRouters": [router | {"exportPodCIDR": False, "serviceSelector": {}}]}
    apply(lab, resource("CiliumBGPPeeringPolicy", "old", spec, "cilium.io/v2alpha1"))
    cidr = pod_cidrs(lab, "node-1")[0]
    eventually(lambda: not bird_paths(lab, cidr))
    lab.kubectl("delete", "ciliumbgppeeringpolicy", "old")
    eventually(lambda: set(bird_paths(lab, cidr)) == {"node-1"})
