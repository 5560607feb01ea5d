"""Routes, overlay senders and masquerade exclusions that follow from nodes and endpoints."""

from __future__ import annotations

from stentor.ipam.route import derive_masquerade_exclusions, derive_node_addresses, derive_routes
from stentor.net.address import Addr, Prefix
from stentor.net.identity import Reserved
from stentor.state import Database, Graph
from stentor.tables.endpoint import Endpoint, endpoints
from stentor.tables.masquerade import masquerade_exclusions
from stentor.tables.node import Node, node_addresses, nodes
from stentor.tables.route import routes


def node(name: str, number: int, *, is_local: bool = False, router: bool = True) -> Node:
    addresses = [("InternalIP", Addr.parse(f"172.18.0.{number}"))]
    if router:
        addresses.append(("CiliumInternalIP", Addr.parse(f"10.0.{number}.1")))
    prefix = Prefix.parse(f"10.0.{number}.0/24")
    return Node(name=name, addresses=tuple(addresses), pod_cidrs=(prefix,), is_local=is_local)


def test_routes_of_pods_here_and_elsewhere() -> None:
    database, graph = Database(), None
    pods, cluster, output = endpoints(), nodes(), routes()
    graph = Graph(database, lambda run: None)
    graph.add(derive_routes(pods, cluster, output, mtu=1450))
    database.put(cluster, node("n1", 1, is_local=True, router=False), node("n2", 2))
    pod = Endpoint(
        id=1, container_id="c", container_ifname="eth0", netns="", namespace="d", pod="p", host_ifname="lxc1", ifindex=7,
        mac=b"\2\0\0\0\0\1", ipv4=Addr.parse("10.0.1.5"),
    )  # fmt: skip
    database.put(pods, pod)
    graph.settle()
    before = {str(row.prefix): (row.device, str(row.source), row.mtu, row.metric) for row in output}
    # Without a router address nothing can be sent to other nodes' pods.
    assert before == {"10.0.1.0/24": ("", "None", 0, 1 << 20), "10.0.1.5/32": ("lxc1", "None", 0, 0)}
    database.put(cluster, node("n1", 1, is_local=True))
    graph.settle()
    after = {str(row.prefix): (row.device, str(row.source), row.mtu, row.metric) for row in output}
    assert after == {
        "10.0.1.0/24": ("", "None", 0, 1 << 20),
        "10.0.1.5/32": ("lxc1", "10.0.1.1", 0, 0),
        "10.0.2.0/24": ("cilium_host", "10.0.1.1", 1450, 0),
    }
    database.delete(pods, 1)
    database.delete(cluster, ("default", "n2"))
    graph.settle()
    assert [str(row.prefix) for row in output] == ["10.0.1.0/24"]


def test_only_underlay_addresses_of_others_may_send_into_the_overlay() -> None:
    database = Database()
    cluster, output = nodes(), node_addresses()
    graph = Graph(database, lambda run: None)
    graph.add(derive_node_addresses(cluster, output))
    database.put(cluster, node("n1", 1, is_local=True), node("n2", 2))
    graph.settle()
    assert [(str(row.addr), row.identity) for row in output] == [("172.18.0.2", Reserved.REMOTE_NODE)]


def test_pods_see_pods_unmasqueraded() -> None:
    database = Database()
    cluster, output = nodes(), masquerade_exclusions()
    graph = Graph(database, lambda run: None)
    graph.add(derive_masquerade_exclusions(cluster, output, native=(Prefix.parse("192.168.0.0/16"),)))
    database.put(cluster, node("n1", 1, is_local=True), node("n2", 2))
    graph.settle()
    assert sorted(str(row.prefix) for row in output) == ["10.0.1.0/24", "10.0.2.0/24", "192.168.0.0/16"]
