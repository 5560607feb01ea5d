"""The ipcache derivation: who wins, and incremental equals from scratch for any order of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stentor.identity.ipcache import derive_ipcache
from stentor.net.address import Addr, Prefix
from stentor.net.identity import Reserved
from stentor.state import Database, Graph
from stentor.tables.endpoint import Endpoint, PublishedEndpoint, endpoints, published_endpoints
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag, ipcache
from stentor.tables.node import Node, nodes


class World:
    """Inputs, the derivation and its output; settled on demand."""

    def __init__(self, node_ports: Sequence[Prefix] = ()) -> None:
        self.database = Database()
        self.endpoints, self.published, self.nodes = endpoints(), published_endpoints(), nodes()
        self.output = ipcache()
        self.graph = Graph(self.database, lambda run: None)
        inputs = self.endpoints, self.published, self.nodes
        self.graph.add(derive_ipcache(*inputs, self.output, families=(4, 6), node_ports=node_ports))

    def rows(self) -> dict[Prefix, IPCacheEntry]:
        self.graph.settle()
        return dict(self.output.items())

    def at(self, text: str) -> IPCacheEntry | None:
        return self.rows().get(Prefix.parse(text))


def local_endpoint(number: int, ip: str, identity: int) -> Endpoint:
    return Endpoint(
        id=number, container_id=f"c{number}", container_ifname="eth0", netns="", namespace="d", pod=f"p{number}",
        host_ifname="lxc", ifindex=1, mac=b"\2\0\0\0\0\1", ipv4=Addr.parse(ip), identity=identity,
    )  # fmt: skip


def remote_endpoint(name: str, ip: str, identity: int, node: str) -> PublishedEndpoint:
    return PublishedEndpoint(
        namespace="d", name=name, identity=identity, addresses=(Addr.parse(ip),), node=Addr.parse(node), state="ready"
    )


def cluster_node(name: str, ip: str, cidr: str, router: str, *, is_local: bool = False) -> Node:
    addresses = (("InternalIP", Addr.parse(ip)), ("CiliumInternalIP", Addr.parse(router)))
    return Node(name=name, addresses=addresses, pod_cidrs=(Prefix.parse(cidr),), is_local=is_local)


LOCAL = cluster_node("n1", "172.18.0.1", "10.0.1.0/24", "10.0.1.1", is_local=True)
REMOTE = cluster_node("n2", "172.18.0.2", "10.0.2.0/24", "10.0.2.1")


def test_everything_known_about_nodes_and_pods() -> None:
    world = World()
    world.database.put(world.nodes, LOCAL, REMOTE)
    world.database.put(world.endpoints, local_endpoint(1, "10.0.1.5", 300))
    world.database.put(world.published, remote_endpoint("r", "10.0.2.7", 301, "172.18.0.2"))
    far = Addr.parse("172.18.0.2")
    summary = {str(p): (row.identity, row.tunnel, row.flags) for p, row in world.rows().items()}
    assert summary == {
        "172.18.0.1/32": (Reserved.HOST, None, IPCacheFlag.NONE),
        "10.0.1.1/32": (Reserved.HOST, None, IPCacheFlag.NONE),
        "172.18.0.2/32": (Reserved.REMOTE_NODE, far, IPCacheFlag.SKIP_TUNNEL),
        "10.0.2.1/32": (Reserved.REMOTE_NODE, far, IPCacheFlag.NONE),
        "10.0.2.0/24": (Reserved.WORLD, far, IPCacheFlag.NONE),
        "10.0.1.5/32": (300, None, IPCacheFlag.NONE),
        "10.0.2.7/32": (301, far, IPCacheFlag.NONE),
    }


def test_node_ports_are_served_at_some_addresses_only() -> None:
    world = World(node_ports=(Prefix.parse("172.18.0.1/32"),))
    world.database.put(world.nodes, LOCAL, REMOTE)
    flags = {str(p): row.flags for p, row in world.rows().items() if p.is_host}
    assert flags == {
        "172.18.0.1/32": IPCacheFlag.NONE,
        "10.0.1.1/32": IPCacheFlag.NO_NODE_PORT,
        "172.18.0.2/32": IPCacheFlag.NO_NODE_PORT | IPCacheFlag.SKIP_TUNNEL,
        "10.0.2.1/32": IPCacheFlag.NO_NODE_PORT,
    }


def test_an_endpoint_without_identity_is_not_in() -> None:
    world = World()
    world.database.put(world.nodes, LOCAL)
    world.database.put(world.endpoints, local_endpoint(1, "10.0.1.5", 0))
    assert world.at("10.0.1.5/32") is None


def test_what_is_here_wins_over_what_the_api_still_says() -> None:
    world = World()
    world.database.put(world.nodes, LOCAL, REMOTE)
    world.database.put(world.published, remote_endpoint("old", "10.0.1.5", 301, "172.18.0.2"))
    world.database.put(world.endpoints, local_endpoint(1, "10.0.1.5", 300))
    entry = world.at("10.0.1.5/32")
    assert entry is not None
    assert (entry.identity, entry.tunnel) == (300, None)


def test_a_pod_is_known_once_its_node_is() -> None:
    world = World()
    world.database.put(world.nodes, LOCAL)
    world.database.put(world.published, remote_endpoint("r", "10.0.2.7", 301, "172.18.0.2"))
    assert world.at("10.0.2.7/32") is None
    world.database.put(world.nodes, REMOTE)
    assert world.at("10.0.2.7/32") is not None
    world.database.delete(world.nodes, ("default", "n2"))
    assert world.at("10.0.2.7/32") is None


NODES = [
    LOCAL,
    REMOTE,
    cluster_node("n2", "172.18.0.3", "10.0.2.0/24", "10.0.2.1"),
    cluster_node("n3", "172.18.0.3", "10.0.3.0/24", "10.0.3.1"),
]
IPS = ("10.0.1.5", "10.0.1.6", "10.0.2.7", "10.0.3.1")
Op = Callable[[World], Any]


def put_node(row: Node) -> Op:
    return lambda world: world.database.put(world.nodes, row)


def drop_node(name: str) -> Op:
    return lambda world: world.database.delete(world.nodes, ("default", name))


def put_local(number: int, ip: str, identity: int) -> Op:
    return lambda world: world.database.put(world.endpoints, local_endpoint(number, ip, identity))


def drop_local(number: int) -> Op:
    return lambda world: world.database.delete(world.endpoints, number)


def put_remote(name: str, ip: str, identity: int, node: str) -> Op:
    return lambda world: world.database.put(world.published, remote_endpoint(name, ip, identity, node))


def drop_remote(name: str) -> Op:
    return lambda world: world.database.delete(world.published, ("d", name))


def settle(world: World) -> None:
    world.graph.settle()


operations = st.one_of(
    st.sampled_from(NODES).map(put_node),
    st.sampled_from(["n1", "n2", "n3"]).map(drop_node),
    st.builds(put_local, st.integers(1, 3), st.sampled_from(IPS), st.sampled_from([0, 300, 301])),
    st.integers(1, 3).map(drop_local),
    st.builds(
        put_remote,
        st.sampled_from("xy"),
        st.sampled_from(IPS),
        st.sampled_from([0, 302]),
        st.sampled_from(["172.18.0.1", "172.18.0.2", "172.18.0.3"]),
    ),
    st.sampled_from("xy").map(drop_remote),
    st.just(settle),
)


@given(st.lists(operations, max_size=30))
def test_incremental_equals_from_scratch(steps: list[Op]) -> None:
    world = World()
    for step in steps:
        step(world)
    fresh = World()
    with fresh.database.write() as txn:
        for name in ("nodes", "endpoints", "published"):
            for row in getattr(world, name):
                txn.put(getattr(fresh, name), row)
    assert world.rows() == fresh.rows()
