"""VXLAN by the programs themselves: that they do it, with whom it works together, and what they leave to the device."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec
import pytest

from datapaths.nodes import POD_MTU, Host, Node, World
from datapaths.packet import UDP, Packet, Wrapping, in_frame, wrap
from datapaths.traffic import carry, exchange, ping
from labs.lab import eventually
from stentor.datapath.metric import dropped

UDP_HEADERS = {4: 28, 6: 48}
SIZE = 1 << 20
UDP_SEGMENT = 103  # linux/udp.h


def device_packets(node: Node) -> int:
    """What the VXLAN device has sent and received."""
    (link,) = json.loads(node.run("ip", "-s", "-j", "link", "show", "cilium_vxlan"))
    return sum(link["stats64"][way]["packets"] for way in ("rx", "tx"))


@contextmanager
def by_the_device(node: Node) -> Iterator[None]:
    """As on an older kernel, or with `bpf.hostLegacyRouting`."""
    was = node.datapath.config
    with node.inside():
        node.datapath.swap(msgspec.structs.replace(was, overlay_source=None))
    try:
        yield
    finally:
        with node.inside():
            node.datapath.swap(was)


@pytest.mark.parametrize("family", [4, 6])
def test_pods_traffic_does_not_meet_the_device(world: World, family: int) -> None:
    before = [device_packets(node) for node in world.nodes]
    carry(world.a1, world.b1, family, world.b1.addresses[family], SIZE)
    exchange(world.a1, world.b1, family, world.b1.addresses[family], 20_000)  # in fragments
    assert ping(world.b1, world.a1.addresses[family])
    assert [device_packets(node) for node in world.nodes] == before


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("legacy", ["a", "b"])
def test_one_end_by_the_device(world: World, legacy: str, family: int) -> None:
    """What the programs send a device takes, and the other way round."""
    node: Node = getattr(world, legacy)
    with by_the_device(node):
        before = device_packets(node)
        carry(world.a1, world.b1, family, world.b1.addresses[family], SIZE)
        exchange(world.b1, world.a1, family, world.a1.addresses[family], 20_000)
        assert ping(world.a1, world.b1.addresses[family], "-M", "do", "-s", str(POD_MTU - UDP_HEADERS[family]))
        assert device_packets(node) > before + 10


@pytest.mark.parametrize("family", [4, 6])
def test_too_long_for_the_underlay(world: World, family: int) -> None:
    """The outer packet goes in fragments, and arrives."""
    other = world.b.addresses[4]
    world.a.ip(f"route add {other} dev eth0 mtu lock 1300")
    try:
        before = device_packets(world.a)
        exchange(world.a1, world.b1, family, world.b1.addresses[family], POD_MTU - UDP_HEADERS[family])
        carry(world.a1, world.b1, family, world.b1.addresses[family], SIZE)
        assert device_packets(world.a) > before
    finally:
        world.a.ip(f"route del {other} dev eth0", "route flush cache")


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_packet_finds_the_neighbour(world: World, family: int) -> None:
    for node in world.nodes:
        node.ip("neigh flush dev eth0")
    exchange(world.a1, world.b1, family, world.b1.addresses[family])


@pytest.mark.parametrize("family", [4, 6])
def test_without_offloads_on_the_uplinks(world: World, family: int) -> None:
    """Segments are cut, and checksums of their insides filled in, before they leave."""
    switches = ("tx", "tso", "gso", "tx-udp_tnl-segmentation")
    try:
        for node in world.nodes:
            node.run("ethtool", "-K", "eth0", *(word for name in switches for word in (name, "off")))
        carry(world.a1, world.b1, family, world.b1.addresses[family], SIZE)
        exchange(world.a1, world.b1, family, world.b1.addresses[family])
    finally:
        for node in world.nodes:
            node.run("ethtool", "-K", "eth0", *(word for name in switches for word in (name, "on")))


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_in_one_large_packet(world: World, family: int) -> None:
    """UDP_SEGMENT, as QUIC sends: they arrive one by one, whole and in order."""
    kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family], socket.SOCK_DGRAM
    with closing(world.b1.socket(*kind)) as receiver, closing(world.a1.socket(*kind)) as sender:
        receiver.bind((world.b1.addresses[family], 0))
        receiver.settimeout(10)
        sender.connect(receiver.getsockname()[:2])
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.send(b"".join(bytes([n]) * 1000 for n in range(20)) + b"end")
        assert [receiver.recv(2000) for _ in range(21)] == [*(bytes([n]) * 1000 for n in range(20)), b"end"]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "identity", "reason"),
    [("192.0.2.9", 2001, 172), ("192.0.2.2", 2 << 16 | 2001, 171), ("192.0.2.2", 7, 171)],
)
def test_forged_wrappings_are_dropped(world: World, source: str, identity: int, reason: int, family: int) -> None:
    """By an outside host: from an address that is no node's, or with a node's address and an identity that is not theirs."""
    p = Packet(world.b1.addresses[family], world.a1.addresses[family], UDP, dport=4000)
    with closing(world.a1.socket({4: socket.AF_INET, 6: socket.AF_INET6}[family], socket.SOCK_DGRAM)) as receiver:
        receiver.bind(("", 4000))
        receiver.settimeout(5)
        before = drops(world.a, reason)
        send_raw(world.outside, wrap(Wrapping(source, "192.0.2.1", identity), in_frame(p)))
        eventually(lambda: drops(world.a, reason) == before + 1)
        send_raw(world.outside, wrap(Wrapping("192.0.2.2", "192.0.2.1", 2001), in_frame(p)))
        assert receiver.recv(100) == p.payload  # the same one, as it would be from that node: the only one that arrives
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def send_raw(host: Host, frame: bytes) -> None:
    """An IPv4 packet with whatever source address it has."""
    with host.inside(), closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as s:
        s.sendto(frame[14:], ("192.0.2.1", 0))


def drops(node: Node, reason: int) -> int:
    return sum(row.packets for row in dropped(node.datapath.maps) if row.reason == reason)
