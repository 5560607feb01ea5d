"""The scenes of the interoperability matrix: one pair of processes, ours and a daemon, on a wire that suits what they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peers.bench import Bench, run, wait_for
from peers.router import (
    OUR_LINK,
    OURS4,
    OURS6,
    PASSWORD,
    PEER4,
    PEER6,
    PEER_LINK,
    ROUTERS,
    SECOND4,
    Router,
    Scene,
    Seen,
)
from peers.speaker import Speaker

PLAIN, RICH, PREPENDED, ROUTE6 = "192.0.2.0/24", "192.0.2.128/25", "203.0.113.0/24", "2001:db8:1::/48"
OTHER = "192.0.2.32/27"
QUICK = {"connectRetryTimeSeconds": 0.2, "idleHoldTimeSeconds": 0.2}
ALL = tuple(ROUTERS)
SCENES = {
    "external": Scene(md5=True, gtsm=True),
    "internal": Scene(internal=True, add_path=True),
    "next-hop": Scene(over_ipv6=True),
    "listen": Scene(active=True, waits=True, md5=True, graceful=False),
    "collision": Scene(active=True, graceful=False),
    "multihop": Scene(multihop=3),
    "unnumbered": Scene(unnumbered=True),
    "bfd": Scene(bfd=True),
}


@dataclass
class Pair:
    """A running scene."""

    bench: Bench
    scene: Scene
    peer: Router
    us: Speaker
    name: str
    space: str

    @property
    def key(self) -> str:
        """How our speaker calls the peer; one of a listen range has no name of its own."""
        return PEER4 if self.scene.waits else "peer"

    def is_up(self) -> bool:
        return self.us.is_established(self.key)

    def wait_up(self) -> None:
        wait_for(f"{self.name} is up", self.is_up, 60)

    def reconfigure(self, family: dict[str, Any] | None = None, **fields: Any) -> None:
        """Our side of the scene with other fields of the peer and of its families."""
        configuration = configure(self.scene)
        peering = configuration["instances"][0]["peers"][0]
        peering.update(fields)
        for each in peering["families"]:
            each.update(family or {})
        self.us.configure(configuration)

    def originate(self, **route: Any) -> None:
        """Routes of another owner than the configuration; none withdraws them."""
        routes = [route] if route else []
        self.us.ask(request="setRoutes", instance="main", owner="second", routes=routes, replace=True)

    def seen(self, prefix: str) -> Seen:
        """The route in the peer's RIB, once it is there."""
        return wait_for(f"{self.name} has {prefix}", lambda: self.peer.route(prefix))

    def learned(self, prefix: str) -> dict[str, Any]:
        """The peer's route in our RIB."""
        return wait_for(f"we have {prefix}", lambda: self.us.route(prefix))


def configure(scene: Scene) -> dict[str, Any]:
    """Our side of a scene."""
    _, peer = scene.ends
    families = [
        {
            "afi": afi,
            "export": "out",
            "import": "accept",
            "addPath": {"receive": True, "send": 4} if scene.add_path else {},
        }
        for afi in ("ipv4", "ipv6")
    ]
    peering: dict[str, Any] = {
        "name": "peer",
        "peerASN": scene.peer_as,
        **({"interface": OUR_LINK} if scene.unnumbered else {"peerAddress": "10.0.2.0/24" if scene.waits else peer}),
        "families": families,
        "timers": QUICK,
        "gracefulRestart": {"enabled": scene.graceful, "restartTimeSeconds": 60, "longLivedStaleTimeSeconds": 600},
    }
    if scene.multihop:
        peering |= {"ebgpMultihop": scene.multihop, "transport": {"localAddress": OURS4}}
    if scene.bfd:
        intervals = {"transmitIntervalMilliseconds": 200, "receiveIntervalMilliseconds": 200, "detectMultiplier": 5}
        peering |= {"interface": OUR_LINK, "bfd": intervals}
    if scene.md5:
        peering["password"] = PASSWORD
    if scene.gtsm:
        peering["ttlSecurity"] = {"hops": 1}
    statements = [
        {"match": {"prefixes": [PREPENDED]}, "set": {"prepend": 2}},
        {"match": {"prefixes": ["192.0.2.64/26"]}, "action": "reject"},
        {"name": "rest"},
    ]
    rich = {"standard": ["65001:100"], "wellKnown": ["no-peer"], "large": ["65001:1:2"], "extended": ["rt:65001:9"]}
    routes: list[dict[str, Any]] = [
        {"prefixes": [PLAIN, ROUTE6, PREPENDED, "192.0.2.64/26"]},
        {"prefixes": [RICH], "communities": rich, "med": 77, "localPreference": 250},
    ]
    return {
        "instances": [
            {
                "name": "main",
                "localASN": scene.our_as,
                "routerID": OURS4,
                "localPort": 179,
                "peers": [peering],
                "routes": routes,
            }
        ],
        "policies": [{"name": "out", "statements": statements}],
    }


@contextmanager
def begin(name: str, peer: str) -> Iterator[Pair]:
    """Both processes of a scene, their session up."""
    scene = SCENES[name]
    with Bench() as bench:
        left, right = bench.namespace("us"), bench.namespace("peer")
        wire(bench, left, right, scene)
        us = Speaker(bench, left, configure(scene))
        pair = Pair(bench, scene, ROUTERS[peer](bench, right, scene), us, peer, right)
        pair.wait_up()
        yield pair


def wire(bench: Bench, left: str, right: str, scene: Scene) -> None:
    """One link; or with ``multihop`` a router between, and the sessions' addresses on the loopbacks."""
    if scene.unnumbered:
        bench.link(left, OUR_LINK, [], right, PEER_LINK, [])
    elif not scene.multihop:
        ours, theirs = [f"{OURS4}/24", f"{OURS6}/64", f"{SECOND4}/24"], [f"{PEER4}/24", f"{PEER6}/64"]
        bench.link(left, OUR_LINK, ours, right, PEER_LINK, theirs)
    else:
        middle = bench.namespace("mid")
        bench.link(left, OUR_LINK, ["10.7.1.1/24", "fd71::1/64"], middle, "ml", ["10.7.1.9/24", "fd71::9/64"])
        bench.link(right, PEER_LINK, ["10.7.2.2/24", "fd72::2/64"], middle, "mr", ["10.7.2.9/24", "fd72::9/64"])
        for space, mine, far, via in (
            (left, (OURS4, OURS6), (PEER4, PEER6), ("10.7.1.9", "fd71::9")),
            (right, (PEER4, PEER6), (OURS4, OURS6), ("10.7.2.9", "fd72::9")),
        ):
            for own, other, gateway in zip(mine, far, via, strict=True):
                run("ip", "-n", space, "address", "add", own, "dev", "lo")
                run("ip", "-n", space, "route", "add", other, "via", gateway)
        for target, gateway in ((OURS4, "10.7.1.1"), (OURS6, "fd71::1"), (PEER4, "10.7.2.2"), (PEER6, "fd72::2")):
            run("ip", "-n", middle, "route", "add", target, "via", gateway)
