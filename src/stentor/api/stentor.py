"""stentor.io/v1alpha1: what Cilium's BGP resources have no field for.

StentorBGPPeerOptions selects peers, StentorBGPInstanceOptions instances. Fields mean what those of the same name of
`stentor bgp run` mean (docs/bgp.md); a field that is not set leaves things as they are without the object.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from stentor.api.condition import Conditions
from stentor.api.field import ASN, CIDR, Address, Selector, list_map, published, selector
from stentor.api.meta import Kind, Resource, Value

GROUP: Final = "stentor.io"
VERSION: Final = "v1alpha1"

SECRETS_LABEL: Final = "stentor.io/bgp-secrets"
"""Label, with the value `true`, of the namespace whose Secrets agents may read. The operator sets it."""

# Conditions of both kinds.
NO_MATCH: Final = "stentor.io/NoMatch"
CONFLICT: Final = "stentor.io/Conflict"
INVALID: Final = "stentor.io/InvalidConfiguration"

U32 = Annotated[int, Meta(ge=0, le=4294967295)]
Interval = Annotated[int, Meta(ge=1, le=60000)]
Seconds = Annotated[float, Meta(ge=0, le=65535)]


class Bfd(Value, frozen=True, kw_only=True):
    """Bfd is a BFD session beside the BGP session (RFC 5880, 5882)."""

    transmit_interval_milliseconds: Annotated[Interval, published("Wanted interval of sending", default=300)] = 300
    receive_interval_milliseconds: Annotated[Interval, published("Required interval of receiving", default=300)] = 300
    detect_multiplier: Annotated[
        Annotated[int, Meta(ge=1, le=255)], published("Packets that may be missing", default=3)
    ] = 3
    multihop: Annotated[bool | None, Meta(description="RFC 5883 instead of 5881; follows ebgpMultihop without it")] = (
        None
    )
    graceful: Annotated[
        bool, published("Whether a peer whose C bit is clear may restart gracefully while BFD is down", default=False)
    ] = False


class TTLSecurity(Value, frozen=True, kw_only=True):
    """TTLSecurity accepts only packets that crossed fewer than `hops` routers (GTSM, RFC 5082)."""

    hops: Annotated[Annotated[int, Meta(ge=1, le=254)], published("Hops to the peer", default=1)] = 1


class TcpAO(Value, frozen=True, kw_only=True):
    """TcpAO authenticates the session with the TCP Authentication Option (RFC 5925)."""

    key_id: Annotated[Annotated[int, Meta(ge=0, le=255)], Meta(description="SendID and RecvID of the key")] = (
        msgspec.field(name="keyID")
    )
    secret_ref: Annotated[
        str, Meta(description="Secret in the BGP secrets namespace with the key under `password`, up to 80 characters")
    ]
    algorithm: Annotated[
        Literal["hmac(sha1)", "cmac(aes128)", "hmac(sha256)"], published("Algorithm", default="hmac(sha1)")
    ] = "hmac(sha1)"


class ListenRange(Value, frozen=True, kw_only=True):
    """ListenRange makes every host of a prefix that connects a peer; the peer's own address is not used."""

    prefix: Annotated[CIDR, Meta(description="Where peers connect from; the instance needs localPort")]
    max_peers: Annotated[Annotated[int, Meta(ge=1, le=10000)], published("Most peers at a time", default=100)] = 100


class AddPath(Value, frozen=True, kw_only=True):
    """AddPath is what is offered of several paths a prefix (RFC 7911)."""

    receive: Annotated[bool, published("Whether several paths are taken", default=False)] = False
    send: Annotated[Annotated[int, Meta(ge=0, le=64)], published("Paths of a prefix sent at most", default=0)] = 0


class PrefixLimit(Value, frozen=True, kw_only=True):
    """PrefixLimit ends a session whose peer sends more prefixes."""

    maximum: Annotated[Annotated[int, Meta(ge=1)], Meta(description="Prefixes allowed")]
    restart_seconds: Annotated[
        Seconds, published("Pause until the session is tried again; 0 is until the object changes", default=0)
    ] = 0
    warning_only: Annotated[bool, published("Whether it is only reported", default=False)] = False


class Match(Value, frozen=True, kw_only=True):
    """Match has conditions that must all hold; of a list, one member."""

    prefixes: Annotated[tuple[str, ...], Meta(description="Prefixes in the form `10.0.0.0/8 ge 16 le 24`")] = ()
    communities: Annotated[tuple[str, ...], Meta(description="Communities")] = ()
    large_communities: Annotated[tuple[str, ...], Meta(description="Large communities")] = ()
    as_path_contains: Annotated[tuple[ASN, ...], Meta(description="AS numbers anywhere in the path")] = msgspec.field(
        name="asPathContains", default=()
    )
    neighbor_asns: Annotated[tuple[ASN, ...], Meta(description="AS numbers of the peer")] = msgspec.field(
        name="neighborASNs", default=()
    )
    max_as_path_length: Annotated[Annotated[int, Meta(ge=0, le=1000)] | None, Meta(description="Longest path")] = (
        msgspec.field(name="maxASPathLength", default=None)
    )


class Change(Value, frozen=True, kw_only=True):
    """Change is what a statement does to the routes that it accepts or passes on."""

    local_preference: Annotated[U32 | None, Meta(description="Local preference")] = None
    med: Annotated[U32 | None, Meta(description="Multi-exit discriminator")] = None
    add_communities: Annotated[tuple[str, ...], Meta(description="Communities to add")] = ()
    remove_communities: Annotated[tuple[str, ...], Meta(description="Communities to remove")] = ()
    add_large_communities: Annotated[tuple[str, ...], Meta(description="Large communities to add")] = ()
    remove_large_communities: Annotated[tuple[str, ...], Meta(description="Large communities to remove")] = ()


class Statement(Value, frozen=True, kw_only=True):
    """Statement is one step of a policy."""

    name: Annotated[str, Meta(description="Shown by `stentor bgp why`")] = ""
    match: Annotated[Match | None, Meta(description="Routes that it is about; all without it")] = None
    set: Annotated[Change | None, Meta(description="What is changed")] = None
    action: Annotated[Literal["accept", "reject", "continue"], published("What is done", default="accept")] = "accept"


class Import(Value, frozen=True, kw_only=True):
    """Import says which routes of the peer are used."""

    statements: Annotated[
        tuple[Statement, ...], Meta(description="Steps, in order; the first that decides counts")
    ] = ()
    default: Annotated[Literal["accept", "reject"], published("For routes of no statement", default="reject")] = (
        "reject"
    )


class PeerFamily(Value, frozen=True, kw_only=True):
    """PeerFamily has the options of one address family of a peer."""

    afi: Annotated[Literal["ipv4", "ipv6"], Meta(description="Address family")]
    import_: Annotated[
        Import | None, Meta(description="Routes of the peer that are used; as with Cilium none without it")
    ] = msgspec.field(name="import", default=None)
    add_path: Annotated[AddPath | None, Meta(description="Several paths a prefix")] = None
    prefix_limit: Annotated[PrefixLimit | None, Meta(description="Most prefixes that the peer may send")] = None
    next_hop: Annotated[
        str | None, Meta(description="Next hop of advertised routes: self, unchanged or an address")
    ] = None
    default_originate: Annotated[bool | None, Meta(description="Whether the peer is told a default route")] = None


class PeerSelector(Value, frozen=True, kw_only=True):
    """PeerSelector has conditions that must all hold; of a list, one member. Without any, all peers are selected."""

    peer_configs: Annotated[tuple[str, ...], Meta(description="Names of CiliumBGPPeerConfigs that peers refer to")] = ()
    peers: Annotated[tuple[str, ...], Meta(description="Names of peers")] = ()
    peer_addresses: Annotated[
        tuple[str, ...],
        Meta(description="Addresses of peers or prefixes of such; the way to select peers of CiliumBGPPeeringPolicy"),
    ] = ()
    instances: Annotated[tuple[str, ...], Meta(description="Names of instances")] = ()
    local_asns: Annotated[tuple[ASN, ...], Meta(description="AS numbers of instances and virtual routers")] = (
        msgspec.field(name="localASNs", default=())
    )
    node_selector: Annotated[Selector, selector("Nodes; all without it")] = None


class PeerOptionsSpec(Value, frozen=True, kw_only=True):
    """PeerOptionsSpec has the options of the selected peers."""

    selector: Annotated[PeerSelector, Meta(description="Peers to which the options apply")] = PeerSelector()
    bfd: Annotated[Bfd | None, Meta(description="BFD beside the session; none without it")] = None
    ttl_security: Annotated[TTLSecurity | None, Meta(description="GTSM; excludes ebgpMultihop above 1")] = None
    tcp_ao: Annotated[TcpAO | None, Meta(description="TCP-AO instead of a password; refused where Linux lacks it")] = (
        msgspec.field(name="tcpAO", default=None)
    )
    passive: Annotated[bool | None, Meta(description="Whether only the peer connects")] = None
    listen_range: Annotated[ListenRange | None, Meta(description="Peers by where they connect from")] = None
    idle_hold_time_seconds: Annotated[
        Seconds | None, Meta(description="Pause after a failed session; doubles up to 60 s")
    ] = None
    long_lived_stale_time_seconds: Annotated[
        Annotated[int, Meta(ge=0, le=0xFFFFFF)] | None,
        Meta(description="Long-lived graceful restart (RFC 9494) beside gracefulRestart; 0 is off"),
    ] = None
    extended_next_hop: Annotated[
        bool | None, Meta(description="IPv4 routes with IPv6 next hops (RFC 8950); on over IPv6 without it")
    ] = None
    extended_messages: Annotated[bool | None, Meta(description="Messages up to 65535 octets (RFC 8654)")] = None
    enforce_first_as: Annotated[
        bool | None, Meta(description="Whether an eBGP path has to begin with the peer's AS")
    ] = msgspec.field(name="enforceFirstAS", default=None)
    allow_own_as: Annotated[
        Annotated[int, Meta(ge=0, le=10)] | None, Meta(description="How often our AS may be in a path")
    ] = msgspec.field(name="allowOwnAS", default=None)
    families: Annotated[tuple[PeerFamily, ...], list_map("Options by address family", "afi")] = ()


class OptionsStatus(Value, frozen=True, kw_only=True):
    """OptionsStatus says what became of the options."""

    conditions: Conditions = ()


class StentorBGPPeerOptions(Resource, frozen=True, kw_only=True):
    """StentorBGPPeerOptions adds to selected BGP peers what Cilium's resources have no field for."""

    spec: Annotated[PeerOptionsSpec, Meta(description="The options and the peers that they are for")]
    status: Annotated[OptionsStatus, Meta(description="What became of them")] = OptionsStatus()


class KernelRoutes(Value, frozen=True, kw_only=True):
    """KernelRoutes says how learned routes are installed; `import` of the peers says which."""

    table: Annotated[Annotated[int, Meta(ge=1, le=4294967295)], published("Routing table", default=254)] = 254
    metric: Annotated[Annotated[int, Meta(ge=1, le=4294967295)], published("Metric of the routes", default=200)] = 200
    maximum_paths: Annotated[
        Annotated[int, Meta(ge=1, le=128)], published("Next hops of a route; above 1 ECMP", default=1)
    ] = 1


class InstanceSelector(Value, frozen=True, kw_only=True):
    """InstanceSelector has conditions that must all hold; of a list, one member. Without any, all are selected."""

    instances: Annotated[tuple[str, ...], Meta(description="Names of instances")] = ()
    local_asns: Annotated[
        tuple[ASN, ...],
        Meta(description="AS numbers; the way to select virtual routers of CiliumBGPPeeringPolicy"),
    ] = msgspec.field(name="localASNs", default=())
    node_selector: Annotated[Selector, selector("Nodes; all without it")] = None


class InstanceOptionsSpec(Value, frozen=True, kw_only=True):
    """InstanceOptionsSpec has the options of the selected instances."""

    selector: Annotated[InstanceSelector, Meta(description="Instances to which the options apply")] = InstanceSelector()
    kernel: Annotated[
        KernelRoutes | None, Meta(description="Install learned routes; they are only known without it")
    ] = None
    listen_addresses: Annotated[
        tuple[Address, ...], Meta(description="Where instances with localPort listen; everywhere without it")
    ] = ()


class StentorBGPInstanceOptions(Resource, frozen=True, kw_only=True):
    """StentorBGPInstanceOptions adds to selected BGP instances what Cilium's resources have no field for."""

    spec: Annotated[InstanceOptionsSpec, Meta(description="The options and the instances that they are for")]
    status: Annotated[OptionsStatus, Meta(description="What became of them")] = OptionsStatus()


PEER_OPTIONS = Kind(GROUP, VERSION, "stentorbgppeeroptions", "StentorBGPPeerOptions", False, StentorBGPPeerOptions)
INSTANCE_OPTIONS = Kind(
    GROUP, VERSION, "stentorbgpinstanceoptions", "StentorBGPInstanceOptions", False, StentorBGPInstanceOptions
)
