"""What the operator measures of its own work, as it is scraped."""

from __future__ import annotations

import asyncio

import msgspec

from stentor.api.bgp import CiliumBGPClusterConfigSpec
from stentor.api.lbipam import CiliumLoadBalancerIPPoolSpec
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.operator.metric import sample
from stentor.operator.wiring import Operator
from stentor.runtime.config import load
from stentor.runtime.sample import registry
from stentor.tables.bgp import Configured, LoadBalancerPool
from stentor.tables.loadbalancer import ServiceRequest
from stentor.tables.owner import KnownNode

NOBODY = "https://127.0.0.1:1"


class World:
    """An operator whose tables are filled by hand; nobody answers at its API server."""

    def __init__(self) -> None:
        values = load(settings=("bgpControlPlane.enabled=true",))
        self.operator = Operator(values, Client(Connection(server=NOBODY)), lambda _: None)
        self.put = self.operator.database.put
        assert self.operator.bgp is not None
        self.bgp, self.load_balancers = self.operator.bgp, self.operator.load_balancers
        for table in (*self.bgp.inputs, self.load_balancers.pools, self.load_balancers.requests):
            for source in table.waiting_for:
                table.synced(source)

    async def write(self) -> None:
        async with self.operator.client:
            await self.bgp.reconciler.step()

    def value(self, name: str, **labels: str) -> float | None:
        return registry(lambda: sample(self.operator)).get_sample_value(f"cilium_operator_{name}", labels)


def test_events_of_address_management_are_measured_by_what_they_are_about() -> None:
    world = World()
    events, seconds = "lbipam_event_processing_time_seconds_count", "lbipam_event_processing_time_seconds_sum"
    pools, requests = world.load_balancers.pools, world.load_balancers.requests
    spec = msgspec.convert({"blocks": [{"cidr": "192.0.2.0/28"}]}, CiliumLoadBalancerIPPoolSpec)
    world.put(pools, LoadBalancerPool("pool", spec))
    world.put(requests, *(ServiceRequest(("default", name), name, "1") for name in ("a", "b")))
    world.load_balancers.assigner.settle()
    assert world.value(events, event="upsert", resource="pool") == 1
    assert world.value(events, event="upsert", resource="service") == 2
    assert world.value(events, event="delete", resource="service") is None
    assert (world.value(seconds, event="upsert", resource="service") or 0) > 0
    world.operator.database.delete(requests, ("default", "a"))
    world.load_balancers.assigner.settle()
    assert world.value(events, event="delete", resource="service") == 1
    assert world.value(events, event="upsert", resource="service") == 2


def test_decisions_about_bgp_are_measured_and_refused_writes_counted() -> None:
    world = World()
    errors = {"resource_kind": "CiliumBGPClusterConfig", "resource_name": "config"}
    spec = msgspec.convert({"bgpInstances": [{"name": "main", "localASN": 65000}]}, CiliumBGPClusterConfigSpec)
    world.put(world.bgp.configs, Configured("config", spec, uid="u"))
    world.put(world.operator.known_nodes, KnownNode("n1"), KnownNode("n2"))
    assert world.value("bgp_control_plane_reconcile_run_duration_seconds_count") == 0
    world.bgp.settle()
    assert world.value("bgp_control_plane_reconcile_run_duration_seconds_count") == 1
    assert world.value("bgp_control_plane_reconcile_errors_total", **errors) is None
    asyncio.run(world.write())
    assert world.value("bgp_control_plane_reconcile_errors_total", **errors) == 2
