"""Services met by packets: clients outside, and pods whose sockets translate nothing. Real TCP and UDP over two nodes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address

import pytest

from balancing.outside import (
    ANY_NODE,
    BALANCER,
    DOMAIN,
    NODE_PORT,
    PORT,
    SERVICE,
    TARGET,
    Balancer,
    backends,
    entry,
    exchange,
    listen,
    receive,
)
from datapaths.nodes import OUTSIDE, Host, World, mounted_bpffs
from datapaths.packet import UDP, Packet, frame, ip, tagged, unreachable
from datapaths.traffic import send_frame
from stentor.datapath.maps import COUNT, DROP_KEY
from stentor.datapath.service_flow import Side, flows
from stentor.datapath.verdict import Drop
from stentor.net.address import Addr, Prefix
from stentor.tables.service import EntryFlag, FrontendKey, LBEntry, Protocol

both_families = pytest.mark.parametrize("family", [4, 6])
both_protocols = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda each: each.name)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with mounted_bpffs() as bpffs:
        made = World(bpffs)
        for family in (4, 6):
            prefix = "/32" if family == 4 else "/128"
            made.outside.ip(f"route add {BALANCER[family]}{prefix} via {made.a.addresses[family]}")
            made.outside.ip(f"route add {SERVICE[family]}{prefix} via {made.a.addresses[family]}")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def balancer(world: World) -> Iterator[Balancer]:
    made = Balancer(world)
    yield made
    made.clear()


def servers(world: World, family: int) -> dict[str, tuple[Host, str]]:
    """Where a backend may be, as seen from node a."""
    return {
        "pod here": (world.a2, world.a2.addresses[family]),
        "pod there": (world.b1, world.b1.addresses[family]),
        "this node": (world.a, world.a.addresses[family]),
        "other node": (world.b, world.b.addresses[family]),
    }


PLACES = ("pod here", "pod there", "this node", "other node")


@both_families
@both_protocols
@pytest.mark.parametrize("place", PLACES)
def test_a_pod_reaches_a_cluster_address(
    world: World, balancer: Balancer, family: int, protocol: Protocol, place: str
) -> None:
    host, address = servers(world, family)[place]
    balancer.put(entry(SERVICE[family], PORT, protocol, address, flags=EntryFlag.NONE))
    with listen(host, address, protocol, family) as server:
        seen = exchange(server, world.a1, (SERVICE[family], PORT), protocol, family)
    expected = world.a.addresses[family] if place == "other node" else world.a1.addresses[family]
    assert seen == expected


@both_families
@both_protocols
@pytest.mark.parametrize("place", PLACES)
def test_the_outside_reaches_a_node_port(
    world: World, balancer: Balancer, family: int, protocol: Protocol, place: str
) -> None:
    host, address = servers(world, family)[place]
    balancer.put(entry(ANY_NODE[family], NODE_PORT, protocol, address))
    with listen(host, address, protocol, family) as server:
        seen = exchange(server, world.outside, (world.a.addresses[family], NODE_PORT), protocol, family)
    is_here = place in ("pod here", "this node")
    assert seen == (OUTSIDE[family] if is_here else world.a.addresses[family])


@both_families
@pytest.mark.parametrize("place", PLACES)
def test_the_outside_reaches_an_address_that_no_machine_has(
    world: World, balancer: Balancer, family: int, place: str
) -> None:
    host, address = servers(world, family)[place]
    balancer.put(entry(BALANCER[family], PORT, Protocol.TCP, address))
    with listen(host, address, Protocol.TCP, family) as server:
        exchange(server, world.outside, (BALANCER[family], PORT), Protocol.TCP, family)


@both_families
def test_a_pod_reaches_a_node_port(world: World, balancer: Balancer, family: int) -> None:
    address = world.b1.addresses[family]
    balancer.put(entry(ANY_NODE[family], NODE_PORT, Protocol.TCP, address))
    with listen(world.b1, address, Protocol.TCP, family) as server:
        for node in (world.a, world.b):
            at = (node.addresses[family], NODE_PORT)
            assert exchange(server, world.a1, at, Protocol.TCP, family) == world.a1.addresses[family]


def drops(world: World) -> dict[int, int]:
    found: dict[int, int] = {}
    for key, values in world.a.datapath.maps["drops"].items():
        _, reason, _ = DROP_KEY.unpack(key)
        counts = [COUNT.unpack(values[at : at + COUNT.size])[0] for at in range(0, len(values), COUNT.size)]
        found[reason] = found.get(reason, 0) + sum(counts)
    return found


def is_dropped(world: World, client: Host, to: tuple[str, int], reason: Drop, family: int) -> bool:
    before = drops(world).get(reason, 0)
    with client.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking:
        asking.connect(to)
        asking.send(b"question")
    return drops(world).get(reason, 0) == before + 1


@both_families
def test_what_is_refused(world: World, balancer: Balancer, family: int) -> None:
    pod = world.a2.addresses[family]
    allowed = (Prefix.parse("203.0.113.0/24") if family == 4 else Prefix.parse("2001:db8:1::/48"),)
    ranges = EntryFlag.EXTERNAL | EntryFlag.SOURCE_RANGES
    balancer.put(
        entry(SERVICE[family], PORT, Protocol.UDP, pod, flags=EntryFlag.NONE),
        entry(ANY_NODE[family], NODE_PORT, Protocol.UDP),
        LBEntry(
            key=FrontendKey(Addr.parse(BALANCER[family]), PORT, Protocol.UDP),
            external=backends(pod),
            flags=ranges,
            source_ranges=allowed,
        ),
    )
    node_port = (world.a.addresses[family], NODE_PORT)
    assert is_dropped(world, world.outside, (SERVICE[family], PORT), Drop.CLUSTER_ADDRESS, family)
    assert is_dropped(world, world.outside, (BALANCER[family], PORT), Drop.SOURCE_RANGE, family)
    assert is_dropped(world, world.outside, node_port, Drop.NO_BACKEND, family)


@both_families
def test_source_ranges_admit_and_deny(world: World, balancer: Balancer, family: int) -> None:
    pod = world.a2.addresses[family]
    mine = (Prefix.parse(OUTSIDE[family]),)
    at = (BALANCER[family], PORT)
    key = FrontendKey(Addr.parse(BALANCER[family]), PORT, Protocol.UDP)
    flags = EntryFlag.EXTERNAL | EntryFlag.SOURCE_RANGES
    with listen(world.a2, pod, Protocol.UDP, family) as server:
        balancer.put(LBEntry(key=key, external=backends(pod), flags=flags, source_ranges=mine))
        exchange(server, world.outside, at, Protocol.UDP, family)
        balancer.put(
            LBEntry(key=key, external=backends(pod), flags=flags | EntryFlag.SOURCE_RANGES_DENY, source_ranges=mine)
        )
        assert is_dropped(world, world.outside, at, Drop.SOURCE_RANGE, family)


@both_families
@pytest.mark.parametrize("flags", [EntryFlag.AFFINITY, EntryFlag.MAGLEV | EntryFlag.AFFINITY, EntryFlag.MAGLEV])
def test_clients_keep_to_a_backend_or_spread(world: World, balancer: Balancer, family: int, flags: EntryFlag) -> None:
    pods = (world.a1, world.a2, world.b1)
    found = backends(*(pod.addresses[family] for pod in pods))
    key = FrontendKey(Addr.parse(ANY_NODE[family]), NODE_PORT, Protocol.UDP)
    balancer.put(LBEntry(key=key, external=found, flags=flags | EntryFlag.EXTERNAL, affinity_s=60))
    with ExitStack() as stack:
        listening = {
            pod.name: stack.enter_context(listen(pod, pod.addresses[family], Protocol.UDP, family)) for pod in pods
        }
        for _ in range(40):
            with world.outside.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking:
                asking.sendto(b"q", (world.a.addresses[family], NODE_PORT))
        counts = {name: drain(server) for name, server in listening.items()}
    assert sum(counts.values()) == 40
    used = [name for name, count in counts.items() if count]
    assert (len(used) == 1) if flags & EntryFlag.AFFINITY else (len(used) == 3)


def drain(server: socket.socket) -> int:
    """How many datagrams wait; what is on the way within the machine has arrived by the first time-out."""
    server.settimeout(0.3)
    count = 0
    try:
        while True:
            server.recv(100)
            count += 1
    except TimeoutError:
        return count


@both_families
def test_datagrams_of_one_socket_stay_until_their_backend_is_gone(
    world: World, balancer: Balancer, family: int
) -> None:
    first, second = world.a1.addresses[family], world.a2.addresses[family]
    key = FrontendKey(Addr.parse(ANY_NODE[family]), NODE_PORT, Protocol.UDP)
    to = (world.a.addresses[family], NODE_PORT)
    with (
        listen(world.a1, first, Protocol.UDP, family) as one,
        listen(world.a2, second, Protocol.UDP, family) as two,
        world.outside.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking,
    ):
        balancer.put(LBEntry(key=key, external=backends(first), flags=EntryFlag.EXTERNAL))
        asking.sendto(b"1", to)
        assert one.recv(9) == b"1"
        balancer.put(LBEntry(key=key, external=backends(first, second), flags=EntryFlag.EXTERNAL))
        for _ in range(20):
            asking.sendto(b"2", to)
            assert one.recv(9) == b"2"
        balancer.put(LBEntry(key=key, external=backends(second), flags=EntryFlag.EXTERNAL))
        asking.sendto(b"3", to)
        assert two.recv(9) == b"3"


@both_families
def test_a_direct_connection_is_not_mistaken_for_a_balanced_one(world: World, balancer: Balancer, family: int) -> None:
    """The same ports on both ends, first through the service, then past it."""
    pod = world.a2.addresses[family]
    balancer.put(entry(SERVICE[family], PORT, Protocol.TCP, pod, flags=EntryFlag.NONE))
    with listen(world.a2, pod, Protocol.TCP, family) as server:
        for to in ((SERVICE[family], PORT), (pod, TARGET)):
            with world.a1.socket(DOMAIN[family], socket.SOCK_STREAM) as asking:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                asking.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # closes by RST: no TIME_WAIT
                asking.bind((world.a1.addresses[family], 40123))
                asking.settimeout(5)
                asking.connect(to)
                answering, _ = server.accept()
                answering.sendall(b"hello")
                assert receive(asking, 5) == b"hello"
                answering.close()


@both_families
@both_protocols
def test_a_pod_reaches_itself_through_a_service(
    world: World, balancer: Balancer, family: int, protocol: Protocol
) -> None:
    address = world.a1.addresses[family]
    balancer.put(entry(SERVICE[family], PORT, protocol, address, flags=EntryFlag.NONE))
    with listen(world.a1, address, protocol, family) as server:
        seen = exchange(server, world.a1, (SERVICE[family], PORT), protocol, family)
    assert seen.split("%")[0] == {4: "169.254.42.1", 6: "fe80::1"}[family]


@both_families
def test_nobody_behind_a_service_is_told_at_once(world: World, balancer: Balancer, family: int) -> None:
    balancer.put(
        entry(SERVICE[family], PORT, Protocol.TCP, flags=EntryFlag.NONE),
        entry(ANY_NODE[family], NODE_PORT, Protocol.TCP),
        entry(ANY_NODE[family], NODE_PORT, Protocol.UDP),
    )
    node_port = (world.a.addresses[family], NODE_PORT)
    for client, to in ((world.a1, (SERVICE[family], PORT)), (world.outside, node_port)):
        with client.socket(DOMAIN[family], socket.SOCK_STREAM) as asking, pytest.raises(ConnectionRefusedError):
            asking.settimeout(5)
            asking.connect(to)
    with world.outside.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking, pytest.raises(ConnectionRefusedError):
        asking.settimeout(5)
        asking.connect(node_port)
        asking.send(b"q")
        asking.recv(9)


def offer(world: World, balancer: Balancer, family: int, place: str, where: str) -> tuple[Host, tuple[str, int]]:
    """A UDP service with one backend; returns a client, a pod or the outside, and the address that it knows."""
    _, address = servers(world, family)[place]
    if where == "pod":
        balancer.put(entry(SERVICE[family], PORT, Protocol.UDP, address))
        return world.a1, (SERVICE[family], PORT)
    balancer.put(entry(ANY_NODE[family], NODE_PORT, Protocol.UDP, address))
    return world.outside, (world.a.addresses[family], NODE_PORT)


@both_families
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", ["pod", "outside"])
def test_an_error_about_a_question_comes_from_the_service(
    world: World, balancer: Balancer, family: int, place: str, where: str
) -> None:
    """Nobody listens at the backend: its port unreachable reaches the client's socket, which knows the service only."""
    client, at = offer(world, balancer, family, place, where)
    with client.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking, pytest.raises(ConnectionRefusedError):
        asking.settimeout(5)
        asking.connect(at)
        asking.send(b"question")
        asking.recv(100)


@both_families
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", ["pod", "outside"])
def test_an_error_about_an_answer_reaches_the_backend(
    world: World, balancer: Balancer, family: int, place: str, where: str
) -> None:
    """The client is gone: its port unreachable, about a packet of the service, reaches the backend's socket."""
    client, at = offer(world, balancer, family, place, where)
    host, address = servers(world, family)[place]
    with listen(host, address, Protocol.UDP, family) as server:
        with client.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking:
            asking.connect(at)
            asking.send(b"question")
            _, peer = server.recvfrom(100)
        server.connect(peer)
        server.send(b"answer")
        with pytest.raises(ConnectionRefusedError):
            server.recv(100)


RECEIVE_ERRORS = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR, IPV6_RECVERR


def raw(host: Host, family: int) -> socket.socket:
    """For packets with headers of their own."""
    with host.inside():
        return socket.socket(DOMAIN[family], socket.SOCK_RAW, socket.IPPROTO_RAW)


@pytest.fixture
def strict(world: World) -> Iterator[None]:
    """Node b refuses packets from where it would not send any to."""
    world.b.sysctl("net/ipv4/conf/eth0/rp_filter=1")
    yield
    world.b.sysctl("net/ipv4/conf/eth0/rp_filter=0")


@both_families
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("place", PLACES)
def test_a_routers_error_about_an_answer_reaches_the_backend(
    world: World, balancer: Balancer, family: int, place: str
) -> None:
    """On another node it comes from the node that knows the client: nothing there leads to the router."""
    client, at = offer(world, balancer, family, place, "outside")
    host, address = servers(world, family)[place]
    router = {4: "203.0.113.7", 6: "2001:db8:113::7"}[family]
    with (
        listen(host, address, Protocol.UDP, family) as server,
        client.socket(DOMAIN[family], socket.SOCK_DGRAM) as asking,
        raw(client, family) as answering,
    ):
        server.setsockopt(*RECEIVE_ERRORS[family], 1)
        asking.connect(at)
        asking.send(b"question")
        _, peer = server.recvfrom(100)
        server.connect(peer)
        server.send(b"answer")
        assert asking.recv(100) == b"answer"
        answer = Packet(at[0], OUTSIDE[family], UDP, sport=NODE_PORT, dport=asking.getsockname()[1])
        answering.sendto(ip(unreachable(router, at[0], answer)), (at[0], 0))
        with pytest.raises(OSError, match="Network is unreachable"):
            server.recv(100)
        _, [(_, _, told)], _, _ = server.recvmsg(100, 200, socket.MSG_ERRQUEUE)
    offender = str(ip_address(told[20:24] if family == 4 else told[24:40]))  # behind struct sock_extended_err
    assert offender == (world.a.addresses[family] if place in ("pod there", "other node") else router)


@both_families
@pytest.mark.parametrize("where", ["pod", "outside"])
def test_a_stream_whose_backend_is_gone_is_reset_by_the_next_one(
    world: World, balancer: Balancer, family: int, where: str
) -> None:
    first, second = world.a2.addresses[family], world.b1.addresses[family]
    client, at = world.outside, (world.a.addresses[family], NODE_PORT)
    key = FrontendKey(Addr.parse(ANY_NODE[family]), NODE_PORT, Protocol.TCP)
    if where == "pod":
        client, at = world.a1, (SERVICE[family], PORT)
        key = FrontendKey(Addr.parse(SERVICE[family]), PORT, Protocol.TCP)

    def put(address: str) -> None:
        found = backends(address)
        balancer.put(LBEntry(key=key, internal=found, external=found, flags=EntryFlag.EXTERNAL))

    with (
        listen(world.a2, first, Protocol.TCP, family) as one,
        listen(world.b1, second, Protocol.TCP, family),
        client.socket(DOMAIN[family], socket.SOCK_STREAM) as asking,
    ):
        put(first)
        asking.settimeout(5)
        asking.connect(at)
        with one.accept()[0] as answering:
            asking.sendall(b"question")
            assert receive(answering, 8) == b"question"
            put(second)
            asking.sendall(b"another")
            with pytest.raises(ConnectionResetError):
                asking.recv(9)


def test_what_is_tagged_is_for_another_link(world: World, balancer: Balancer) -> None:
    """A frame of a virtual LAN on the uplink's wire is a frame of the uplink's no more than of another wire."""
    pod = world.a2.addresses[4]
    balancer.put(entry(BALANCER[4], PORT, Protocol.UDP, pod))
    mac = json.loads(world.a.run("ip", "-j", "link", "show", "dev", "eth0"))[0]["address"]
    p = Packet(OUTSIDE[4], BALANCER[4], UDP, dport=PORT)
    with listen(world.a2, pod, Protocol.UDP, 4) as server:
        for sport, number in ((5001, 5), (5002, 0), (5003, None)):  # a tag without a number is a priority only
            sent = bytes.fromhex(mac.replace(":", "")) + frame(replace(p, sport=sport))[6:]
            send_frame(world.outside, sent if number is None else tagged(sent, number))
        assert [server.recvfrom(100)[1][1] for _ in range(2)] == [5002, 5003]
    known = {flow.source_port for flow in flows(world.a.datapath.maps) if flow.side is Side.TO_BACKEND}
    assert known & {5001, 5002, 5003} == {5002, 5003}
