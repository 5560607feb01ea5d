"""Derived entries equal what a plain reading of Kubernetes' rules gives, in any order of events; Maglev keeps its promises."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.api.meta import ObjectKey
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.services.claim import ServiceTables, derive
from stentor.services.frontend import Settings
from stentor.state import Database, Graph
from stentor.tables import service as tables
from stentor.tables.realized import realized
from stentor.tables.service import (
    Backend,
    Distribution,
    EndpointSlice,
    HostPort,
    HostPorts,
    LBEntry,
    LocalNode,
    Port,
    Protocol,
    Service,
    SliceEndpoint,
    SlicePort,
)

NAMES = st.sampled_from("abc").map(lambda name: ObjectKey("ns", name))
CLUSTER_IPS = [Addr.parse(f"10.96.0.{n}") for n in range(1, 4)]
PODS = [Addr.parse(f"10.0.0.{n}") for n in range(1, 6)]
NODES = st.sampled_from(["n1", "n2", "n3"])
ZONES = st.sampled_from(["z1", "z2", ""])
PORTS = st.lists(st.integers(1, 3), max_size=2, unique=True).map(
    lambda numbers: tuple(Port(name=f"p{n}", port=n, node_port=30000 + n) for n in numbers)
)
SERVICES = st.builds(
    Service,
    key=NAMES,
    cluster_ips=st.lists(st.sampled_from(CLUSTER_IPS), min_size=1, max_size=1).map(tuple),
    external_ips=st.lists(st.sampled_from(CLUSTER_IPS), max_size=1).map(tuple),
    ports=PORTS,
    is_headless=st.sampled_from([False, False, False, True]),
    external_local=st.booleans(),
    internal_local=st.booleans(),
    affinity_s=st.sampled_from([0, 60]),
    distribution=st.sampled_from(Distribution),
)
ENDPOINTS = st.builds(
    SliceEndpoint,
    addr=st.sampled_from(PODS),
    is_ready=st.booleans(),
    is_serving=st.booleans(),
    is_terminating=st.booleans(),
    node=NODES,
    zone=ZONES,
    zones=st.sampled_from([frozenset[str](), frozenset({"z1"}), frozenset({"z1", "z2"})]),
    nodes=st.sampled_from([frozenset[str](), frozenset({"n1"})]),
)
SLICES = st.builds(
    EndpointSlice,
    key=st.sampled_from("uvw").map(lambda name: ObjectKey("ns", name)),
    service=NAMES,
    ports=st.lists(st.integers(1, 3), max_size=3, unique=True).map(
        lambda numbers: tuple(SlicePort(f"p{n}", Protocol.TCP, 8000 + n) for n in numbers)
    ),
    endpoints=st.lists(ENDPOINTS, max_size=5, unique_by=lambda each: each.addr).map(tuple),
)
HOST_PORT = st.builds(
    HostPort,
    container=st.sampled_from("cd"),
    protocol=st.just(Protocol.TCP),
    host_ip=st.sampled_from([None, CLUSTER_IPS[0]]),
    host_port=st.integers(1, 3),
    port=st.just(80),
)
HOST_PORTS = st.builds(
    HostPorts,
    pod=NAMES,
    addresses=st.sampled_from(PODS).map(lambda addr: (addr,)),
    ports=st.lists(HOST_PORT, min_size=1, max_size=2, unique_by=lambda each: each.container).map(tuple),
)
LOCAL = st.builds(
    LocalNode, name=st.just("n1"), zone=ZONES, addresses=st.sampled_from([(), (Addr.parse("172.18.0.1"),)])
)
EVENTS = st.lists(
    st.one_of(
        SERVICES,
        SLICES,
        HOST_PORTS,
        LOCAL,
        st.tuples(st.sampled_from(["drop service", "drop slice", "drop host port"]), st.integers(0, 9)),
        st.just("settle"),
    ),
    max_size=40,
)
SETTINGS = Settings(families=(4,), topology_hints=True)


class World:
    """The tables and derivations of services, fed with events."""

    def __init__(self) -> None:
        self.database = Database()
        self.tables = ServiceTables(
            services=tables.services(),
            slices=tables.endpoint_slices(),
            host_ports=tables.host_ports(),
            nodes=tables.local_nodes(),
            frontends=tables.frontends(),
            entries=tables.lb_entries(),
            realized=realized("lb-entries"),
        )
        self.graph = Graph(self.database, schedule=lambda work: None)
        derive(self.graph, self.tables, SETTINGS)

    def feed(self, event: object) -> None:
        match event:
            case Service():
                self.database.put(self.tables.services, event)
            case EndpointSlice():
                self.database.put(self.tables.slices, event)
            case HostPorts():
                self.database.put(self.tables.host_ports, event)
            case LocalNode():
                self.database.put(self.tables.nodes, event)
            case (str(what), int(number)):
                table = {
                    "drop service": self.tables.services,
                    "drop slice": self.tables.slices,
                    "drop host port": self.tables.host_ports,
                }[what]
                keys = [key for key, _ in table.items()]  # type: ignore[attr-defined]
                if keys:
                    self.database.delete(table, keys[number % len(keys)])  # type: ignore[type-var,arg-type]
            case _:
                self.graph.settle()


def plainly_selected(
    service: Service, port: Port, slices: list[EndpointSlice], node: LocalNode, local: bool
) -> set[tuple[Addr, int, bool]]:
    """The rules one after the other, without sharing: (address, port, is terminating)."""
    claims: dict[tuple[Addr, int], list[SliceEndpoint]] = {}
    for each in sorted(slices, key=lambda row: row.key):
        for number in (p.port for p in each.ports if p.name == port.name):
            for endpoint in each.endpoints:
                claims.setdefault((endpoint.addr, number), []).append(endpoint)
    every = {}
    for key, found in claims.items():  # what two slices say of one endpoint: the better, else the first
        ready, serving = [e for e in found if e.is_ready], [e for e in found if e.is_serving]
        every[key] = (ready or serving or found)[0]
    here = {key: e for key, e in every.items() if not local or e.node == node.name}
    ready = {key for key, e in here.items() if e.is_ready}
    leaving = {key for key, e in here.items() if not e.is_ready and e.is_serving and e.is_terminating}
    if not local:
        wants_node = service.distribution is Distribution.SAME_NODE
        wants_zone = service.distribution in (Distribution.SAME_NODE, Distribution.SAME_ZONE)
        by_hint = {key for key in ready if node.name in every[key].nodes}
        if any(not every[key].nodes for key in ready):
            by_hint = set()
        same_node = by_hint or ({key for key in ready if every[key].node == node.name} if wants_node else set())
        hinted = all(every[key].zones for key in ready)
        unhinted = not any(every[key].zones for key in ready)
        same_zone: set[tuple[Addr, int]] = set()
        if node.zone and hinted and not unhinted:
            same_zone = {key for key in ready if node.zone in every[key].zones}
        elif node.zone and unhinted and wants_zone:
            same_zone = {key for key in ready if every[key].zone == node.zone}
        ready = same_node or same_zone or ready
    return {(*key, False) for key in ready} | {(*key, True) for key in leaving}


def as_set(backends: tuple[Backend, ...]) -> set[tuple[Addr, int, bool]]:
    return {(each.addr, each.port, each.is_terminating) for each in backends}


@given(EVENTS)
@settings(max_examples=300)
def test_incremental_equals_from_scratch_and_each_entry_a_plain_reading(events: list[object]) -> None:
    world = World()
    for event in events:
        world.feed(event)
    world.graph.settle()

    scratch = World()
    for table in ("services", "slices", "host_ports", "nodes"):
        scratch.database.put(getattr(scratch.tables, table), *reversed(list(getattr(world.tables, table))))
    scratch.graph.settle()
    assert dict(world.tables.entries.items()) == dict(scratch.tables.entries.items())

    node = next(iter(world.tables.nodes), None)
    for row in world.tables.frontends:
        service = world.tables.services.get(row.service)
        if service is None or node is None or not row.port_name:
            continue
        port = next(port for port in service.ports if port.name == row.port_name)
        slices = world.tables.slices.by("service", service.key)
        assert as_set(row.entry.internal) == plainly_selected(service, port, slices, node, service.internal_local)
        if row.type.is_external:
            assert as_set(row.entry.external) == plainly_selected(service, port, slices, node, service.external_local)


@given(EVENTS)
def test_active_backends_come_first_in_order(events: list[object]) -> None:
    world = World()
    for event in events:
        world.feed(event)
    world.graph.settle()
    for entry in world.tables.entries:
        assert isinstance(entry, LBEntry)
        for backends in (entry.internal, entry.external):
            assert list(backends) == sorted(backends, key=lambda each: (each.is_terminating, each))
            assert len(set(backends)) == len(backends)


BACKENDS = st.lists(st.integers(1, 400), min_size=1, max_size=40, unique=True).map(
    lambda numbers: [Backend(Addr.parse(f"10.0.{n // 250}.{n % 250 + 1}"), 80) for n in numbers]
)
SEED = maglev.parse_seed(maglev.DEFAULT_SEED)


@given(BACKENDS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_maglev_is_even_and_does_not_depend_on_order(backends: list[Backend], rng: object) -> None:
    size = 4093
    owners = [backends[position] for position in maglev.table(backends, size, SEED)]
    shuffled = backends[::-1]
    assert owners == [shuffled[position] for position in maglev.table(shuffled, size, SEED)]
    shares = Counter(owners)
    assert len(owners) == size
    assert max(shares.values()) - min(shares[each] for each in backends) <= 1


def test_maglev_moves_few_other_flows_when_one_of_100_leaves() -> None:
    backends = [Backend(Addr.parse(f"10.0.0.{n}"), 8080) for n in range(1, 101)]
    before = maglev.table(backends, maglev.DEFAULT_SIZE, SEED)
    moved = []
    for gone in range(0, 100, 10):
        rest = backends[:gone] + backends[gone + 1 :]
        after = maglev.table(rest, maglev.DEFAULT_SIZE, SEED)
        stayed = [(a, b) for a, b in zip(before, after, strict=True) if a != gone]
        moved.append(sum(1 for a, b in stayed if backends[a] != rest[b]) / len(stayed))
    assert sorted(moved)[len(moved) // 2] <= 0.015
