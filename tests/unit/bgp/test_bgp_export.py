"""Export policies made of grants: what passes, with which attributes."""

from __future__ import annotations

import pytest

from stentor.bgp.attribute import Attributes as Wire
from stentor.bgp.compile import compile_policy
from stentor.bgp.config import Peer
from stentor.bgp.decision import Path, Scope, Source
from stentor.bgp.nlri import Family, parse_prefix
from stentor.bgp.resource.plan import Attributes, Grant, InstancePlan, PeerPlan, Plan
from stentor.bgp.resource.speaker import NAME_LENGTH, checked, export_policy, policy_name, speaker_config

OURS = Source("stentor-agent", Scope.LOCAL)
RED = Attributes(("65000:1",), (), ("65000:0:1",), 100)
BLUE = Attributes(("65000:2",), ("no-export",), (), 200)


def exported(grants: list[Grant], *tags: str, source: Source = OURS) -> Wire | None:
    """A route with these tags as the peer is told it."""
    policy = compile_policy(export_policy("p", grants), "policies[0]")
    _, prefix = parse_prefix("198.18.0.1/32")
    (verdict,) = policy.apply(Family.IPV4, Path(source, Wire(), tags=tags), Wire(), [prefix], 65000)
    return verdict.attributes


def test_only_what_is_granted_passes() -> None:
    assert exported([Grant("a")], "a") == Wire()
    assert exported([Grant("a")], "b") is None
    assert exported([Grant("a")]) is None
    assert exported([], "a") is None


def test_only_our_own_routes_pass() -> None:
    assert exported([Grant("a")], "a", source=Source("peer", Scope.EXTERNAL)) is None


@pytest.mark.parametrize("grants", [[Grant("a", RED), Grant("b", BLUE)], [Grant("b", BLUE), Grant("a", RED)]])
def test_communities_are_united_and_the_highest_preference_wins(grants: list[Grant]) -> None:
    both = exported(grants, "a", "b")
    assert both is not None
    assert (both.local_pref, both.large_communities) == (200, ((65000, 0, 1),))
    assert both.communities == (65000 << 16 | 1, 65000 << 16 | 2, 0xFFFFFF01)
    alone = exported(grants, "a")
    assert alone is not None
    assert (alone.local_pref, alone.communities) == (100, (65000 << 16 | 1,))


def test_one_entry_with_several_attributes() -> None:
    found = exported([Grant("a"), Grant("a", RED), Grant("a", BLUE)], "a")
    assert found is not None
    assert found.local_pref == 200
    assert len(found.communities) == 3


def test_names_stay_unique_where_they_do_not_fit() -> None:
    one, two = (policy_name("i" * 200, "p" * 100 + end, "ipv4") for end in "xy")
    assert one != two
    assert max(len(one), len(two)) <= NAME_LENGTH


def plan(*peers: Peer, router_id: str = "1.1.1.1") -> Plan:
    found = tuple(PeerPlan(config=peer, grants=(("ipv4", (Grant("a", RED),)),)) for peer in peers)
    return Plan(source="X", instances=(InstancePlan(name="i", local_asn=65000, router_id=router_id, peers=found),))


def test_a_plan_is_a_configuration() -> None:
    config = speaker_config(checked(plan(Peer("p", "10.0.0.1", peer_asn=65001))))
    (instance,) = config.instances
    assert [family.export_policy for family in instance.peers[0].families] == ["i/p/ipv4", "i/p/ipv6"]
    assert [policy.name for policy in config.policies] == ["i/p/ipv4", "i/p/ipv6"]


def test_what_the_speaker_would_refuse_is_a_problem_and_the_rest_stays() -> None:
    bad = Peer("bad", "10.0.0.0/24")  # a range, and the instance does not listen
    found = checked(plan(bad, Peer("good", "10.0.0.1")))
    assert [peer.config.name for peer in found.instances[0].peers] == ["good"]
    assert [(problem.peer, problem.field) for problem in found.problems] == [("bad", "i.bad.peerAddress")]


def test_a_wrong_router_id_takes_the_instance() -> None:
    found = checked(plan(Peer("p", "10.0.0.1"), router_id="0.0.0.0"))
    assert found.instances == ()
    assert [str(problem) for problem in found.problems] == ["X: i.routerID: 0.0.0.0 is no identifier"]


@pytest.mark.parametrize(
    ("first", "second", "ports"),
    [
        ((179, ()), (179, ()), [179, None]),
        ((179, ("10.0.0.1",)), (179, ()), [179, None]),
        ((179, ("10.0.0.1",)), (179, ("10.0.0.2",)), [179, 179]),
        ((179, ()), (1790, ()), [179, 1790]),
        ((None, ()), (None, ()), [None, None]),
    ],
)
def test_instances_on_one_port(
    first: tuple[int | None, tuple[str, ...]],
    second: tuple[int | None, tuple[str, ...]],
    ports: list[int | None],
) -> None:
    instances = tuple(
        InstancePlan(name=name, local_asn=asn, router_id="1.1.1.1", local_port=port, listen_addresses=addresses)
        for name, asn, (port, addresses) in (("a", 65001, first), ("b", 65002, second))
    )
    found = checked(Plan(source="X", instances=instances))
    assert [each.local_port for each in found.instances] == ports
    is_taken = ports[1] is None and second[0] is not None
    assert [str(each) for each in found.problems] == (
        ["X: b.localPort: 179 is taken by a: this instance only connects"] if is_taken else []
    )


def test_a_wrong_community_takes_the_peer() -> None:
    grants = (("ipv4", (Grant("a", Attributes(("red",))),)),)
    peer = PeerPlan(config=Peer("p", "10.0.0.1"), grants=grants)
    instance = InstancePlan(name="i", local_asn=65000, router_id="1.1.1.1", peers=(peer,))
    found = checked(Plan(source="X", instances=(instance,)))
    assert found.instances[0].peers == ()
    assert "'red' is no community" in str(found.problems[0])
