"""What a node announces: each condition by itself, and the whole kept up to date as when it is computed from scratch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.agent.state import Tables
from stentor.api.meta import LabelSelector, ObjectKey
from stentor.l2.selection import AnnouncementTables, derive, lease_name
from stentor.net.address import Addr
from stentor.services.claim import derive as derive_services
from stentor.services.frontend import Settings
from stentor.state import Graph
from stentor.tables.announcement import L2Lease, L2Policy, Link, Problem
from stentor.tables.node import Node
from stentor.tables.service import (
    EndpointSlice,
    LocalNode,
    Port,
    Protocol,
    Service,
    SliceEndpoint,
    SlicePort,
)

VIP, VIP6, EXTERNAL = (Addr.parse(text) for text in ("192.0.2.100", "2001:db8::100", "192.0.2.50"))
ETH0, ETH1 = (Link(name=name, ifindex=n, mac=bytes([2, 0, 0, 0, 0, n])) for n, name in enumerate(("eth0", "eth1"), 2))
HERE = LocalNode(name="here", labels=(("edge", "yes"),))
ALL = L2Policy(name="all", load_balancer_ips=True)


def service(name: str = "web", **fields: Any) -> Service:
    defaults: dict[str, Any] = {
        "key": ObjectKey("default", name),
        "type": "LoadBalancer",
        "cluster_ips": (Addr.parse("10.96.0.1"), Addr.parse("fd00:96::1")),
        "ingress_ips": (VIP, VIP6),
        "ports": (Port(port=80),),
        "labels": (("app", name),),
    }
    return Service(**defaults | fields)


def endpoints(*nodes: str, name: str = "web", **fields: Any) -> EndpointSlice:
    found = tuple(SliceEndpoint(addr=Addr.parse(f"10.0.0.{n}"), node=node, **fields) for n, node in enumerate(nodes, 1))
    key = ObjectKey("default", name)
    return EndpointSlice(key=key, service=key, ports=(SlicePort("", Protocol.TCP, 8080),), endpoints=found)


class Agent:
    """The tables of an agent with the derivations of services and announcements."""

    def __init__(self, *, external_ips: bool = True) -> None:
        tables = Tables()
        self.database, self.l2 = tables.database, tables.l2
        pending: list[Callable[[], object]] = []
        self.graph = Graph(self.database, pending.append)
        derive_services(self.graph, tables.services, Settings())
        derive(self.graph, self.l2, external_ips=external_ips)
        self.put(HERE, ETH0)

    def table_of(self, row: object) -> Any:
        own: AnnouncementTables = self.l2
        by_type: dict[type, Any] = {
            LocalNode: own.local_nodes, Link: own.links, Service: own.services, EndpointSlice: own.slices,
            L2Policy: own.policies, L2Lease: own.leases, Node: own.nodes,
        }  # fmt: skip
        return by_type[type(row)]

    def put(self, *rows: object) -> None:
        for row in rows:
            self.database.put(self.table_of(row), row)
        self.graph.settle()

    def delete(self, row: object) -> None:
        table = self.table_of(row)
        self.database.delete(table, table.key(row))
        self.graph.settle()

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        return {str(row.addr): row.interfaces for row in self.l2.wanted}


def test_an_address_is_wanted_and_announced_with_the_lease() -> None:
    agent = Agent()
    agent.put(ALL, service(), ETH1)
    assert agent.wanted == {str(VIP): ("eth0", "eth1"), str(VIP6): ("eth0", "eth1")}
    assert len(agent.l2.announcements) == 0
    lease = L2Lease(name="cilium-l2announce-default-web", holder="here", is_ours=True)
    agent.put(lease)
    assert {(row.addr, row.ifindex, row.mac) for row in agent.l2.announcements} == {
        (addr, link.ifindex, link.mac) for addr in (VIP, VIP6) for link in (ETH0, ETH1)
    }
    agent.put(msgspec.structs.replace(ETH0, mac=b"\2\0\0\0\0\xff"))
    assert {row.mac for row in agent.l2.announcements} == {b"\2\0\0\0\0\xff", ETH1.mac}
    agent.put(msgspec.structs.replace(lease, is_ours=False))
    assert len(agent.l2.announcements) == 0


def selector(**labels: str) -> LabelSelector:
    return LabelSelector(match_labels={key.replace("_", "."): value for key, value in labels.items()})


NAMED = {"io.kubernetes.service.namespace": "default", "io.kubernetes.service.name": "web"}


@pytest.mark.parametrize(
    ("policy", "of", "announces"),
    [
        (ALL, service(), True),
        (L2Policy(name="nothing"), service(), False),
        (L2Policy(name="other-kind", external_ips=True), service(), False),
        (msgspec.structs.replace(ALL, problems=(Problem("c", "m"),)), service(), False),
        (msgspec.structs.replace(ALL, service_selector=selector(app="web")), service(), True),
        (msgspec.structs.replace(ALL, service_selector=selector(app="db")), service(), False),
        (msgspec.structs.replace(ALL, service_selector=LabelSelector(match_labels=NAMED)), service(), True),
        (msgspec.structs.replace(ALL, service_selector=LabelSelector(match_labels=NAMED)), service("db"), False),
        (msgspec.structs.replace(ALL, node_selector=selector(edge="yes")), service(), True),
        (msgspec.structs.replace(ALL, node_selector=selector(edge="no")), service(), False),
        (msgspec.structs.replace(ALL, interfaces=("^wlan", "^eth")), service(), True),
        (msgspec.structs.replace(ALL, interfaces=("^wlan",)), service(), False),
        (ALL, service(load_balancer_class="io.cilium/l2-announcer"), True),
        (ALL, service(load_balancer_class="io.cilium/bgp-control-plane"), False),
        (ALL, service(node_selector="edge=no"), False),
        (ALL, service(ports=()), False),
    ],
)
def test_who_is_selected(policy: L2Policy, of: Service, announces: bool) -> None:
    agent = Agent()
    agent.put(policy, of)
    assert (str(VIP) in agent.wanted) is announces


@pytest.mark.parametrize("enabled", [True, False])
def test_external_addresses(enabled: bool) -> None:
    agent = Agent(external_ips=enabled)
    of = service(type="ClusterIP", ingress_ips=(), external_ips=(EXTERNAL,))
    agent.put(L2Policy(name="external", external_ips=True), of)
    assert agent.wanted == ({str(EXTERNAL): ("eth0",)} if enabled else {})


def test_policies_add_up() -> None:
    agent = Agent()
    agent.put(
        ETH1, service(), *(msgspec.structs.replace(ALL, name=name, interfaces=(name,)) for name in ("eth0", "eth1"))
    )
    assert agent.wanted[str(VIP)] == ("eth0", "eth1")
    assert agent.l2.wanted[VIP].policies == ("eth0", "eth1")


@pytest.mark.parametrize(
    ("found", "announces"),
    [
        (endpoints(), False),
        (endpoints("elsewhere"), False),
        (endpoints("here"), True),
        (endpoints("here", "elsewhere"), True),
        (endpoints("here", is_ready=False, is_serving=True, is_terminating=True), True),
        (endpoints("here", is_ready=False, is_serving=False), False),
    ],
    ids=["nobody", "elsewhere", "here", "everywhere", "last-one-terminates", "not-serving"],
)
def test_local_policy_needs_an_endpoint(found: EndpointSlice, announces: bool) -> None:
    agent = Agent()
    agent.put(ALL, service(external_local=True), found)
    assert (str(VIP) in agent.wanted) is announces


def test_a_terminating_endpoint_gives_way_to_a_ready_one_elsewhere() -> None:
    agent = Agent()
    ending = SliceEndpoint(
        addr=Addr.parse("10.0.0.1"), node="here", is_ready=False, is_serving=True, is_terminating=True
    )
    ready = SliceEndpoint(addr=Addr.parse("10.0.0.2"), node="elsewhere")
    agent.put(ALL, service(external_local=True), endpoints())
    for has_other in (True, False, True):
        found = (ending, ready) if has_other else (ending,)
        agent.put(msgspec.structs.replace(endpoints(), endpoints=found))
        assert (str(VIP) in agent.wanted) is not has_other


def test_an_address_of_a_node_is_never_announced() -> None:
    agent = Agent()
    node = Node(name="n", addresses=(("InternalIP", VIP),))
    agent.put(ALL, service(), node)
    assert list(agent.wanted) == [str(VIP6)]
    agent.delete(node)
    assert sorted(agent.wanted) == sorted((str(VIP), str(VIP6)))


def test_services_that_share_an_address_have_one_lease() -> None:
    agent = Agent()
    first, second = service("a"), service("b", ports=(Port(port=81),))
    only_b = msgspec.structs.replace(ALL, service_selector=selector(app="b"))
    agent.put(only_b, first, second)
    row = agent.l2.wanted[VIP]
    assert (row.lease, row.services) == (lease_name(first.key), (second.key,))
    agent.delete(first)
    assert agent.l2.wanted[VIP].lease == lease_name(second.key)


ROWS: list[list[object]] = [
    [ALL, msgspec.structs.replace(ALL, interfaces=("eth1",)), msgspec.structs.replace(ALL, external_ips=True)],
    [L2Policy(name="x", external_ips=True, service_selector=selector(app="b")), L2Policy(name="x", load_balancer_ips=True)],
    [service("a"), service("a", external_local=True), service("a", external_ips=(EXTERNAL,), load_balancer_class="x")],
    [service("b", ingress_ips=(VIP,)), service("b", external_ips=(EXTERNAL,), external_local=True)],
    [endpoints("here", name="a"), endpoints("elsewhere", name="a"), endpoints("here", "elsewhere", name="a")],
    [endpoints("here", name="b"), endpoints("elsewhere", name="b", is_ready=False, is_terminating=True)],
    [ETH0, msgspec.structs.replace(ETH0, ifindex=9)],
    [ETH1],
    [HERE, msgspec.structs.replace(HERE, labels=())],
    [Node(name="n", addresses=(("InternalIP", VIP),)), Node(name="n", addresses=(("ExternalIP", EXTERNAL),))],
    [L2Lease(name=lease_name(ObjectKey("default", "a")), holder="here", is_ours=ours) for ours in (True, False)],
    [L2Lease(name=lease_name(ObjectKey("default", "b")), holder="here", is_ours=ours) for ours in (True, False)],
]  # fmt: skip


@settings(max_examples=150)
@given(
    steps=st.lists(st.tuples(st.integers(0, len(ROWS) - 1), st.integers(0, 3)), max_size=40), seed=st.integers(0, 99)
)
def test_step_by_step_is_as_from_scratch(steps: list[tuple[int, int]], seed: int) -> None:
    agent, present = Agent(), {6: ETH0, 8: HERE}
    for which, variant in steps:
        if variant < len(ROWS[which]):
            present[which] = ROWS[which][variant]  # type: ignore[assignment]
            agent.put(present[which])
        elif which in present:
            agent.delete(present.pop(which))
    fresh = Agent()
    fresh.delete(ETH0)
    fresh.delete(HERE)
    rows: list[object] = list(present.values())
    random.Random(seed).shuffle(rows)
    fresh.put(*rows)
    assert dict(agent.l2.wanted.items()) == dict(fresh.l2.wanted.items())
    assert dict(agent.l2.announcements.items()) == dict(fresh.l2.announcements.items())
