"""The rivals of bgp.py: how each is started with a table to send, or empty to receive one, and asked how far it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from peers.bench import Bench, run, wait_for
from peers.bird import Bird
from peers.speaker import Speaker

OURS = "Stentor"
GROUPS = 32
EXABGP, EXABGP_MOST = "ExaBGP 4.2", 100_000
"""More than this takes it minutes."""


def prefixes(count: int) -> Iterator[tuple[int, str]]:
    """(group, prefix): a tenth /24, the rest /32, spread over 32 attribute sets."""
    for number in range(count):
        if number < count // 10:
            yield number % GROUPS, f"30.{number >> 8 & 255}.{number & 255}.0/24" if number < 65536 else "30.0.0.0/8"
        else:
            yield number % GROUPS, f"50.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"


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
    EXABGP: start_exabgp,
}


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


def receive_exabgp(wire: Wire) -> tuple[Callable[[], int], int]:
    """It has no RIB: its helper's JSON is counted, from the last end of the session on."""
    heard = wire.bench.directory / "exabgp.json"
    helper = wire.bench.directory / "helper.sh"
    helper.write_text(
        f"#!/bin/sh\nexec 3>&1\nexec cat >>{heard}\n"
    )  # the end of its output would be its death to ExaBGP
    helper.chmod(0o755)
    file = wire.bench.directory / "exabgp.conf"
    file.write_text(
        f"process rx {{ run {helper}; encoder json; }}\n"
        "neighbor 10.0.2.2 { router-id 10.0.2.1; local-address 10.0.2.1; local-as 65001; peer-as 65002; hold-time 240;\n"
        "passive; listen 179; family { ipv4 unicast; }\n"
        "api { processes [rx]; neighbor-changes; receive { parsed; update; } } }\n"
    )
    process = wire.bench.start(wire.left, ["exabgp", str(file)], "exabgp", exabgp_environment("10.0.2.1"))
    wait_for("ExaBGP's helper listens", heard.exists)
    stream = heard.open("rb")
    count, rest = 0, b""

    def received() -> int:
        nonlocal count, rest
        *lines, rest = (rest + stream.read()).split(b"\n")
        for line in lines:
            count = 0 if b'"state": "down"' in line else count + line.count(b'"nlri"')
        return count

    return received, child(process)


RECEIVERS: dict[str, Callable[[Wire], tuple[Callable[[], int], int]]] = {
    OURS: receive_ours,
    "BIRD 2.0": receive_bird,
    "FRR 8.4": receive_frr,
    "GoBGP 3.10": receive_gobgp,
    EXABGP: receive_exabgp,
}
