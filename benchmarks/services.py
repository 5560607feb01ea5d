"""Services: our socket programs and maps against iptables and nftables rules shaped as kube-proxy writes them.

Connect latency and throughput with many services, the time to program all of them and to add one (service_rivals.py has who
is compared), the cost of a packet with 1 and with 50,000 services, what XDP brings, and how many flows Maglev moves.
How long a change takes from the API to the map: service_event.py.

    benchmarks/services.py [ROUNDS] [connect-2|connect-1000|connect-10000|connect-50000|program|packet|maglev|wire ...]
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure import interleave, save, summarise, table
from service_rivals import PLACES, Joined, Ours, Routed, Ruled, compile_connect, rivals, vip

from balancing.outside import ANY_NODE, NODE_PORT, Balancer, listen
from balancing.outside import entry as balanced
from datapaths.bench import Bench
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Rule
from datapaths.nodes import World, mounted_bpffs
from datapaths.packet import ACK, TCP, Packet, frame
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.sys.bpf import try_program
from stentor.sys.veth import face_xdp
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

COUNTS = (2, 1_000, 10_000, 50_000)
WHERE = {"near": "on this node", "far": "on another node"}
PORT = 8080
ROUND_TRIPS = 5_000
ALL = 10_000


def latencies(rounds: int, every: dict[str, Ours | Ruled], routed: Routed, joined: Joined, count: int) -> Iterator[str]:
    every = {name: rival for name, rival in every.items() if rival.most >= count}
    for rival in every.values():
        rival.fill(range(count))
    for place in PLACES:
        ways = {name: (lambda r=rival, p=place: r.latency_us(count, p)) for name, rival in every.items()}
        floors = {"ours": every["ours"], "kernel routing": routed}
        if place == "near":
            floors["one veth pair, no node"] = joined
        elif isinstance(rules := every.get("nftables as kube-proxy"), Ruled):
            ways["nftables as kube-proxy, tunnel untracked"] = lambda r=rules: untracked_us(r, count)
        ways |= {f"no service: {name}": (lambda f=pods, p=place: f.direct_us(p)) for name, pods in floors.items()}
        for way in ways.values():
            way()  # caches and neighbours
        latency = interleave(ways, rounds)
        streams = {name: (lambda r=rival, p=place: r.throughput(count, p)) for name, rival in every.items()}
        bulk = interleave(streams, rounds)
        save(f"services-connect-{count}-{place}", {"latency_us": latency, "gbps": bulk})
        yield table(f"Connect, {count:,} services, endpoint {WHERE[place]}", "µs, p50", latency, "ours")
        yield table(f"One stream, {count:,} services, endpoint {WHERE[place]}", "Gb/s", bulk, "ours")
    for rival in every.values():
        rival.clear(range(count))


def untracked_us(rival: Ruled, count: int) -> float:
    with rival.untracked_tunnel():
        return rival.latency_us(count, "far")


def programming(rounds: int, every: dict[str, Ours | Ruled]) -> list[str]:
    def all_of(rival: Ours | Ruled) -> float:
        spent = rival.program(range(ALL))
        rival.clear(range(ALL))
        return spent

    everything = interleave({name: (lambda r=rival: all_of(r)) for name, rival in every.items()}, rounds)
    for rival in every.values():
        rival.program(range(ALL))
    numbers = iter(range(ALL, ALL + 10_000))
    one = interleave({name: (lambda r=rival: r.add([next(numbers)])) for name, rival in every.items()}, rounds)
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


PARTS = (*(f"connect-{count}" for count in COUNTS), "program", "packet", "maglev", "wire")


def main(rounds: int = 10, wanted: Sequence[str] = PARTS) -> None:
    """Prints Markdown, saves JSON."""
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if "packet" in wanted:
        print(packets(rounds), flush=True)
    if "wire" in wanted:
        print(through_a_node(rounds), flush=True)
    if "maglev" in wanted:
        print(disruption(), flush=True)
    if any(part.startswith(("connect", "program")) for part in wanted):
        against_rules(rounds, wanted)


def against_rules(rounds: int, wanted: Sequence[str]) -> None:
    with ExitStack() as undo:
        connect = compile_connect(Path(undo.enter_context(tempfile.TemporaryDirectory())))
        every = rivals(undo, connect)
        routed, joined = Routed(undo, connect), Joined(undo, connect)
        for count in COUNTS:
            if f"connect-{count}" in wanted:
                for text in latencies(rounds, every, routed, joined, count):
                    print(text, flush=True)
        if "program" in wanted:
            print(*programming(rounds, every), sep="\n", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:] or PARTS)
