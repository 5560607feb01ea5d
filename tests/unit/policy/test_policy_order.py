"""An endpoint's row never names a policy set before all of it is in the kernel, in whatever order things happen."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stentor.net.address import Addr
from stentor.net.identity import Reserved
from stentor.policy.compile import ALLOW_ALL, DENY_ALL, derive_policy_peers, write_base_classes
from stentor.policy.entry import derive_endpoint_entries
from stentor.state import Database, Graph
from stentor.tables.endpoint import Endpoint, EndpointState, endpoint_entries, endpoints, realized_entries
from stentor.tables.policy import ANYONE, Direction, policy_peers, policy_rules
from stentor.tables.realized import Realized, realized


class World:
    """Two derivations and a kernel that takes rows one by one, when the test says so."""

    def __init__(self, mode: str = "default") -> None:
        self.database = Database()
        self.endpoints, self.rules, self.peers = endpoints(), policy_rules(), policy_peers()
        self.realized_rules, self.realized_peers = realized("rules"), realized("peers")
        self.entries, self.realized_entries = endpoint_entries(), realized_entries()
        self.graph = Graph(self.database, lambda run: None)
        self.graph.add(
            derive_policy_peers(
                self.endpoints, self.rules, self.realized_rules, self.realized_entries, self.peers, mode=mode
            )
        )
        self.graph.add(
            derive_endpoint_entries(
                self.endpoints, self.peers, self.realized_peers, self.realized_entries, self.entries
            )
        )

    def add_endpoint(self, number: int, identity: int) -> None:
        row = Endpoint(
            id=number, container_id=f"c{number}", container_ifname="eth0", netns="", namespace="d", pod=f"p{number}",
            host_ifname=f"lxc{number}", ifindex=number, mac=b"\2\0\0\0\0\1", ipv4=Addr.parse(f"10.0.0.{number}"),
            ipv6=Addr.parse(f"fd00::{number}"), identity=identity, state=EndpointState.REGENERATING,
        )  # fmt: skip
        self.database.put(self.endpoints, row)

    def write_rule(self) -> bool:
        """The kernel takes one more rule."""
        row = next((row for row in self.rules if row.key not in self.realized_rules), None)
        if row is not None:
            self.database.put(self.realized_rules, Realized(row.key, row))
        return row is not None

    def write_peer(self) -> bool:
        row = next((row for row in self.peers if row.key not in self.realized_peers), None)
        if row is not None:
            self.database.put(self.realized_peers, Realized(row.key, row))
        return row is not None

    def remove_peer(self) -> bool:
        """The kernel gives up one more peer that is no longer wanted."""
        key = next((row.key for row in self.realized_peers if row.key not in self.peers), None)
        if key is not None:
            self.database.delete(self.realized_peers, key)
        return key is not None

    def write_entry(self) -> bool:
        row = next(
            (row for row in self.entries if self.realized_entries.get(row.addr) != Realized(row.addr, row)), None
        )
        if row is not None:
            self.database.put(self.realized_entries, Realized(row.addr, row))
        return row is not None

    def remove_entry(self) -> bool:
        addr = next((row.key for row in self.realized_entries if row.key not in self.entries), None)
        if addr is not None:
            self.database.delete(self.realized_entries, addr)
        return addr is not None

    def work(self) -> bool:
        """The kernel takes whatever comes next."""
        self.graph.settle()
        steps = (self.write_rule, self.write_peer, self.write_entry, self.remove_entry, self.remove_peer)
        return any(step() for step in steps)

    def check(self) -> None:
        """What is named is complete in the kernel: peers of both directions, and every rule of their classes."""
        self.graph.settle()
        for entry in (*self.entries, *(there.row for there in self.realized_entries)):
            if not entry.policy_id:
                continue
            there = [row.row for row in self.realized_peers if row.key.policy_id == entry.policy_id]
            assert {peer.direction for peer in there} == set(Direction)
            for peer in there:
                rows = self.rules.by("class", peer.class_id)
                assert rows
                assert all(row.key in self.realized_rules for row in rows)


steps = st.one_of(
    st.tuples(st.just("endpoint"), st.integers(1, 4), st.sampled_from([0, 300, 301])),
    st.tuples(st.just("rule"), st.just(0), st.just(0)),
    st.tuples(st.just("peer"), st.just(0), st.just(0)),
    st.tuples(st.just("gone"), st.just(0), st.just(0)),
    st.tuples(st.just("entry"), st.just(0), st.just(0)),
    st.tuples(st.just("classes"), st.just(0), st.just(0)),
)


@given(st.lists(steps, max_size=40))
def test_never_before_all_of_it(story: list[tuple[str, int, int]]) -> None:
    world = World()
    for what, number, identity in story:
        if what == "endpoint":
            world.add_endpoint(number, identity)
        elif what == "rule":
            world.write_rule()
        elif what == "peer":
            world.write_peer()
        elif what == "gone":
            world.remove_peer()
        elif what == "entry":
            world.write_entry()
        else:
            write_base_classes(world.database, world.rules)
        world.check()
    write_base_classes(world.database, world.rules)
    while world.work():
        world.check()
    world.check()
    assert {row.policy_id for row in world.peers} <= {row.identity for row in world.endpoints}  # nothing is left behind
    for entry in world.entries:
        assert entry.policy_id == entry.identity  # in the end everybody with an identity has its set


def test_a_live_pod_keeps_its_set_until_the_new_one_is_wholly_there() -> None:
    world = World()
    write_base_classes(world.database, world.rules)
    world.add_endpoint(1, 300)
    while world.work():
        world.check()
    world.add_endpoint(1, 301)
    seen = []
    while True:
        world.check()
        seen.append({entry.policy_id for entry in world.entries})
        if not world.work():
            break
    assert seen[0] == {300}
    assert set().union(*seen) == {300, 301}
    assert {row.policy_id for row in world.peers} == {301}
    assert {there.key.policy_id for there in world.realized_peers} == {301}


def test_another_endpoint_of_the_address_gets_nothing_of_an_earlier_set() -> None:
    world = World()
    write_base_classes(world.database, world.rules)
    world.add_endpoint(1, 300)
    while world.work():
        world.check()
    row = world.endpoints[1]
    world.database.delete(world.endpoints, 1)
    world.database.put(world.endpoints, msgspec.structs.replace(row, id=2, ifindex=9, identity=301))
    world.check()
    assert {(entry.endpoint_id, entry.policy_id) for entry in world.entries} == {(2, 0)}


def test_without_identity_nothing_is_in_force() -> None:
    world = World()
    write_base_classes(world.database, world.rules)
    world.add_endpoint(1, 0)
    while world.write_rule() or world.write_peer():
        pass
    world.check()
    assert {entry.policy_id for entry in world.entries} == {0}


def test_mode_always_admits_only_the_node() -> None:
    world = World("always")
    write_base_classes(world.database, world.rules)
    world.add_endpoint(1, 300)
    while world.write_rule():
        pass
    world.check()
    assert {(p.direction, p.identity): p.class_id for p in world.peers} == {
        (Direction.EGRESS, ANYONE): DENY_ALL,
        (Direction.INGRESS, ANYONE): DENY_ALL,
        (Direction.INGRESS, Reserved.HOST): ALLOW_ALL,
    }


def test_an_ended_endpoint_leaves_nothing() -> None:
    world = World()
    write_base_classes(world.database, world.rules)
    world.add_endpoint(1, 300)
    while world.write_rule() or world.write_peer():
        world.check()
    world.database.delete(world.endpoints, 1)
    world.check()
    assert list(world.entries) == []
    assert list(world.peers) == []
