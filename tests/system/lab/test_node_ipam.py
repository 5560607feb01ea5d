"""IPAM mode kubernetes: nodes get pod CIDRs from the control plane, and agents take them from their Nodes."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import pytest

from labs.lab import Lab, LabFactory, eventually, remove

POOLS = {
    "clusterPoolIPv4PodCIDRList": ["10.70.0.0/22"],
    "clusterPoolIPv4MaskSize": 24,
    "clusterPoolIPv6PodCIDRList": ["fd00:70::/104"],
    "clusterPoolIPv6MaskSize": 120,
}
TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "node-ipam"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["172.18.7.0/24", "fd00:18:7::/64"]}],
        "clusters": [
            {
                "name": "c1",
                "values": {"ipam": {"mode": "kubernetes", "operator": POOLS}},
                "nodes": [{"name": name, "networks": [{"name": "lan"}]} for name in ("n1", "n2")],
            }
        ],
    },
}


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(TOPOLOGY)
    yield made
    remove(made)


def cidrs(lab: Lab, name: str) -> list[str]:
    spec: dict[str, Any] = lab.objects("node", name)["spec"]
    found: list[str] = spec.get("podCIDRs", [])
    assert spec.get("podCIDR", "") == (found[0] if found else "")
    return found


def test_agents_use_the_prefixes_of_their_nodes(lab: Lab) -> None:
    taken = set()
    for name in ("n1", "n2"):
        ipv4, ipv6 = cidrs(lab, name)
        assert ipaddress.IPv4Network(ipv4).subnet_of(ipaddress.IPv4Network("10.70.0.0/22"))
        assert ipaddress.IPv6Network(ipv6).subnet_of(ipaddress.IPv6Network("fd00:70::/104"))
        assert lab.objects("ciliumnode", name)["spec"]["ipam"]["podCIDRs"] == [ipv4, ipv6]
        taken |= {ipv4, ipv6}
    assert len(taken) == 4


def test_a_node_keeps_what_it_has_and_another_gets_what_is_free(lab: Lab) -> None:
    own = [*cidrs(lab, "n1"), *cidrs(lab, "n2")]
    free = [str(net) for net in ipaddress.IPv4Network("10.70.0.0/22").subnets(new_prefix=24) if str(net) not in own]
    meta = {"apiVersion": "v1", "kind": "Node"}
    fixed = {**meta, "metadata": {"name": "fixed"}, "spec": {"podCIDR": free[0], "podCIDRs": [free[0]]}}
    lab.kubectl("create", "-f", "-", input=json.dumps(fixed))
    lab.kubectl("create", "-f", "-", input=json.dumps({**meta, "metadata": {"name": "fresh"}}))

    def given() -> None:
        assert cidrs(lab, "fresh")[:1] == [free[1]]

    eventually(given, 60)
    assert cidrs(lab, "fixed") == [free[0]]
    lab.kubectl("create", "-f", "-", input=json.dumps({**meta, "metadata": {"name": "late"}}))

    def refused() -> None:
        events = lab.objects("events", "-A", "--field-selector", "reason=CIDRNotAvailable")["items"]
        assert any(event["involvedObject"]["name"] == "late" for event in events)

    eventually(refused, 60)
    lab.kubectl("delete", "node", "fixed", "fresh", "late")
