"""Real traffic on every path of two nodes: TCP larger than any segment, datagrams and echoes of MTU size, both families."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from datapaths.nodes import ALLOW_ALL, OUTSIDE, POD_MTU, Host, World, mounted_bpffs, write
from datapaths.packet import UDP, Packet, frame, tagged
from datapaths.traffic import DEADLINE_S, FAMILIES, carry, exchange, ping, send_frame
from stentor.datapath import targets
from stentor.datapath.metric import dropped
from stentor.datapath.verdict import Drop
from stentor.net.identity import Reserved
from stentor.tables.policy import ANYONE, Direction, Form, PolicyPeer

UDP_HEADERS = {4: 28, 6: 48}
# client, server, whose address the server should see ("" its own)
PATHS = {
    "pod to pod, same node": ("a1", "a2", "a1"),
    "pod to pod, across": ("a1", "b1", "a1"),
    "pod to pod, back": ("b1", "a2", "b1"),
    "node to its pod": ("a", "a1", "router a"),
    "pod to its node": ("a1", "a", "a1"),
    "node to remote pod": ("a", "b1", "router a"),
    "pod to remote node": ("a1", "b", "a"),
    "pod to outside": ("a1", "outside", "a"),
    "node to outside": ("a", "outside", "a"),
}


def host_of(world: World, name: str) -> Host:
    return getattr(world, name)


def address_of(world: World, name: str, family: int) -> str:
    if name == "outside":
        return OUTSIDE[family]
    if name.startswith("router "):
        return host_of(world, name.removeprefix("router ")).router[family]  # type: ignore[attr-defined]
    return host_of(world, name).addresses[family]  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("path", PATHS)
def test_path(world: World, path: str, family: int) -> None:
    client, server, seen = PATHS[path]
    target = address_of(world, server, family)
    expected = address_of(world, seen, family)
    one, two = host_of(world, client), host_of(world, server)
    assert carry(one, two, family, target) in (
        expected,
        address_of(world, client, family) if client == "a" else expected,
    )
    for size in (1, POD_MTU - UDP_HEADERS[family]):
        exchange(one, two, family, target, size)
    full = POD_MTU - UDP_HEADERS[family]
    assert ping(one, target, "-M", "do", "-s", str(full))


@pytest.mark.parametrize("family", [4, 6])
def test_fragmented_datagrams(world: World, family: int) -> None:
    for server, address in ((world.a2, world.a2.addresses), (world.b1, world.b1.addresses), (world.outside, OUTSIDE)):
        exchange(world.a1, server, family, address[family], 20_000)


@pytest.mark.parametrize("family", [4, 6])
def test_node_speaks_to_a_remote_pod_from_its_own_address(world: World, family: int) -> None:
    own = world.a.addresses[family]
    assert carry(world.a, world.b1, family, world.b1.addresses[family], source=own) == own
    assert exchange(world.a, world.b1, family, world.b1.addresses[family], source=own) == own


@pytest.mark.parametrize("family", [4, 6])
def test_outside_closed_port_is_told_to_the_pod(world: World, family: int) -> None:
    """The error's quoted packet is the pod's own again, else its socket would not know it."""
    with closing(world.a1.socket(FAMILIES[family], 2)) as s:
        s.settimeout(5)
        s.connect((OUTSIDE[family], 9))
        s.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            s.recv(10)


@pytest.mark.parametrize("family", [4, 6])
def test_a_smaller_mtu_outside_is_learned(world: World, family: int) -> None:
    world.a.ip("link set eth0 mtu 1300")
    try:
        size = str(1400 - UDP_HEADERS[family])
        said = world.a1.run("ping", "-c1", "-W2", "-M", "do", "-s", size, OUTSIDE[family], check=False)
        assert "mtu = 1300" in said or "mtu=1300" in said
        carry(world.a1, world.outside, family, OUTSIDE[family])
    finally:
        world.a.ip("link set eth0 mtu 1500")
        for pod in (world.a, world.a1):
            pod.ip("route flush cache")
            pod.run("ip", "-6", "route", "flush", "cache")


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_cannot_use_anothers_address(world: World, family: int) -> None:
    forged = world.a2.addresses[family]
    before = drops(world, 132)
    world.a1.ip(f"addr add {forged} dev lo" + (" nodad" if family == 6 else ""))
    try:
        assert not ping(world.a1, world.b1.addresses[family], "-I", forged)
    finally:
        world.a1.ip(f"addr del {forged}/{32 if family == 4 else 128} dev lo")
    assert drops(world, 132) > before


def drops(world: World, reason: int, node: str = "a") -> int:
    return sum(row.packets for row in dropped(getattr(world, node).datapath.maps) if row.reason == reason)


def is_dropped(world: World, send: Callable[[], object], reason: int, node: str = "a") -> bool:
    """What becomes of a packet."""
    before = drops(world, reason, node)
    send()
    deadline = time.monotonic() + DEADLINE_S
    while drops(world, reason, node) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return drops(world, reason, node) == before + 1


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("client", ["a", "a1"])
def test_a_datagram_waits_for_the_next_hops_address(world: World, client: str, family: int) -> None:
    world.a.ip("neigh flush dev eth0")
    exchange(host_of(world, client), world.b1, family, world.b1.addresses[family])


@pytest.mark.parametrize("family", [4, 6])
def test_who_comes_through_a_node_is_not_that_node(world: World, family: int) -> None:
    """A pod that admits nodes only is no nearer to who has one of them route the way there."""
    pod, pods = world.b1.addresses[family], ("10.2.0.0/24", "fd00:2::/64")[family == 6]
    nodes_only = [
        PolicyPeer(policy_id=2, direction=Direction.INGRESS, identity=Reserved.REMOTE_NODE, class_id=ALLOW_ALL, forms=Form.ANY),
        PolicyPeer(policy_id=2, direction=Direction.EGRESS, identity=ANYONE, class_id=ALLOW_ALL, forms=Form.ANY),
    ]  # fmt: skip
    write(targets.peers(world.b.datapath.maps), [(peer.key, peer) for peer in nodes_only])
    world.b.set_policy(world.b1, 2)
    world.outside.ip(f"route add {pods} via {world.a.addresses[family]}")
    try:
        assert exchange(world.a, world.b1, family, pod)
        with closing(world.outside.socket(FAMILIES[family], socket.SOCK_DGRAM)) as s:
            assert is_dropped(world, lambda: s.sendto(b"anybody there?", (pod, 9)), Drop.POLICY, "b")
    finally:
        world.outside.ip(f"route del {pods}")
        world.b.set_policy(world.b1, ALLOW_ALL)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("server", ["a2", "b1", "outside"])
def test_a_pod_has_no_virtual_lans(world: World, server: str, family: int) -> None:
    """Its tag would take packets to another device of their receiver, or into a network beside the underlay."""
    sent = tagged(frame(Packet(world.a1.addresses[family], address_of(world, server, family), UDP)))
    assert is_dropped(world, lambda: send_frame(world.a1, sent), Drop.VLAN_FILTERED)


def test_checksum_offload_off(world: World) -> None:
    pods = (world.a1, world.b1)
    for pod in pods:
        pod.run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off")
    try:
        for family in (4, 6):
            carry(world.a1, world.b1, family, world.b1.addresses[family], 1 << 20)
            carry(world.a1, world.outside, family, OUTSIDE[family], 1 << 20)
            exchange(world.b1, world.outside, family, OUTSIDE[family])
    finally:
        for pod in pods:
            pod.run("ethtool", "-K", "eth0", "tx", "on", "tso", "on", "gso", "on")


def test_over_an_ipv6_underlay() -> None:
    with mounted_bpffs() as bpffs, closing(World(bpffs, underlay=6)) as world:
        for family in (4, 6):
            carry(world.a1, world.b1, family, world.b1.addresses[family])
            carry(world.a, world.b1, family, world.b1.addresses[family])
            assert ping(world.a1, world.b1.addresses[family], "-M", "do", "-s", str(POD_MTU - UDP_HEADERS[family]))
