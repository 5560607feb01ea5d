"""Services at the socket: real sockets of processes in a cgroup with the programs on it, both families, TCP and UDP."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from balancing.balancer import Balancer, entry, key
from stentor.datapath.cgroup import CgroupLinks
from stentor.datapath.config import DatapathConfig
from stentor.datapath.names import Pins
from stentor.datapath.service_socket import SocketEnder
from stentor.net.identity import Reserved
from stentor.sys import cgroup, mount
from stentor.sys.namespace import Kind, network_cookie, unshare
from stentor.tables.ipcache import IPCacheFlag
from stentor.tables.service import EntryFlag, LBEntry, Protocol

FAMILIES = {4: (socket.AF_INET, "127.0.0.1", "10.96.0.1"), 6: (socket.AF_INET6, "::1", "fd00:96::1")}
Scenario = Callable[["World"], Awaitable[None]]


class World:
    """A process in a network namespace and a cgroup of its own; the namespace is the node's unless told otherwise."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer

    def listen(self, family: int, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, str]:
        """A server's socket and its address as text."""
        domain, loopback, _ = FAMILIES[family]
        server = socket.socket(domain, kind)
        server.bind((loopback, 0))
        server.settimeout(5)
        if kind == socket.SOCK_STREAM:
            server.listen()
        host = f"[{loopback}]" if family == 6 else loopback
        return server, f"{host}:{server.getsockname()[1]}"

    def connect(self, family: int, to: tuple[str, int], kind: int = socket.SOCK_STREAM) -> socket.socket:
        client = socket.socket(FAMILIES[family][0], kind)
        client.settimeout(5)
        client.connect(to)
        return client


@pytest.fixture
def group() -> Iterator[Path]:
    path = cgroup.root() / f"stentor-sock-{os.getpid()}"
    os.close(cgroup.create(path))
    yield path
    cgroup.remove(path)


@pytest.fixture
def run(group: Path) -> Callable[..., None]:
    """Runs a scenario in a child process that lives in the cgroup and in new network and mount namespaces."""

    def go(scenario: Scenario, *, on_host: bool = True) -> None:
        child = os.fork()
        if not child:
            try:
                unshare(Kind.NET | Kind.MNT)
                mount.mount("", "/", flags=mount.Flag.REC | mount.Flag.PRIVATE)
                bring_up_loopback()
                bpffs = Path("/mnt")
                mount.mount("bpf", str(bpffs), "bpf")
                fd = os.open(group, os.O_RDONLY)
                cgroup.join(fd)
                asyncio.run(in_child(scenario, group, bpffs, on_host))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return go


async def in_child(scenario: Scenario, group: Path, bpffs: Path, on_host: bool) -> None:
    balancer = Balancer("sock")
    config = DatapathConfig(overlay_ifindex=1, host_netns=network_cookie() if on_host else 1)
    pins = Pins(bpffs)
    pins.make()
    links = CgroupLinks(balancer.programs(config), pins, group)
    links.attach()
    try:
        await scenario(World(balancer))
    finally:
        links.detach()


def bring_up_loopback() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_reaches_a_backend_and_the_peer_is_still_the_service(family: int, run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        server, at = world.listen(family)
        service = FAMILIES[family][2]
        await world.balancer.put(entry(f"[{service}]:80", at))
        client = world.connect(family, (service, 80))
        assert client.getpeername()[:2] == (service, 80)
        assert server.accept()[0].getpeername()[:2] == client.getsockname()[:2]

    run(scenario)


def test_a_v4_mapped_address_on_an_ipv6_socket(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        _server, at = world.listen(4)
        await world.balancer.put(entry("10.96.0.1:80", at))
        client = world.connect(6, ("::ffff:10.96.0.1", 80))
        assert client.getpeername()[:2] == ("::ffff:10.96.0.1", 80)

    run(scenario)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("connected", [True, False])
def test_udp_answers_come_from_the_service(family: int, connected: bool, run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        server, at = world.listen(family, socket.SOCK_DGRAM)
        domain, _, service = FAMILIES[family]
        await world.balancer.put(entry(f"[{service}]:53", at, protocol=Protocol.UDP))
        client = socket.socket(domain, socket.SOCK_DGRAM)
        client.settimeout(5)
        if connected:
            client.connect((service, 53))
            client.send(b"q")
        else:
            client.sendto(b"q", (service, 53))
        data, source = server.recvfrom(9)
        server.sendto(b"a" + data, source)
        answer, sender = client.recvfrom(9)
        assert (answer, sender[:2]) == (b"aq", (service, 53))

    run(scenario)


def test_datagrams_move_to_the_next_backend_at_once(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        (one, first), (two, second) = (world.listen(4, socket.SOCK_DGRAM) for _ in range(2))
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for server, at in ((one, first), (two, second)):
            await world.balancer.put(entry("10.96.0.1:53", at, protocol=Protocol.UDP))
            client.sendto(b"q", ("10.96.0.1", 53))
            assert server.recv(9) == b"q"

    run(scenario)


@pytest.mark.parametrize("family", [4, 6])
def test_connected_datagram_sockets_end_with_their_backend(family: int, run: Callable[..., None]) -> None:
    """Those that came by the service that lost it; others that speak to the same backend stay."""

    async def scenario(world: World) -> None:
        (one, first), (two, second) = (world.listen(family, socket.SOCK_DGRAM) for _ in range(2))
        service, other = FAMILIES[family][2], {4: "10.96.0.2", 6: "fd00:96::2"}[family]
        both = [entry(f"[{ip}]:53", first, protocol=Protocol.UDP) for ip in (service, other)]
        await world.balancer.put(*both)
        ender = SocketEnder(world.balancer.maps["lb_origins"])
        stranded = world.connect(family, (service, 53), socket.SOCK_DGRAM)
        staying = world.connect(family, (other, 53), socket.SOCK_DGRAM)
        direct = world.connect(family, one.getsockname()[:2], socket.SOCK_DGRAM)
        await world.balancer.put(entry(f"[{service}]:53", first, second, protocol=Protocol.UDP))
        await world.balancer.put(entry(f"[{service}]:53", second, protocol=Protocol.UDP))
        assert ender.end(await world.balancer.target.lost(), []) == 1
        with pytest.raises(ConnectionAbortedError):
            stranded.recv(9)
        stranded.connect((service, 53))  # the next connect of the same socket finds the one that is left
        stranded.send(b"q")
        assert two.recv(9) == b"q"
        for client in (staying, direct):
            client.send(b"q")
            assert one.recv(9) == b"q"

    run(scenario)


def test_a_service_that_goes_ends_its_datagram_sockets(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        _server, at = world.listen(4, socket.SOCK_DGRAM)
        row = LBEntry(key=key("0.0.0.0:30053", Protocol.UDP), internal=entry("1.1.1.1:1", at).internal)
        await world.balancer.put(row)
        client = world.connect(4, ("127.0.0.1", 30053), socket.SOCK_DGRAM)
        await world.balancer.drop(row.key)
        assert SocketEnder(world.balancer.maps["lb_origins"]).end(await world.balancer.target.lost(), []) == 1
        with pytest.raises(ConnectionAbortedError):
            client.recv(9)

    run(scenario)


def test_no_backend_is_an_unreachable_host(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.balancer.put(entry("10.96.0.1:80"), entry("[fd00:96::1]:80"))
        for family in FAMILIES:
            with pytest.raises(OSError) as caught:
                world.connect(family, (FAMILIES[family][2], 80))
            assert caught.value.errno == errno.EHOSTUNREACH

    run(scenario)


def test_connections_spread_over_active_backends_only(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        servers = [world.listen(4) for _ in range(3)]
        row = entry("10.96.0.1:80", *sorted(at for _, at in servers))
        leaving = [each for each in row.internal if str(each) == servers[0][1]]
        rest = tuple(each for each in row.internal if str(each) != servers[0][1])
        gone = type(leaving[0])(leaving[0].addr, leaving[0].port, True)
        await world.balancer.put(LBEntry(key=row.key, internal=(*rest, gone)))
        clients = [world.connect(4, ("10.96.0.1", 80)) for _ in range(64)]
        counts = [0, 0, 0]
        for number, (server, _) in enumerate(servers):
            server.setblocking(False)
            try:
                while True:
                    server.accept()[0].close()
                    counts[number] += 1
            except BlockingIOError:
                pass
        assert counts[0] == 0
        assert min(counts[1:]) > 5
        assert sum(counts) == len(clients)
        await world.balancer.put(LBEntry(key=row.key, internal=(gone,)))  # nobody else left: it serves
        world.connect(4, ("10.96.0.1", 80))

    run(scenario)


def test_affinity_keeps_to_one_backend_while_it_is_one(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        servers = dict(reversed(world.listen(4)) for _ in range(4))
        addresses = sorted(servers)
        await world.balancer.put(entry("10.96.0.1:80", *addresses, affinity_s=60))

        def reached() -> str:
            client = world.connect(4, ("10.96.0.1", 80))
            for at, server in servers.items():
                server.setblocking(False)
                try:
                    server.accept()[0].close()
                except BlockingIOError:
                    continue
                client.close()
                return at
            raise AssertionError("nobody was reached")

        first = reached()
        assert {reached() for _ in range(16)} == {first}
        rest = [at for at in addresses if at != first]
        await world.balancer.put(entry("10.96.0.1:80", *rest, affinity_s=60))
        second = reached()
        assert second != first
        assert {reached() for _ in range(16)} == {second}

    run(scenario)


def test_node_ports_are_served_at_every_nodes_address(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        _server, at = world.listen(4)
        await world.balancer.put(
            LBEntry(key=key("0.0.0.0:30080"), internal=entry("1.1.1.1:1", at).internal, flags=EntryFlag.EXTERNAL)
        )
        world.balancer.set_identity("192.0.2.7", int(Reserved.REMOTE_NODE))
        world.balancer.set_identity("192.0.2.8", int(Reserved.HOST))
        world.balancer.set_identity("192.0.2.9", 4711)
        for ip in ("192.0.2.7", "192.0.2.8", "127.0.0.1"):
            assert world.connect(4, (ip, 30080)).getpeername() == (ip, 30080)
        with pytest.raises(OSError):
            world.connect(4, ("192.0.2.9", 30080))

    run(scenario)


def test_node_ports_are_not_served_where_they_are_not_wanted(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        _server, at = world.listen(4)
        await world.balancer.put(
            LBEntry(key=key("0.0.0.0:30080"), internal=entry("1.1.1.1:1", at).internal, flags=EntryFlag.EXTERNAL)
        )
        world.balancer.set_identity("192.0.2.7", int(Reserved.HOST))
        world.balancer.set_identity("192.0.2.8", int(Reserved.HOST), IPCacheFlag.NO_NODE_PORT)
        world.connect(4, ("192.0.2.7", 30080))
        with pytest.raises(OSError):
            world.connect(4, ("192.0.2.8", 30080))

    run(scenario)


def test_in_a_pod_loopback_is_its_own(run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        _server, at = world.listen(4)
        await world.balancer.put(LBEntry(key=key("0.0.0.0:30080"), internal=entry("1.1.1.1:1", at).internal))
        for ip in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(ConnectionRefusedError):
                world.connect(4, (ip, 30080))
        socket.create_server(("127.0.0.1", 30080)).close()  # and it may bind what it likes

    run(scenario, on_host=False)


@pytest.mark.parametrize("family", [4, 6])
def test_nobody_on_the_host_binds_a_node_port(family: int, run: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.balancer.put(entry("0.0.0.0:30080", "10.0.0.1:80"))
        domain, loopback, _ = FAMILIES[family]
        with pytest.raises(PermissionError):
            socket.socket(domain).bind((loopback, 30080))
        socket.socket(domain).bind((loopback, 30081))
        socket.socket(domain, socket.SOCK_DGRAM).bind((loopback, 30080))

    run(scenario)
