"""What the agent reports of BGP, and which news of the kernel make it look again."""

from __future__ import annotations

import base64
import struct

import pytest

from stentor.agent.bgp_machine import matters
from stentor.agent.bgp_status import conditions_of, status_of
from stentor.api.core import Node, NodeSpec, Secret, Taint
from stentor.api.meta import ObjectMeta
from stentor.bgp.resource.node import BGPNode, default_router_id, node_row
from stentor.bgp.resource.plan import NODE_CONFIG, PEERING_POLICY, InstancePlan, Plan, Problem
from stentor.bgp.resource.secret import Password, password_row
from stentor.bgp.status import PeerStatus, RouteCount
from stentor.net.address import Addr

UP = PeerStatus(
    instance="main",
    name="tor",
    peer_address="10.0.0.1",
    local_asn=65001,
    peer_asn=65002,
    session_state="established",
    established_time=1767225600.0,
    applied_hold_time_seconds=90,
    applied_keepalive_seconds=30,
    route_count=(RouteCount("ipv4", 3, 5),),
)
DOWN = PeerStatus(
    instance="main", name="other", peer_address="10.0.0.2", local_asn=65001, peer_asn=0, session_state="active"
)
PLAN = Plan(
    api=NODE_CONFIG,
    source="node-1",
    instances=(InstancePlan(name="main", local_asn=65001, router_id="1.1.1.1"),),
    problems=(Problem("A a", "spec.b", "is wrong", "main"), Problem("C c", "", "waits", is_waiting=True)),
)


def test_sessions_in_the_status() -> None:
    (instance,) = status_of(PLAN, [UP, DOWN], "").bgp_instances
    other, tor = instance.peers
    assert (tor.name, tor.peering_state, tor.established_time) == ("tor", "established", "2026-01-01T00:00:00Z")
    assert tor.timers is not None
    assert (tor.timers.applied_hold_time_seconds, tor.timers.applied_keepalive_seconds) == (90, 30)
    assert [(each.afi, each.received, each.advertised) for each in tor.route_count] == [("ipv4", 3, 5)]
    assert (other.peering_state, other.timers, other.established_time, other.route_count) == ("active", None, None, ())


def test_a_peer_without_session_is_not_left_out() -> None:
    plan = Plan(
        api=NODE_CONFIG, instances=PLAN.instances, problems=(Problem("A a", "spec.b", "is wrong", "main", "lost"),)
    )
    (instance,) = status_of(plan, [UP], "").bgp_instances
    assert [(each.name, each.peering_state) for each in instance.peers] == [("lost", "idle"), ("tor", "established")]


def test_conditions_name_what_is_wrong_and_what_waits() -> None:
    found = {each.type: (each.status, each.message) for each in conditions_of(PLAN, "the speaker is away")}
    assert found == {
        "cilium.io/BGPReconcileError": ("True", "A a: spec.b: is wrong; the speaker is away"),
        "stentor.io/WaitsForMultiPoolIPAM": ("True", "C c: waits"),
    }
    (well,) = conditions_of(Plan(), "")
    assert (well.status, well.message) == ("False", "")


def test_a_superseded_configuration_has_no_sessions() -> None:
    status = status_of(Plan(api=PEERING_POLICY, instances=PLAN.instances), [UP], "")
    assert status.bgp_instances == ()
    assert [each.status for each in status.conditions] == ["False"]


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + b"\0" * (-len(body) % 4)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (message(20, bytes(8)), True),  # an address
        (message(24, bytes((2, 0)) + bytes(10)), True),  # a default route
        (message(24, bytes((2, 32)) + bytes(10)), False),  # a pod's
        (message(25, bytes((10, 128)) + bytes(10)) + message(21, bytes(8)), True),
        (message(16, bytes(16)), False),
        (b"", False),
    ],
)
def test_news_that_matter(messages: bytes, expected: bool) -> None:
    assert matters(messages) == expected


def node(*taints: str, cordoned: bool = False, deleted: bool = False, **labels: str) -> BGPNode:
    meta = ObjectMeta(name="node-1", labels=labels, deletion_timestamp="2026-01-01T00:00:00Z" if deleted else None)
    found = tuple(Taint(key=key, effect="NoSchedule") for key in taints)
    return node_row(Node(metadata=meta, spec=NodeSpec(unschedulable=cordoned, taints=found)))


def test_nodes_that_go() -> None:
    assert (node().is_drained, node().is_excluded) == (False, False)
    assert (node(cordoned=True).is_drained, node(cordoned=True).is_excluded) == (True, False)
    gone = node("node.kubernetes.io/out-of-service")
    assert (gone.is_drained, gone.is_excluded, gone.is_leaving) == (True, True, True)
    assert node(deleted=True).is_leaving
    excluded = node(**{"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    assert (excluded.is_drained, excluded.is_excluded, excluded.is_leaving) == (False, True, False)


def test_router_ids() -> None:
    assert default_router_id("n", Addr.parse("10.0.0.1")) == "10.0.0.1"
    assert default_router_id("n", None) == default_router_id("n", None) != default_router_id("m", None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"password": base64.b64encode(b"s3cret\n").decode()}, Password("k", "s3cret")),
        ({}, Password("k", problem="has no key 'password'")),
        (
            {"password": base64.b64encode(bytes((255, 254))).decode()},
            Password("k", problem="the key 'password' is not text"),
        ),
        (
            {"password": base64.b64encode(b"x" * 81).decode()},
            Password("k", problem="the key 'password' has 81 bytes: from 1 to 80"),
        ),
    ],
)
def test_passwords(data: dict[str, str], expected: Password) -> None:
    found = password_row(Secret(metadata=ObjectMeta(name="k"), data=data))
    assert found == expected
    assert "s3cret" not in repr(found)
