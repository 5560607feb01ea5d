"""Services over a node whose uplink has XDP in front: the same real traffic, and proof that it took the short cut."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator

import pytest

from balancing.outside import ANY_NODE, DOMAIN, NODE_PORT, Balancer, entry, exchange, listen
from datapaths.nodes import World, mounted_bpffs
from stentor.datapath.errors import AttachError
from stentor.sys.veth import face_xdp
from stentor.tables.service import Protocol

both_families = pytest.mark.parametrize("family", [4, 6])
both_protocols = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda each: each.name)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with mounted_bpffs() as bpffs:
        made = World(bpffs)
        try:
            with made.wire.inside():
                opposite = face_xdp("a")
            with made.a.inside():
                made.a.datapath.close()
                made.a.datapath = made.a.load(accelerate=True)
                made.a.datapath.accelerate_uplink(made.a.ifindex("eth0"))
            yield made
        finally:
            os.close(opposite)
            made.close()


@pytest.fixture
def balancer(world: World) -> Iterator[Balancer]:
    made = Balancer(world)
    yield made
    made.clear()


def sent_by_driver(world: World) -> int:
    text = world.a.run("ethtool", "-S", "eth0")
    return sum(int(count) for count in re.findall(r"rx_queue_\d+_xdp_tx: (\d+)", text))


def settled(world: World) -> int:
    """The same, once the streams of earlier tests have said their last words."""
    before = -1
    while (now := sent_by_driver(world)) != before:
        before = now
        time.sleep(0.5)  # a lost last word is said again after 0.2 s
    return now


@both_families
@both_protocols
def test_a_known_flow_to_another_node_is_sent_on_by_the_driver(
    world: World, balancer: Balancer, family: int, protocol: Protocol
) -> None:
    address = world.b1.addresses[family]
    balancer.put(entry(ANY_NODE[family], NODE_PORT, protocol, address))
    before = sent_by_driver(world)
    with listen(world.b1, address, protocol, family) as server:
        seen = exchange(server, world.outside, (world.a.addresses[family], NODE_PORT), protocol, family)
    assert seen == world.a.addresses[family]
    assert sent_by_driver(world) > before  # the answer, and of a stream all but the first packet


@both_families
@pytest.mark.parametrize("place", ["a2", "a"])
def test_what_stays_here_is_left_to_the_hooks_behind(world: World, balancer: Balancer, family: int, place: str) -> None:
    host = getattr(world, place)
    address = host.addresses[family]
    balancer.put(entry(ANY_NODE[family], NODE_PORT, Protocol.TCP, address))
    before = settled(world)
    with listen(host, address, Protocol.TCP, family) as server:
        exchange(server, world.outside, (world.a.addresses[family], NODE_PORT), Protocol.TCP, family)
    assert sent_by_driver(world) == before


@both_families
def test_a_backend_that_goes_takes_its_known_flows_along(world: World, balancer: Balancer, family: int) -> None:
    first, second = world.b1.addresses[family], world.a2.addresses[family]
    to = (world.a.addresses[family], NODE_PORT)
    with (
        listen(world.b1, first, Protocol.UDP, family) as one,
        listen(world.a2, second, Protocol.UDP, family) as two,
        world.outside.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking,
    ):
        balancer.put(entry(ANY_NODE[family], NODE_PORT, Protocol.UDP, first))
        for _ in range(3):
            asking.sendto(b"1", to)
            assert one.recv(9) == b"1"
        balancer.put(entry(ANY_NODE[family], NODE_PORT, Protocol.UDP, second))
        asking.sendto(b"2", to)
        assert two.recv(9) == b"2"


def test_a_device_without_native_xdp_is_refused(world: World) -> None:
    with world.a.inside(), pytest.raises(AttachError):
        world.a.datapath.accelerate_uplink(world.a.ifindex("lo"))


def test_an_agent_without_acceleration_takes_it_away(world: World) -> None:
    with world.a.inside():
        world.a.datapath.close()
        world.a.datapath = world.a.load()
    assert not [path for path in world.a.pins.links.iterdir() if path.name.startswith("from_wire")]
