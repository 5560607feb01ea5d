"""Four routing daemons behind one face: start one with what a scene asks for, read its RIB.

Every daemon is AS 65002 (65001 inside), 10.0.2.2 and fd02::2; ours is 4200000001 (65001 inside), 10.0.2.1 and fd02::1. Each
announces 198.51.100.0/24, 198.51.101.0/24 and 2001:db8:ff::/48, where a scene has additional paths the first one twice.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from typing import Any, Protocol

from peers.bench import Bench, run, wait_for
from peers.bird import Bird
from peers.frr import Frr

OUR_AS, PEER_AS, INSIDE_AS = 4200000001, 65002, 65001
OURS4, PEER4, OURS6, PEER6 = "10.0.2.1", "10.0.2.2", "fd02::1", "fd02::2"
FROM_PEER4, MORE_FROM_PEER4, FROM_PEER6 = "198.51.100.0/24", "198.51.101.0/24", "2001:db8:ff::/48"
OUR_LINK, PEER_LINK = "link1", "link2"
PASSWORD = "s3cret"
SECOND4, SECOND_AS = "10.0.2.3", 65003
SLOW_BIRD = "min rx interval 200 ms; min tx interval 200 ms; multiplier 5;"
SLOW_FRR = "bfd\n profile slow\n  transmit-interval 200\n  receive-interval 200\n  detect-multiplier 5\n"


@dataclass(frozen=True)
class Scene:
    """What a session is to have.

    ``over_ipv6``: one IPv6 session carries both families (RFC 8950 for IPv4). ``active``: the daemon connects, ``waits``: we
    do not. ``multihop``: the most hops; a router is between the two. ``unnumbered``: nobody knows an address of the other.
    """

    internal: bool = False
    md5: bool = False
    gtsm: bool = False
    add_path: bool = False
    over_ipv6: bool = False
    active: bool = False
    waits: bool = False
    graceful: bool = True
    multihop: int = 0
    unnumbered: bool = False
    bfd: bool = False

    @property
    def our_as(self) -> int:
        return INSIDE_AS if self.internal else OUR_AS

    @property
    def peer_as(self) -> int:
        return INSIDE_AS if self.internal else PEER_AS

    @property
    def ends(self) -> tuple[str, str]:
        """Our address and the peer's."""
        return (OURS6, PEER6) if self.over_ipv6 else (OURS4, PEER4)


@dataclass
class Seen:
    """A route in a daemon's RIB."""

    next_hop: str = ""
    as_path: list[int] = field(default_factory=list)
    communities: set[str] = field(default_factory=set)
    large: set[str] = field(default_factory=set)
    extended: set[str] = field(default_factory=set)
    med: int | None = None
    local_pref: int | None = None
    paths: int = 1


class Router(Protocol):
    """A daemon under test."""

    def route(self, prefix: str) -> Seen | None:
        """The best route to a prefix that it learned from us."""

    def pid(self) -> int: ...

    def heard(self) -> str:
        """Where the daemon tells why the last session ended."""

    def shut(self, text: str) -> None:
        """End the session for good, with a shutdown communication (ExaBGP has none)."""


class BirdRouter:
    def __init__(self, bench: Bench, space: str, scene: Scene) -> None:
        ours, peer = scene.ends
        flags = [f'password "{PASSWORD}";' if scene.md5 else "", "ttl security on;" if scene.gtsm else ""]
        flags += ["passive yes;" if not scene.active else "connect delay time 1; connect retry time 1;"]
        flags += ["graceful restart on; long lived graceful restart on;" if scene.graceful else ""]
        flags += [f"multihop {scene.multihop};" if scene.multihop else "direct;" if scene.internal else ""]
        flags += ["bfd on;" if scene.bfd else ""]
        paths = "add paths on;" if scene.add_path else ""
        extended = "extended next hop on;" if scene.over_ipv6 or scene.unnumbered else ""
        twice = (
            f"protocol static {{ ipv4; route {FROM_PEER4} blackhole {{ bgp_med = 9; }}; }}" if scene.add_path else ""
        )
        ends = f"local {peer} as {scene.peer_as}; neighbor {ours} as {scene.our_as};"
        if scene.unnumbered:
            link_local = bench.link_local(f"{bench.tag}-us", OUR_LINK)
            ends = f"local as {scene.peer_as}; neighbor {link_local}%'{PEER_LINK}' as {scene.our_as};"
        self._bird = Bird(
            bench,
            space,
            f"""router id {PEER4}; protocol device {{}} protocol direct {{ ipv4; ipv6; }}
protocol static {{ ipv4; route {MORE_FROM_PEER4} blackhole;
 route {FROM_PEER4} blackhole {{ bgp_community.add((65002,7)); bgp_large_community.add((65002,1,2)); }}; }}
protocol static {{ ipv6; route {FROM_PEER6} blackhole; }} {twice}
protocol kernel {{ learn; ipv4 {{ import all; export none; }}; }}
protocol kernel {{ learn; ipv6 {{ import all; export none; }}; }}
protocol bfd {{ interface "{PEER_LINK}" {{ {SLOW_BIRD} }}; }}
protocol radv {{ interface "{PEER_LINK}" {{ min ra interval 3; max ra interval 4; default lifetime 0; }}; }}
protocol bgp x {{ {ends} hold time 90; error wait time 1,2;
 {" ".join(flags)} enable extended messages on;
 ipv4 {{ import all; export where source = RTS_STATIC; next hop self; {paths} {extended} }};
 ipv6 {{ import all; export where source = RTS_STATIC; next hop self; {paths} }}; }}
""",
        )

    def pid(self) -> int:
        return self._bird.process.pid

    def heard(self) -> str:
        return self._bird.ask("show protocols all x")

    def shut(self, text: str) -> None:
        self._bird.ask(f'disable x "{text}"')

    def route(self, prefix: str) -> Seen | None:
        text = self._bird.ask(f"show route {prefix} all protocol x")
        if "BGP.next_hop" not in text:
            return None
        best = text.split(" unicast ")[1]

        def find(name: str) -> str:
            found = re.search(rf"BGP\.{name}: (.*)", best)
            return found.group(1) if found else ""

        def tuples(name: str) -> set[str]:
            return {each.replace(", ", ":").replace(",", ":") for each in re.findall(r"\(([^)]*)\)", find(name))}

        return Seen(
            next_hop=next(word for word in find("next_hop").split() if word != "::"),
            as_path=[int(word) for word in find("as_path").split()],
            communities=tuples("community"),
            large=tuples("large_community"),
            extended={each.replace(" ", "") for each in tuples("ext_community")},
            med=int(find("med")) if find("med") else None,
            local_pref=int(find("local_pref")) if find("local_pref") else None,
            paths=text.count("BGP.next_hop"),
        )


class FrrRouter:
    def __init__(self, bench: Bench, space: str, scene: Scene) -> None:
        ours = PEER_LINK if scene.unnumbered else scene.ends[0]
        lines = [f"neighbor {ours} {'interface ' if scene.unnumbered else ''}remote-as {scene.our_as}"]
        lines += [f"neighbor {ours} timers 30 90"]
        lines += [f"neighbor {ours} password {PASSWORD}"] if scene.md5 else []
        lines += [f"neighbor {ours} ttl-security hops 1"] if scene.gtsm else []
        is_active = scene.active or scene.unnumbered
        lines += [f"neighbor {ours} timers connect 1"] if is_active else [f"neighbor {ours} passive"]
        lines += [f"neighbor {ours} bfd", f"neighbor {ours} bfd profile slow"] if scene.bfd else []
        lines += [f"neighbor {SECOND4} remote-as {SECOND_AS}", f"neighbor {SECOND4} passive"] if scene.add_path else []
        lines += [f"neighbor {ours} ebgp-multihop {scene.multihop}"] if scene.multihop else []
        lines += [f"neighbor {ours} capability extended-nexthop"] if scene.over_ipv6 else []
        paths = f"neighbor {ours} addpath-tx-all-paths" if scene.add_path else ""
        blocks = "".join(
            f""" address-family {family} unicast
  network {prefix} route-map out
  {f"network {MORE_FROM_PEER4}" if family == "ipv4" else ""}
  neighbor {ours} activate
  {paths}
 exit-address-family
"""
            for family, prefix in (("ipv4", FROM_PEER4), ("ipv6", FROM_PEER6))
        )
        bgpd = f"""log stdout informational
router bgp {scene.peer_as}
 bgp router-id {PEER4}
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp network import-check
 {"bgp graceful-restart" if scene.graceful else ""}
 {"bgp long-lived-graceful-restart stale-time 600" if scene.graceful else ""}
 coalesce-time 0
 {chr(10).join(" " + line for line in lines)}
{blocks}!
route-map out permit 10
 set community 65002:7
 set large-community 65002:1:2
"""
        zebra = f"interface {PEER_LINK}\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 1\n" if scene.unnumbered else ""
        bfdd = {"bfdd": SLOW_FRR} if scene.bfd else {}
        self._frr = Frr(bench, space, {"zebra": zebra, "bgpd": bgpd, **bfdd})
        self._bench, self._ours, self._as = bench, ours, scene.peer_as

    def pid(self) -> int:
        return self._frr.processes["bgpd"].pid

    def heard(self) -> str:
        return self._bench.log("frr-bgpd")

    def shut(self, text: str) -> None:
        self._frr.ask("conf t", f"router bgp {self._as}", f"neighbor {self._ours} shutdown message {text}")

    def route(self, prefix: str) -> Seen | None:
        family = "ipv6" if ":" in prefix else "ipv4"
        found = self._frr.json(f"show bgp {family} unicast {prefix}").get("paths", [])
        valid = [each for each in found if each.get("valid") and each.get("peer", {}).get("peerId") != "(unspec)"]
        best = [each for each in valid if each.get("bestpath", {}).get("overall")]
        if not best:
            return None
        (path,) = best
        hops = path["nexthops"]
        text = path["aspath"]["string"]
        return Seen(
            next_hop=next((hop["ip"] for hop in hops if hop.get("used")), hops[0]["ip"]),
            as_path=[int(word) for word in text.split() if word.isdigit()],
            communities=set(path.get("community", {}).get("string", "").split()),
            large=set(path.get("largeCommunity", {}).get("string", "").split()),
            extended=set(path.get("extendedCommunity", {}).get("string", "").lower().split()),
            med=path.get("metric"),
            local_pref=path.get("locPrf"),
            paths=len(valid),
        )


class GoBgpRouter:
    def __init__(self, bench: Bench, space: str, scene: Scene) -> None:
        ours, _ = scene.ends
        self._bench, self._space, self._ours, self._as = bench, space, ours, scene.peer_as
        is_passive = not (scene.active or scene.unnumbered)  # it says nothing on a link by which we could find it
        transport = f"passive-mode = {str(is_passive).lower()}"
        families = "".join(
            f"""
 [[neighbors.afi-safis]]
  [neighbors.afi-safis.config]
   afi-safi-name = "{family}-unicast"
  [neighbors.afi-safis.mp-graceful-restart.config]
   enabled = {str(scene.graceful).lower()}
  [neighbors.afi-safis.long-lived-graceful-restart.config]
   enabled = {str(scene.graceful).lower()}
   restart-time = 600
  [neighbors.afi-safis.add-paths.config]
   receive = {str(scene.add_path).lower()}
   send-max = {8 if scene.add_path else 0}
"""
            for family in ("ipv4", "ipv6")
        )
        file = bench.directory / "gobgp.toml"
        file.write_text(f"""[global.config]
 as = {scene.peer_as}
 router-id = "{PEER4}"
[[neighbors]]
 [neighbors.config]
  {f'neighbor-interface = "{PEER_LINK}"' if scene.unnumbered else f'neighbor-address = "{ours}"'}
  peer-as = {scene.our_as}
  {f'auth-password = "{PASSWORD}"' if scene.md5 else ""}
 [neighbors.transport.config]
  {transport}
 [neighbors.timers.config]
  connect-retry = 1
  idle-hold-time-after-reset = 1
 [neighbors.graceful-restart.config]
  enabled = {str(scene.graceful).lower()}
  long-lived-enabled = {str(scene.graceful).lower()}
  restart-time = 60
 [neighbors.ttl-security.config]
  enabled = {str(scene.gtsm).lower()}
  ttl-min = 255
 [neighbors.ebgp-multihop.config]
  enabled = {str(bool(scene.multihop)).lower()}
  multihop-ttl = {scene.multihop}
{families}""")
        command = ["gobgpd", "-f", str(file), "-l", "warn", "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]
        if scene.unnumbered:  # it looks for the peer once, when it starts
            wait_for(
                "we are known", lambda: "fe80:" in run("ip", "-n", space, "-6", "neighbor", "show", "dev", PEER_LINK)
            )
        self._process = bench.start(space, command, "gobgp")
        wait_for("gobgp answers", self._answers)
        extra = ["community", "65002:7", "large-community", "65002:1:2"]
        self.ask("global", "rib", "add", FROM_PEER4, "nexthop", PEER4, *extra)
        self.ask("global", "rib", "add", MORE_FROM_PEER4, "nexthop", PEER4)
        if scene.add_path:
            self.ask("global", "rib", "add", FROM_PEER4, "identifier", "7", "nexthop", PEER4, "med", "9")
        self.ask("global", "rib", "add", "-a", "ipv6", FROM_PEER6, "nexthop", PEER6, *extra)

    def pid(self) -> int:
        return self._process.pid

    def ask(self, *words: str) -> str:
        return run("ip", "netns", "exec", self._space, "gobgp", "-u", "127.0.0.1", *words)

    def heard(self) -> str:
        return self._bench.log("gobgp")

    def shut(self, text: str) -> None:
        self.ask("neighbor", self._ours, "shutdown", "--reason", text)

    def route(self, prefix: str) -> Seen | None:
        family = "ipv6" if ":" in prefix else "ipv4"
        table: dict[str, Any] = json.loads(self.ask("-j", "global", "rib", "-a", family) or "{}")
        found = table.get(prefix, [])
        if not found:
            return None
        attrs = {each["type"]: each for each in found[0]["attrs"]}
        asns = [asn for segment in attrs[2].get("as_paths", []) for asn in segment["asns"]]
        reach = attrs.get(14, attrs.get(3, {}))
        extended = [f"rt:{each['value']}" for each in attrs.get(16, {}).get("value", []) if isinstance(each, dict)]
        return Seen(
            next_hop=reach.get("nexthop", ""),
            as_path=asns,
            communities={f"{n >> 16}:{n & 0xFFFF}" for n in attrs.get(8, {}).get("communities", [])},
            large={":".join(map(str, each.values())) for each in attrs.get(32, {}).get("value", [])},
            extended=set(extended),
            med=attrs.get(4, {}).get("metric"),
            local_pref=attrs.get(5, {}).get("value"),
            paths=len(found),
        )

    def _answers(self) -> bool:
        command = ["ip", "netns", "exec", self._space, "gobgp", "-u", "127.0.0.1", "global"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return str(self._as) in done.stdout  # it answers before it has read its configuration


class ExaBgpRouter:
    def __init__(self, bench: Bench, space: str, scene: Scene) -> None:
        ours, peer = scene.ends
        self._bench = bench
        self._heard = bench.directory / "exabgp.json"
        reader = bench.directory / "reader.sh"
        # ExaBGP takes the end of its helper's standard output for the helper's death.
        reader.write_text(f"#!/bin/sh\nexec 3>&1\nexec cat >>{self._heard}\n")
        reader.chmod(0o755)
        path = "path-information 1" if scene.add_path else ""
        routes = f"route {FROM_PEER4} next-hop {PEER4} {path} community [65002:7] large-community [65002:1:2];"
        routes += f" route {FROM_PEER4} next-hop {PEER4} path-information 2 med 9;" if scene.add_path else ""
        routes += f" route {MORE_FROM_PEER4} next-hop {PEER4} {path}; route {FROM_PEER6} next-hop {PEER6} {path};"
        file = bench.directory / "exabgp.conf"
        file.write_text(f"""process rx {{ run {reader}; encoder json; }}
neighbor {ours} {{ router-id {PEER4}; local-address {peer}; local-as {scene.peer_as}; peer-as {scene.our_as}; hold-time 90;
 {"passive; listen 179;" if not scene.active else ""} {f'md5-password "{PASSWORD}";' if scene.md5 else ""}
 {"incoming-ttl 255; outgoing-ttl 255;" if scene.gtsm else f"outgoing-ttl {scene.multihop};" if scene.multihop else ""}
 capability {{ graceful-restart 60; route-refresh enable; extended-message enable;
  {"add-path send/receive;" if scene.add_path else ""}
  {"nexthop enable;" if scene.over_ipv6 else ""} }}
 family {{ ipv4 unicast; ipv6 unicast; }}
 {"nexthop { ipv4 unicast ipv6; }" if scene.over_ipv6 else ""}
 {"add-path { ipv4 unicast; ipv6 unicast; }" if scene.add_path else ""}
 api {{ processes [rx]; receive {{ parsed; update; }} }}
 static {{ {routes} }}
}}
""")
        environment = {
            "exabgp.tcp.bind": peer,
            "exabgp.tcp.port": "179",
            "exabgp.daemon.user": "root",
            "exabgp.log.level": "ERR",
            "exabgp.api.cli": "false",
        }
        self._process = bench.start(space, ["exabgp", str(file)], "exabgp", environment)

    def pid(self) -> int:
        return self._process.pid

    def heard(self) -> str:
        raise NotImplementedError("ExaBGP does not tell")

    def shut(self, text: str) -> None:
        raise NotImplementedError(f"ExaBGP has no shutdown text: {text}")

    def route(self, prefix: str) -> Seen | None:
        known: dict[str, Seen] = {}
        if not self._heard.exists():
            return None
        family = "ipv6 unicast" if ":" in prefix else "ipv4 unicast"
        for line in self._heard.read_text().splitlines():
            try:
                update = json.loads(line)["neighbor"]["message"]["update"]
            except (ValueError, KeyError):
                continue
            attribute = update.get("attribute", {})
            for hop, routes in update.get("announce", {}).get(family, {}).items():
                for each in routes:
                    if each["nlri"] == prefix:
                        known[each.get("path-information", "")] = self._read(hop, attribute)
            for each in update.get("withdraw", {}).get(family, []):
                if each["nlri"] == prefix:
                    known.pop(each.get("path-information", ""), None)
        if not known:
            return None
        best = next(iter(known.values()))
        best.paths = len(known)
        return best

    def _read(self, hop: str, attribute: dict[str, Any]) -> Seen:
        path = attribute.get("as-path", [])
        asns = path if isinstance(path, list) else [asn for part in path.values() for asn in part["value"]]
        return Seen(
            next_hop=hop,
            as_path=asns,
            communities={":".join(map(str, each)) for each in attribute.get("community", [])},
            large={":".join(map(str, each)) for each in attribute.get("large-community", [])},
            extended={each["string"].replace("target", "rt") for each in attribute.get("extended-community", [])},
            med=attribute.get("med"),
            local_pref=attribute.get("local-preference"),
        )


ROUTERS: dict[str, type] = {"BIRD": BirdRouter, "FRR": FrrRouter, "GoBGP": GoBgpRouter, "ExaBGP": ExaBgpRouter}
