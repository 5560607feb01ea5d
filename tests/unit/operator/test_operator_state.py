"""The operator's decisions: prefixes of nodes, identities of label sets, orphans. Tables in, tables out."""

from __future__ import annotations

from stentor.ipam.cluster import ClusterPool
from stentor.net.address import Prefix
from stentor.net.label import Label, Labels
from stentor.operator.collection import Collector
from stentor.operator.identity import IdentityAllocator
from stentor.operator.node import PrefixAssigner
from stentor.state import Database
from stentor.tables.identity import IdentityRow, identities
from stentor.tables.node import Node, node_prefixes, nodes
from stentor.tables.pod import WantedLabels, wanted_labels


class Prefixes:
    def __init__(self, *pools: ClusterPool) -> None:
        self.database, self.nodes, self.output = Database(), nodes(), node_prefixes()
        self.nodes.expect("api")
        self.assigner = PrefixAssigner(self.database, self.nodes, self.output, pools)

    def put(self, name: str, *cidrs: str) -> None:
        self.database.put(self.nodes, Node(name=name, pod_cidrs=tuple(map(Prefix.parse, cidrs))))

    def settle(self) -> dict[str, tuple[str, str]]:
        self.assigner.settle()
        return {row.name: (",".join(map(str, row.pod_cidrs)), row.error) for row in self.output}


def small_pool() -> ClusterPool:
    return ClusterPool([Prefix.parse("10.0.0.0/23")], 24)


def test_nothing_is_assigned_before_all_nodes_are_known() -> None:
    world = Prefixes(small_pool())
    world.put("new")
    assert world.settle() == {}
    world.put("old", "10.0.0.0/24")
    world.nodes.synced("api")
    assert world.settle() == {"old": ("10.0.0.0/24", ""), "new": ("10.0.1.0/24", "")}


def test_a_node_that_goes_makes_room_for_one_that_waited() -> None:
    world = Prefixes(small_pool())
    world.nodes.synced("api")
    for name in ("a", "b", "c"):
        world.put(name)
    found = world.settle()
    assert found["c"] == ("", "no free addresses in 10.0.0.0/23: all 2 are allocated")
    world.database.delete(world.nodes, ("default", "a"))
    assert world.settle() == {"b": ("10.0.1.0/24", ""), "c": ("10.0.0.0/24", "")}


def test_a_prefix_that_a_node_exchanged_is_free_for_one_that_waited() -> None:
    world = Prefixes(small_pool())
    world.nodes.synced("api")
    world.put("a", "10.0.0.0/24")
    world.put("b", "10.0.1.0/24")
    world.put("c")
    assert world.settle()["c"] == ("", "no free addresses in 10.0.0.0/23: all 2 are allocated")
    world.put("a", "10.7.0.0/24")
    assert world.settle() == {"a": ("10.7.0.0/24", ""), "b": ("10.0.1.0/24", ""), "c": ("10.0.0.0/24", "")}


def test_two_nodes_may_exchange_their_prefixes() -> None:
    world = Prefixes(small_pool())
    world.nodes.synced("api")
    world.put("a", "10.0.0.0/24")
    world.put("b", "10.0.1.0/24")
    world.settle()
    world.put("a", "10.0.1.0/24")
    world.put("b", "10.0.0.0/24")
    assert world.settle() == {"a": ("10.0.1.0/24", ""), "b": ("10.0.0.0/24", "")}


def test_a_node_that_changes_before_its_prefix_is_written_keeps_it() -> None:
    world = Prefixes(small_pool())
    world.nodes.synced("api")
    world.put("a")
    assert world.settle() == {"a": ("10.0.0.0/24", "")}
    world.database.put(world.nodes, Node(name="a", encrypt_key=1))
    assert world.settle() == {"a": ("10.0.0.0/24", "")}
    assert world.assigner.pools[0].used == 1


def test_two_nodes_with_one_prefix_are_told_apart() -> None:
    world = Prefixes(small_pool())
    world.put("a", "10.0.0.0/24")
    world.put("b", "10.0.0.0/24")
    world.nodes.synced("api")
    assert world.settle() == {
        "a": ("10.0.0.0/24", ""),
        "b": ("10.0.1.0/24", "10.0.0.0/24 is already allocated to a"),
    }


def labels(app: str) -> Labels:
    return (Label("k8s", "app", app),)


class Identities:
    def __init__(self) -> None:
        self.database, self.wanted, self.known = Database(), wanted_labels(), identities()
        self.output = identities("allocations")
        self.wanted.expect("pods")
        self.known.expect("api")
        self.drifts = 0
        self.allocator = IdentityAllocator(self.database, self.wanted, self.known, self.output, range(256, 65536))
        self.allocator.on_drift = self.note_drift

    def note_drift(self) -> None:
        self.drifts += 1

    def want(self, *apps: str) -> None:
        self.database.put(self.wanted, *(WantedLabels(labels(app)) for app in apps))

    def sync(self) -> None:
        self.wanted.synced("pods")
        self.known.synced("api")

    def settle(self) -> dict[int, str]:
        self.allocator.settle()
        return {row.id: row.labels[0].value for row in self.output}


def test_known_label_sets_keep_their_numbers() -> None:
    world = Identities()
    world.want("web", "db")
    world.database.put(world.known, IdentityRow(300, labels("db")))
    assert world.settle() == {}
    world.sync()
    assert world.settle() == {300: "db", 301: "web"}


def test_a_number_taken_by_somebody_else_moves_ours() -> None:
    world = Identities()
    world.sync()
    world.want("web")
    assert world.settle() == {256: "web"}
    world.database.put(world.known, IdentityRow(256, labels("other")))
    assert world.settle() == {256: "other", 257: "web"}


def test_a_needed_identity_that_is_deleted_is_drift() -> None:
    world = Identities()
    world.sync()
    world.want("web")
    world.settle()
    world.database.put(world.known, IdentityRow(256, labels("web")))
    world.settle()
    world.database.delete(world.known, 256)
    assert world.settle() == {256: "web"}
    assert world.drifts == 1


def test_collection_marks_spares_what_comes_back_and_deletes_the_rest() -> None:
    world = Identities()
    world.sync()
    world.want("web", "db")
    world.settle()
    world.database.delete(world.wanted, labels("web"), labels("db"))
    world.settle()
    assert world.allocator.collect(1000.0, 900.0) == (0, 0)
    assert {row.unused_since for row in world.output} == {1000.0}
    world.want("db")
    world.settle()
    assert world.allocator.collect(1900.0, 900.0) == (1, 1)
    assert world.settle() == {257: "db"}
    assert world.output[257].unused_since is None


async def test_an_orphan_is_deleted_in_its_second_round() -> None:
    present, deleted = {"a", "b"}, []

    async def delete(name: str) -> None:
        deleted.append(name)

    collector = Collector("thing", lambda: present, delete)
    await collector.round()
    assert deleted == []
    present.discard("a")
    present.add("c")
    await collector.round()
    assert deleted == ["b"]
