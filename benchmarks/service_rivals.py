"""A node with a client's and a server's pod, services led by our programs or by kube-proxy's rules: what services.py compares.

Ours is the node that tests of the datapath have: all programs on both pods' devices, policy and conntrack in force, and the
socket programs on the client's cgroup. A rival's node routes in the kernel, with its rules in the node's own namespace. Clients
run on one core, servers on the other, everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from datapath import leg, undo_close
from kube_proxy import BACKEND, PORT, address_map_rules, iptables_rules, nft_rules, vip

from datapaths.nodes import FORWARDING, Host, World, mounted_bpffs
from stentor.datapath.cgroup import CgroupLinks
from stentor.datapath.object import CGROUP_HOOKS
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.sys import cgroup
from stentor.tables.service import Backend, FrontendKey, LBEntry, Protocol

CLIENT = "10.1.0.11"
CLIENTS_CORE, SERVERS_CORE = 0, 1
CONNECTS = 500
BULK_BYTES = 256 << 20
BURST_S = 0.02
HERE = Path(__file__).parent


def compile_connect(build: Path) -> Path:
    program = build / "connect"
    subprocess.run(["gcc", "-O2", "-Wall", str(HERE / "connect.c"), "-o", str(program)], check=True)
    return program


class Pods:
    """A client's pod and a server's, the server running until `undo`; `enter` is what a measuring process does first."""

    def __init__(self, undo: ExitStack, client: Host, server: Host, connect: Path) -> None:
        self._client, self._connect = client, connect
        pid = serve(server)
        undo.callback(os.waitpid, pid, 0)
        undo.callback(os.kill, pid, 9)

    def enter(self) -> None:
        """As a process of the client's pod."""

    def latency_us(self, count: int) -> float:
        """Median time to connect to services spread over all `count`."""
        return self._measure(lambda: self._connect_all([(vip(i * 7919 % count), 80) for i in range(CONNECTS)]))

    def direct_us(self) -> float:
        """The same to the server itself: what a connection costs without any service."""
        return self._measure(lambda: self._connect_all([(BACKEND, PORT)] * CONNECTS))

    def throughput(self, count: int) -> float:
        """Gb/s of one connection to the last of `count` services."""
        return self._measure(lambda: send_bulk(count))

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


def send_bulk(count: int) -> float:
    part = bytes(1 << 20)
    with socket.create_connection((vip(count - 1), 80)) as s:
        time.sleep(2 * BURST_S)  # until it is accepted
        began = time.perf_counter()
        for _ in range(BULK_BYTES // len(part)):
            s.sendall(part)
        s.shutdown(socket.SHUT_WR)
        s.recv(1)  # the server closes when it has everything
        return BULK_BYTES * 8 / (time.perf_counter() - began) / 1e9


def serve(server: Host) -> int:
    """A process that accepts, reads to the end and closes; its id.

    It takes connections in bursts. If it slept in accept(), clients would pay for waking it, which costs as much as half a
    connection or nothing at all, by how deep its core sleeps in a virtual machine.
    """
    with server.inside():
        listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
    child = os.fork()
    if child:
        listener.close()
        return child
    try:
        os.sched_setaffinity(0, {SERVERS_CORE})
        listener.setblocking(False)
        while True:
            time.sleep(BURST_S)
            take_all(listener)
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
    backends = (Backend(Addr.parse(BACKEND), PORT),)
    return LBEntry(key=FrontendKey(Addr.parse(vip(number)), 80, Protocol.TCP), internal=backends)


class Ours(Pods):
    most = 50_000

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        world = World(undo.enter_context(mounted_bpffs()), limits={})
        undo.callback(world.close)
        node = world.a
        with node.inside():
            for pod in node.pods.values():
                node.datapath.promote_endpoint(pod.ifindex_on_node)
        self.target = ServiceTarget(node.datapath.maps, lambda found: maglev.table(found, 251, bytes(12)), 251)
        group = cgroup.root() / f"stentor-bench-{os.getpid()}"
        self._group = cgroup.create(group)
        undo.callback(cgroup.remove, group)
        undo.callback(os.close, self._group)
        links = CgroupLinks({name: node.datapath.programs[name] for name in CGROUP_HOOKS}, node.pins, group)
        undo.callback(links.detach)
        links.attach()
        assert (world.a1.addresses[4], world.a2.addresses[4]) == (CLIENT, BACKEND)
        super().__init__(undo, world.a1, world.a2, connect)

    def enter(self) -> None:
        cgroup.join(self._group)

    def program(self, numbers: Sequence[int]) -> float:
        rows = [(row.key, row) for row in map(entry, numbers)]
        began = time.perf_counter()
        assert asyncio.run(self.target.apply(rows, [])) == {}
        return (time.perf_counter() - began) * 1e3

    add = program

    def clear(self, numbers: Sequence[int]) -> None:
        asyncio.run(self.target.apply([], [entry(n).key for n in numbers]))


class Joined(Pods):
    """One veth pair and no node: below this no node can get."""

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        client, server = (undo_close(undo, Host(name)) for name in ("client", "server"))
        client.ip(f"link add name eth0 type veth peer name eth0 netns {server.path}")
        for host, address in ((client, CLIENT), (server, BACKEND)):
            host.ip("link set eth0 up", f"addr add {address}/24 dev eth0")
        super().__init__(undo, client, server, connect)


class Routed(Pods):
    """A node that routes in the kernel, without any rules."""

    def __init__(self, undo: ExitStack, connect: Path) -> None:
        self._node, client, server = (undo_close(undo, Host(name)) for name in ("node", "client", "server"))
        self._node.sysctl(*FORWARDING)
        leg(self._node, client, "client", 1, (CLIENT,))
        leg(self._node, server, "server", 2, (BACKEND,))
        super().__init__(undo, client, server, connect)


class Ruled(Routed):
    """The same with iptables or nftables; `most` is how many services it takes within a minute."""

    def __init__(self, undo: ExitStack, connect: Path, load: Sequence[str], add: Sequence[str], rules: Callable[..., str],
                 most: int = 50_000) -> None:  # fmt: skip
        super().__init__(undo, connect)
        self.most = most
        self._load, self._add, self._rules = load, add, rules
        self.clear(())

    def program(self, numbers: Sequence[int]) -> float:
        return self._run(self._load, self._rules(numbers))

    def add(self, numbers: Sequence[int]) -> float:
        return self._run(self._add, self._rules(numbers, with_base=False))

    def _run(self, command: Sequence[str], text: str) -> float:
        began = time.perf_counter()
        self._node.run(*command, input=text)
        return (time.perf_counter() - began) * 1e3

    def clear(self, numbers: Sequence[int]) -> None:
        """Of all services, whatever their `numbers`."""
        self.program(())


def rivals(undo: ExitStack, connect: Path) -> dict[str, Ours | Ruled]:
    nft = ["nft", "-f", "-"]
    return {
        "ours": Ours(undo, connect),
        "nftables as kube-proxy": Ruled(undo, connect, nft, nft, nft_rules, 10_000),
        "iptables as kube-proxy": Ruled(
            undo, connect, ["iptables-restore"], ["iptables-restore", "--noflush"], iptables_rules
        ),
        "nftables, one address map": Ruled(undo, connect, nft, nft, address_map_rules),
    }
