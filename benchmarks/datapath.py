"""Forwarding: our datapath with policy and conntrack on against what a kernel does without it.

Same node: kernel routing with nft connection tracking (a node with a firewall), plain kernel routing, a Linux bridge. Across
nodes: kernel VXLAN. TCP round trips of one byte (both ends on one core, and on two) and throughput, both families; processes
are pinned, because where the scheduler puts them is worth a factor of three. Round trips a second of CPU time (both processes',
softirqs on their way in it) say the same as round trips a second of a core of one's own, and bear neighbours better.

    benchmarks/datapath.py [ROUNDS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure import interleave, ratio, save, table

from datapaths.nodes import POD_MTU, Host, World, mounted_bpffs
from stentor.sys.bridge import bypass_netfilter

HERE = Path(__file__).parent
SECONDS = "0.7"
MAC = "02:00:00:00:aa:{:02x}"


class Pair:
    """Two hosts that can reach each other, one of them serving."""

    def __init__(self, client: Host, server: Host, addresses: dict[int, str]) -> None:
        self.client, self.server, self.addresses = client, server, addresses
        self.echoes: dict[int, subprocess.Popen[str]] = {}


def leg(node: Host, pod: Host, device: str, number: int, addresses: tuple[str, ...], master: str = "") -> None:
    """A pod's veth, as the datapath's: one MAC at both ends, no ARP (with ARP on a bridge)."""
    link = f"mtu {POD_MTU} " + ("" if master else f"address {MAC.format(number)}")
    node.ip(f"link add name {device} {link} type veth peer name eth0 {link} netns {pod.path}")
    if master:
        node.ip(f"link set {device} master {master} up")
        pod.ip("link set eth0 up", *(f"addr add {ip} dev eth0" + (" nodad" if ":" in ip else "") for ip in addresses))
        return
    node.ip(f"link set {device} arp off addrgenmode none", f"link set {device} up")
    pod.ip("link set eth0 arp off addrgenmode none", "link set eth0 up",
           *(f"addr add {ip} dev eth0" + (" nodad" if ":" in ip else "") for ip in addresses),
           "route add default dev eth0", "route add ::/0 dev eth0")  # fmt: skip
    node.ip(*(f"route add {ip} dev {device}" for ip in addresses))


def routed(undo: ExitStack, *, nft: bool = False) -> Pair:
    node, one, two = (undo_close(undo, Host(name)) for name in ("router", "one", "two"))
    node.sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
    leg(node, one, "p1", 1, ("10.9.0.1", "fd00:9::1"))
    leg(node, two, "p2", 2, ("10.9.0.2", "fd00:9::2"))
    if nft:
        chain = "add chain inet t f { type filter hook forward priority 0; policy drop; }"
        rules = ("ct state established,related accept", "ct state new accept")
        node.run("nft", "; ".join(("add table inet t", chain, *(f"add rule inet t f {rule}" for rule in rules))))
    return Pair(one, two, {4: "10.9.0.2", 6: "fd00:9::2"})


def bridged(undo: ExitStack) -> Pair:
    node, one, two = (undo_close(undo, Host(name)) for name in ("bridge", "one", "two"))
    node.ip("link add br0 type bridge", "link set br0 up")
    leg(node, one, "p1", 1, ("10.9.0.1/24", "fd00:9::1/64"), "br0")
    leg(node, two, "p2", 2, ("10.9.0.2/24", "fd00:9::2/64"), "br0")
    return Pair(one, two, {4: "10.9.0.2", 6: "fd00:9::2"})


def tunnel(wire: Host, nodes: Sequence[Host]) -> None:
    """Between two nodes, a VXLAN device on each with the other for its only peer: what flannel sets up."""
    with wire.inside():
        bypass_netfilter()
    wire.ip("link add br0 type bridge", "link set br0 up")
    for n, other, node in ((1, 2, nodes[0]), (2, 1, nodes[1])):
        mac, other_mac = MAC.format(16 + n), MAC.format(16 + other)
        far = {f"10.{other}.0.9": f"10.{other}.0.0/24", f"fd00:{other}::9": f"fd00:{other}::/64"}
        wire.ip(f"link add name {node.name} type veth peer name eth0 netns {node.path}",
                f"link set dev {node.name} master br0 up")  # fmt: skip
        vxlan = f"type vxlan id 7 dstport 4789 local 192.0.2.{n} nolearning"
        node.ip("link set eth0 up", f"addr add 192.0.2.{n}/24 dev eth0",
                f"link add vx address {mac} mtu {POD_MTU} {vxlan}", "link set vx up",
                *(f"route add {prefix} via {via} dev vx onlink" for via, prefix in far.items()),
                *(f"neigh add {via} lladdr {other_mac} dev vx nud permanent" for via in far))  # fmt: skip
        node.run("bridge", "fdb", "append", other_mac, "dev", "vx", "dst", f"192.0.2.{other}")


def tunnelled(undo: ExitStack) -> Pair:
    """Two routers with a tunnel between them."""
    wire, *nodes = (undo_close(undo, Host(name)) for name in ("wire", "n1", "n2"))
    tunnel(wire, nodes)
    pods = []
    for n, node in enumerate(nodes, 1):
        pod = undo_close(undo, Host(f"p{n}"))
        node.sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
        leg(node, pod, "p", n, (f"10.{n}.0.1", f"fd00:{n}::1"))
        pods.append(pod)
    return Pair(pods[0], pods[1], {4: "10.2.0.1", 6: "fd00:2::1"})


def undo_close(undo: ExitStack, host: Host) -> Host:
    undo.callback(host.close)
    return host


@contextmanager
def serving(pairs: list[Pair], rr: Path) -> Iterator[None]:
    """An echo for round trips and an iperf3 in every server."""
    children = []
    try:
        for pair in pairs:
            for family, ip in pair.addresses.items():
                pair.echoes[family] = pair.server.start("taskset", "-c", "1", str(rr), "server", ip)
            children += [*pair.echoes.values(), pair.server.start("taskset", "-c", "1", "iperf3", "-s", "-p", "5001")]
        for pair in pairs:
            for ip in pair.addresses.values():
                until(lambda pair=pair, ip=ip: trips(pair, ip, rr, "1", "0.05"))
                until(lambda pair=pair, ip=ip: throughput(pair, ip))
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def until(call: Callable[[], float], deadline_s: float = 10) -> None:
    end = time.monotonic() + deadline_s
    while True:
        try:
            call()
            return
        except AssertionError:
            if time.monotonic() > end:
                raise


def trips(pair: Pair, ip: str, rr: Path, core: str, seconds: str = SECONDS) -> float:
    return float(pair.client.run("taskset", "-c", core, str(rr), "client", ip, seconds))


def trips_by_cpu(pair: Pair, family: int, rr: Path) -> float:
    """Round trips a second of CPU time that client and server took together, on one core."""
    server = Path(f"/proc/{pair.echoes[family].pid}/schedstat")
    before = int(server.read_text().split()[0])
    client = pair.client.start("taskset", "-c", "1", str(rr), "client", pair.addresses[family], SECONDS)
    assert client.stdout is not None
    rate = float(client.stdout.read())
    _, status, usage = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    taken = usage.ru_utime + usage.ru_stime + (int(server.read_text().split()[0]) - before) / 1e9
    return rate * float(SECONDS) / taken


def throughput(pair: Pair, ip: str) -> float:
    out = pair.client.run("taskset", "-c", "0", "iperf3", "-J", "-p", "5001", "-t", "1", "-c", ip)
    return json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e9


def compare(title: str, rivals: dict[str, Pair], rr: Path, rounds: int) -> dict[str, object]:
    results: dict[str, object] = {}
    for family in (4, 6):
        kinds: dict[str, Callable[[Pair], float]] = {
            "round trips/s, one core": lambda pair, f=family: trips(pair, pair.addresses[f], rr, "1"),
            "round trips/s of CPU, one core": lambda pair, f=family: trips_by_cpu(pair, f, rr),
            "round trips/s, two cores": lambda pair, f=family: trips(pair, pair.addresses[f], rr, "0"),
            "Gb/s": lambda pair, f=family: throughput(pair, pair.addresses[f]),
        }
        for unit, measure in kinds.items():
            calls = {name: lambda pair=pair, measure=measure: measure(pair) for name, pair in rivals.items()}
            samples = interleave(calls, rounds)
            print(table(f"{title}, IPv{family}", unit, samples, "Stentor"), flush=True)
            results[f"{title}, IPv{family}, {unit}"] = {
                name: {"samples": values, "ratio": ratio(samples["Stentor"], values).median}
                for name, values in samples.items()
            }
    return results


def main(rounds: int = 10) -> int:
    with ExitStack() as undo:
        build = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        rr = build / "rr"
        subprocess.run(["gcc", "-O2", "-Wall", str(HERE / "rr.c"), "-o", str(rr)], check=True)
        world = World(undo.enter_context(mounted_bpffs()))
        undo.callback(world.close)
        for node in world.nodes:
            with node.inside():
                for pod in node.pods.values():
                    node.datapath.promote_endpoint(pod.ifindex_on_node)
        same = {
            "Stentor": Pair(world.a1, world.a2, world.a2.addresses),
            "kernel routing, nft conntrack": routed(undo, nft=True),
            "kernel routing": routed(undo),
            "Linux bridge": bridged(undo),
        }
        across = {"Stentor": Pair(world.b1, world.a1, world.a1.addresses), "kernel VXLAN": tunnelled(undo)}
        undo.enter_context(serving([*same.values(), *across.values()], rr))
        results = compare("Same node", same, rr, rounds) | compare("Across nodes", across, rr, rounds)
    save("datapath", results)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
