"""Our speaker against BIRD, FRR, GoBGP and ExaBGP: what the peer's own RIB holds, feature by feature.

A scene is one pair of processes that shows several features. ``FEATURES`` is also the table in ``docs/bgp.md``:
``tools/bgp_matrix.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from peers.bench import Bench, wait_for
from peers.router import (
    FROM_PEER4,
    FROM_PEER6,
    OUR_AS,
    OURS4,
    OURS6,
    PASSWORD,
    PEER4,
    ROUTERS,
    Router,
    Scene,
    Seen,
)
from peers.speaker import Speaker

PLAIN, RICH, PREPENDED, ROUTE6 = "192.0.2.0/24", "192.0.2.128/25", "203.0.113.0/24", "2001:db8:1::/48"
ALL = tuple(ROUTERS)
SCENES = {
    "external": Scene(md5=True, gtsm=True),
    "internal": Scene(internal=True, add_path=True),
    "next-hop": Scene(over_ipv6=True),
    "listen": Scene(active=True, md5=True, graceful=False),
}


@dataclass
class Pair:
    """A running scene."""

    bench: Bench
    scene: Scene
    peer: Router
    us: Speaker
    name: str

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
        "peerAddress": "10.0.2.0/24" if scene.active else peer,
        "peerASN": scene.peer_as,
        "families": families,
        "timers": {"connectRetryTimeSeconds": 0.2, "idleHoldTimeSeconds": 0.2},
        "gracefulRestart": {"enabled": scene.graceful, "restartTimeSeconds": 60, "longLivedStaleTimeSeconds": 600},
    }
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
        bench.link(left, "xr", [f"{OURS4}/24", f"{OURS6}/64"], right, "rx", [f"{PEER4}/24", "fd02::2/64"])
        us = Speaker(bench, left, configure(scene))
        router = ROUTERS[peer](bench, right, scene)
        wait_for(f"{peer} {name} is up", lambda: us.is_established(scene.ends[1]), 40)
        yield Pair(bench, scene, router, us, peer)


def check_ipv4(pair: Pair) -> None:
    assert pair.seen(PLAIN).next_hop == OURS4
    assert pair.learned(FROM_PEER4)["nextHop"] == PEER4


def check_ipv6(pair: Pair) -> None:
    assert pair.seen(ROUTE6).next_hop == OURS6
    assert pair.learned(FROM_PEER6)["nextHop"] == "fd02::2"


def check_four_octet_as(pair: Pair) -> None:
    assert pair.seen(PLAIN).as_path == [OUR_AS]


def check_communities(pair: Pair) -> None:
    assert "65001:100" in pair.seen(RICH).communities
    assert "65002:7" in pair.learned(FROM_PEER4)["communities"]


def check_large(pair: Pair) -> None:
    assert pair.seen(RICH).large == {"65001:1:2"}
    assert pair.learned(FROM_PEER4)["largeCommunities"] == ["65002:1:2"]


def check_extended(pair: Pair) -> None:
    assert any("65001" in each and each.endswith("9") for each in pair.seen(RICH).extended)


def check_med(pair: Pair) -> None:
    assert pair.seen(RICH).med == 77


def check_prepend(pair: Pair) -> None:
    assert pair.seen(PREPENDED).as_path == [OUR_AS] * 3


def check_policy(pair: Pair) -> None:
    pair.seen(PLAIN)
    assert pair.peer.route("192.0.2.64/26") is None


def check_capabilities(*wanted: str) -> Callable[[Pair], None]:
    def check(pair: Pair) -> None:
        assert set(wanted) <= set(pair.us.peer(pair.scene.ends[1])["capabilities"])

    return check


def check_protected(pair: Pair) -> None:
    """The session is up though the peer insists on MD5 or TTL 255."""
    assert pair.us.is_established(pair.scene.ends[1])


def check_refresh(pair: Pair) -> None:
    before = pair.us.peer("peer")["updatesReceived"]
    pair.us.ask(request="peering", peer="peer", action="refresh")
    wait_for("routes come again", lambda: pair.us.peer("peer")["updatesReceived"] > before)
    pair.learned(FROM_PEER4)


def check_policy_change(pair: Pair) -> None:
    """Another export policy withdraws and announces without a session reset."""
    pair.seen(PLAIN)
    configuration = configure(pair.scene)
    before = pair.us.peer("peer")["establishedTime"]
    configuration["policies"][0]["statements"].insert(0, {"match": {"prefixes": [PLAIN]}, "action": "reject"})
    pair.us.configure(configuration)
    wait_for("the route is withdrawn", lambda: pair.peer.route(PLAIN) is None)
    pair.us.configure(configure(pair.scene))
    pair.seen(PLAIN)
    assert pair.us.peer("peer")["establishedTime"] == before


def check_drain(pair: Pair) -> None:
    pair.us.ask(request="drain", enabled=True)
    wait_for("GSHUT", lambda: pair.seen(PLAIN).communities & {"65535:0", "graceful-shutdown"})
    pair.us.ask(request="drain", enabled=False)
    wait_for("no GSHUT", lambda: not pair.seen(PLAIN).communities)


def check_local_pref(pair: Pair) -> None:
    assert pair.seen(RICH).local_pref == 250
    assert pair.seen(PLAIN).local_pref == 100
    assert pair.seen(PLAIN).as_path == []


def check_add_path(pair: Pair) -> None:
    """Two owners of one prefix are two paths."""
    pair.us.ask(
        request="setRoutes",
        instance="main",
        owner="second",
        routes=[{"prefixes": [PLAIN], "med": 5, "localPreference": 90}],
    )
    wait_for("two paths", lambda: pair.seen(PLAIN).paths == 2)
    pair.us.ask(request="setRoutes", instance="main", owner="second", replace=True)
    wait_for("one path", lambda: pair.seen(PLAIN).paths == 1)


def check_next_hop(pair: Pair) -> None:
    assert pair.seen(PLAIN).next_hop.startswith("fd02::1")


def check_dynamic(pair: Pair) -> None:
    assert pair.us.peer(PEER4)["isDynamic"]
    assert pair.seen(PLAIN).next_hop == OURS4


@dataclass(frozen=True)
class Feature:
    """A row of the table: where it is shown, by which check, with whom."""

    name: str
    scene: str
    check: Callable[[Pair], None]
    peers: tuple[str, ...] = ALL


FEATURES = (
    Feature("IPv4 unicast, both directions", "external", check_ipv4),
    Feature("IPv6 unicast over the same session", "external", check_ipv6),
    Feature("four-octet AS", "external", check_four_octet_as),
    Feature("communities", "external", check_communities),
    Feature("large communities", "external", check_large),
    Feature("extended communities", "external", check_extended),
    Feature("MED", "external", check_med),
    Feature("prepend by policy", "external", check_prepend),
    Feature("export policy", "external", check_policy),
    Feature("TCP MD5", "external", check_protected),
    Feature("GTSM", "external", check_protected),
    Feature("graceful restart capability", "external", check_capabilities("graceful-restart")),
    Feature(
        "long-lived graceful restart capability",
        "external",
        check_capabilities("long-lived-graceful-restart"),
        ("BIRD",),
    ),
    Feature("extended messages", "external", check_capabilities("extended-message"), ("BIRD", "FRR", "ExaBGP")),
    Feature(
        "enhanced route refresh capability", "external", check_capabilities("enhanced-route-refresh"), ("BIRD", "FRR")
    ),
    Feature("route refresh", "external", check_refresh, ("BIRD", "FRR", "GoBGP")),
    Feature("policy change without reset", "external", check_policy_change),
    Feature("graceful shutdown community on drain", "external", check_drain),
    Feature("iBGP, local preference", "internal", check_local_pref),
    Feature("additional paths sent", "internal", check_add_path),
    Feature("IPv4 over IPv6 next hops", "next-hop", check_next_hop, ("BIRD", "FRR", "ExaBGP")),
    Feature("listen range with one MD5 key", "listen", check_dynamic),
)


def find(peer: str, scene: str) -> list[Feature]:
    """The features that a peer shows in a scene."""
    return [feature for feature in FEATURES if feature.scene == scene and peer in feature.peers]


CASES = [(peer, scene) for peer in ALL for scene in SCENES if find(peer, scene)]


@pytest.mark.parametrize(("peer", "scene"), CASES, ids=[f"{peer}-{scene}" for peer, scene in CASES])
def test_features(peer: str, scene: str) -> None:
    with begin(scene, peer) as pair:
        failed = {}
        for feature in find(peer, scene):
            try:
                feature.check(pair)
            except AssertionError as error:
                failed[feature.name] = str(error)
    assert failed == {}
