"""Routes computed step by step, as objects come, change and go, are those computed at once from what is there."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stentor.api.meta import ObjectKey
from stentor.api.peering import CiliumBGPPeeringPolicySpec
from stentor.bgp.resource.node import BGPNode, Machine
from stentor.bgp.resource.pool import Pool
from stentor.bgp.resource.table import BGPTables, ServiceView, derive, make_tables
from stentor.net.address import Addr, Prefix
from stentor.state import Database, Graph, Table
from stentor.tables import service as tables
from stentor.tables.bgp import Configured
from stentor.tables.node import Node, nodes
from stentor.tables.realized import Realized, realized
from stentor.tables.service import Backend, Frontend, FrontendKey, LBEntry, Protocol, Service, ServiceType

VIPS = [Addr.parse(text) for text in ("198.18.0.1", "198.18.0.2", "2001:db8::1")]
KEYS = [ObjectKey("default", name) for name in ("a", "b", "c")]
BACKENDS: list[tuple[Backend, ...]] = [
    (),
    (Backend(Addr.parse("10.0.0.9"), 80),),
    (Backend(Addr.parse("10.0.0.9"), 80, True),),
]


class World:
    """All tables and their derivations."""

    def __init__(self) -> None:
        self.database = Database()
        add = self.database.add
        self.services = ServiceView(
            services=add(tables.services()),
            frontends=add(tables.frontends()),
            entries=add(tables.lb_entries()),
            realized=add(realized("lb-entries")),
        )
        self.nodes: Table[tuple[str, str], Node] = add(nodes())
        self.bgp: BGPTables = make_tables(self.database)
        self.graph = Graph(self.database, schedule=lambda _: None)

    def derive(self) -> None:
        derive(self.graph, self.bgp, self.services, self.nodes, node_name="node-1", secrets_namespace="kube-system")
        self.graph.settle()

    def put(self, name: str, row: Any) -> None:
        self.database.put(self.database.tables[name], row)
        self.graph.settle()

    def drop(self, name: str, index: int) -> None:
        keys = [key for key, _ in self.database.tables[name].items()]
        if keys:
            self.database.delete(self.database.tables[name], keys[index % len(keys)])
            self.graph.settle()

    def copy(self) -> World:
        """Another world with the same sources."""
        other = World()
        for name in SOURCES:
            for row in self.database.tables[name]:
                other.database.put(other.database.tables[name], row)
        other.derive()
        return other

    def content(self) -> dict[str, dict[Any, Any]]:
        return {
            name: dict(self.database.tables[name].items()) for name in ("bgp-plan", "bgp-contributions", "bgp-routes")
        }


SOURCES = (
    "services",
    "frontends",
    "lb-entries",
    "realized-lb-entries",
    "nodes",
    "bgp-peering-policies",
    "bgp-node",
    "bgp-machine",
    "bgp-pools",
)
entries = st.builds(
    lambda addr, port, backends: LBEntry(
        key=FrontendKey(addr, port, Protocol.TCP), internal=backends, external=backends
    ),
    st.sampled_from(VIPS),
    st.sampled_from([80, 443]),
    st.sampled_from(BACKENDS),
)
services = st.builds(
    lambda key, local, app: Service(
        key=key, type="LoadBalancer", ingress_ips=tuple(VIPS), external_local=local, labels=(("app", app),)
    ),
    st.sampled_from(KEYS),
    st.booleans(),
    st.sampled_from(["x", "y"]),
)
frontends = st.builds(
    lambda key, kind, entry: Frontend(service=key, type=kind, port_name="", entry=entry),
    st.sampled_from(KEYS),
    st.sampled_from([ServiceType.LOAD_BALANCER, ServiceType.CLUSTER_IP]),
    entries,
)
routers = st.fixed_dictionaries(
    {
        "localASN": st.sampled_from([65001, 65002]),
        "neighbors": st.just(
            [
                {
                    "peerAddress": "10.9.0.1/32",
                    "peerASN": 65009,
                    "advertisedPathAttributes": [
                        {"selectorType": "CiliumLoadBalancerIPPool", "selector": {"matchLabels": {"tier": "gold"}}}
                    ],
                }
            ]
        ),
        "exportPodCIDR": st.booleans(),
        "serviceSelector": st.sampled_from([None, {}, {"matchLabels": {"app": "x"}}]),
        "serviceAdvertisements": st.sampled_from([["LoadBalancerIP"], ["ClusterIP", "LoadBalancerIP"]]),
    }
)
policies = st.builds(
    lambda name, found, rack: Configured(
        name,
        msgspec.convert(
            {"virtualRouters": found, "nodeSelector": {"matchLabels": {"rack": rack}}}, CiliumBGPPeeringPolicySpec
        ),
    ),
    st.sampled_from(["p", "q"]),
    st.lists(routers, min_size=1, max_size=2),
    st.sampled_from(["a", "b"]),
)
pools = st.builds(
    lambda tier, last: Pool(name="pool", labels=(("tier", tier),), blocks=((VIPS[0], last),)),
    st.sampled_from(["gold", "tin"]),
    st.sampled_from(VIPS[:2]),
)
own_nodes = st.builds(
    lambda rack, leaving: BGPNode(name="node-1", labels=(("rack", rack),), is_leaving=leaving),
    st.sampled_from(["a", "b"]),
    st.booleans(),
)
cluster_nodes = st.builds(
    lambda cidrs: Node(name="node-1", pod_cidrs=tuple(map(Prefix.parse, cidrs)), is_local=True),
    st.lists(st.sampled_from(["10.0.0.0/24", "10.0.1.0/24", "fd00::/120"]), unique=True),
)
steps = st.one_of(
    st.tuples(st.just("services"), services),
    st.tuples(st.just("frontends"), frontends),
    st.tuples(st.just("lb-entries"), entries),
    st.tuples(st.just("realized-lb-entries"), entries.map(lambda entry: Realized(entry.key, entry))),
    st.tuples(st.just("nodes"), cluster_nodes),
    st.tuples(st.just("bgp-peering-policies"), policies),
    st.tuples(st.just("bgp-node"), own_nodes),
    st.tuples(st.just("bgp-machine"), st.just(Machine())),
    st.tuples(st.just("bgp-pools"), pools),
    st.tuples(st.just("drop"), st.tuples(st.sampled_from(SOURCES), st.integers(0, 5))),
)
START: list[tuple[str, Any]] = [
    ("bgp-node", BGPNode(name="node-1", labels=(("rack", "a"),))),
    (
        "bgp-peering-policies",
        Configured(
            "p",
            msgspec.convert(
                {
                    "virtualRouters": [
                        {
                            "localASN": 65001,
                            "exportPodCIDR": True,
                            "serviceSelector": {},
                            "neighbors": [{"peerAddress": "10.9.0.1/32", "peerASN": 65009}],
                        }
                    ]
                },
                CiliumBGPPeeringPolicySpec,
            ),
        ),
    ),
]


def run(found: list[tuple[str, Any]]) -> World:
    world = World()
    world.derive()
    for name, value in [*START, *found]:
        if name == "drop":
            world.drop(*value)
        else:
            world.put(name, value)
    return world


@given(st.lists(steps, max_size=40))
def test_step_by_step_equals_at_once(found: list[tuple[str, Any]]) -> None:
    world = run(found)
    assert world.content() == world.copy().content()


def test_the_steps_can_lead_to_a_service_route() -> None:
    """The property is about something: these steps of the kinds above do advertise."""
    service = Service(key=KEYS[0], type="LoadBalancer", ingress_ips=tuple(VIPS))
    entry = LBEntry(key=FrontendKey(VIPS[0], 80, Protocol.TCP))
    frontend = Frontend(service=KEYS[0], type=ServiceType.LOAD_BALANCER, port_name="", entry=entry)
    world = run(
        [
            ("services", service),
            ("frontends", frontend),
            ("lb-entries", entry),
            ("realized-lb-entries", Realized(entry.key, entry)),
        ]
    )
    assert [str(row.prefix) for row in world.bgp.routes] == ["198.18.0.1/32"]
