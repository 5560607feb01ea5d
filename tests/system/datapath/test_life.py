"""Programs and maps over time: a loader that exits, one that adopts, swaps under load, changed maps, changed policy."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import msgspec
import pytest

from datapaths.nodes import ALLOW_ALL, LIMITS, Node, World, write
from datapaths.traffic import FAMILIES, carry, dial, exchange, listen, ping, read_exactly
from stentor.datapath import targets
from stentor.datapath.config import DatapathConfig
from stentor.datapath.connection import collect, connections, translations
from stentor.datapath.errors import MapLayoutChanged, MapTooSmall
from stentor.datapath.loader import Datapath
from stentor.datapath.metric import DropEvents, dropped
from stentor.sys.bpf import Map, program_id
from stentor.tables.policy import ANYONE, Action, Direction, Form, PolicyPeer, PolicyRule

DENY = 9


def ids(datapath: Datapath) -> dict[str, int]:
    return {name: program_id(fd) for name, fd in datapath.programs.items()}


@contextmanager
def reloaded(node: Node, **changes: object) -> Iterator[Datapath]:
    """A second loader on the node, as a new agent; the first one's descriptors are given up."""
    node.datapath.close()
    with node.inside():
        node.datapath = node.load(**changes)
        node.datapath.attach_overlay(node.ifindex("cilium_vxlan"))
        node.datapath.attach_host(node.ifindex("cilium_host"))
        node.datapath.attach_uplink(node.ifindex("eth0"))
    yield node.datapath


@contextmanager
def counting_pings(world: World, family: int) -> Iterator[list[int]]:
    """A datagram a millisecond from a1 to b1 and back; [sent, answered] when the block is over."""
    result = [0, 0]
    server = world.b1.socket(FAMILIES[family], socket.SOCK_DGRAM)
    client = world.a1.socket(FAMILIES[family], socket.SOCK_DGRAM)
    for each in (server, client):
        each.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE: what is read late is not lost
    server.bind((world.b1.addresses[family], 0))
    client.connect(server.getsockname()[:2])
    stop = threading.Event()

    def answer() -> None:
        while data := server.recvfrom(100):
            if data[0] == b"end":
                return
            server.sendto(*data)

    def ask() -> None:
        while not stop.wait(0.001):
            client.send(b"ping")
            result[0] += 1
        client.send(b"end")

    threads = [threading.Thread(target=answer), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
        client.settimeout(0.5)
        try:
            while result[1] < result[0]:
                client.recv(100)
                result[1] += 1
        except TimeoutError:
            pass
        client.close()
        server.close()


@contextmanager
def joined(world: World, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection from a1 to b1."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(listen(world.b1, family)))
        client = stack.enter_context(
            closing(dial(world.a1, family, world.b1.addresses[family], listener.getsockname()[1]))
        )
        server = stack.enter_context(closing(listener.accept()[0]))
        server.settimeout(5)
        yield client, server


def test_the_same_programs_are_taken_over(world: World) -> None:
    before = ids(world.a.datapath)
    with reloaded(world.a) as datapath:
        assert ids(datapath) == before
        assert datapath.statistics == {}
    carry(world.a1, world.b1, 4, world.b1.addresses[4], 1 << 20)


@pytest.mark.parametrize("family", [4, 6])
def test_swaps_lose_nothing(world: World, family: int) -> None:
    with counting_pings(world, family) as count, joined(world, family) as (client, server):
        for seconds in (7001 + family, 7002 + family, 8000):
            before = ids(world.a.datapath)
            with world.a.inside():
                world.a.datapath.swap(changed(world.a, ct_tcp_s=seconds))
            assert not set(before.values()) & set(ids(world.a.datapath).values())
            client.sendall(b"still there?")
            assert read_exactly(server, 12) == b"still there?"
    assert count[0] > 0
    assert count[1] == count[0]


def changed(node: Node, **changes: object) -> DatapathConfig:
    return msgspec.structs.replace(node.datapath.config, **changes)


def test_traffic_outlives_the_loader(world: World) -> None:
    """All descriptors of the loading process are closed; only pins and devices hold the programs."""
    world.a.datapath.close()
    try:
        for family in (4, 6):
            carry(world.a1, world.a2, family, world.a2.addresses[family], 1 << 20)
            carry(world.a1, world.b1, family, world.b1.addresses[family], 1 << 20)
    finally:
        with world.a.inside():
            world.a.datapath = world.a.load()


def test_a_larger_map_takes_the_rows_along(world: World) -> None:
    with joined(world, 4) as (client, server):
        port = server.getsockname()[1]
        rows = dict(world.a.datapath.maps["ipcache"].items())
        LIMITS["ipcacheMax"], LIMITS["ctTcpMax"] = 16384, 16384
        try:
            with reloaded(world.a) as datapath:
                assert datapath.maps["ipcache"].spec.max_entries == 16384
                assert dict(datapath.maps["ipcache"].items()) == rows
                known = [c for c in connections(datapath.maps) if c.server_port == port]
                assert [str(c.server) for c in known] == [world.b1.addresses[4]]
                client.sendall(b"hello")
                assert read_exactly(server, 5) == b"hello"
        finally:
            LIMITS["ipcacheMax"], LIMITS["ctTcpMax"] = 8192, 8192
    with reloaded(world.a) as datapath:
        assert dict(datapath.maps["ipcache"].items()) == rows


def test_a_map_too_small_for_its_rows_is_refused(world: World) -> None:
    LIMITS["ipcacheMax"] = 4
    try:
        with (
            world.a.inside(),
            pytest.raises(MapTooSmall, match=r"ipcache holds \d+ rows, which do not fit into 4: raise bpf.ipcacheMax"),
        ):
            world.a.load()
    finally:
        LIMITS["ipcacheMax"] = 8192
    assert Map.open(world.a.pins.map("ipcache")).spec.max_entries == 8192
    assert ping(world.a1, world.b1.addresses[4])


def test_other_fields_of_the_same_size_are_refused(world: World) -> None:
    layouts = Map.open(world.a.pins.map("layouts"))
    key = b"endpoints".ljust(32, b"\0")
    known = layouts.get(key)
    assert known
    layouts[key] = bytes(8)
    try:
        with world.a.inside(), pytest.raises(MapLayoutChanged, match=r"endpoints.*other fields"):
            world.a.load()
    finally:
        layouts[key] = known
    assert ping(world.a1, world.a2.addresses[6])


def test_a_revoked_rule_cuts_a_live_connection(world: World) -> None:
    rule = PolicyRule(class_id=DENY, action=Action.DENY)
    write(targets.rules(world.b.datapath.maps), [(rule.key, rule)])
    peers = targets.peers(world.b.datapath.maps)

    def lead_to(class_id: int) -> None:
        row = PolicyPeer(
            policy_id=ALLOW_ALL, direction=Direction.INGRESS, identity=ANYONE, class_id=class_id, forms=Form.ANY
        )
        write(peers, [(row.key, row)])

    with joined(world, 4) as (client, server):
        client.sendall(b"before")
        assert read_exactly(server, 6) == b"before"
        events = DropEvents(world.b.datapath.maps)
        events.read()
        lead_to(DENY)
        try:
            client.sendall(b"during")
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                server.recv(6)
            seen = [event for event in events.read() if event.protocol == socket.IPPROTO_TCP]
        finally:
            lead_to(ALLOW_ALL)
        assert {event.reason for event in seen} == {181}
        assert (seen[0].source_identity, seen[0].destination_identity, seen[0].endpoint) == (1001, 2001, 1)
        assert (str(seen[0].source), str(seen[0].destination)) == (world.a1.addresses[4], world.b1.addresses[4])
        server.settimeout(5)
        assert read_exactly(server, 6) == b"during"


def test_without_policy_nothing_passes_not_even_replies(world: World) -> None:
    world.a.set_policy(world.a2, 0)
    try:
        for family in (4, 6):
            assert not ping(world.a1, world.a2.addresses[family], "-W", "0.3")
            assert not ping(world.a2, world.a1.addresses[family], "-W", "0.3")
            assert not ping(world.a, world.a2.addresses[family], "-W", "0.3")
    finally:
        world.a.set_policy(world.a2, ALLOW_ALL)
    assert {row.reason for row in dropped(world.a.datapath.maps)} >= {203}
    assert ping(world.a1, world.a2.addresses[4])


def test_no_packet_before_the_policy(world: World) -> None:
    """A sender is at it before the pod exists; its namespace counts what arrives from the moment of its making."""
    address = {4: "10.1.0.90", 6: "fd00:1::90"}
    stop = threading.Event()

    def send() -> None:
        sockets = [(world.a1.socket(FAMILIES[f], socket.SOCK_DGRAM), (address[f], 4000)) for f in (4, 6)]
        while not stop.wait(0.0005):
            for s, to in sockets:
                try:
                    s.sendto(b"early", to)
                except OSError:
                    continue
        for s, _ in sockets:
            s.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(5):
            pod = world.a.add_pod("late", 80, policy=0)
            assert received(pod) == 0
            world.a.set_policy(pod, ALLOW_ALL)
            assert wait_until(lambda pod=pod: received(pod) > 0)
            world.a.remove_pod("late")
    finally:
        stop.set()
        thread.join()


def received(pod: object) -> int:
    with pod.inside():  # type: ignore[attr-defined]
        return int(next(line.split()[1] for line in open("/proc/thread-self/net/dev") if "eth0:" in line).strip())


def wait_until(check: object, deadline_s: float = 30) -> bool:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if check():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_collecting_keeps_what_lives(world: World) -> None:
    maps = world.a.datapath.maps
    with (
        closing(listen(world.outside, 4)) as listener,
        closing(dial(world.a1, 4, "192.0.2.9", listener.getsockname()[1])),
    ):
        server, _ = listener.accept()
        port = listener.getsockname()[1]
        exchange(world.a1, world.b1, 6, world.b1.addresses[6])
        collect(maps)
        assert any(c.server_port == port for c in connections(maps))
        assert len([t for t in translations(maps) if port in (t.source_port, t.destination_port)]) == 2
        for name in ("conntrack_tcp", "conntrack_any", "nat"):
            for key, value in maps[name].items():
                at = 20 if name == "nat" else 0
                maps[name][key] = (
                    value[:at]
                    + (int.from_bytes(value[at : at + 4], "little") - 20_000 & 0xFFFFFFFF).to_bytes(4, "little")
                    + value[at + 4 :]
                )
        found = collect(maps)
        assert (found.alive, found.translations_alive) == (0, 0)
        assert min(found.deleted, found.translations_deleted) > 0
        server.close()


def test_clsact_where_there_is_no_tcx(world: World) -> None:
    links = list(world.b.pins.links.iterdir())
    with world.b.inside():
        for device in ("eth0", "cilium_vxlan", "cilium_host"):
            world.b.datapath.detach(world.b.ifindex(device))
        assert not ping(world.b1, world.a1.addresses[4], "-W", "0.3")
        world.b.datapath._has_tcx = False
        world.b.datapath.attach_overlay(world.b.ifindex("cilium_vxlan"))
        world.b.datapath.attach_host(world.b.ifindex("cilium_host"))
        world.b.datapath.attach_uplink(world.b.ifindex("eth0"))
    assert links
    assert list(world.b.pins.links.iterdir()) == []
    for family in (4, 6):
        carry(world.b1, world.a1, family, world.a1.addresses[family], 1 << 20)
        carry(world.b1, world.outside, family, {4: "192.0.2.9", 6: "2001:db8::9"}[family], 1 << 20)
        carry(world.b, world.a1, family, world.a1.addresses[family], 1 << 20)


def test_promoted_pods_pass_on(world: World) -> None:
    with world.a.inside():
        world.a.datapath.promote_endpoint(world.a1.ifindex_on_node)
        world.a.datapath.promote_endpoint(world.a1.ifindex_on_node)
        world.a.datapath.promote_endpoint(9999)
    names = {path.name for path in world.a.pins.links.iterdir()}
    assert f"from_container-{world.a1.ifindex_on_node}" in names
    carry(world.a1, world.b1, 4, world.b1.addresses[4], 1 << 20)
    with world.a.inside():
        world.a.datapath.swap(changed(world.a, ct_any_s=61))
    carry(world.a1, world.a2, 6, world.a2.addresses[6], 1 << 20)
