"""Received routes on their way into the tables, and the dictionary that an only peer and the Loc-RIB share."""

from __future__ import annotations

from stentor.bgp.attribute import Attributes
from stentor.bgp.decision import Scope, Source
from stentor.bgp.exchange import join_runs
from stentor.bgp.nlri import Family
from stentor.bgp.policy import ACCEPT_ALL, REJECT_ALL, Match, Policy, PrefixRange, PrefixSet, Statement
from stentor.bgp.rib import Import, Inbound, Table

ONE, TWO, THREE = (bytes((8, number)) for number in (1, 2, 3))
ONLY_ONE = Policy(
    "one", (Statement("one", Match(prefixes=PrefixSet([PrefixRange(Family.IPV4, ONE, 8, 32)]))),), accepts=False
)
RED, BLUE = Attributes(med=1), Attributes(med=2)


def rules(policy: Policy) -> Import:
    return Import(policy, 65001, 0xFF, True, enforce_first_as=False)


def peer(table: Table, number: int = 1, policy: Policy = ACCEPT_ALL) -> Inbound:
    source = Source(f"p{number}", Scope.EXTERNAL, 65000 + number, number, bytes((10, 0, 0, number)))
    return Inbound(table, source, rules(policy), has_path_ids=False)


def test_an_only_peer_shares_and_its_changes_are_told() -> None:
    table = Table(Family.IPV4)
    inbound = peer(table)
    assert set(inbound.announce(RED, [ONE, TWO])) == {ONE, TWO}
    assert set(inbound.announce(BLUE, [THREE])) == {THREE}
    assert table.best is inbound.routes
    assert inbound.withdraw([TWO, TWO, bytes((8, 9))]) == [TWO]
    assert table.best is inbound.routes
    assert set(table.best) == {ONE, THREE}


def test_only_what_changed_is_told_when_routes_come_again() -> None:
    inbound = peer(Table(Family.IPV4))
    inbound.announce(RED, [ONE])
    inbound.announce(BLUE, [TWO])
    assert list(inbound.announce(RED, [ONE, TWO, THREE])) == [TWO, THREE]


def test_rejected_routes_do_not_come_in_with_accepted_ones() -> None:
    table = Table(Family.IPV4)
    inbound = peer(table, policy=ONLY_ONE)
    assert list(inbound.announce(RED, [TWO])) == []
    assert list(inbound.announce(RED, [ONE])) == [ONE]
    assert set(table.best) == {ONE}
    assert set(inbound.routes) == {ONE, TWO}


def test_a_new_policy_takes_from_the_table_and_not_from_what_was_received() -> None:
    table = Table(Family.IPV4)
    inbound = peer(table)
    inbound.announce(RED, [ONE, TWO])
    assert set(inbound.reconsider(rules(REJECT_ALL))) == {ONE, TWO}
    assert not table.best
    assert set(inbound.routes) == {ONE, TWO}
    assert set(inbound.reconsider(rules(ACCEPT_ALL))) == {ONE, TWO}
    assert set(table.best) == {ONE, TWO}


def test_a_session_that_returns_does_not_meet_what_is_left_of_the_former() -> None:
    table = Table(Family.IPV4)
    former, fresh = peer(table), peer(table)
    former.announce(RED, [ONE, TWO])
    fresh.announce(BLUE, [TWO, THREE])
    while former.routes:
        former.drain(1)
    assert {prefix: path.attributes for prefix, path in table.best.items()} == {TWO: BLUE, THREE: BLUE}
    assert table.best[TWO].source is fresh.source
    assert set(fresh.routes) == {TWO, THREE}


def test_runs_are_joined_only_where_no_prefix_comes_twice() -> None:
    apart = [(RED, [ONE]), (BLUE, [TWO]), (RED, [THREE])]
    assert join_runs(apart) == [(RED, [ONE, THREE]), (BLUE, [TWO])]
    again = [(RED, [ONE]), (BLUE, [ONE]), (RED, [ONE])]
    assert join_runs(again) == again
    in_order = [(RED, [ONE]), (BLUE, [ONE])]
    assert join_runs(in_order) == in_order
