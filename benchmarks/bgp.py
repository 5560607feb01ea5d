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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bgp_rivals import EXABGP, EXABGP_MOST, OURS, RECEIVERS, SENDERS, Wire, child, config, passive, receiver, routes
from measure import interleave, save, table

from peers.bench import PYTHON, Bench, run, stop, wait_for
from peers.bird import Bird
from peers.speaker import Speaker

TICK = os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICK


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
            if name == EXABGP and count > EXABGP_MOST:
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
        rivals: dict[str, Callable[[], float]] = {}
        pids: dict[str, int] = {}
        memory: dict[str, float] = {}
        spent_cpu: dict[str, list[float]] = {}
        for name, start in RECEIVERS.items():
            if name == EXABGP and count > EXABGP_MOST:
                continue
            bench = stack.enter_context(Bench())
            wire = Wire(bench, "r")
            reader, pids[name] = start(wire)
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

            def once(name: str = name, sender: Speaker = sender, reader: Callable[[], int] = reader) -> float:
                before = cpu_s(pids[name])
                sender.ask(request="peering", peer="10.0.2.1", action="enable")
                wait_for("established", lambda: sender.is_established("10.0.2.1"), 60, 0.002)
                begin = time.monotonic()
                wait_for("all", lambda: reader() >= count, 120, 0.01)
                spent = time.monotonic() - begin
                spent_cpu.setdefault(name, []).append(cpu_s(pids[name]) - before + 1e-3)
                memory[name] = max(memory.get(name, 0), resident_mb(pids[name]))
                sender.ask(request="peering", peer="10.0.2.1", action="disable")
                wait_for("gone", lambda: reader() == 0, 60, 0.1)
                time.sleep(1)
                return spent

            sender.ask(request="peering", peer="10.0.2.1", action="disable")
            wait_for("empty", lambda reader=reader: reader() == 0, 60, 0.1)
            once()
            rivals[name] = once
        spent_cpu.clear()
        samples = interleave(rivals, rounds)
    print(table(f"{count} routes received (asked every 10 ms; FRR and GoBGP by their CLI)", "s", samples, OURS))
    print(table(f"{count} routes received, CPU", "s", spent_cpu, OURS))
    print_memory(memory)
    return {"samples": samples, "cpu_s": spent_cpu, "memory_mb": memory}


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

        samples = interleave({OURS: settled(ours), EXABGP: settled(exabgp)}, rounds)
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
