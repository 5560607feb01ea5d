"""CiliumBGPPeeringPolicy end to end: applied by kubectl, routes read from BIRD's and FRR's tables, packets from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.cluster import (
    CLIENT,
    NODES,
    TOR_1,
    TOR_2,
    TOR_2_ASN,
    apply,
    bird_communities,
    bird_paths,
    bird_since,
    frr_paths,
    give,
    mirror,
    pod_cidrs,
    seen_address,
    topology,
    up_since,
)
from labs.lab import Lab, LabFactory, eventually, remove

VERBATIM = (Path(__file__).parents[3] / "examples/bgp-kubernetes/peering-policy.yaml").read_text()

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: nginx}}
spec:
  type: LoadBalancer
  loadBalancerClass: io.cilium/bgp-control-plane
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: unselected, labels: {app: other}}
spec:
  type: LoadBalancer
  loadBalancerClass: io.cilium/bgp-control-plane
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""
VIP = {4: "198.18.7.1", 6: "2001:db8:7::1"}


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(topology())
    try:
        apply(made, VERBATIM, WEB, mirror("web", "node-2"))
        made.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
        yield made
    finally:
        remove(made)


def test_pod_cidrs_of_every_node_arrive_with_its_address(lab: Lab) -> None:
    for node, addresses in NODES.items():
        for cidr in pod_cidrs(lab, node):
            paths = eventually(lambda cidr=cidr: bird_paths(lab, cidr))
            assert set(paths) == {node}
            assert paths[node].next_hop == addresses[6 if ":" in cidr else 4]


@pytest.mark.parametrize("family", [4, 6])
def test_an_outside_host_reaches_a_pod_and_sees_its_own_address(lab: Lab, family: int) -> None:
    pod = {6 if ":" in each["ip"] else 4: each["ip"] for each in lab.objects("pod", "web")["status"]["podIPs"]}
    eventually(lambda: seen_address(lab, "client", pod[family]) == CLIENT[family])


def test_a_selected_services_address_comes_and_goes(lab: Lab) -> None:
    eventually(lambda: bird_since(lab, "node-1") and bird_since(lab, "node-2"))
    before = [up_since(lab, node) for node in NODES]
    give(lab, "web", *VIP.values())
    give(lab, "unselected", "198.18.7.9")
    for family, host in ((4, "/32"), (6, "/128")):
        paths = eventually(lambda f=family, h=host: (p := bird_paths(lab, VIP[f] + h)).keys() == NODES.keys() and p)
        assert {name: seen.next_hop for name, seen in paths.items()} == {n: a[family] for n, a in NODES.items()}
    assert bird_paths(lab, "198.18.7.9/32") == {}
    give(lab, "web")
    eventually(lambda: not bird_paths(lab, VIP[4] + "/32"))
    assert [bird_since(lab, node) for node in NODES] == before


def test_a_second_neighbour_leaves_the_first_session_alone(lab: Lab) -> None:
    before = up_since(lab, "node-1")
    neighbour = {"peerAddress": f"{TOR_2[4]}/32", "peerASN": TOR_2_ASN}
    add = [{"op": "add", "path": "/spec/virtualRouters/0/neighbors/-", "value": neighbour}]
    lab.kubectl("patch", "ciliumbgppeeringpolicy", "test", "--type=json", "-p", json.dumps(add))
    for node, addresses in NODES.items():
        for cidr in pod_cidrs(lab, node):
            eventually(lambda cidr=cidr, a=addresses: frr_paths(lab, cidr) == {a[4]})
    assert bird_since(lab, "node-1") == before


def test_attributes_of_pod_cidrs_change_without_a_reset(lab: Lab) -> None:
    before = up_since(lab, "node-1")
    attributes = [
        {
            "selectorType": "PodCIDR",
            "selector": {"matchLabels": {"kubernetes.io/hostname": "node-1"}},
            "communities": {"standard": ["65100:7"], "large": ["65100:1:2"]},
        }
    ]
    path = "/spec/virtualRouters/0/neighbors/0/advertisedPathAttributes"
    change = [{"op": "add", "path": path, "value": attributes}]
    lab.kubectl("patch", "ciliumbgppeeringpolicy", "test", "--type=json", "-p", json.dumps(change))
    cidr = pod_cidrs(lab, "node-1")[0]
    eventually(lambda: bird_communities(lab, cidr, "node-1") == {"65100:7"})
    assert bird_paths(lab, cidr)["node-1"].large == {"65100:1:2"}
    assert bird_communities(lab, pod_cidrs(lab, "node-2")[0], "node-2") == set()
    assert bird_since(lab, "node-1") == before


def test_a_wrong_field_is_a_condition_of_the_node(lab: Lab) -> None:
    def message() -> str:
        conditions = lab.objects("node", "node-1")["status"]["conditions"]
        found = [each for each in conditions if each["type"] == "cilium.io/BGPReconcileError"]
        return str(found[0]["message"]) if found else ""

    before = up_since(lab, "node-1")
    twin = {"peerAddress": f"{TOR_1[4]}/32", "peerASN": 6500}
    add = [{"op": "add", "path": "/spec/virtualRouters/0/neighbors/1", "value": twin}]
    lab.kubectl("patch", "ciliumbgppeeringpolicy", "test", "--type=json", "-p", json.dumps(add))
    wrong = "CiliumBGPPeeringPolicy test: spec.virtualRouters[0].neighbors[1].peerAddress: 172.22.0.5 appears twice"
    eventually(lambda: message() == wrong)
    assert bird_since(lab, "node-1") == before
    remove_it = [{"op": "remove", "path": "/spec/virtualRouters/0/neighbors/1"}]
    lab.kubectl("patch", "ciliumbgppeeringpolicy", "test", "--type=json", "-p", json.dumps(remove_it))
    eventually(lambda: message() == "")
    assert bird_since(lab, "node-1") == before


def test_a_younger_policy_for_the_same_node_changes_nothing(lab: Lab) -> None:
    before = up_since(lab, "node-1")
    apply(lab, VERBATIM.replace("name: test", "name: younger").replace("localASN: 65100", "localASN: 65999"))
    eventually(lambda: "younger" in lab.stentor("status", "-o", "json", check=False).stdout)
    assert bird_since(lab, "node-1") == before
    lab.kubectl("delete", "ciliumbgppeeringpolicy", "younger")
    eventually(lambda: "younger" not in lab.stentor("status", "-o", "json", check=False).stdout)


POOL = """
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: gold, labels: {tier: gold}}
spec: {blocks: [{cidr: 198.18.9.0/28}]}
---
apiVersion: v1
kind: Service
metadata: {name: pooled, labels: {app: nginx}}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""


def test_an_address_of_a_pool_is_advertised_with_the_pools_attributes(lab: Lab) -> None:
    apply(lab, POOL)
    status = eventually(lambda: lab.objects("service", "pooled")["status"]["loadBalancer"].get("ingress"))
    prefix = f"{status[0]['ip']}/32"
    assert prefix.startswith("198.18.9.")
    eventually(lambda: set(bird_paths(lab, prefix)) == set(NODES))
    attributes = {
        "selectorType": "CiliumLoadBalancerIPPool",
        "selector": {"matchLabels": {"tier": "gold"}},
        "communities": {"standard": ["65100:9"], "wellKnown": ["no-export"]},
    }
    path = "/spec/virtualRouters/0/neighbors/0/advertisedPathAttributes"
    change = [{"op": "add", "path": path, "value": [attributes]}]
    lab.kubectl("patch", "ciliumbgppeeringpolicy", "test", "--type=json", "-p", json.dumps(change))
    eventually(lambda: bird_communities(lab, prefix, "node-1") == {"65100:9", "65535:65281"})
    assert bird_communities(lab, pod_cidrs(lab, "node-1")[0], "node-1") == set()
    answer = eventually(
        lambda: lab.exec("client", "curl", "-s", "-m", "2", f"http://{status[0]['ip']}/", check=False).stdout
    )
    assert answer in {addresses[4] for addresses in NODES.values()} | {CLIENT[4]}
