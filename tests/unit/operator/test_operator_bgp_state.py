"""The operator's decisions about BGP: tables in, tables out."""

from __future__ import annotations

import msgspec

from stentor.api.bgp import CiliumBGPClusterConfigSpec, CiliumBGPNodeConfigOverrideSpec
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.operator.bgp import ClusterBGP, NodeConfigRow
from stentor.runtime.config import load
from stentor.state import Database
from stentor.tables.bgp import Configured
from stentor.tables.condition import judged, observed
from stentor.tables.owner import KnownNode, known_nodes


class World:
    def __init__(self, *settings: str) -> None:
        values = load(settings=settings).bgp_control_plane
        self.database = Database()
        add = self.database.add
        self.nodes, self.conditions, self.judged = add(known_nodes()), add(observed()), add(judged())
        client = Client(Connection(server="https://192.0.2.1"))
        self.bgp = ClusterBGP(values, client, self.database, self.nodes, self.conditions, self.judged)
        for table in self.bgp.inputs:
            for source in table.waiting_for:  # the first list of each has come
                table.synced(source)

    def put_config(self, *instances: str) -> None:
        spec = {"bgpInstances": [{"name": name, "localASN": 65000} for name in instances]}
        row = Configured("c", msgspec.convert(spec, CiliumBGPClusterConfigSpec), uid="u")
        self.database.put(self.bgp.configs, row)

    def settle(self) -> dict[str, list[str | None]]:
        """Router ids by node; what is wanted becomes present."""
        self.bgp.settle()
        self.database.put(self.bgp.present, *self.bgp.wanted)
        return {row.name: [each.router_id for each in row.spec.bgp_instances] for row in self.bgp.wanted}

    def messages(self) -> list[str]:
        return [v.message for row in self.judged for v in row.verdicts if v.type == "stentor.io/InvalidConfiguration"]


def test_router_ids_out_of_a_pool() -> None:
    world = World(
        "bgpControlPlane.routerIDAllocation.mode=ip-pool", "bgpControlPlane.routerIDAllocation.ipPool=10.9.0.0/30"
    )
    world.database.put(world.nodes, KnownNode("n1"), KnownNode("n2"))
    world.put_config("main")
    assert world.settle() == {"n1": ["10.9.0.0"], "n2": ["10.9.0.1"]}
    override = {"bgpInstances": [{"name": "main", "routerID": "10.9.0.2"}]}
    world.database.put(
        world.bgp.overrides, Configured("n1", msgspec.convert(override, CiliumBGPNodeConfigOverrideSpec))
    )
    world.database.put(world.nodes, KnownNode("n0"))
    assert world.settle() == {"n0": ["10.9.0.0"], "n1": ["10.9.0.2"], "n2": ["10.9.0.1"]}
    assert world.messages() == []
    world.put_config("main", "second")
    assert world.settle() == {"n0": ["10.9.0.0", "10.9.0.3"], "n1": ["10.9.0.2", None], "n2": ["10.9.0.1", None]}
    assert world.messages() == ["bgpControlPlane.routerIDAllocation.ipPool: 10.9.0.0/30 has too few addresses"]


def test_a_node_configuration_of_somebody_else_stays() -> None:
    world = World()
    world.database.put(world.nodes, KnownNode("n1"), KnownNode("n2"))
    world.put_config("main")
    world.settle()
    theirs = NodeConfigRow("n1", world.bgp.wanted["n1"].spec)
    world.database.put(world.bgp.present, theirs)
    world.bgp.settle()
    assert [row.name for row in world.bgp.wanted] == ["n2"]


def test_conditions_go_when_reports_are_off() -> None:
    world = World("bgpControlPlane.statusReport.enabled=false")
    world.put_config("main")
    world.settle()
    (row,) = world.judged
    assert row.verdicts == ()
    assert "cilium.io/NoMatchingNode" in row.ours
