"""Services: our socket programs and maps against iptables and nftables rules shaped as kube-proxy writes them.

Connect latency and throughput with many services, the time to program all of them and to add one, the cost of a packet with 1
and with 50,000 services, what XDP brings, and how many flows Maglev moves. For the first three, client and server are two
namespaces, and only the client's side differs.
How long a change takes from the API to the map: service_event.py.

    benchmarks/services.py [ROUNDS] [connect|program|packet|maglev|wire ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure import interleave, save, summarise, table

from balancing.outside import ANY_NODE, NODE_PORT, Balancer, listen
from balancing.outside import entry as balanced
from datapaths.bench import Bench
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Rule
from datapaths.nodes import Host, World, mounted_bpffs
from datapaths.packet import ACK, TCP, Packet, frame
from stentor.datapath.config import DatapathConfig
from stentor.datapath.object import CGROUP_HOOKS, read_objects
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.sys import cgroup
from stentor.sys.bpf import Map, create_link, try_program
from stentor.sys.veth import face_xdp
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

SERVER, PORT = "10.9.0.2", 8080
COUNTS = (1, 1_000, 10_000, 50_000)
CONNECTS = 300
BULK_BYTES = 256 << 20
ROUND_TRIPS = 5_000
ALL = 10_000
_PART = 1_000


def vip(number: int) -> str:
    return f"10.{96 + number // 62_500}.{number % 62_500 // 250}.{number % 250 + 1}"


def entry(number: int) -> LBEntry:
    backends = (Backend(Addr.parse(SERVER), PORT),)
    return LBEntry(key=FrontendKey(Addr.parse(vip(number)), 80, Protocol.TCP), internal=backends)


def iptables_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """KUBE-SERVICES → KUBE-SVC-… → KUBE-SEP-… → DNAT, for `iptables-restore`."""
    chains = [f":KUBE-S{kind}-{n} - [0:0]" for n in numbers for kind in ("VC", "EP")]
    rules = ["-A OUTPUT -j KUBE-SERVICES"] if with_base else []
    for n in numbers:
        rules += [
            f"-A KUBE-SERVICES -d {vip(n)}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{n}",
            f"-A KUBE-SVC-{n} -j KUBE-SEP-{n}",
            f"-A KUBE-SEP-{n} -p tcp -m tcp -j DNAT --to-destination {SERVER}:{PORT}",
        ]
    base = [":KUBE-SERVICES - [0:0]"] if with_base else []
    return "\n".join(["*nat", *base, *chains, *rules, "COMMIT", ""])


def nft_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """kube-proxy's nftables mode: one look-up in a verdict map, a chain a service and one an endpoint."""
    lines = []
    if with_base:
        lines = [
            "add table ip kube-proxy",
            "add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }",
            "add chain ip kube-proxy services",
            "add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips",
            "add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }",
            "add rule ip kube-proxy nat-output jump services",
        ]
    for n in numbers:
        lines += [
            f"add chain ip kube-proxy endpoint-{n}",
            f"add rule ip kube-proxy endpoint-{n} meta l4proto tcp dnat to {SERVER}:{PORT}",
            f"add chain ip kube-proxy service-{n}",
            f"add rule ip kube-proxy service-{n} numgen random mod 1 vmap {{ 0 : goto endpoint-{n} }}",
        ]
    elements = ", ".join(f"{vip(n)} . tcp . 80 : goto service-{n}" for n in numbers)
    return "\n".join([*lines, f"add element ip kube-proxy service-ips {{ {elements} }}", ""])


def address_map_rules(numbers: Sequence[int], *, with_base: bool = True) -> str:
    """The leanest that nftables can do: one map from service to endpoint. No proxy writes it, since it balances nothing."""
    lines = []
    if with_base:
        lines = [
            "add table ip lean",
            "add map ip lean endpoints { type ipv4_addr . inet_service : ipv4_addr . inet_service ; }",
            "add chain ip lean nat-output { type nat hook output priority -100 ; }",
            "add rule ip lean nat-output meta l4proto tcp dnat to ip daddr . tcp dport map @endpoints",
        ]
    elements = ", ".join(f"{vip(n)} . 80 : {SERVER} . {PORT}" for n in numbers)
    return "\n".join([*lines, f"add element ip lean endpoints {{ {elements} }}", ""])


class Rival:
    """A client's namespace with a way to the server; `measure` connects from there."""

    def __init__(self, server: Host, number: int) -> None:
        self.host = Host(f"client{number}")
        link = f"link add name c{number} type veth peer name eth0 netns {self.host.path}"
        server.ip(link, f"link set c{number} up", f"addr add {SERVER}/32 dev c{number}")
        own = f"10.9.{number}.1"
        self.host.ip("link set eth0 up", f"addr add {own}/32 dev eth0", f"route add {SERVER}/32 dev eth0",
                     "route add default dev eth0")  # fmt: skip
        server.ip(f"route add {own}/32 dev c{number}")

    def enter(self) -> None:
        """What the measuring process does before it connects."""

    def latency_us(self, count: int) -> float:
        """Median time to connect to services spread over all `count`."""
        return self._measure(lambda: connect_all([(vip(i * 7919 % count), 80) for i in range(CONNECTS)]))

    def direct_us(self) -> float:
        """The same to the server itself: what a connection costs without any service."""
        return self._measure(lambda: connect_all([(SERVER, PORT)] * CONNECTS))

    def throughput(self, count: int) -> float:
        """Gb/s of one connection to the last of `count` services."""
        return self._measure(lambda: send_bulk(count))

    def _measure(self, work: Callable[[], float]) -> float:
        """What `work` returns in a process of its own, in the client's place."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            try:
                with self.host.inside():
                    self.enter()
                    os.write(write_end, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        with os.fdopen(read_end) as answers:
            return float(json.loads(answers.read()))


def connect_all(addresses: Sequence[tuple[str, int]]) -> float:
    times = []
    for at in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            began = time.perf_counter()
            s.connect(at)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def send_bulk(count: int) -> float:
    part = bytes(1 << 20)
    with socket.create_connection((vip(count - 1), 80)) as s:
        began = time.perf_counter()
        for _ in range(BULK_BYTES // len(part)):
            s.sendall(part)
        s.shutdown(socket.SHUT_WR)
        s.recv(1)  # the server closes when it has everything
        return BULK_BYTES * 8 / (time.perf_counter() - began) / 1e9


class Ours(Rival):
    most = 50_000

    def __init__(self, server: Host, number: int) -> None:
        super().__init__(server, number)
        found = read_objects()["sock"]
        self.maps = {name: Map.create(found.map_spec(name, 131_072), name) for name in found.definitions}
        loaded = found.load(DatapathConfig(overlay_ifindex=1).pack(), self.maps)
        self.target = ServiceTarget(self.maps, lambda found: maglev.table(found, 251, bytes(12)), 251)
        self.group = cgroup.root() / f"stentor-bench-{os.getpid()}"
        self.group_fd = cgroup.create(self.group)
        self.links = [create_link(loaded.program(name), self.group_fd, hook) for name, hook in CGROUP_HOOKS.items()]

    def enter(self) -> None:
        cgroup.join(self.group_fd)

    def program(self, numbers: Sequence[int]) -> float:
        rows = [(row.key, row) for row in map(entry, numbers)]
        began = time.perf_counter()
        assert asyncio.run(self.target.apply(rows, [])) == {}
        return (time.perf_counter() - began) * 1e3

    def fill(self, count: int) -> None:
        self.program(range(count))

    def clear(self, numbers: Sequence[int]) -> None:
        asyncio.run(self.target.apply([], [entry(n).key for n in numbers]))

    def close(self) -> None:
        for link in self.links:
            os.close(link)
        os.close(self.group_fd)
        cgroup.remove(self.group)


class Ruled(Rival):
    """iptables or nftables; `most` is how many services it takes within a minute."""

    def __init__(self, server: Host, number: int, load: Sequence[str], add: Sequence[str], flush: Sequence[str],
                 rules: Callable[..., str], most: int = 50_000) -> None:  # fmt: skip
        super().__init__(server, number)
        self.most = most
        self._load, self._add, self._flush, self._rules = load, add, flush, rules

    def program(self, numbers: Sequence[int], *, add: bool = False) -> float:
        text = self._rules(numbers, with_base=not add)
        began = time.perf_counter()
        self.host.run(*(self._add if add else self._load), input=text)
        return (time.perf_counter() - began) * 1e3

    def fill(self, count: int) -> None:
        """In parts: together they take longer than each by itself."""
        for start in range(0, count, _PART):
            self.program(range(start, min(count, start + _PART)), add=start > 0)

    def clear(self, numbers: Sequence[int]) -> None:
        self.host.run(*self._flush)


def latencies(rounds: int, every: dict[str, Ours | Ruled]) -> list[str]:
    parts = []
    for count in COUNTS:
        rivals = {name: rival for name, rival in every.items() if rival.most >= count}
        for rival in rivals.values():
            rival.fill(count)
        ways = {name: (lambda r=rival, c=count: r.latency_us(c)) for name, rival in rivals.items()}
        latency = interleave({**ways, "no service at all": every["nftables as kube-proxy"].direct_us}, rounds)
        bulk = interleave({name: (lambda r=rival, c=count: r.throughput(c)) for name, rival in rivals.items()}, rounds)
        save(f"services-connect-{count}", {"latency_us": latency, "gbps": bulk})
        parts.append(table(f"Connect, {count:,} services", "µs, p50", latency, "ours"))
        parts.append(table(f"One stream, {count:,} services", "Gb/s", bulk, "ours"))
        for rival in rivals.values():
            rival.clear(range(count))
    return parts


def programming(rounds: int, rivals: dict[str, Ours | Ruled]) -> list[str]:
    def all_of(rival: Ours | Ruled) -> float:
        spent = rival.program(range(ALL))
        rival.clear(range(ALL))
        return spent

    everything = interleave({name: (lambda r=rival: all_of(r)) for name, rival in rivals.items()}, rounds)
    for rival in rivals.values():
        rival.program(range(ALL))
    numbers = iter(range(ALL, ALL + 10_000))

    def one_of(rival: Ours | Ruled) -> float:
        fresh = [next(numbers)]
        return rival.program(fresh) if isinstance(rival, Ours) else rival.program(fresh, add=True)

    one = interleave({name: (lambda r=rival: one_of(r)) for name, rival in rivals.items()}, rounds)
    save("services-program", everything)
    save("services-add", one)
    return [table(f"Program {ALL:,} services", "ms", everything, "ours"), table("Add one", "ms", one, "ours")]


def packets(rounds: int) -> str:
    """ns a packet of from_netdev, with 1 and with 50,000 services. Its backend has the service's own address: a repeated run
    works on the packet that the one before left."""
    benches = {}
    for count in (1, 50_000):
        bench = Bench(capacity=65536)
        model = Model(rules=[Rule(1, 0, 0, 0, False)], known=[Known("192.0.2.1", 1)])
        model.endpoints[vip(0)] = Endpoint(1, HERE, 300, 1)
        model.peers = {(1, INGRESS, 0): 1, (1, EGRESS, 0): 1}
        bench.fill(model)
        target = ServiceTarget(bench.maps, lambda found: maglev.table(found, 251, bytes(12)), 251)
        backend = (Backend(Addr.parse(vip(0)), 80),)
        rows = [LBEntry(key=FrontendKey(Addr.parse(vip(n)), 80, Protocol.TCP), external=backend, flags=EntryFlag.EXTERNAL)
                for n in range(count)]  # fmt: skip
        assert asyncio.run(target.apply([(row.key, row) for row in rows], [])) == {}
        benches[f"{count:,} services"] = bench
    data = frame(Packet("203.0.113.9", vip(0), TCP, 40000, 80, ACK))

    def run(bench: Bench) -> float:
        return float(try_program(bench.programs["from_netdev"], data, repeat=100_000).ns)

    samples = interleave({name: (lambda b=bench: run(b)) for name, bench in benches.items()}, rounds)
    save("services-packet", samples)
    return table("A packet to a service", "ns", samples, "50,000 services")


def disruption() -> str:
    seed = maglev.parse_seed(maglev.DEFAULT_SEED)
    backends = [Backend(Addr.parse(f"10.0.0.{n}"), PORT) for n in range(1, 101)]
    before = maglev.table(backends, maglev.DEFAULT_SIZE, seed)
    moved = []
    for gone in range(100):
        rest = backends[:gone] + backends[gone + 1 :]
        after = maglev.table(rest, maglev.DEFAULT_SIZE, seed)
        others = [(a, b) for a, b in zip(before, after, strict=True) if a != gone]
        moved.append(100 * sum(1 for a, b in others if backends[a] != rest[b]) / len(others))
    save("services-maglev", {"moved %": moved})
    return f"### Maglev, one of 100 backends leaves\n\n{summarise(moved)} % of the other flows move.\n"


class Way:
    """A client outside, through node a, to an echo of datagrams in a pod of node b."""

    def __init__(self, stack: ExitStack, *, accelerate: bool) -> None:
        self.world = world = World(stack.enter_context(mounted_bpffs()))
        stack.callback(world.close)
        if accelerate:
            with world.wire.inside():
                stack.callback(os.close, face_xdp("a"))
            with world.a.inside():
                world.a.datapath.close()
                world.a.datapath = world.a.load(accelerate=True)
                world.a.datapath.accelerate_uplink(world.a.ifindex("eth0"))
        address = world.b1.addresses[4]
        Balancer(world).put(balanced(ANY_NODE[4], NODE_PORT, Protocol.UDP, address))
        server = listen(world.b1, address, Protocol.UDP, 4)
        echo = os.fork()
        if not echo:
            answer(server)
        server.close()
        stack.callback(os.waitpid, echo, 0)
        stack.callback(os.kill, echo, 9)

    def round_trips(self) -> float:
        """A second."""
        with self.world.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.connect((self.world.a.addresses[4], NODE_PORT))
            began = time.perf_counter()
            for _ in range(ROUND_TRIPS):
                asking.send(b"question")
                asking.recv(64)
            return ROUND_TRIPS / (time.perf_counter() - began)


def answer(server: socket.socket) -> None:
    try:
        server.settimeout(None)
        while True:
            data, peer = server.recvfrom(64)
            server.sendto(data, peer)
    finally:
        os._exit(0)


def through_a_node(rounds: int) -> str:
    """What XDP brings to packets that only pass through a node."""
    with ExitStack() as stack:
        ways = {"tc": Way(stack, accelerate=False), "XDP": Way(stack, accelerate=True)}
        samples = interleave({name: (lambda w=way: w.round_trips()) for name, way in ways.items()}, rounds)
    save("services-wire", samples)
    return table("Through a node, round trips of datagrams", "a second", samples, "XDP")


PARTS = ("connect", "program", "packet", "maglev", "wire")


def main(rounds: int = 10, wanted: Sequence[str] = PARTS) -> None:
    """Prints Markdown, saves JSON."""
    if "packet" in wanted:
        print(packets(rounds), flush=True)
    if "wire" in wanted:
        print(through_a_node(rounds), flush=True)
    if "maglev" in wanted:
        print(disruption(), flush=True)
    if "connect" in wanted or "program" in wanted:
        against_rules(rounds, wanted)


def against_rules(rounds: int, wanted: Sequence[str]) -> None:
    server = Host("server")
    ours, nft = Ours(server, 1), ["nft", "-f", "-"]
    rivals: dict[str, Ours | Ruled] = {
        "ours": ours,
        "nftables as kube-proxy": Ruled(server, 2, nft, nft, ["nft", "flush", "ruleset"], nft_rules, 10_000),
        "nftables, one address map": Ruled(server, 4, nft, nft, ["nft", "flush", "ruleset"], address_map_rules),
        "iptables": Ruled(
            server, 3, ["iptables-restore"], ["iptables-restore", "--noflush"],
            ["sh", "-c", "iptables -t nat -F && iptables -t nat -X"], iptables_rules,
        ),
    }  # fmt: skip
    pid = serve(server)
    try:
        for name, work in (("connect", latencies), ("program", programming)):
            for part in work(rounds, rivals) if name in wanted else ():
                print(part, flush=True)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        ours.close()


def serve(server: Host) -> int:
    """A process that accepts, reads to the end and closes; its id."""
    with server.inside():
        listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
    child = os.fork()
    if child:
        listener.close()
        return child
    try:
        buffer = bytearray(1 << 20)
        while True:
            with listener.accept()[0] as s:
                while s.recv_into(buffer):
                    pass
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:] or PARTS)
