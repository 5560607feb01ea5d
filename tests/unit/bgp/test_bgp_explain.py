"""Why a prefix is not advertised, in words."""

from __future__ import annotations

from typing import Any

import pytest

from stentor.api.meta import LabelSelector, ObjectKey
from stentor.bgp.resource.explain import obstacles, origins
from stentor.bgp.resource.plan import AddressKind, Entry, InstancePlan, Origin, Plan, PlanRow, Problem
from stentor.bgp.resource.route import Contribution
from stentor.bgp.resource.table import BGPTables, ServiceView, make_tables
from stentor.net.address import Addr, Prefix
from stentor.state import Database
from stentor.tables import service as tables
from stentor.tables.realized import Realized, realized
from stentor.tables.service import Frontend, FrontendKey, LBEntry, Protocol, Service, ServiceType

VIP = Addr.parse("198.18.0.1")
KEY = FrontendKey(VIP, 80, Protocol.TCP)
WEB = Service(key=ObjectKey("default", "web"), type="LoadBalancer", ingress_ips=(VIP,), labels=(("app", "web"),))
ENTRY = LBEntry(key=KEY)
FRONTEND = Frontend(service=WEB.key, type=ServiceType.LOAD_BALANCER, port_name="", entry=ENTRY)


def entry(**fields: Any) -> Entry:
    given = {"selector": LabelSelector(), "addresses": frozenset((AddressKind.LOAD_BALANCER,))} | fields
    return Entry(name="web[0]", origin=Origin.SERVICE, **given)


class World:
    """Tables with one service that lacks nothing, but for what a test takes away."""

    def __init__(self, *entries: Entry, **fields: Any) -> None:
        self.database = Database()
        add = self.database.add
        self.services = ServiceView(
            services=add(tables.services()),
            frontends=add(tables.frontends()),
            entries=add(tables.lb_entries()),
            realized=add(realized("lb-entries")),
        )
        self.tables: BGPTables = make_tables(self.database)
        instance = InstancePlan(name="main", local_asn=65001, router_id="1.1.1.1", entries=entries)
        self.put(self.tables.plans, PlanRow(Plan(instances=(instance,), **fields)))
        self.put(self.services.services, WEB)
        self.put(self.services.frontends, FRONTEND)
        self.put(self.services.entries, ENTRY)
        self.put(self.services.realized, Realized(KEY, ENTRY))

    def put(self, table: Any, row: Any) -> None:
        self.database.put(table, row)

    def why(self, prefix: str = "198.18.0.1/32") -> list[str]:
        return list(obstacles(Prefix.parse(prefix), self.tables, self.services))


def test_nothing_to_say() -> None:
    assert World(entry()).why() == []
    assert World(entry()).why("203.0.113.0/24") == []


@pytest.mark.parametrize(
    ("world", "text"),
    [
        (World(), "Service default/web: nothing advertises services"),
        (
            World(entry(selector=LabelSelector(match_labels={"app": "other"}))),
            "Service default/web: no selector of web[0] matches it",
        ),
        (World(entry(selector=None)), "Service default/web: no selector of web[0] matches it"),
        (
            World(entry(addresses=frozenset((AddressKind.CLUSTER,)))),
            "Service default/web: 198.18.0.1 is a LoadBalancerIP, which web[0] does not advertise",
        ),
        (
            World(entry(), is_leaving=True),
            "this node is leaving the cluster, or is out of service: it advertises nothing",
        ),
        (
            World(entry(), is_excluded=True),
            "this node is excluded from load balancers by its label: it advertises no service",
        ),
        (World(entry(), problems=(Problem("A a", "spec.b", "is wrong"),)), "A a: spec.b: is wrong"),
    ],
)
def test_what_the_configuration_says(world: World, text: str) -> None:
    assert world.why() == [text]
    assert world.why("198.18.0.0/16") == [text]


def test_what_the_kernel_lacks() -> None:
    world = World(entry())
    world.database.delete(world.services.realized, KEY)
    assert world.why() == ["Service default/web: 198.18.0.1 (LoadBalancerIP): not in the kernel's load balancer yet"]
    world.database.delete(world.services.frontends, FRONTEND.key)
    assert world.why() == ["Service default/web: this node's load balancer does not serve 198.18.0.1"]


def test_origins() -> None:
    world = World(entry())
    prefix = VIP.host_prefix
    world.put(
        world.tables.contributions,
        Contribution(instance="main", prefix=prefix, origin="Service default/web", entries=("web[0]", "web[1]")),
    )
    assert list(origins("main", prefix, world.tables)) == ["Service default/web by web[0], web[1]"]
    assert list(origins("other", prefix, world.tables)) == []
