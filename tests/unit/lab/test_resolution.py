"""From a topology to a plan: addresses, gateways, values; and contradictions, each with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stentor.lab import resolution, topology
from stentor.lab.errors import TopologyError
from stentor.lab.plan import Machine, Plan

LAN1 = {"name": "lan1", "cidrs": ["172.18.1.0/24", "fd00:18:1::/64"]}
LAN2 = {"name": "lan2", "cidrs": ["172.18.2.0/24"]}


def node(name: str, *addresses: str, network: str = "lan1", **more: Any) -> dict[str, Any]:
    attachment: dict[str, Any] = {"name": network}
    if addresses:
        attachment["addresses"] = list(addresses)
    return {"name": name, "networks": [attachment], **more}


def cluster(name: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "nodes": list(nodes) or [node(f"{name}-1")], **more}


def resolve(*settings: str, name: str = "", base: Path | None = None, **spec: Any) -> Plan:
    spec.setdefault("networks", [LAN1, LAN2])
    document = {"apiVersion": topology.API_VERSION, "kind": "Topology", "metadata": {"name": "t"}, "spec": spec}
    parsed = msgspec.convert(document, topology.Topology)
    return resolution.resolve(parsed, name=name, settings=settings, base=base)


def problems(*settings: str, name: str = "", **spec: Any) -> list[tuple[str, str]]:
    with pytest.raises(TopologyError) as caught:
        resolve(*settings, name=name, **spec)
    return caught.value.problems


def pool(*cidrs: str, key: str = "clusterPoolIPv4PodCIDRList") -> dict[str, Any]:
    return {"ipam": {"operator": {key: list(cidrs)}}}


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown network": (
        {"hosts": [node("h", network="lan9")]},
        "spec.hosts[0].networks[0].name",
        "no network 'lan9' in spec.networks (there are: lan1, lan2)",
    ),
    "machine on no network": (
        {"hosts": [{"name": "h", "networks": []}]},
        "spec.hosts[0].networks",
        "a machine has to be on a network",
    ),
    "address outside": (
        {"clusters": [cluster("c", node("a"), node("b", "172.18.2.1"))]},
        "spec.clusters[0].nodes[1].networks[0].addresses[0]",
        "172.18.2.1 is not in network lan1 (172.18.1.0/24, fd00:18:1::/64)",
    ),
    "address with a length": (
        {"hosts": [node("h", "172.18.1.2/24")]},
        "spec.hosts[0].networks[0].addresses[0]",
        "'172.18.1.2/24' is not an IP address (the prefix length comes from the network)",
    ),
    "broadcast address": (
        {"hosts": [node("h", "172.18.1.255")]},
        "spec.hosts[0].networks[0].addresses[0]",
        "172.18.1.255 is the network or broadcast address of 172.18.1.0/24",
    ),
    "address twice": (
        {"clusters": [cluster("c", node("a", "172.18.1.9"))], "hosts": [node("h", "172.18.1.9")]},
        "spec.hosts[0].networks[0].addresses[0]",
        "172.18.1.9 is already used by spec.clusters[0].nodes[0].networks[0].addresses[0]",
    ),
    "overlapping networks": (
        {"networks": [LAN1, {"name": "x", "cidrs": ["172.18.0.0/16"]}]},
        "spec.networks[1].cidrs[0]",
        "172.18.0.0/16 overlaps 172.18.1.0/24 of spec.networks[0].cidrs[0]",
    ),
    "host bits": (
        {"networks": [{"name": "x", "cidrs": ["10.0.0.1/8"]}]},
        "spec.networks[0].cidrs[0]",
        "10.0.0.1/8 has host bits set",
    ),
    "network twice": ({"networks": [LAN2, LAN2]}, "spec.networks[1].name", "'lan2' is the name of another network"),
    "machine twice": (
        {"clusters": [cluster("c", node("a"))], "hosts": [node("a")]},
        "spec.hosts[0].name",
        "'a' is already the name of spec.clusters[0].nodes[0]",
    ),
    "bad machine name": (
        {"hosts": [node("Tor_1")]},
        "spec.hosts[0].name",
        "'Tor_1': lower case letters, digits and '-', at most 63 characters",
    ),
    "bad cluster name": (
        {"clusters": [cluster("C")]},
        "spec.clusters[0].name",
        "'C': lower case letters, digits and '-', at most 32 characters",
    ),
    "long cluster name": (
        {"clusters": [cluster("c" * 33, node("a"))]},
        "spec.clusters[0].name",
        f"'{'c' * 33}': lower case letters, digits and '-', at most 32 characters",
    ),
    "cluster twice": (
        {"clusters": [cluster("c", node("a")), cluster("c", node("b"))]},
        "spec.clusters[1].name",
        "'c' is the name of another cluster",
    ),
    "cluster id twice": (
        {"clusters": [cluster("c", id=7), cluster("d", id=7)]},
        "spec.clusters[1].id",
        "7 is the id of c too",
    ),
    "control plane elsewhere": (
        {"clusters": [cluster("c", controlPlane="x")]},
        "spec.clusters[0].controlPlane",
        "'x' is no node of this cluster",
    ),
    "overlapping pod CIDRs": (
        {
            "clusters": [
                cluster("c", values=pool("10.1.0.0/16")),
                cluster("d", values=pool("10.0.0.0/15")),
            ]
        },
        "spec.clusters[1].values.ipam.operator.clusterPoolIPv4PodCIDRList[0]",
        "10.0.0.0/15 overlaps 10.1.0.0/16 of spec.clusters[0].values.ipam.operator.clusterPoolIPv4PodCIDRList[0]",
    ),
    "pod CIDR over a network": (
        {"clusters": [cluster("c", values=pool("fd00:18::/40", key="clusterPoolIPv6PodCIDRList"))]},
        "spec.clusters[0].values.ipam.operator.clusterPoolIPv6PodCIDRList[0]",
        "fd00:18::/40 overlaps fd00:18:1::/64 of spec.networks[0].cidrs",
    ),
    "service CIDR over a network": (
        {"clusters": [cluster("c", serviceCIDRs=["172.18.2.0/25"])]},
        "spec.clusters[0].serviceCIDRs[0]",
        "172.18.2.0/25 overlaps 172.18.2.0/24 of spec.networks[1].cidrs",
    ),
    "tiny service CIDR": (
        {"clusters": [cluster("c", serviceCIDRs=["10.96.0.0/30"])]},
        "spec.clusters[0].serviceCIDRs[0]",
        "10.96.0.0/30 has fewer than 16 addresses",
    ),
    "unknown value": (
        {"clusters": [cluster("c", values={"tunnelProtocl": "vxlan"})]},
        "spec.clusters[0].values.tunnelProtocl",
        "unknown key; did you mean tunnelProtocol?",
    ),
    "unknown value of a node": (
        {"clusters": [cluster("c", node("a", values={"bpf": {"masq": True}}))]},
        "spec.clusters[0].nodes[0].values.bpf.masq",
        "unknown key; did you mean bpf.masquerade?",
    ),
    "value that the cluster decides": (
        {"clusters": [cluster("c", values={"cluster": {"name": "x"}})]},
        "spec.clusters[0].values.cluster.name",
        "comes from spec.clusters[0].name: leave it out here",
    ),
    "route of nobody": (
        {"routes": [{"machine": "x", "to": "default", "via": "172.18.1.1"}]},
        "spec.routes[0].machine",
        "there is no machine 'x'",
    ),
    "route via elsewhere": (
        {"hosts": [node("h")], "routes": [{"machine": "h", "to": "default", "via": "172.18.2.1"}]},
        "spec.routes[0].via",
        "172.18.2.1 is on no network of h",
    ),
    "route across families": (
        {"hosts": [node("h")], "routes": [{"machine": "h", "to": "fd01::/64", "via": "172.18.1.1"}]},
        "spec.routes[0].via",
        "172.18.1.1 is not of the family of fd01::/64",
    ),
    "image of both kinds": (
        {"images": {"x": {"command": ["sh"], "rootfs": "/"}}},
        "spec.images[x]",
        "an image has either command or rootfs",
    ),
    "image without a directory": (
        {"images": {"x": {"rootfs": "/no/such"}}},
        "spec.images[x].rootfs",
        "no directory /no/such",
    ),
    "missing manifest": ({"manifests": ["none.yaml"]}, "spec.manifests[0]", "no file none.yaml"),
    "manifest of no cluster": (
        {"manifests": [{"cluster": "x", "file": __file__}]},
        "spec.manifests[0].cluster",
        "there is no cluster 'x'",
    ),
    "relative file": (
        {"hosts": [node("h", files={"etc/x": ""})]},
        "spec.hosts[0].files[etc/x]",
        "a file's path is absolute and without '..'",
    ),
    "file of the kernel": (
        {"hosts": [node("h", files={"/proc/sys/x": ""})]},
        "spec.hosts[0].files[/proc/sys/x]",
        "/proc is the kernel's: no file can be made there",
    ),
    "empty command": (
        {"hosts": [node("h", run=[[]])]},
        "spec.hosts[0].run[0]",
        "a command is a list with a program's name first",
    ),
}


@pytest.mark.parametrize(("spec", "path", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradiction_names_its_path(spec: dict[str, Any], path: str, message: str) -> None:
    assert (path, message) in problems(**spec)


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        hosts=[node("A"), node("b", network="x")], routes=[{"machine": "c", "to": "default", "via": "1.1.1.1"}]
    )
    assert [path for path, _ in found] == [
        "spec.hosts[1].networks[0].name",
        "spec.hosts[0].name",
        "spec.routes[0].machine",
    ]


def test_wrong_setting_is_refused() -> None:
    assert problems("a", clusters=[cluster("c")]) == [("", "--set 'a' is not of the form a.b=c")]
    assert problems("bpf.x=1", clusters=[cluster("c")])[0][0] == "--set bpf.x"
    comes = ("--set cluster.id", "comes from spec.clusters[].id of the topology")
    assert problems("cluster.id=7", clusters=[cluster("c")]) == [comes]


def test_name_option_wins_and_is_checked() -> None:
    assert resolve(name="other").name == "other"
    assert problems(name="a/b")[0][0] == "metadata.name"


def test_missing_addresses_are_the_first_free_ones() -> None:
    plan = resolve(hosts=[node("a"), node("b"), node("c", "172.18.1.2")])
    assert texts(plan.machine("a")) == ["172.18.1.3/24", "fd00:18:1::2/64"]
    assert texts(plan.machine("b")) == ["172.18.1.4/24", "fd00:18:1::3/64"]
    assert texts(plan.machine("c")) == ["172.18.1.2/24"]


def texts(machine: Machine) -> list[str]:
    return [str(address) for port in machine.ports for address in port.addresses]


def routes(machine: Machine) -> list[str]:
    return [f"{route.destination} via {route.gateway}" for route in machine.routes]


TOR = {"name": "tor", "forward": True, "networks": [{"name": "lan1", "addresses": ["172.18.1.1"]}, {"name": "lan2"}]}


def test_gateway_is_the_only_forwarding_host() -> None:
    plan = resolve(hosts=[node("h"), TOR, node("far", network="lan2")])
    assert routes(plan.machine("h")) == ["0.0.0.0/0 via 172.18.1.1"]
    assert routes(plan.machine("far")) == ["0.0.0.0/0 via 172.18.2.2"]
    assert routes(plan.machine("tor")) == []


def test_two_forwarding_hosts_are_no_gateway() -> None:
    plan = resolve(hosts=[node("h"), TOR, node("other", forward=True)])
    assert routes(plan.machine("h")) == ["::/0 via fd00:18:1::3"]  # only `other` has an IPv6 address


def test_written_default_route_replaces_the_gateway() -> None:
    plan = resolve(hosts=[node("h"), TOR], routes=[{"machine": "h", "to": "default", "via": "172.18.1.77"}])
    assert routes(plan.machine("h")) == ["0.0.0.0/0 via 172.18.1.77"]


def test_nodes_forward_but_are_no_gateways() -> None:
    plan = resolve(clusters=[cluster("c", node("a"))], hosts=[node("h")])
    assert plan.machine("a").forward
    assert routes(plan.machine("h")) == []


def test_values_are_merged_from_lab_cluster_node_and_settings() -> None:
    nodes = (node("a"), node("b", values={"debug": {"enabled": True}}))
    plan = resolve("bpf.natMax=9", clusters=[cluster("c", *nodes, id=3, values={"bpf": {"ctTcpMax": 7, "natMax": 8}})])
    values = plan.machine("b").values
    assert values["cluster"] == {"name": "c", "id": 3}
    assert values["bpf"]["ctTcpMax"] == 7
    assert values["bpf"]["natMax"] == 9
    assert values["bpf"]["ipcacheMax"] == 32768
    assert values["ipv6"] == {"enabled": True}
    assert values["debug"] == {"enabled": True}
    assert "debug" not in plan.machine("a").values


def test_families_follow_the_networks_and_the_values() -> None:
    plan = resolve(
        networks=[{"name": "lan2", "cidrs": ["fd09::/64"]}], clusters=[cluster("c", node("a", network="lan2"))]
    )
    assert (plan.machine("a").values["ipv4"], plan.machine("a").values["ipv6"]) == (
        {"enabled": False},
        {"enabled": True},
    )
    assert [str(cidr) for cidr in plan.clusters[0].service_cidrs] == ["fd00:96::/112"]
    plan = resolve("ipv6.enabled=true", networks=[LAN2], clusters=[cluster("c", node("a", network="lan2"))])
    assert [str(cidr) for cidr in plan.clusters[0].service_cidrs] == ["10.96.0.0/16", "fd00:96::/112"]
    plan = resolve(networks=[LAN2], clusters=[cluster("c", node("a", network="lan2"))])
    assert plan.machine("a").values["ipv6"] == {"enabled": False}
    assert [str(cidr) for cidr in plan.clusters[0].service_cidrs] == ["10.96.0.0/16"]
    plan = resolve(clusters=[cluster("c", node("a", network="lan2"))])
    assert [str(a) for a in plan.clusters[0].api_addresses] == ["10.96.0.1", "fd00:96::1"]
    assert [str(a) for a in plan.clusters[0].dns_addresses] == ["10.96.0.10", "fd00:96::a"]


def test_cluster_ids_are_given_when_there_are_several() -> None:
    assert [c.id for c in resolve(clusters=[cluster("c")]).clusters] == [0]
    assert [c.id for c in resolve(clusters=[cluster("c"), cluster("d")]).clusters] == [1, 2]


def test_files_are_found_beside_the_topology(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").touch()
    (tmp_path / "root").mkdir()
    plan = resolve(base=tmp_path, clusters=[cluster("c")], manifests=["web.yaml"], images={"x": {"rootfs": "root"}})
    assert [(m.path, m.clusters) for m in plan.manifests] == [(str(tmp_path / "web.yaml"), ("c",))]
    assert plan.images["x"].rootfs == str(tmp_path / "root")
