"""Our speaker and a real router on one link: eBGP with graceful restart, BFD, routes in both kernels.

Each side has an address behind it which the other learns by BGP, so that packets show whether forwarding goes on.
"""

from __future__ import annotations

import copy
import re
import signal
import subprocess
from typing import Any, NamedTuple, Protocol

from peers.bench import Bench, kill, run, wait_for
from peers.bird import Bird
from peers.frr import Frr
from peers.speaker import Speaker

OUR_ADDRESS, THEIR_ADDRESS = "198.51.100.1", "203.0.113.1"
OUR_PREFIX, THEIR_PREFIX = "198.51.100.0/24", "203.0.113.0/24"
CONFIGURATION: dict[str, Any] = {
    "instances": [
        {
            "name": "default",
            "localASN": 65001,
            "routerID": "10.0.2.1",
            "localPort": 179,
            "kernel": {},
            "routes": [{"prefixes": [OUR_PREFIX]}],
            "peers": [
                {
                    "name": "router",
                    "peerAddress": "10.0.2.2",
                    "interface": "ar",
                    "peerASN": 65002,
                    "timers": {"connectRetryTimeSeconds": 1},
                    "gracefulRestart": {"enabled": True, "restartTimeSeconds": 60},
                    "families": [{"afi": "ipv4"}],
                    "bfd": {},
                }
            ],
        }
    ]
}
BIRD = """
router id 10.0.2.2;
protocol device { scan time 1; }
protocol direct { ipv4; interface "ra"; }
protocol static upstream { ipv4; route 203.0.113.0/24 blackhole; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bfd { interface "ra" { min rx interval INTERVAL ms; min tx interval INTERVAL ms; multiplier MULTIPLIER; }; }
protocol bgp ours {
  local 10.0.2.2 as 65002; neighbor 10.0.2.1 as 65001;
  bfd on; graceful restart on;
  connect delay time 1; connect retry time 1; error wait time 1,2;
  ipv4 { import all; export where source = RTS_STATIC; };
}
"""
FRR = """
router bgp 65002
 bgp router-id 10.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 coalesce-time 0
 neighbor 10.0.2.1 remote-as 65001
 neighbor 10.0.2.1 bfd
 neighbor 10.0.2.1 bfd profile fast
 neighbor 10.0.2.1 timers connect 1
 address-family ipv4 unicast
  network 203.0.113.0/24
"""
FRR_BFD = """
bfd
 profile fast
  transmit-interval INTERVAL
  receive-interval INTERVAL
  detect-multiplier MULTIPLIER
"""
_LOSS = re.compile(r"(\d+) packets transmitted, (\d+) received")


class Pace(NamedTuple):
    """BFD's pace: the default is slow enough for a machine that is busy with other tests."""

    interval_ms: int = 200
    multiplier: int = 5

    def fill(self, configuration: str) -> str:
        """A router's configuration with these numbers in place."""
        return configuration.replace("INTERVAL", str(self.interval_ms)).replace("MULTIPLIER", str(self.multiplier))

    def ours(self) -> dict[str, int]:
        """The same as our peer's ``bfd``."""
        return {
            "transmitIntervalMilliseconds": self.interval_ms,
            "receiveIntervalMilliseconds": self.interval_ms,
            "detectMultiplier": self.multiplier,
        }


SLOW, FAST = Pace(), Pace(50, 3)


class Router(Protocol):
    """What a test asks of the other side."""

    def is_established(self) -> bool: ...
    def is_bfd_up(self) -> bool: ...
    def has_route(self) -> bool: ...
    def kill(self) -> None: ...


class BirdRouter:
    """BIRD as the other side."""

    def __init__(self, bench: Bench, space: str, pace: Pace) -> None:
        self._bird = Bird(bench, space, pace.fill(BIRD))

    def is_established(self) -> bool:
        return self._bird.is_established("ours")

    def is_bfd_up(self) -> bool:
        return self._bird.bfd_state("10.0.2.1") == "Up"

    def has_route(self) -> bool:
        return "unicast" in self._bird.ask(f"show route {OUR_PREFIX}")

    def kill(self) -> None:
        kill(self._bird.process)


class FrrRouter:
    """FRR as the other side."""

    def __init__(self, bench: Bench, space: str, pace: Pace) -> None:
        self._frr = Frr(bench, space, {"zebra": "", "bgpd": FRR, "bfdd": pace.fill(FRR_BFD)})

    def is_established(self) -> bool:
        return self._frr.is_established("10.0.2.1")

    def is_bfd_up(self) -> bool:
        return self._frr.bfd_state("10.0.2.1") == "up"

    def has_route(self) -> bool:
        return OUR_PREFIX in self._frr.json("show bgp ipv4 unicast").get("routes", {})

    def kill(self) -> None:
        for process in self._frr.processes.values():
            process.kill()
        for process in self._frr.processes.values():
            process.wait(5)


ROUTERS = {"bird": BirdRouter, "frr": FrrRouter}


class Pair:
    """Both sides up: session, BFD, routes in both kernels."""

    def __init__(self, bench: Bench, kind: str, pace: Pace = SLOW, *, is_graceful: bool = False) -> None:
        self._bench = bench
        self.ours, self.theirs = bench.namespace("a"), bench.namespace("r")
        bench.link(self.ours, "ar", ["10.0.2.1/24"], self.theirs, "ra", ["10.0.2.2/24"])
        run("ip", "-n", self.ours, "address", "add", f"{OUR_ADDRESS}/32", "dev", "lo")
        run("ip", "-n", self.theirs, "address", "add", f"{THEIR_ADDRESS}/32", "dev", "lo")
        self.bfd = bench.start_bfd(self.ours, "speaker.bfd.sock")
        self.router: Router = ROUTERS[kind](bench, self.theirs, pace)
        configuration = copy.deepcopy(CONFIGURATION)
        configuration["instances"][0]["peers"][0]["bfd"] = {**pace.ours(), "graceful": is_graceful}
        self.speaker = Speaker(bench, self.ours, configuration)
        self.wait_up()

    def wait_up(self) -> None:
        """Until the session, BFD and both kernels are as they should be."""
        wait_for("our session", lambda: self.speaker.is_established("router"), 60)
        wait_for("their session", self.router.is_established, 60)
        wait_for("their BFD", self.router.is_bfd_up)
        wait_for("our BFD", lambda: self.speaker.peer("router")["bfdState"] == "up")
        wait_for("their route in our kernel", self.installed)
        wait_for("our route in their kernel", lambda: OUR_PREFIX in run("ip", "-n", self.theirs, "route"))

    def installed(self) -> bool:
        """Whether our kernel has their route."""
        return THEIR_PREFIX in run("ip", "-n", self.ours, "route")

    def connections(self) -> set[str]:
        """The neighbour's BGP connections that it has not closed: addresses and ports of both ends."""
        lines = [line.split() for line in run("ip", "netns", "exec", self.theirs, "ss", "-Htan").splitlines()]
        found = {f"{words[3]} {words[4]}" for words in lines if words[0] in ("ESTAB", "CLOSE-WAIT")}
        return {each for each in found if ":179" in each}

    def ping(self) -> list[subprocess.Popen[bytes]]:
        """Pings both ways at 100 packets a second, in the background, until ``lost`` ends them."""
        return [
            self._bench.start(space, ["ping", "-q", "-i", "0.01", "-I", source, target], name)
            for space, source, target, name in (
                (self.ours, OUR_ADDRESS, THEIR_ADDRESS, "ping-a"),
                (self.theirs, THEIR_ADDRESS, OUR_ADDRESS, "ping-r"),
            )
        ]

    def lost(self, pings: list[subprocess.Popen[bytes]]) -> int:
        """Packets lost by both pings together; the last one of each may still be on its way."""
        for each in pings:
            each.send_signal(signal.SIGINT)
            each.wait(10)
        counts = [_LOSS.search(self._bench.log(name)) for name in ("ping-a", "ping-r")]
        assert all(counts), [self._bench.log(name) for name in ("ping-a", "ping-r")]
        return sum(max(0, int(found.group(1)) - int(found.group(2)) - 1) for found in counts if found is not None)
