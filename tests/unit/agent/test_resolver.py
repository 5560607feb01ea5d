"""Identities and states of endpoints: waiting, taking, keeping, changing after the grace period."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.agent.endpoint import Endpoints
from stentor.agent.resolver import Resolver
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools
from stentor.net.address import Addr
from stentor.net.label import Label, Labels
from stentor.tables.endpoint import Endpoint, EndpointEntry, EndpointState
from stentor.tables.identity import IdentityRow
from stentor.tables.pod import Pod, PodLabels
from stentor.tables.realized import Realized

ADDR = Addr.parse("10.0.0.5")
WEB: Labels = (Label("k8s", "app", "web"),)
DB: Labels = (Label("k8s", "app", "db"),)


class World:
    def __init__(self, path: Path, executor: ThreadPoolExecutor) -> None:
        self.now = 100.0
        self.tables = t = Tables()
        self.store = StateDirectory(path)
        self.endpoints = Endpoints(t.database, t.endpoints, NodePools(), self.store, (4,), executor)
        self.resolver = Resolver(
            self.endpoints, t.pods, t.pod_labels, t.identities, t.realized_entries, grace_s=5.0, clock=lambda: self.now
        )  # fmt: skip
        self.put_endpoint(0)

    def put_endpoint(self, identity: int, labels: Labels = (), uid: str = "") -> None:
        row = Endpoint(
            id=1, container_id="c", container_ifname="eth0", netns="", namespace="d", pod="p", host_ifname="lxc", ifindex=3,
            mac=b"\2\0\0\0\0\1", ipv4=ADDR, identity=identity, labels=labels, pod_uid=uid,
            state=EndpointState.WAITING_FOR_IDENTITY,
        )  # fmt: skip
        self.tables.database.put(self.tables.endpoints, row)

    def label(self, labels: Labels, *uids: str) -> None:
        self.tables.database.put(self.tables.pod_labels, PodLabels("d", "p", labels, uids))

    def put_pod(self, uid: str, labels: Labels, static_uid: str = "") -> None:
        pod = Pod(namespace="d", name="p", uid=uid, static_uid=static_uid, named_ports=((uid, 6, 80),))
        self.tables.database.put(self.tables.pods, pod)
        self.label(labels, *pod.uids)

    def allocate(self, number: int, labels: Labels) -> None:
        self.tables.database.put(self.tables.identities, IdentityRow(number, labels))

    def realize(self, identity: int, policy: int) -> None:
        row = EndpointEntry(addr=ADDR, endpoint_id=1, ifindex=3, identity=identity, policy_id=policy, mac=b"")
        self.tables.database.put(self.tables.realized_entries, Realized(ADDR, row))

    @property
    def row(self) -> Endpoint:
        self.resolver.settle()
        return self.tables.endpoints[1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ThreadPoolExecutor(1) as executor:
        yield World(tmp_path, executor)


def test_from_creation_to_ready(world: World) -> None:
    assert (world.row.identity, world.row.state) == (0, EndpointState.WAITING_FOR_IDENTITY)
    world.label(WEB)
    assert (world.row.identity, world.row.state) == (0, EndpointState.WAITING_FOR_IDENTITY)
    world.allocate(300, WEB)
    assert (world.row.identity, world.row.state) == (300, EndpointState.REGENERATING)
    world.realize(300, 0)
    assert world.row.state is EndpointState.REGENERATING
    world.realize(300, 299)  # a set of earlier labels
    assert world.row.state is EndpointState.REGENERATING
    world.realize(300, 300)
    assert world.row.state is EndpointState.READY
    assert world.store.load()[0].identity == 300


def test_the_lower_of_two_numbers_but_what_it_has_stays(world: World) -> None:
    world.allocate(301, WEB)
    world.allocate(300, WEB)
    world.label(WEB)
    assert world.row.identity == 300
    world.tables.database.delete(world.tables.identities, 301)
    world.allocate(299, WEB)
    assert world.row.identity == 300


def test_changed_labels_count_after_the_grace_period(world: World) -> None:
    world.allocate(300, WEB)
    world.allocate(310, DB)
    world.label(WEB)
    assert world.row.identity == 300
    world.label(DB)
    assert world.row.identity == 300
    world.now += 4.9
    assert (world.row.identity, world.row.labels) == (300, WEB)
    world.now += 0.2
    assert (world.row.identity, world.row.labels) == (310, DB)


def test_labels_without_a_number_leave_the_old_identity_in_force(world: World) -> None:
    world.allocate(300, WEB)
    world.label(WEB)
    assert world.row.identity == 300
    world.label(DB)
    world.now += 60
    assert world.row.identity == 300
    world.allocate(310, DB)
    assert world.row.identity == 300
    world.now += 5
    assert world.row.identity == 310


def test_a_change_taken_back_in_time_changes_nothing(world: World) -> None:
    world.allocate(300, WEB)
    world.allocate(310, DB)
    world.label(WEB)
    assert world.row.identity == 300
    world.label(DB)
    assert world.row.identity == 300
    world.label(WEB)
    world.now += 60
    assert world.row.identity == 300


def test_a_change_that_can_no_longer_be_made_is_not_waited_for(world: World) -> None:
    """A grace period that is over with nothing to do would wake the resolver again and again."""
    world.put_endpoint(300, WEB)
    world.allocate(300, WEB)
    world.allocate(301, DB)
    world.label(DB)
    assert (world.row.identity, world.resolver.next_due) == (300, 105.0)
    world.tables.database.delete(world.tables.pod_labels, ("d", "p"))
    assert (world.row.identity, world.resolver.next_due) == (300, None)
    world.label(DB)
    assert (world.row.identity, world.resolver.next_due) == (300, 105.0)
    world.tables.database.delete(world.tables.identities, 301)
    assert (world.row.identity, world.resolver.next_due) == (300, None)


def test_a_number_that_was_given_up_is_left_for_the_new_one_of_the_same_labels(world: World) -> None:
    world.put_endpoint(300, WEB)
    world.label(WEB)
    world.allocate(300, WEB)
    assert world.row.identity == 300
    world.tables.database.delete(world.tables.identities, 300)
    assert world.row.identity == 300
    world.allocate(302, WEB)
    assert world.row.identity == 300
    world.now += 5.0
    assert world.row.identity == 302


def test_an_endpoint_takes_nothing_of_a_later_pod_of_its_name(world: World) -> None:
    world.put_endpoint(300, WEB, "u1")
    world.allocate(300, WEB)
    world.allocate(310, DB)
    world.put_pod("u1", WEB)
    before = world.row
    assert before.named_ports == (("u1", 6, 80),)
    world.put_pod("u2", DB)
    world.now += 60
    assert (world.row, world.resolver.next_due) == (before, None)


def test_an_endpoint_waits_for_its_own_pod_while_an_earlier_one_is_known(world: World) -> None:
    world.allocate(300, WEB)
    world.put_pod("u1", WEB)
    world.put_endpoint(0, (), "u2")
    assert (world.row.identity, world.row.pod_uid) == (0, "u2")
    world.tables.database.put(world.tables.pods, Pod(namespace="d", name="p", uid="u2"))
    assert world.row.identity == 0  # the labels are still the earlier pod's
    world.label(WEB, "u2")
    assert world.row.identity == 300


@pytest.mark.parametrize("uid", ["hash", "api", ""])
def test_a_static_pod_is_known_by_the_kubelets_uid(world: World, uid: str) -> None:
    world.allocate(300, WEB)
    world.put_endpoint(0, (), uid)
    world.put_pod("api", WEB, static_uid="hash")
    assert (world.row.identity, world.row.pod_uid) == (300, uid or "hash")


def test_a_restored_identity_stays_while_the_api_is_silent(world: World) -> None:
    world.put_endpoint(300, WEB)
    world.now += 60
    assert (world.row.identity, world.row.labels) == (300, WEB)


async def test_waiting_for_force_ends_when_it_is_in_force(world: World) -> None:
    world.allocate(300, WEB)
    world.label(WEB)
    waiting = asyncio.ensure_future(world.resolver.in_force(world.row, limit_s=30))
    await asyncio.sleep(0)
    assert not waiting.done()
    world.realize(300, 300)
    world.resolver.settle()
    async with asyncio.timeout(5):
        await waiting


async def test_nobody_waits_for_an_identity_that_is_not_known(world: World) -> None:
    async with asyncio.timeout(5):
        await world.resolver.in_force(world.row, limit_s=30)
