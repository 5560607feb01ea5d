"""BGP: a table sent to BIRD and a table received, against BIRD, FRR, GoBGP and ExaBGP; one change; cold start; a hundred peers.

`bgp.py [--quick] [--rounds N] [--sizes 10000,100000,500000]`. Rivals stay loaded and idle while another one is measured. Ours
and BIRD export through a policy that matches prefixes and adds a community; FRR, GoBGP and ExaBGP export without one. FRR and
GoBGP pass on routes that our speaker feeds them, ExaBGP reads them from its configuration (up to 100k: more takes it minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measure import interleave, save, table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from peers.bench import PYTHON, Bench, run, stop, wait_for
from peers.bird import Bird
from peers.speaker import Speaker

OURS = "Stentor"
GROUPS = 32
TICK = os.sysconf("SC_CLK_TCK")


def prefixes(count: int) -> Iterator[tuple[int, str]]:
    """(group, prefix): a tenth /24, the rest /32, spread over 32 attribute sets."""
    for number in range(count):
        if number < count // 10:
            yield number % GROUPS, f"30.{number >> 8 & 255}.{number & 255}.0/24" if number < 65536 else "30.0.0.0/8"
        else:
            yield number % GROUPS, f"50.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICK


def child(process: subprocess.Popen[bytes]) -> int:
    """The daemon: `ip netns exec` becomes it."""
    return process.pid


class Wire:
    """A sender's (or receiver's) own pair of namespaces: 10.0.2.1 left, 10.0.2.2 right."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = bench
        self.left, self.right = bench.namespace(f"{name}-l"), bench.namespace(f"{name}-r")
        bench.link(self.left, "lr", ["10.0.2.1/24", "fd02::1/64"], self.right, "rl", ["10.0.2.2/24", "fd02::2/64"])


def routes(bench: Bench, count: int) -> list[dict[str, Any]]:
    """Our speaker's routes, from files."""
    files: list[list[str]] = [[] for _ in range(GROUPS)]
    for group, prefix in prefixes(count):
        files[group].append(prefix)
    entries = []
    for group, members in enumerate(files):
        file = bench.directory / f"routes.{count}.{group}"
        file.write_text("\n".join(members))
        entries.append({"file": str(file), "communities": {"standard": [f"65001:{100 + group}"]}})
    return entries


def config(asn: int, peers: list[dict[str, Any]], originated: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    statement = {
        "match": {"prefixes": ["30.0.0.0/8 le 32", "50.0.0.0/8 le 32"]},
        "set": {"addCommunities": ["65001:999"]},
    }
    instance = {
        "name": "main",
        "localASN": asn,
        "routerID": "10.0.2.1",
        "localPort": 179,
        "peers": peers,
        "routes": originated,
    }
    return {"instances": [instance | fields], "policies": [{"name": "out", "statements": [statement]}]}


def passive(address: str, asn: int, export: str = "out") -> dict[str, Any]:
    family = {"afi": "ipv4", "export": export}
    timers = {"holdTimeSeconds": 240}
    return {
        "name": address,
        "peerAddress": address,
        "peerASN": asn,
        "transport": {"passive": True},
        "families": [family],
        "timers": timers,
    }


def receiver(wire: Wire, name: str) -> Bird:
    return Bird(
        wire.bench,
        wire.right,
        """router id 10.0.2.2; protocol device {}
protocol bgp x { disabled yes; local 10.0.2.2 as 65002; neighbor 10.0.2.1 as 65001; hold time 240; connect delay time 1;
 connect retry time 1; error wait time 1,2; ipv4 { import all; export none; }; }
""",
        name,
    )


def feed(bench: Bench, space: str, count: int, link: tuple[str, str]) -> None:
    """Our speaker beside ``space``, announcing ``count`` routes to 10.0.1.1 there."""
    here = bench.namespace(f"feed-{space[-6:]}")
    bench.link(space, link[0], ["10.0.1.1/24"], here, link[1], ["10.0.1.2/24"])
    peer = passive("10.0.1.1", 65001) | {"transport": {}}
    Speaker(bench, here, config(65000, [peer], routes(bench, count)), f"feeder-{space[-6:]}")


def start_ours(wire: Wire, count: int) -> int:
    speaker = Speaker(
        wire.bench, wire.left, config(65001, [passive("10.0.2.2", 65002)], routes(wire.bench, count)), "ours"
    )
    assert speaker.process is not None
    return child(speaker.process)


def start_bird(wire: Wire, count: int) -> int:
    file = wire.bench.directory / f"bird.{count}"
    lines = (f"route {p} blackhole {{ bgp_community.add((65001,{100 + g})); }};\n" for g, p in prefixes(count))
    file.write_text("".join(lines))
    bird = Bird(
        wire.bench,
        wire.left,
        f"""router id 10.0.2.1; protocol device {{}}
protocol static {{ ipv4;
include "{file}";
}}
filter told {{ if net ~ [ 30.0.0.0/8+, 50.0.0.0/8+ ] then {{ bgp_community.add((65001,999)); accept; }} reject; }}
protocol bgp r {{ local 10.0.2.1 as 65001; neighbor 10.0.2.2 as 65002; passive yes; hold time 240;
 ipv4 {{ import none; export filter told; }}; }}
""",
        "bird-sender",
    )
    return child(bird.process)


def start_gobgp(wire: Wire, count: int) -> int:
    neighbours = "".join(
        f"""[[neighbors]]
 [neighbors.config]
  neighbor-address = "{address}"
  peer-as = {asn}
 [neighbors.transport.config]
  passive-mode = true
"""
        for address, asn in (("10.0.1.2", 65000), ("10.0.2.2", 65002))
    )
    file = wire.bench.directory / "gobgp.toml"
    file.write_text(f'[global.config]\n as = 65001\n router-id = "10.0.2.1"\n{neighbours}')
    command = ["gobgpd", "-f", str(file), "-l", "error", "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]
    process = wire.bench.start(wire.left, command, "gobgp")
    feed(wire.bench, wire.left, count, ("lf", "fl"))

    def is_loaded() -> bool:
        command = ["ip", "netns", "exec", wire.left, "gobgp", "-u", "127.0.0.1", "global", "rib", "summary"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"Destination: {count}" in done.stdout

    wait_for("GoBGP is loaded", is_loaded, 300, 1)
    return child(process)


def start_frr(wire: Wire, count: int, *, is_sender: bool = True) -> int:
    directory = wire.bench.directory / f"frr-{is_sender}"
    directory.mkdir()
    run("chown", "frr:frr", str(directory))
    wire.bench.directory.chmod(0o755)
    conf = directory / "bgpd.conf"
    conf.write_text(
        """router bgp 65001
 bgp router-id 10.0.2.1
 no bgp ebgp-requires-policy
 coalesce-time 0
 neighbor 10.0.1.2 remote-as 65000
 neighbor 10.0.1.2 passive
 neighbor 10.0.2.2 remote-as 65002
 neighbor 10.0.2.2 passive
 neighbor 10.0.2.2 timers 60 240
"""
    )
    command = ["/usr/lib/frr/bgpd", "-f", str(conf), "-i", f"{directory}/pid", "-z", f"{directory}/zserv"]
    command += ["--vty_socket", str(directory), "-A", "127.0.0.1", "-P", "2605", "-Z", "-S", "-n"]
    process = wire.bench.start(wire.left, command, f"frr-{is_sender}")
    if is_sender:
        feed(wire.bench, wire.left, count, ("lf", "fl"))
        wait_for("FRR is loaded", lambda: frr_received(wire, directory, "10.0.1.2") >= count, 300, 1)
    return child(process)


def frr_received(wire: Wire, directory: Path, peer: str) -> int:
    command = ["ip", "netns", "exec", wire.left, "vtysh", "--vty_socket", str(directory), "-d", "bgpd"]
    done = subprocess.run(
        [*command, "-c", "show bgp ipv4 unicast summary json"], capture_output=True, text=True, check=False
    )
    try:
        return int(json.loads(done.stdout)["peers"][peer].get("pfxRcd", 0))
    except (ValueError, KeyError):
        return 0


def start_exabgp(wire: Wire, count: int) -> int:
    file = wire.bench.directory / "exabgp.conf"
    with file.open("w") as out:
        out.write(
            "neighbor 10.0.2.2 { router-id 10.0.2.1; local-address 10.0.2.1; local-as 65001; peer-as 65002; hold-time 240;\n"
        )
        out.write("passive; listen 179; family { ipv4 unicast; } group-updates true; static {\n")
        out.writelines(f"route {p} next-hop 10.0.2.1 community [65001:{100 + g}];\n" for g, p in prefixes(count))
        out.write("}}\n")
    process = wire.bench.start(wire.left, ["exabgp", str(file)], "exabgp", exabgp_environment("10.0.2.1"))
    listening = ["ip", "netns", "exec", wire.left, "ss", "-Hlnt"]
    wait_for("ExaBGP listens", lambda: ":179 " in run(*listening), 300, 0.2)
    return child(process)


def exabgp_environment(address: str) -> dict[str, str]:
    return {
        "exabgp.tcp.bind": address,
        "exabgp.tcp.port": "179",
        "exabgp.daemon.user": "root",
        "exabgp.log.level": "ERR",
        "exabgp.api.cli": "false",
    }


SENDERS: dict[str, Callable[[Wire, int], int]] = {
    OURS: start_ours,
    "BIRD 2.0": start_bird,
    "FRR 8.4": start_frr,
    "GoBGP 3.10": start_gobgp,
    "ExaBGP 4.2": start_exabgp,
}


def send_once(bird: Bird, count: int, pid: int) -> tuple[float, float, float]:
    """Seconds from Established to 99 % and 100 % imported by BIRD, and the sender's CPU seconds."""
    before = cpu_s(pid)
    bird.ask("enable x")
    wait_for("established", lambda: bird.is_established("x"), 60, 0.001)
    begin = time.monotonic()
    wait_for("99 %", lambda: bird.imported("x") >= 0.99 * count, 120, 0.002)
    most = time.monotonic() - begin
    wait_for("all", lambda: bird.imported("x") >= count, 120, 0.002)
    whole = time.monotonic() - begin
    spent = cpu_s(pid) - before
    bird.ask("disable x")
    wait_for("gone", lambda: bird.imported("x") == 0, 60, 0.05)
    time.sleep(1.5)  # rivals finish their withdrawals: the next one is measured on an idle machine
    return most, whole, spent


def bench_sending(count: int, rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        samples: dict[str, list[tuple[float, float, float]]] = {}
        rivals, pids = {}, {}
        for name, start in SENDERS.items():
            if name.startswith("ExaBGP") and count > 100_000:
                continue
            bench = stack.enter_context(Bench())
            wire = Wire(bench, "s")
            pids[name] = start(wire, count)
            bird = receiver(wire, "receiver")
            samples[name] = []

            def once(name: str = name, bird: Bird = bird) -> float:
                samples[name].append(send_once(bird, count, pids[name]))
                return samples[name][-1][0]

            once()  # a first session warms caches, everybody's
            samples[name].clear()
            rivals[name] = once
        interleave(rivals, rounds)
        memory = {name: resident_mb(pid) for name, pid in pids.items()}
    for index, title in ((0, "99 %"), (1, "100 %"), (2, "CPU")):
        print(
            table(
                f"{count} routes sent to BIRD, {title}",
                "s",
                {n: [s[index] + 1e-3 for s in v] for n, v in samples.items()},
                OURS,
            )
        )
    print_memory(memory)
    return {"samples": samples, "memory_mb": memory}


def print_memory(memory: dict[str, float]) -> None:
    print("| | resident MB |\n|---|---|")
    print("\n".join(f"| {name} | {value:.0f} |" for name, value in memory.items()) + "\n")


def bench_receiving(count: int, rounds: int) -> dict[str, Any]:
    """Our speaker sends; each rival receives on a wire of its own."""
    with ExitStack() as stack:
        samples: dict[str, list[float]] = {}
        rivals: dict[str, Callable[[], float]] = {}
        pids = {}
        for name in (OURS, "BIRD 2.0", "FRR 8.4", "GoBGP 3.10"):
            bench = stack.enter_context(Bench())
            wire = Wire(bench, "r")
            reader, pids[name] = RECEIVERS[name](wire)
            peer = passive("10.0.2.1", 65001) | {
                "transport": {},
                "timers": {"connectRetryTimeSeconds": 0.2, "holdTimeSeconds": 240},
            }
            sender = Speaker(
                bench,
                wire.right,
                config(65002, [peer | {"enabled": True}], routes(bench, count), routerID="10.0.2.2"),
                "sender",
            )

            def once(sender: Speaker = sender, reader: Callable[[], int] = reader) -> float:
                sender.ask(request="peering", peer="10.0.2.1", action="enable")
                wait_for("established", lambda: sender.is_established("10.0.2.1"), 60, 0.002)
                begin = time.monotonic()
                wait_for("all", lambda: reader() >= count, 120, 0.01)
                spent = time.monotonic() - begin
                sender.ask(request="peering", peer="10.0.2.1", action="disable")
                wait_for("gone", lambda: reader() == 0, 60, 0.1)
                time.sleep(1)
                return spent

            sender.ask(request="peering", peer="10.0.2.1", action="disable")
            wait_for("empty", lambda reader=reader: reader() == 0, 60, 0.1)
            once()
            rivals[name] = once
        samples = interleave(rivals, rounds)
        memory = {name: resident_mb(pid) for name, pid in pids.items()}
    print(table(f"{count} routes received (asked every 10 ms; FRR and GoBGP by their CLI)", "s", samples, OURS))
    print_memory(memory)
    return {"samples": samples, "memory_mb": memory}


def receive_ours(wire: Wire) -> tuple[Callable[[], int], int]:
    speaker = Speaker(wire.bench, wire.left, config(65001, [passive("10.0.2.2", 65002, "local")], []), "ours")
    assert speaker.process is not None
    return lambda: speaker.received("10.0.2.2"), child(speaker.process)


def receive_bird(wire: Wire) -> tuple[Callable[[], int], int]:
    bird = Bird(
        wire.bench,
        wire.left,
        """router id 10.0.2.1; protocol device {}
protocol bgp x { local 10.0.2.1 as 65001; neighbor 10.0.2.2 as 65002; passive yes; hold time 240; error wait time 1,2;
 ipv4 { import all; export none; }; }
""",
        "bird-receiver",
    )
    return lambda: bird.imported("x"), child(bird.process)


def receive_frr(wire: Wire) -> tuple[Callable[[], int], int]:
    pid = start_frr(wire, 0, is_sender=False)
    return lambda: frr_received(wire, wire.bench.directory / "frr-False", "10.0.2.2"), pid


def receive_gobgp(wire: Wire) -> tuple[Callable[[], int], int]:
    file = wire.bench.directory / "gobgp.toml"
    file.write_text(
        '[global.config]\n as = 65001\n router-id = "10.0.2.1"\n[[neighbors]]\n [neighbors.config]\n'
        '  neighbor-address = "10.0.2.2"\n  peer-as = 65002\n [neighbors.transport.config]\n  passive-mode = true\n'
    )
    command = ["gobgpd", "-f", str(file), "-l", "error", "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]
    process = wire.bench.start(wire.left, command, "gobgp")

    def received() -> int:
        asked = ["ip", "netns", "exec", wire.left, "gobgp", "-u", "127.0.0.1", "global", "rib", "summary"]
        words = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.replace(",", "").split()
        return int(words[words.index("Destination:") + 1]) if "Destination:" in words else 0

    return received, child(process)


RECEIVERS: dict[str, Callable[[Wire], tuple[Callable[[], int], int]]] = {
    OURS: receive_ours,
    "BIRD 2.0": receive_bird,
    "FRR 8.4": receive_frr,
    "GoBGP 3.10": receive_gobgp,
}

SINK = """
import socket, sys, time
from stentor.bgp.wire import *
from stentor.bgp.capability import *
from stentor.bgp.nlri import Family
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("10.0.2.2", 179)); s.listen(); s, _ = s.accept()
s.setsockopt(6, 1, 1)
s.sendall(encode_open(Open(65002, 240, 2, Capabilities((Family.IPV4,), four_octet_as=65002)))); s.sendall(KEEPALIVE)
rest, loaded = b"", False
while data := s.recv(1 << 20):
    now = time.monotonic()
    messages, taken = split_messages(rest + data); rest = (rest + data)[taken:]
    for kind, body in messages:
        if body == bytes(4): loaded = True; print("loaded", flush=True)
        elif kind is Kind.UPDATE and loaded: print(now, flush=True)
"""


def bench_change(count: int, rounds: int) -> dict[str, Any]:
    """From the request's first byte on the control socket to the UPDATE at the receiver's socket, base table ``count``."""
    with Bench() as bench:
        wire = Wire(bench, "c")
        sink = subprocess.Popen(
            ["ip", "netns", "exec", wire.right, PYTHON, "-c", SINK], stdout=subprocess.PIPE, text=True
        )
        try:
            peer = passive("10.0.2.2", 65002) | {"transport": {}, "timers": {"connectRetryTimeSeconds": 0.2}}
            speaker = Speaker(bench, wire.left, config(65001, [peer], routes(bench, count)))
            assert sink.stdout is not None
            assert sink.stdout.readline() == "loaded\n"
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(speaker.socket)
                answers = control.makefile("rb")
                spent = []
                for number in range(rounds):
                    change = (
                        {"routes": [{"prefixes": ["30.255.255.0/24"]}]}
                        if number % 2 == 0
                        else {"withdraw": ["30.255.255.0/24"]}
                    )
                    request = {"request": "setRoutes", "instance": "main", "owner": "bench", **change}
                    begin = time.monotonic()
                    control.sendall(json.dumps(request).encode() + b"\n")
                    spent.append((float(sink.stdout.readline()) - begin) * 1e3)
                    answers.readline()
        finally:
            sink.kill()
            sink.wait()
    print(
        f"one change, base {count}: p50 {statistics.median(spent):.2f} ms, worst {max(spent):.2f} ms ({len(spent)} changes)\n"
    )
    return {"ms": spent}


def bench_cold_start(rounds: int) -> dict[str, Any]:
    """exec → Established with a waiting BIRD."""
    with Bench() as bench:
        wire = Wire(bench, "k")
        bird = Bird(
            bench,
            wire.right,
            """router id 10.0.2.2; protocol device {}
protocol bgp x { local 10.0.2.2 as 65002; neighbor 10.0.2.1 as 65001; passive yes; error wait time 1,1;
 ipv4 { import all; export none; }; }
""",
        )
        number = 0

        def ours() -> float:
            nonlocal number
            number += 1
            begin = time.monotonic()
            peer = passive("10.0.2.2", 65002) | {"transport": {}}
            speaker = Speaker(bench, wire.left, config(65001, [peer], []), f"cold{number}", waits=False)
            wait_for("established", lambda: bird.is_established("x"), 30, 0.001)
            spent = time.monotonic() - begin
            assert speaker.process is not None
            stop(speaker.process)
            return spent

        def exabgp() -> float:
            file = bench.directory / "cold.conf"
            file.write_text(
                "neighbor 10.0.2.2 { router-id 10.0.2.1; local-address 10.0.2.1; local-as 65001; peer-as 65002;"
                " family { ipv4 unicast; } }"
            )
            begin = time.monotonic()
            process = bench.start(
                wire.left, ["exabgp", str(file)], "exabgp", {"exabgp.daemon.user": "root", "exabgp.log.level": "ERR"}
            )
            wait_for("established", lambda: bird.is_established("x"), 30, 0.001)
            spent = time.monotonic() - begin
            stop(process)
            return spent

        def settled(measure: Callable[[], float]) -> Callable[[], float]:
            def once() -> float:
                wait_for("BIRD waits", lambda: "Passive" in bird.ask("show protocols x"), 30, 0.05)
                return measure()

            return once

        samples = interleave({OURS: settled(ours), "ExaBGP 4.2": settled(exabgp)}, rounds)
    print(table("exec → Established", "s", samples, OURS))
    return samples


def bench_peers(count: int, peers: int) -> dict[str, Any]:
    """One speaker, many peers (one BIRD with an address each), all sessions from nothing to the whole table."""
    with Bench() as bench:
        wire = Wire(bench, "p")
        addresses = [f"10.8.2.{1 + number}" for number in range(peers)]
        for number, address in enumerate(addresses):  # BIRD has one session an address of ours
            run("ip", "-n", wire.right, "address", "add", f"{address}/16", "dev", "rl")
            run("ip", "-n", wire.left, "address", "add", f"10.8.1.{1 + number}/16", "dev", "lr")
        conf = ["router id 10.0.2.2; protocol device {}"]
        conf += [
            f"""ipv4 table t{n}; protocol bgp x{n} {{ disabled yes; local {a} as 65002;
 neighbor 10.8.1.{1 + n} as 65001; hold time 240; connect delay time 1;
 error wait time 1,2; ipv4 {{ table t{n}; import all; export none; }}; }}"""
            for n, a in enumerate(addresses)
        ]
        bird = Bird(bench, wire.right, "\n".join(conf) + "\n")
        speaker = Speaker(bench, wire.left, config(65001, [passive(a, 65002) for a in addresses], routes(bench, count)))
        assert speaker.process is not None
        pid = child(speaker.process)
        before, begin = cpu_s(pid), time.monotonic()
        bird.ask("enable all")
        told = lambda: sum(  # noqa: E731
            1
            for each in speaker.ask(request="peers")["peers"]
            if each["routeCount"][0]["advertised"] == count and not each["routeCount"][0]["pending"]
        )
        wait_for("all peers know all", lambda: told() == peers, 120, 0.1)
        spent, cpu, memory = time.monotonic() - begin, cpu_s(pid) - before, resident_mb(pid)
    print(f"{peers} peers × {count} routes: all told {spent:.2f} s after BIRD began to connect (1 s delay),", end=" ")
    print(f"{cpu:.2f} CPU s, {memory:.0f} MB\n")
    return {"s": spent, "cpu_s": cpu, "memory_mb": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10k routes, 3 rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="10000,100000,500000")
    parser.add_argument("--only", default="", help="sending, receiving, change, start or peers")
    arguments = parser.parse_args()
    sizes = [10_000] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    rounds = 3 if arguments.quick else arguments.rounds
    parts: dict[str, Callable[[], Any]] = {
        "sending": lambda: {size: bench_sending(size, rounds) for size in sizes},
        "receiving": lambda: {size: bench_receiving(size, rounds) for size in sizes},
        "change": lambda: {size: bench_change(size, 200) for size in sizes},
        "start": lambda: bench_cold_start(rounds),
        "peers": lambda: bench_peers(1000 if arguments.quick else 10_000, 100),
    }
    results = {name: part() for name, part in parts.items() if arguments.only in ("", name)}
    print(f"wrote {save('bgp' + ('-' + arguments.only if arguments.only else ''), results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
