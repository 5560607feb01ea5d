"""Two nodes with pods, services led by our programs or by kube-proxy's rules: what services.py compares.

    node a: the client's pod, the near server's  ── wire ──  node b: the far server's

Ours are the nodes that tests of the datapath have: all programs on all devices, policy and conntrack in force, and the socket
programs on the client's cgroup. A rival's nodes route in the kernel, with a VXLAN device between them as flannel sets it up,
and each has its rules in its own namespace. Clients run on one core, servers on the other, everywhere. A server has as many
addresses and ports as services need endpoints.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from datapath import leg, tunnel, undo_close
from kube_proxy import (
    ADDRESSES,
    ENDPOINTS,
    FIRST_PORT,
    address,
    address_map_rules,
    endpoint,
    iptables_rules,
    nft_rules,
    vip,
)

from datapaths import nodes
from datapaths.nodes import FORWARDING, Host, Pod, World, mounted_bpffs
from stentor.datapath import targets
from stentor.datapath.cgroup import CgroupLinks
from stentor.datapath.object import CGROUP_HOOKS
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.sys import cgroup
from stentor.tables.service import Backend, FrontendKey, LBEntry, Protocol

CLIENT, NEAR, FAR = "10.1.0.11", "10.1.0.12", "10.2.0.11"
PLACES = tuple(ENDPOINTS)
CLIENTS_CORE, SERVERS_CORE = 0, 1
CONNECTS = 2_000
MOST, PART = 50_000, 1_000
BULK_BYTES = 256 << 20
BURST_S = 0.02
HERE = Path(__file__).parent
_UNTRACKED = """
add table ip untracked
add chain ip untracked in { type filter hook prerouting priority raw ; }
add chain ip untracked out { type filter hook output priority raw ; }
add rule ip untracked in udp dport 4789 notrack
add rule ip untracked out udp dport 4789 notrack
"""


def compile_connect(build: Path) -> Path:
    program = build / "connect"
    subprocess.run(["gcc", "-O2", "-Wall", str(HERE / "connect.c"), "-o", str(program)], check=True)
    return program


class Pods:
    """A client's pod and the servers' by place, which run until `undo`; `enter` is what a measuring process does first."""

    def __init__(self, undo: ExitStack, client: Host, servers: Mapping[str, Host], connect: Path) -> None:
        self._client, self._connect = client, connect
        for place, server in servers.items():
            pid = serve(server, ENDPOINTS[place])
            undo.callback(os.waitpid, pid, 0)
            undo.callback(os.kill, pid, 9)

    def enter(self) -> None:
        """As a process of the client's pod."""

    def latency_us(self, count: int, place: str) -> float:
        """Median time to connect to services with endpoints at `place`, spread over all of `count`."""
        numbers = range(PLACES.index(place), count, len(PLACES))
        to = [(vip(numbers[i * 7919 % len(numbers)]), 80) for i in range(CONNECTS)]
        return self._measure(lambda: self._connect_all(to))

    def direct_us(self, place: str) -> float:
        """The same to an endpoint itself: what a connection costs without any service."""
        return self._measure(lambda: self._connect_all([endpoint(PLACES.index(place))] * CONNECTS))

    def throughput(self, count: int, place: str) -> float:
        """Gb/s of one connection to the last of `count` services with endpoints at `place`."""
        last = range(PLACES.index(place), count, len(PLACES))[-1]
        return self._measure(lambda: send_bulk(vip(last)))

    def _connect_all(self, addresses: Sequence[tuple[str, int]]) -> float:
        lines = "".join(f"{ip} {port}\n" for ip, port in addresses)
        done = subprocess.run([str(self._connect)], input=lines, stdout=subprocess.PIPE, text=True, check=True)
        return float(done.stdout)

    def _measure(self, work: Callable[[], float]) -> float:
        """What `work` returns in a process of its own, in the client's place."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.sched_setaffinity(0, {CLIENTS_CORE})
                with self._client.inside():
                    self.enter()
                    os.write(write_end, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        with os.fdopen(read_end) as answers:
            return float(json.loads(answers.read()))


def send_bulk(ip: str) -> float:
    part = bytes(1 << 20)
    with socket.create_connection((ip, 80)) as s:
        time.sleep(2 * BURST_S)  # until it is accepted
        began = time.perf_counter()
        for _ in range(BULK_BYTES // len(part)):
            s.sendall(part)
        s.shutdown(socket.SHUT_WR)
        s.recv(1)  # the server closes when it has everything
        return BULK_BYTES * 8 / (time.perf_counter() - began) / 1e9


def serve(server: Host, network: str) -> int:
    """A process that accepts, reads to the end and closes, at all endpoints in `network`; its id.

    It takes connections in bursts. If it slept in accept(), clients would pay for waking it, which costs as much as half a
    connection or nothing at all, by how deep its core sleeps in a virtual machine.
    """
    server.ip(f"addr add {network} dev lo")
    ports = range(FIRST_PORT, FIRST_PORT + -(-MOST // len(PLACES) // ADDRESSES))
    with server.inside():
        listeners = [socket.create_server(("0.0.0.0", port), backlog=4096) for port in ports]
    child = os.fork()
    if child:
        for listener in listeners:
            listener.close()
        return child
    try:
        os.sched_setaffinity(0, {SERVERS_CORE})
        waiting = select.epoll()
        for listener in listeners:
            listener.setblocking(False)
            waiting.register(listener, select.EPOLLIN)
        by_fd = {listener.fileno(): listener for listener in listeners}
        while True:
            time.sleep(BURST_S)
            for fd, _ in waiting.poll(0):
                take_all(by_fd[fd])
    finally:
        os._exit(0)


def take_all(listener: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    with suppress(BlockingIOError):
        while True:
            with listener.accept()[0] as s, suppress(ConnectionResetError):  # how connect.c ends
                s.setblocking(True)
                while s.recv_into(buffer):
                    pass


def entry(number: int) -> LBEntry:
    ip, port = endpoint(number)
    backends = (Backend(Addr.parse(ip), port),)
    return LBEntry(key=FrontendKey(Addr.parse(vip(number)), 80, Protocol.TCP), internal=backends)


class Ours(Pods):
    most = MOST

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        world = World(undo.enter_context(mounted_bpffs()), limits={})
        undo.callback(world.close)
        for node in world.nodes:
            with node.inside():
                for pod in node.pods.values():
                    node.datapath.promote_endpoint(pod.ifindex_on_node)
        know_endpoints(world, "near", world.a2)
        know_endpoints(world, "far", world.b1)
        node = world.a
        self.target = ServiceTarget(node.datapath.maps, lambda found: maglev.table(found, 251, bytes(12)), 251)
        group = cgroup.root() / f"stentor-bench-{os.getpid()}"
        self._group = cgroup.create(group)
        undo.callback(cgroup.remove, group)
        undo.callback(os.close, self._group)
        links = CgroupLinks({name: node.datapath.programs[name] for name in CGROUP_HOOKS}, node.pins, group)
        undo.callback(links.detach)
        links.attach()
        super().__init__(undo, world.a1, {"near": world.a2, "far": world.b1}, connect)

    def enter(self) -> None:
        cgroup.join(self._group)

    def program(self, numbers: Sequence[int]) -> float:
        rows = [(row.key, row) for row in map(entry, numbers)]
        began = time.perf_counter()
        assert asyncio.run(self.target.apply(rows, [])) == {}
        return (time.perf_counter() - began) * 1e3

    add = program

    def fill(self, numbers: Sequence[int]) -> None:
        self.program(numbers)

    def clear(self, numbers: Sequence[int]) -> None:
        asyncio.run(self.target.apply([], [entry(n).key for n in numbers]))


def know_endpoints(world: World, place: str, pod: Pod) -> None:
    """The addresses of all endpoints at `place` are those of `pod`, too."""
    ips = [address(place, n) for n in range(ADDRESSES)]
    (_, like), *_ = pod.entries()
    for node in world.nodes:
        own = pod in node.pods.values()
        if own:
            rows = [(addr, msgspec.structs.replace(like, addr=addr)) for addr in map(Addr.parse, ips)]
            nodes.write(targets.endpoints(node.datapath.maps), rows)
        tunnel_to = None if own else Addr.parse(next(n for n in world.nodes if n is not node).addresses[4])
        cached = [nodes.entry(ip, pod.identity, tunnel_to) for ip in ips]
        nodes.write(targets.ipcache(node.datapath.maps), [(row.prefix, row) for row in cached])


class Joined(Pods):
    """One veth pair and no node: below this no node can get."""

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        client, server = (undo_close(undo, Host(name)) for name in ("client", "server"))
        client.ip(f"link add name eth0 type veth peer name eth0 netns {server.path}")
        for host, ip in ((client, CLIENT), (server, NEAR)):
            host.ip("link set eth0 up", f"addr add {ip}/24 dev eth0")
        client.ip(f"route add {ENDPOINTS['near']} dev eth0")
        super().__init__(undo, client, {"near": server}, connect)


class Routed(Pods):
    """Nodes that route in the kernel, without any rules."""

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        names = ("wire", "a", "b", "client", "near", "far")
        wire, a, b, client, near, far = (undo_close(undo, Host(name)) for name in names)
        self.nodes = (a, b)
        for node in self.nodes:
            node.sysctl(*FORWARDING)
        tunnel(wire, self.nodes)
        for number, (node, pod, ip) in enumerate(((a, client, CLIENT), (a, near, NEAR), (b, far, FAR)), 1):
            leg(node, pod, pod.name, number, (ip,))
        a.ip(f"route add {ENDPOINTS['near']} dev near", f"route add {ENDPOINTS['far']} via 10.2.0.9 dev vx onlink")
        b.ip(f"route add {ENDPOINTS['far']} dev far")
        super().__init__(undo, client, {"near": near, "far": far}, connect)


class Ruled(Routed):
    """The same with iptables or nftables, of which `most` services are asked. What is timed is one node's."""

    def __init__(self, undo: ExitStack, connect: Path, load: Sequence[str], add: Sequence[str],
                 rules: Callable[..., str], most: int = MOST) -> None:  # fmt: skip
        super().__init__(undo, connect)
        self.most = most
        self._load, self._add, self._rules = load, add, rules
        self.clear(())

    def program(self, numbers: Sequence[int]) -> float:
        return self._run(self.nodes[0], self._load, self._rules(numbers))

    def add(self, numbers: Sequence[int]) -> float:
        return self._run(self.nodes[0], self._add, self._rules(numbers, with_base=False))

    def fill(self, numbers: Sequence[int]) -> None:
        """On both nodes, in parts: nftables takes time by the square of what is in one transaction."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            for first in range(0, len(numbers), PART):
                text = self._rules(numbers[first : first + PART], with_base=False)
                list(pool.map(lambda node, text=text: self._run(node, self._add, text), self.nodes))

    @contextmanager
    def untracked_tunnel(self) -> Iterator[None]:
        """Conntrack leaves the tunnel's own packets alone meanwhile, which neither kube-proxy nor flannel asks of it."""
        for node in self.nodes:
            node.run("nft", "-f", "-", input=_UNTRACKED)
        try:
            yield
        finally:
            for node in self.nodes:
                node.run("nft", "delete table ip untracked")

    def _run(self, node: Host, command: Sequence[str], text: str) -> float:
        began = time.perf_counter()
        with node.inside():  # for as long as it takes
            subprocess.run(command, input=text, text=True, stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - began) * 1e3

    def clear(self, numbers: Sequence[int]) -> None:
        """Of all services, whatever their `numbers`."""
        for node in self.nodes:
            self._run(node, self._load, self._rules(()))


def rivals(undo: ExitStack, connect: Path) -> dict[str, Ours | Ruled]:
    nft = ["nft", "-f", "-"]
    return {
        "ours": Ours(undo, connect),
        # The kernel checks all chains for loops at every change: with 50,000 services a core hangs in that for minutes.
        "nftables as kube-proxy": Ruled(undo, connect, nft, nft, nft_rules, 10_000),
        "iptables as kube-proxy": Ruled(
            undo, connect, ["iptables-restore"], ["iptables-restore", "--noflush"], iptables_rules
        ),
        "nftables, one address map": Ruled(undo, connect, nft, nft, address_map_rules),
    }
