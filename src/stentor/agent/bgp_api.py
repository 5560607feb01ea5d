"""What the agent tells about BGP over its HTTP API (`agent.sock`), for the command line and programs.

| request | answer |
|---|---|
| `GET /v1/bgp/peers` | `PeerList` |
| `GET /v1/bgp/routes?kind=available\\|advertised&family=ipv4\\|ipv6&peer=&vrouter=` | `RouteList` |
| `GET /v1/bgp/route-policies?vrouter=` | `PolicyList` |
| `GET /v1/bgp/why?prefix=` | `WhyList` |
| `GET /v1/bgp/watch?routes=true` | a stream of `Event`, one JSON object a line, until the client hangs up |

`peer` is an address or a name, `vrouter` a local AS number or the name of an instance; empty for all. JSON has the names of
the fields in camel case, `localASN` and `peerASN` as upstream. Where bgpControlPlane is off, `enabled` is false and the lists
are empty. A wrong parameter is status 400, a speaker that does not answer 503, both with `{"error": TEXT}`.
"""

from __future__ import annotations

import msgspec


class View(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of all answers."""


class Timers(View, frozen=True, kw_only=True):
    """What the two sides agreed on, 0 without a session."""

    applied_hold_time_seconds: float = 0
    applied_keepalive_seconds: float = 0


class FamilyCount(View, frozen=True, kw_only=True):
    """Routes of one address family."""

    afi: str
    safi: str
    received: int
    advertised: int


class PeerView(View, frozen=True, kw_only=True):
    """One peer. `session_state` is idle, connect, active, opensent, openconfirm or established; `problem` says why a peer of
    the configuration has no session at all (a wrong field), `last_error` why its session last ended."""

    node: str
    instance: str
    name: str
    peer_address: str
    local_asn: int = msgspec.field(name="localASN")
    peer_asn: int = msgspec.field(name="peerASN", default=0)
    peer_port: int = 179
    interface: str = ""
    session_state: str = "idle"
    uptime_seconds: float = 0.0
    established_time: str = ""
    timers: Timers = Timers()
    route_count: tuple[FamilyCount, ...] = ()
    bfd_state: str = ""
    flaps: int = 0
    last_error: str = ""
    problem: str = ""


class PeerList(View, frozen=True, kw_only=True):
    """`speaker` is running, or what keeps it from answering; `problems` name wrong fields of the configuration."""

    node: str
    enabled: bool
    speaker: str = ""
    peers: tuple[PeerView, ...] = ()
    problems: tuple[str, ...] = ()


class RouteView(View, frozen=True, kw_only=True):
    """One path to a prefix: known here (kind available) or as `peer` was told it. `source` is `local` or a peer's name; of our
    own routes `advertisements` names what asks for them. `age_seconds` is -1 where it is not known; `reason`, only of `why`,
    is the step that decided against the path."""

    node: str
    instance: str
    vrouter: int
    peer: str = ""
    prefix: str
    next_hop: str
    source: str
    best: bool = True
    age_seconds: float = -1.0
    origin: str = "igp"
    as_path: str = ""
    local_preference: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    extended_communities: tuple[str, ...] = ()
    advertisements: tuple[str, ...] = ()
    reason: str = ""


class RouteList(View, frozen=True, kw_only=True):
    """Routes in the order of instance, peer and prefix."""

    node: str
    enabled: bool
    routes: tuple[RouteView, ...] = ()


class PrefixRange(View, frozen=True, kw_only=True):
    """Prefixes inside `prefix` whose length is from `min_length` to `max_length`."""

    prefix: str
    min_length: int
    max_length: int


class PolicyView(View, frozen=True, kw_only=True):
    """One statement of a peer's policy. `type` is export or import; `rib_action` accept, reject or continue (changes attributes
    and goes on). A statement about our own routes matches `match_advertisements`; `match_prefixes` are the prefixes that these
    ask for now."""

    node: str
    instance: str
    vrouter: int
    name: str
    statement: str
    type: str
    match_peers: tuple[str, ...] = ()
    match_families: tuple[str, ...] = ()
    match_advertisements: tuple[str, ...] = ()
    match_prefixes: tuple[PrefixRange, ...] = ()
    rib_action: str = "accept"
    path_actions: tuple[str, ...] = ()


class PolicyList(View, frozen=True, kw_only=True):
    """Statements in the order in which they are tried."""

    node: str
    enabled: bool
    policies: tuple[PolicyView, ...] = ()


class PeerVerdict(View, frozen=True, kw_only=True):
    """Whether a peer is told the prefix, and why (not)."""

    peer: str
    name: str
    advertised: bool
    reason: str


class WhyView(View, frozen=True, kw_only=True):
    """One instance's view of a prefix. `origins` say who asks for it (`Service default/web by advertisement x[0]`),
    `obstacles` why something that could be there is not: no ready endpoint here, not in the kernel yet, no selector matches."""

    node: str
    instance: str
    vrouter: int
    prefix: str
    origins: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    paths: tuple[RouteView, ...] = ()
    rejected: tuple[str, ...] = ()
    peers: tuple[PeerVerdict, ...] = ()


class WhyList(View, frozen=True, kw_only=True):
    """One answer an instance. Without any instance `obstacles` says why there is none (no policy selects this node, …)."""

    node: str
    enabled: bool
    prefix: str
    explanations: tuple[WhyView, ...] = ()
    obstacles: tuple[str, ...] = ()


class Event(View, frozen=True, kw_only=True):
    """Something that happened. `kind` is session, route, config or note; `time` seconds since 1970."""

    node: str
    time: float
    kind: str
    instance: str
    peer: str
    text: str
