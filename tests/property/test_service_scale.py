"""Large and wrong input: 5,000 endpoints behind one service, thousands of services, what is no service at all."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from stentor.api import core
from stentor.api.meta import ObjectKey
from stentor.net.address import Addr
from stentor.services.claim import ServiceTables, derive
from stentor.services.frontend import Settings
from stentor.services.parse import parse_service, parse_slice
from stentor.state import Database, Graph
from stentor.tables import service as tables
from stentor.tables.realized import realized
from stentor.tables.service import Backend, LocalNode


class World:
    """Tables and derivations."""

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
        derive(self.graph, self.tables, Settings())
        self.database.put(self.tables.nodes, LocalNode(name="node-1"))

    def apply(self, raw: dict[str, object]) -> None:
        service = parse_service(msgspec.convert(raw, core.Service))
        assert service is not None
        self.database.put(self.tables.services, service)


def service(name: str, **spec: object) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def slice_of(name: str, number: int, addresses: list[str]) -> core.EndpointSlice:
    meta = {"name": f"{name}-{number}", "namespace": "default", "labels": {"kubernetes.io/service-name": name}}
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    raw = {"metadata": meta, "addressType": "IPv4", "ports": [{"name": "", "port": 80}], "endpoints": endpoints}
    return msgspec.convert(raw, core.EndpointSlice)


def test_five_thousand_endpoints_and_one_that_leaves() -> None:
    world = World()
    world.apply(service("large", clusterIPs=["10.96.0.1"], ports=[{"port": 80}]))
    every = [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(5_000)]
    for number in range(50):
        row = parse_slice(slice_of("large", number, every[number * 100 : number * 100 + 100]))
        assert row is not None
        world.database.put(world.tables.slices, row)
    world.graph.settle()
    (entry,) = world.tables.entries
    assert len(entry.internal) == 5_000
    row = parse_slice(slice_of("large", 7, every[700:799]))
    assert row is not None
    world.database.put(world.tables.slices, row)
    assert world.graph.settle() == 2  # the service, and its one address
    (entry,) = world.tables.entries
    assert {str(each.addr) for each in entry.internal} == set(every) - {every[799]}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"ports": []},
        {"clusterIPs": ["None"], "ports": [{"port": 80}]},
        {"clusterIPs": ["10.96.0.1"]},
        {"clusterIPs": ["x", ""], "ports": [{"port": 80}]},
        {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 0}, {"port": 70000}]},
        {"type": "Unheard", "ports": [{"port": 80}]},
        {"type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80}]},
    ],
)
def test_what_serves_nothing_claims_nothing(spec: dict[str, object]) -> None:
    world = World()
    world.apply(service("odd", **spec))
    world.graph.settle()
    assert len(world.tables.entries) == 0


def test_endpoints_of_another_family_or_outside_the_cluster_do_no_harm() -> None:
    world = World()
    world.apply(service("mixed", clusterIPs=["fd00:96::1"], ports=[{"port": 80}]))
    row = parse_slice(slice_of("mixed", 1, ["203.0.113.9", "127.0.0.1"]))
    assert row is not None
    world.database.put(world.tables.slices, row)
    world.graph.settle()
    (entry,) = world.tables.entries
    assert (str(entry.key), entry.internal) == ("[fd00:96::1]:80/TCP", ())
    world.apply(service("mixed", clusterIPs=["10.96.0.1"], ports=[{"port": 80}]))
    world.graph.settle()
    (entry,) = world.tables.entries
    assert [each.addr for each in entry.internal] == [Addr.parse("127.0.0.1"), Addr.parse("203.0.113.9")]


@pytest.mark.parametrize("order", list(itertools.permutations(("a", "b", "c"))))
def test_slices_that_contradict_each_other_mean_the_same_in_any_order(order: tuple[str, ...]) -> None:
    """An endpoint moves between slices: for a while it is in both, in one of them with what was true before."""
    said = {
        "a": {"ready": False, "serving": True, "terminating": True},
        "b": {"ready": True},
        "c": {"ready": False, "serving": False},
    }
    world = World()
    for name in order:
        meta = {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "moving"}}
        endpoints = [{"addresses": ["10.0.0.1", "10.0.0.1"], "conditions": said[name]}] * 2
        raw = {"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}, {"port": 80}], "endpoints": endpoints}
        row = parse_slice(msgspec.convert(raw, core.EndpointSlice))
        assert row is not None
        world.database.put(world.tables.slices, row)
    world.apply(service("moving", clusterIPs=["10.96.0.1"], ports=[{"port": 80}]))  # behind its slices
    world.graph.settle()
    (entry,) = world.tables.entries
    assert entry.internal == (Backend(Addr.parse("10.0.0.1"), 80),)


@pytest.mark.parametrize("port", [0, 65536, -1, None])
def test_slices_with_ports_that_are_none_do_not_spoil_the_others(port: int | None) -> None:
    world = World()
    world.apply(service("web", clusterIPs=["10.96.0.1"], ports=[{"port": 80}]))
    meta = {"name": "odd", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}
    raw = {
        "metadata": meta,
        "addressType": "IPv4",
        "ports": [{"port": port}],
        "endpoints": [{"addresses": ["10.0.0.9"]}],
    }
    for found in (msgspec.convert(raw, core.EndpointSlice), slice_of("web", 1, ["10.0.0.1"])):
        row = parse_slice(found)
        assert row is not None
        world.database.put(world.tables.slices, row)
    world.graph.settle()
    (entry,) = world.tables.entries
    assert entry.internal == (Backend(Addr.parse("10.0.0.1"), 80),)


def test_an_address_that_two_services_claim_goes_to_one_and_then_to_the_other() -> None:
    world = World()
    for name in ("b", "a"):
        world.apply(service(name, externalIPs=["192.0.2.1"], ports=[{"port": 80}]))
    world.graph.settle()
    assert len(world.tables.entries) == 1
    assert len(world.tables.frontends) == 2
    world.database.delete(world.tables.services, ObjectKey("default", "a"))
    world.graph.settle()
    assert [row.service.name for row in world.tables.frontends] == ["b"]
    assert len(world.tables.entries) == 1
