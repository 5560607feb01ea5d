"""Our speaker against BIRD, FRR, GoBGP and ExaBGP: what the peer's own RIB holds, feature by feature.

A scene is one pair of processes that shows several features. ``FEATURES`` is also the table in ``docs/bgp.md``:
``tools/bgp_matrix.py`` writes it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from bgp_scene import ALL, OTHER, PLAIN, PREPENDED, QUICK, RICH, ROUTE6, SCENES, Pair, begin, configure

from peers.bench import run, stop_server, wait_for
from peers.raw import RawPeer, attribute, nlri, update
from peers.router import (
    FROM_PEER4,
    FROM_PEER6,
    MORE_FROM_PEER4,
    OUR_AS,
    OURS4,
    OURS6,
    PEER4,
    SECOND4,
    SECOND_AS,
)


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
