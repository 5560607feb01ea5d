"""What the speaker tells about itself; these types are the control socket's, as JSON with upstream's names."""

import msgspec


class RouteCount(msgspec.Struct, frozen=True, rename="camel"):
    """Routes of one family as upstream's CiliumBGPNodeConfig status has them."""

    afi: str
    received: int
    advertised: int
    safi: str = "unicast"
    stale: int = 0
    pending: bool = False


class PeerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One peer. Times are seconds; ``uptimeSeconds`` 0 unless established."""

    instance: str
    name: str
    peer_address: str
    local_asn: int = msgspec.field(name="localASN")
    peer_asn: int = msgspec.field(name="peerASN")
    session_state: str = "idle"
    uptime_seconds: float = 0.0
    established_time: float = 0.0
    applied_hold_time_seconds: float = 0.0
    applied_keepalive_seconds: float = 0.0
    route_count: tuple[RouteCount, ...] = ()
    last_error: str = ""
    bfd_state: str = ""
    capabilities: tuple[str, ...] = ()
    messages_received: int = 0
    messages_sent: int = 0
    updates_received: int = 0
    updates_sent: int = 0
    flaps: int = 0
    local_address: str = ""
    router_id: str = msgspec.field(name="routerID", default="")
    is_dynamic: bool = False


class RouteStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One path to a prefix. ``source`` is the peer's name or ``local``."""

    instance: str
    prefix: str
    next_hop: str
    source: str
    best: bool
    as_path: str = msgspec.field(name="asPath", default="")
    origin: str = "igp"
    local_preference: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    extended_communities: tuple[str, ...] = ()
    path_id: int = msgspec.field(name="pathID", default=0)
    tags: tuple[str, ...] = ()
    reason: str = ""


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """Why a prefix is where it is: its paths with the deciding step, and what each peer is told."""

    instance: str
    prefix: str
    paths: tuple[RouteStatus, ...]
    rejected: tuple[str, ...] = ()
    peers: tuple[tuple[str, str], ...] = ()


class PolicyStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One statement of a policy and the peers and families that use it. ``type`` is ``import`` or ``export``; conditions and
    changes read as in the configuration (``tags service``, ``localPreference 200``)."""

    instance: str
    local_asn: int = msgspec.field(name="localASN")
    type: str
    policy: str
    statement: str
    peers: tuple[str, ...]
    families: tuple[str, ...]
    prefixes: tuple[str, ...]
    conditions: tuple[str, ...]
    action: str
    changes: tuple[str, ...]


class Note(msgspec.Struct, frozen=True, rename="camel"):
    """Something that happened. ``kind`` is ``session``, ``route`` or ``note``."""

    time: float
    kind: str
    instance: str
    peer: str
    text: str
