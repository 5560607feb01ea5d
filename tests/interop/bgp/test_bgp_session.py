"""How sessions begin, end, are protected and limited: against BIRD, FRR and ourselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from peers.bench import PYTHON, Bench, run, stop, wait_for
from peers.bird import Bird
from peers.frr import Frr
from peers.speaker import Speaker
from stentor.bgp.transport import has_tcp_ao

LEFT4, RIGHT4, LEFT6, RIGHT6 = "10.0.2.1", "10.0.2.2", "fd02::1", "fd02::2"
QUICK = {"connectRetryTimeSeconds": 0.2, "idleHoldTimeSeconds": 0.1}
V4 = [{"afi": "ipv4"}]


class Link:
    """Two namespaces with one wire."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.left, self.right = bench.namespace("left"), bench.namespace("right")
        bench.link(self.left, "lr", [f"{LEFT4}/24", f"{LEFT6}/64"], self.right, "rl", [f"{RIGHT4}/24", f"{RIGHT6}/64"])

    def speaker(self, side: str, peers: list[dict[str, Any]], **fields: Any) -> Speaker:
        """Ours on one side: AS 65001 left, 65002 right, unless ``fields`` say otherwise."""
        space = self.left if side == "left" else self.right
        return Speaker(self.bench, space, config(side, peers, **fields), side)

    def bird(self, options: str = "", channels: str = "ipv4 { import all; export all; };") -> Bird:
        """BIRD, right."""
        return Bird(
            self.bench,
            self.right,
            f"""router id {RIGHT4}; protocol device {{}}
protocol static s4 {{ ipv4; route 198.51.100.0/24 blackhole; route 203.0.113.0/24 blackhole; }}
protocol bgp x {{ local {RIGHT4} as 65002; neighbor {LEFT4} as 65001; connect delay time 1; connect retry time 1;
 error wait time 1,2; {options} {channels} }}
""",
        )


def config(side: str, peers: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    number = 1 if side == "left" else 2
    policies = fields.pop("policies", [])
    instance = {
        "name": "main",
        "localASN": 65000 + number,
        "routerID": f"10.0.2.{number}",
        "localPort": 179,
        "peers": peers,
    }
    return {"instances": [instance | fields], "policies": policies}


def peer(side: str, **fields: Any) -> dict[str, Any]:
    """A peer on the other side's IPv4 address."""
    other, asn = (RIGHT4, 65002) if side == "left" else (LEFT4, 65001)
    return {"name": "other", "peerAddress": other, "peerASN": asn, "timers": QUICK, "families": V4} | fields


@pytest.fixture
def link() -> Iterator[Link]:
    with Bench() as bench:
        yield Link(bench)


def test_two_active_speakers_end_up_with_one_session(link: Link) -> None:
    left = link.speaker("left", [peer("left")], routes=[{"prefixes": ["192.0.2.0/24"]}])
    right = link.speaker("right", [peer("right")])
    wait_for("left is up", lambda: left.is_established("other"))
    wait_for("right learned", lambda: right.route("192.0.2.0/24"))
    command = ("ip", "netns", "exec", link.left, "ss", "-Htn", "state", "established")
    wait_for("the other connection is closed", lambda: len(run(*command).splitlines()) == 1)
    assert left.is_established("other")


def test_hold_time_zero(link: Link) -> None:
    timers = QUICK | {"holdTimeSeconds": 0}
    left = link.speaker("left", [peer("left", timers=timers)])
    link.speaker("right", [peer("right", transport={"passive": True})])
    status = wait_for("up", lambda: left.is_established("other") and left.peer("other"))
    assert status["appliedHoldTimeSeconds"] == 0


def test_a_wrong_key_or_none_never_connects(link: Link) -> None:
    right = link.speaker("right", [peer("right", password="right", transport={"passive": True})])
    left = link.speaker("left", [peer("left", password="wrong")])
    wait_for(
        "attempts fail",
        lambda: (
            "SYN" in run("ip", "netns", "exec", link.left, "ss", "-Htn", "state", "syn-sent")
            or left.peer("other")["sessionState"] in ("connect", "active")
        ),
    )
    left.configure(config("left", [peer("left", password="right")]))
    wait_for("up with the right key", lambda: left.is_established("other"))
    assert right.peer("other")["flaps"] == 0


def test_a_key_is_changed_on_the_side_that_waits(link: Link) -> None:
    waiting = {"transport": {"passive": True}}
    left = link.speaker("left", [peer("left", password="old", **waiting)])
    right = link.speaker("right", [peer("right", password="old")])
    wait_for("up", lambda: left.is_established("other"))
    for key in ({"password": "new"}, {}):
        left.configure(config("left", [peer("left", **waiting, **key)]))
        right.configure(config("right", [peer("right", **key)]))
        wait_for(f"up with {key}", lambda: left.is_established("other") and right.is_established("other"), 60)


def test_peers_of_a_range_follow_its_configuration(link: Link) -> None:
    routes = [{"prefixes": ["192.0.2.0/24"]}]
    left = link.speaker("left", [peer("left", peerAddress="10.0.2.0/24")], routes=routes)
    right = link.speaker("right", [peer("right")])
    wait_for("learned", lambda: right.route("192.0.2.0/24"))
    silent = peer("left", peerAddress="10.0.2.0/24", families=[{"afi": "ipv4", "export": "reject"}])
    left.configure(config("left", [silent], routes=routes))
    wait_for("withdrawn", lambda: not right.route("192.0.2.0/24"))
    assert right.peer("other")["flaps"] == 0
    silent["password"] = "s3cret"
    left.configure(config("left", [silent], routes=routes))
    right.configure(config("right", [peer("right", password="s3cret")]))
    wait_for("up with the key", lambda: right.is_established("other") and left.is_established(RIGHT4), 60)


def test_gtsm_drops_what_came_from_afar(link: Link) -> None:
    link.speaker("right", [peer("right", ttlSecurity={}, transport={"passive": True})])
    left = link.speaker("left", [peer("left", ebgpMultihop=64)])
    wait_for("an attempt", lambda: left.peer("other")["sessionState"] in ("connect", "opensent"))
    assert not left.is_established("other")
    left.configure(config("left", [peer("left", ttlSecurity={})]))
    wait_for("up with TTL 255", lambda: left.is_established("other"))


def test_gtsm_beside_a_peer_without_it(link: Link) -> None:
    """The listener serves both: its answer to the SYN must have come from as near as everything else."""
    plain = peer("left", name="plain", peerAddress="10.0.2.99")
    left = link.speaker("left", [peer("left", ttlSecurity={}, transport={"passive": True}), plain])
    link.speaker("right", [peer("right", ttlSecurity={})])
    wait_for("up", lambda: left.is_established("other"))


def test_multihop_across_a_router(link: Link) -> None:
    """The peer's address is one router away: refused with TTL 1, up with ebgpMultihop."""
    run("ip", "-n", link.left, "route", "add", "10.9.0.0/24", "via", RIGHT4)
    far = link.bench.namespace("far")
    link.bench.link(link.right, "rf", ["10.9.0.1/24"], far, "fr", ["10.9.0.2/24"])
    run("ip", "-n", far, "route", "add", "10.0.2.0/24", "via", "10.9.0.1")
    remote = peer("right", transport={"passive": True}, ebgpMultihop=2)
    Speaker(link.bench, far, config("right", [remote], routes=[{"prefixes": ["192.0.2.0/24"]}]), "far")
    near = peer("left", peerAddress="10.9.0.2", ebgpMultihop=2)
    left = link.speaker("left", [near])
    assert wait_for("route", lambda: left.route("192.0.2.0/24"))["nextHop"] == "10.9.0.2"


def test_prefix_limit_ends_the_session_and_waits(link: Link) -> None:
    limited = peer("left", families=[{"afi": "ipv4", "prefixLimit": {"maximum": 1}}])
    left = link.speaker("left", [limited])
    link.bird()
    wait_for("the limit", lambda: "limit 1" in left.peer("other")["lastError"])
    wait_for("no routes left", lambda: left.routes() == [])
    assert left.peer("other")["sessionState"] == "idle"
    left.configure(config("left", [peer("left")]))
    left.ask(request="peering", peer="other", action="reset")
    wait_for("up again", lambda: left.received("other") == 2)


def test_shutdown_text_reaches_the_peer(link: Link) -> None:
    left = link.speaker("left", [peer("left")])
    bird = link.bird()
    wait_for("up", lambda: left.is_established("other"))
    left.ask(request="peering", peer="other", action="disable", text="back at noon")
    wait_for("text", lambda: "back at noon" in bird.ask("show protocols all x"))
    left.ask(request="peering", peer="other", action="enable")
    wait_for("up again", lambda: left.is_established("other"))


def test_default_originate_and_next_hop_unchanged(link: Link) -> None:
    families = [{"afi": "ipv4", "defaultOriginate": True, "nextHop": "unchanged"}]
    link.speaker(
        "left", [peer("left", families=families)], routes=[{"prefixes": ["192.0.2.0/24"], "nextHop": "10.0.2.77"}]
    )
    bird = link.bird()
    wait_for("both", lambda: bird.imported("x") == 2)
    assert "BGP.next_hop: 10.0.2.77" in bird.ask("show route 192.0.2.0/24 all")
    assert "BGP.next_hop: 10.0.2.1" in bird.ask("show route 0.0.0.0/0 all")


def graceful(side: str, stale_s: int = 0, restart_s: int = 1) -> dict[str, Any]:
    restart = {"enabled": True, "restartTimeSeconds": restart_s, "longLivedStaleTimeSeconds": stale_s}
    return peer(side, gracefulRestart=restart)


def test_routes_of_a_restarting_peer_stay_and_then_go(link: Link) -> None:
    left = link.speaker("left", [graceful("left", restart_s=4)])
    right = link.speaker("right", [graceful("right", restart_s=4)], routes=[{"prefixes": ["198.51.100.0/24"]}])
    wait_for("learned", lambda: left.route("198.51.100.0/24"))
    right.kill()
    wait_for("session down", lambda: not left.is_established("other"))
    assert left.route("198.51.100.0/24")
    wait_for("restart time over", lambda: not left.route("198.51.100.0/24"))


def test_a_restart_takes_routes_up_again_and_drops_the_lost(link: Link) -> None:
    left = link.speaker("left", [graceful("left", restart_s=60)])
    routes = [{"prefixes": ["198.51.100.0/24", "203.0.113.0/24"]}]
    right = link.speaker("right", [graceful("right", restart_s=60)], routes=routes)
    wait_for("learned", lambda: len(left.routes()) == 2)
    right.kill()
    right.file.write_text(
        json.dumps(config("right", [graceful("right", restart_s=60)], routes=[{"prefixes": ["203.0.113.0/24"]}]))
    )
    wait_for("session down", lambda: not left.is_established("other"))
    assert len(left.routes()) == 2
    right.start()
    wait_for("swept at End-of-RIB", lambda: [each["prefix"] for each in left.routes()] == ["203.0.113.0/24"])


def test_long_lived_stale_routes_are_marked(link: Link) -> None:
    left = link.speaker("left", [graceful("left", stale_s=600)])
    right = link.speaker("right", [graceful("right", stale_s=600)], routes=[{"prefixes": ["198.51.100.0/24"]}])
    wait_for("learned", lambda: left.route("198.51.100.0/24"))
    right.kill()
    wait_for("LLGR", lambda: left.route("198.51.100.0/24").get("communities") == ["llgr-stale"])


def test_local_routes_do_not_wait_for_anybodys_end_of_rib(link: Link) -> None:
    """A second peer with graceful restart never answers: the first hears of our routes all the same, after our restart too."""
    silent = {"name": "silent", "peerAddress": "10.0.2.9", "peerASN": 65009, "gracefulRestart": {"enabled": True}}
    routes = [{"prefixes": ["192.0.2.0/24"]}]
    left = link.speaker("left", [graceful("left", restart_s=60), silent], routes=routes)
    bird = link.bird("graceful restart on;")
    wait_for("announced", lambda: bird.imported("x") == 1)
    left.kill()
    left.start()
    wait_for("up again", lambda: left.is_established("other"))
    wait_for("announced again", lambda: left.peer("other")["routeCount"][0]["advertised"] == 1)
    capability = bird.ask("show protocols all x")
    assert "Restart recovery" in capability


def test_virtual_routers_keep_to_themselves(link: Link) -> None:
    first = config("left", [peer("left")], routes=[{"prefixes": ["192.0.2.0/24"]}])
    second = config(
        "left", [], localASN=65009, name="second", localPort=1179, routes=[{"prefixes": ["192.0.2.128/25"]}]
    )
    first["instances"].append(second["instances"][0])
    left = Speaker(link.bench, link.left, first)
    bird = link.bird()
    wait_for("announced", lambda: bird.imported("x") == 1)
    assert {each["instance"]: each["prefix"] for each in left.routes() if each["source"] == "local"} == {
        "main": "192.0.2.0/24",
        "second": "192.0.2.128/25",
    }


UNNUMBERED = {
    "name": "other",
    "interface": "lr",
    "peerASN": "external",
    "timers": QUICK,
    "transport": {"passive": False},
}


def test_unnumbered_with_frr(link: Link) -> None:
    left = link.speaker("left", [UNNUMBERED], routes=[{"prefixes": ["192.0.2.0/24", "2001:db8:1::/48"]}])
    zebra = "interface rl\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 1\n"
    bgpd = """router bgp 65002
 bgp router-id 10.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 coalesce-time 0
 neighbor rl interface remote-as external
 neighbor rl timers connect 1
 address-family ipv4 unicast
  network 198.51.100.0/24
 exit-address-family
 address-family ipv6 unicast
  neighbor rl activate
 exit-address-family
"""
    frr = Frr(link.bench, link.right, {"zebra": zebra, "bgpd": bgpd})
    wait_for("up", lambda: left.is_established("other"), 20)
    for family, prefix in (("ipv4", "192.0.2.0/24"), ("ipv6", "2001:db8:1::/48")):
        paths = wait_for(prefix, lambda f=family, p=prefix: frr.json(f"show bgp {f} unicast {p}").get("paths"))
        assert paths[0]["valid"]
        assert paths[0]["nexthops"][0]["ip"].startswith("fe80::")
    # FRR adds its global address where the link has one (RFC 2545 §3).
    assert wait_for("learned", lambda: left.route("198.51.100.0/24"))["nextHop"] == RIGHT6


def test_unnumbered_with_ourselves(link: Link) -> None:
    left = link.speaker("left", [UNNUMBERED], routes=[{"prefixes": ["192.0.2.0/24"]}])
    right = link.speaker("right", [UNNUMBERED | {"interface": "rl"}], kernel={})
    wait_for("up", lambda: left.is_established("other"), 20)
    wait_for("learned", lambda: right.route("192.0.2.0/24"))
    wait_for("installed", lambda: "via inet6 fe80::" in run("ip", "-n", link.right, "route", "show", "192.0.2.0/24"))


def test_unnumbered_with_a_key(link: Link) -> None:
    """The one that waits learns by an advertisement from whose address to expect the key."""
    waiting = UNNUMBERED | {"password": "s3cret", "transport": {"passive": True}}
    left = link.speaker("left", [waiting])
    link.speaker("right", [UNNUMBERED | {"interface": "rl", "password": "s3cret"}])
    wait_for("up", lambda: left.is_established("other"), 60)


def test_learned_routes_are_installed_with_ecmp(link: Link) -> None:
    """Two peers announce one prefix: the kernel gets both next hops; a peer ends: one is left; all end: none."""
    run("ip", "-n", link.right, "address", "add", "10.0.2.3/24", "dev", "rl")
    second = Speaker(
        link.bench,
        link.right,
        config("right", [peer("right", transport={"localAddress": "10.0.2.3"})], localASN=65003, routerID="10.0.2.3",
               routes=[{"prefixes": ["198.51.100.0/24"]}], listenAddresses=["10.0.2.3"]),
        "second",
    )  # fmt: skip
    first = link.speaker(
        "right", [peer("right")], routes=[{"prefixes": ["198.51.100.0/24"]}], listenAddresses=["10.0.2.2"]
    )
    other = peer("left", name="third", peerAddress="10.0.2.3", peerASN=65003)
    left = link.speaker("left", [peer("left"), other], kernel={"maximumPaths": 4})

    def hops() -> int:
        return run("ip", "-n", link.left, "route", "show", "198.51.100.0/24").count("via")

    wait_for("two next hops", lambda: hops() == 2)
    assert second.process is not None
    assert first.process is not None
    stop(second.process)
    wait_for("one next hop", lambda: hops() == 1)
    stop(first.process)
    wait_for("none", lambda: hops() == 0)
    assert left.routes() == []


def test_a_bad_configuration_is_refused_and_changes_nothing(link: Link) -> None:
    left = link.speaker("left", [peer("left")])
    link.bird()
    wait_for("up", lambda: left.is_established("other"))
    wrong = config("left", [peer("left", families=[{"afi": "ipv4", "export": "nope"}])])
    with pytest.raises(Exception, match=r"instances\[0\]\.peers\[0\]\.families\[0\]\.export"):
        left.configure(wrong)
    assert left.is_established("other")


def test_one_change_is_explained(link: Link) -> None:
    policies = [
        {
            "name": "some",
            "statements": [{"name": "no-tests", "match": {"prefixes": ["192.0.2.0/24"]}, "action": "reject"}],
        }
    ]
    families = [{"afi": "ipv4", "export": "some", "import": "some"}]
    left = link.speaker(
        "left", [peer("left", families=families)], policies=policies, routes=[{"prefixes": ["192.0.2.0/24"]}]
    )
    link.bird()
    wait_for("up", lambda: left.received("other") == 2)
    (answer,) = left.ask(request="why", prefix="192.0.2.0/24")["explanations"]
    assert answer["peers"] == [["other", "not advertised: export policy 'some', statement 'no-tests' rejects"]]
    (answer,) = left.ask(request="why", prefix="198.51.100.0/24")["explanations"]
    assert answer["rejected"] == ["other: import policy 'some', statement 'default' rejects"]


def test_tcp_ao_is_refused_clearly_where_the_kernel_lacks_it(link: Link) -> None:
    left = link.speaker("left", [peer("left", tcpAO={"keyID": 1, "key": "secret"})])
    link.speaker("right", [peer("right", tcpAO={"keyID": 1, "key": "secret"})])
    if has_tcp_ao():
        wait_for("up with TCP-AO", lambda: left.is_established("other"))
    else:
        wait_for("refusal", lambda: "TCP-AO: this kernel" in left.peer("other")["lastError"])
        assert not left.is_established("other")


def test_the_command_line_reads_a_speaker(link: Link) -> None:
    left = link.speaker("left", [peer("left")], routes=[{"prefixes": ["192.0.2.0/24"], "med": 5}])
    link.bird()
    wait_for("up", lambda: left.received("other") == 2)

    def stentor(*words: str) -> str:
        return run(str(Path(PYTHON).parent / "stentor"), "bgp", *words, "--socket", left.socket)

    heads, row = stentor("peers").splitlines()[:2]
    assert heads.split("   ")[0] == "Local AS"
    assert row.split()[:4] == ["65001", "65002", RIGHT4, "established"]
    assert row.split()[-3:] == ["ipv4/unicast", "2", "1"]
    verbose = stentor("peers", "-v").splitlines()[1].split()
    assert verbose[8:10] == ["main", "other"]
    assert "{Med: 5}" in stentor("routes", "advertised", "ipv4", "unicast", "peer", RIGHT4, "vrouter", "65001")
    assert len(json.loads(stentor("routes", "-o", "json"))) == 3
    assert [
        each["nextHop"] for each in yaml.safe_load(stentor("routes", "--prefix", "192.0.2.0/24", "-o", "yaml"))
    ] == ["self"]
    policies = [line.split()[:4] for line in stentor("route-policies").splitlines()[1:]]
    assert policies == [
        ["65001", "local:", "local", "export"],
        ["65001", "local:", "default", "export"],
        ["65001", "accept:", "default", "import"],
    ]
    why = stentor("why", "192.0.2.0/24")
    assert "to other: advertised: export policy 'local', statement 'local' accepts" in why
    stentor("disable", "other", "--text", "bye")
    wait_for("down", lambda: " idle " in stentor("peers"))
