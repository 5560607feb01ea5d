"""Our speaker against BIRD, FRR, GoBGP and ExaBGP: what the peer's own RIB holds, feature by feature.

A scene is one pair of processes that shows several features. ``FEATURES`` is also the table in ``docs/bgp.md``:
``tools/bgp_matrix.py`` writes it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from peers.bench import Bench, run, stop_server, wait_for
from peers.raw import RawPeer, attribute, nlri, update
from peers.router import (
    FROM_PEER4,
    FROM_PEER6,
    MORE_FROM_PEER4,
    OUR_AS,
    OUR_LINK,
    OURS4,
    OURS6,
    PASSWORD,
    PEER4,
    PEER6,
    PEER_LINK,
    ROUTERS,
    SECOND4,
    SECOND_AS,
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
        assert set(wanted) <= set(pair.us.peer(pair.key)["capabilities"])

    return check


def check_protected(pair: Pair) -> None:
    """The session is up though the peer insists on MD5 or TTL 255."""
    assert pair.is_up()


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
    pair.originate(prefixes=[PLAIN], med=5, localPreference=90)
    wait_for("two paths", lambda: pair.seen(PLAIN).paths == 2)
    pair.originate()
    wait_for("one path", lambda: pair.seen(PLAIN).paths == 1)


def check_add_path_received(pair: Pair) -> None:
    """FRR has no second path of its own: a neighbour gives it one."""
    second = None
    if pair.name == "FRR":
        second = RawPeer(f"{pair.bench.tag}-us", SECOND4, PEER4, SECOND_AS)
        second.establish()
        path = attribute(0x40, 2, bytes((2, 1)) + SECOND_AS.to_bytes(4, "big"))
        second.send(
            update(attribute(0x40, 1, b"\0") + path + attribute(0x40, 3, bytes((10, 0, 2, 3))), nlri(FROM_PEER4))
        )
    received = {"request": "routes", "kind": "received", "peer": "peer", "prefix": FROM_PEER4}
    wait_for("two paths", lambda: len({each["pathID"] for each in pair.us.routes(**received)}) == 2)
    if second is not None:
        second.close()
        wait_for("one path", lambda: len(pair.us.routes(**received)) == 1)


def check_internal_next_hop(pair: Pair) -> None:
    """Inside an AS a next hop is kept, unless it is to be ourselves."""
    pair.originate(prefixes=[OTHER], nextHop="10.0.2.77")
    assert pair.seen(OTHER).next_hop == "10.0.2.77"
    pair.reconfigure({"nextHop": "self"})
    wait_for("self", lambda: pair.seen(OTHER).next_hop == OURS4)
    pair.us.configure(configure(pair.scene))
    pair.originate()
    wait_for("withdrawn", lambda: pair.peer.route(OTHER) is None)


def check_external_next_hop(pair: Pair) -> None:
    pair.originate(prefixes=[OTHER], nextHop="10.0.2.77")
    pair.reconfigure({"nextHop": "unchanged"})
    wait_for("unchanged", lambda: pair.seen(OTHER).next_hop == "10.0.2.77")
    pair.us.configure(configure(pair.scene))
    pair.originate()
    wait_for("withdrawn", lambda: pair.peer.route(OTHER) is None)


def check_default(pair: Pair) -> None:
    pair.reconfigure({"defaultOriginate": True})
    assert pair.seen("0.0.0.0/0").next_hop == OURS4
    assert pair.seen("::/0").next_hop == OURS6
    pair.us.configure(configure(pair.scene))
    wait_for("withdrawn", lambda: pair.peer.route("0.0.0.0/0") is None and pair.peer.route("::/0") is None)


def check_import(pair: Pair) -> None:
    """Another import policy takes a route away and gives it back out of memory: the peer sends nothing."""
    pair.learned(FROM_PEER4)
    before = pair.us.peer("peer")["updatesReceived"]
    configuration = configure(pair.scene)
    statements = [{"match": {"prefixes": [FROM_PEER4]}, "action": "reject"}, {"set": {"localPreference": 42}}]
    configuration["policies"].append({"name": "in", "statements": statements})
    for each in configuration["instances"][0]["peers"][0]["families"]:
        each["import"] = "in"
    pair.us.configure(configuration)
    wait_for("rejected", lambda: not pair.us.route(FROM_PEER4))
    assert pair.learned(MORE_FROM_PEER4)["localPreference"] == 42
    pair.us.configure(configure(pair.scene))
    wait_for("as it was", lambda: pair.us.route(FROM_PEER4) and not pair.us.route(MORE_FROM_PEER4)["localPreference"])
    assert pair.us.peer("peer")["updatesReceived"] == before


def check_long(pair: Pair) -> None:
    """Attributes that no message of 4096 octets has room for (BIRD and FRR print the first of them only)."""
    pair.originate(prefixes=[OTHER], communities={"standard": [f"65001:{number}" for number in range(1100)]})
    assert "65001:1" in pair.seen(OTHER).communities
    pair.originate()
    wait_for("withdrawn", lambda: pair.peer.route(OTHER) is None)


def check_hold_time_zero(pair: Pair) -> None:
    pair.reconfigure(timers={**QUICK, "holdTimeSeconds": 0})
    wait_for("a session without", lambda: pair.is_up() and pair.us.peer("peer")["appliedHoldTimeSeconds"] == 0, 60)
    pair.us.configure(configure(pair.scene))
    wait_for("a session with", lambda: pair.is_up() and pair.us.peer("peer")["appliedHoldTimeSeconds"], 60)


def check_shutdown_text(pair: Pair) -> None:
    pair.us.ask(request="peering", peer="peer", action="disable", text="back at noon")
    wait_for("our text", lambda: "back at noon" in pair.peer.heard())
    pair.us.ask(request="peering", peer="peer", action="enable")
    pair.wait_up()


def check_their_shutdown_text(pair: Pair) -> None:
    pair.peer.shut("moved away")
    wait_for("their text", lambda: "moved away" in pair.us.peer("peer")["lastError"])


def check_limit(pair: Pair) -> None:
    """More than we want: the session ends and stays down, nothing of it is kept."""
    pair.reconfigure({"prefixLimit": {"maximum": 1}})
    pair.us.ask(request="peering", peer="peer", action="reset")
    wait_for("the limit", lambda: "limit 1" in pair.us.peer("peer")["lastError"], 60)
    wait_for("nothing is kept", lambda: not pair.us.route(FROM_PEER4) and not pair.us.route(MORE_FROM_PEER4))
    assert pair.us.peer("peer")["sessionState"] == "idle"
    pair.us.configure(configure(pair.scene))
    pair.us.ask(request="peering", peer="peer", action="enable")
    pair.wait_up()
    pair.learned(FROM_PEER4)


def check_our_restart(pair: Pair) -> None:
    """kill -9, and the peer's routes stay until we are back."""
    pair.seen(PLAIN)
    pair.us.kill()
    listing = [
        "ip",
        "netns",
        "exec",
        pair.space,
        "ss",
        "-Htn",
        "state",
        "established",
        "( sport = :179 or dport = :179 )",
    ]
    wait_for("the connection is gone", lambda: not run(*listing).strip())
    assert pair.peer.route(PLAIN)
    pair.us.start()
    pair.wait_up()
    assert pair.seen(PLAIN)


def check_their_restart(pair: Pair) -> None:
    """Their kill -9, and what they said stays for the restart time."""
    pair.learned(FROM_PEER4)
    os.kill(pair.peer.pid(), signal.SIGKILL)
    wait_for("the session is over", lambda: not pair.is_up())
    assert pair.us.route(FROM_PEER4)


def check_next_hop(pair: Pair) -> None:
    assert pair.seen(PLAIN).next_hop.startswith("fd02::1")
    assert pair.learned(FROM_PEER4)
    check_policy_change(pair)


def check_session_over_ipv6(pair: Pair) -> None:
    assert pair.seen(ROUTE6).next_hop.startswith(OURS6)
    assert pair.learned(FROM_PEER6)


def check_one_session(pair: Pair) -> None:
    """Both connect at once; one connection is left, on which routes come across both ways."""
    pair.seen(PLAIN)
    pair.learned(FROM_PEER4)
    listing = [
        "ip",
        "netns",
        "exec",
        pair.space,
        "ss",
        "-Htn",
        "state",
        "established",
        "( sport = :179 or dport = :179 )",
    ]
    wait_for("one connection", lambda: len(run(*listing).splitlines()) == 1)


def check_unnumbered(pair: Pair) -> None:
    assert pair.seen(PLAIN).next_hop.startswith("fe80::")
    assert pair.seen(ROUTE6).next_hop.startswith("fe80::")
    assert pair.us.peer("peer")["peerAddress"].startswith("fe80::")


def check_bfd(pair: Pair) -> None:
    """Up, and its end is the session's."""
    wait_for("BFD is up", lambda: pair.us.peer("peer")["bfdState"] == "up")
    stop_server(pair.us.bfd_socket)
    wait_for("the session ends and comes back", lambda: pair.us.peer("peer")["flaps"] >= 1, 60)
    wait_for("both are up", lambda: pair.is_up() and pair.us.peer("peer")["bfdState"] == "up", 60)


def check_dynamic(pair: Pair) -> None:
    assert pair.us.peer(pair.key)["isDynamic"]
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
    Feature("import policy, from memory", "external", check_import),
    Feature("TCP MD5", "external", check_protected),
    Feature("GTSM", "external", check_protected),
    Feature("extended messages", "external", check_long, ("BIRD", "FRR", "ExaBGP")),
    Feature(
        "enhanced route refresh capability",
        "external",
        check_capabilities("enhanced-route-refresh"),
        ("BIRD", "FRR", "ExaBGP"),
    ),
    Feature("route refresh", "external", check_refresh, ("BIRD", "FRR", "GoBGP")),
    Feature("policy change without reset", "external", check_policy_change),
    Feature("next hop unchanged", "external", check_external_next_hop),
    Feature("default originate", "external", check_default),
    Feature("graceful shutdown community on drain", "external", check_drain),
    Feature("hold time 0", "external", check_hold_time_zero, ("BIRD", "FRR", "ExaBGP")),
    Feature("prefix limit", "external", check_limit),
    Feature("graceful restart, our routes stay there", "external", check_our_restart, ("BIRD", "FRR", "GoBGP")),
    Feature("graceful restart, their routes stay here", "external", check_their_restart),
    Feature(
        "long-lived graceful restart capability",
        "multihop",
        check_capabilities("long-lived-graceful-restart"),
        ("BIRD", "FRR", "GoBGP"),
    ),
    Feature("multihop, over a router", "multihop", check_ipv4),
    Feature("their shutdown text", "multihop", check_their_shutdown_text, ("BIRD", "FRR", "GoBGP")),
    Feature("iBGP, local preference", "internal", check_local_pref),
    Feature("iBGP, next hop kept or self", "internal", check_internal_next_hop),
    Feature("additional paths sent", "internal", check_add_path),
    Feature("additional paths received", "internal", check_add_path_received),
    Feature("session over IPv6", "next-hop", check_session_over_ipv6),
    Feature("IPv4 over IPv6 next hops", "next-hop", check_next_hop, ("BIRD", "FRR", "ExaBGP")),
    Feature("unnumbered, by router advertisements", "unnumbered", check_unnumbered, ("BIRD", "FRR", "GoBGP")),
    Feature("both connect, one session stays", "collision", check_one_session),
    Feature("our shutdown text", "collision", check_shutdown_text, ("BIRD", "FRR", "GoBGP")),
    Feature("listen range with one MD5 key", "listen", check_dynamic),
    Feature("BFD", "bfd", check_bfd, ("BIRD", "FRR")),
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
