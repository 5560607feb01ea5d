"""The BGP control plane's resources of cilium.io/v2, with upstream's fields, limits and defaults.

A field that is optional upstream and has no default is None when it is not set. Defaults that the API server fills in are
also those of the types, so that an object that went around it means the same.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from stentor.api.cilium import GROUP
from stentor.api.condition import Conditions
from stentor.api.field import (
    AFI,
    ASN,
    SAFI,
    TTL,
    Address,
    ASNOrAny,
    ConnectRetryTime,
    HoldTime,
    Int32,
    Int64,
    IPv4,
    KeepAliveTime,
    LargeCommunity,
    Name,
    Port,
    RestartTime,
    Selector,
    StandardCommunity,
    WellKnownCommunity,
    list_map,
    published,
    rules,
    selector,
)
from stentor.api.meta import Kind, Resource, Value

# Conditions of CiliumBGPClusterConfig.
NO_MATCHING_NODE: Final = "cilium.io/NoMatchingNode"
MISSING_PEER_CONFIGS: Final = "cilium.io/MissingPeerConfigs"
CONFLICTING_CLUSTER_CONFIG: Final = "cilium.io/ConflictingClusterConfig"
# Condition of CiliumBGPPeerConfig.
MISSING_AUTH_SECRET: Final = "cilium.io/MissingAuthSecret"
# Condition of CiliumBGPNodeConfig.
RECONCILE_ERROR: Final = "cilium.io/BGPReconcileError"
# Conditions that upstream does not have.
SUPERSEDED: Final = "stentor.io/SupersededByPeeringPolicy"
INVALID: Final = "stentor.io/InvalidConfiguration"
WAITS_FOR_POOLS: Final = "stentor.io/WaitsForMultiPoolIPAM"

LOAD_BALANCER_CLASS: Final = "io.cilium/bgp-control-plane"


class BGPDefaultGateway(Value, frozen=True, kw_only=True):
    """DefaultGateway finds the peer by the node's default route."""

    address_family: Annotated[
        str,
        published("Address family whose default route, the one with the lowest metric, counts", enum=["ipv4", "ipv6"]),
    ]


class BGPUnnumbered(Value, frozen=True, kw_only=True):
    """Unnumbered finds the peer by router advertisements."""

    interface: Annotated[Name, Meta(description="Interface of the node on which the peer is")]


class BGPAutoDiscovery(Value, frozen=True, kw_only=True):
    """AutoDiscovery says how the address of a peer is found."""

    mode: Annotated[Literal["DefaultGateway", "Unnumbered"], Meta(description="Way of discovery")]
    default_gateway: Annotated[
        BGPDefaultGateway | None,
        Meta(description="The default route's gateway is the peer; with mode Unnumbered only its interface counts"),
    ] = None
    unnumbered: Annotated[
        BGPUnnumbered | None, Meta(description="The interface; only with mode Unnumbered, instead of defaultGateway")
    ] = None


_DISCOVERY: Final = rules(
    ("self.mode != 'DefaultGateway' || has(self.defaultGateway)", "mode DefaultGateway needs defaultGateway"),
    (
        "self.mode != 'Unnumbered' || has(self.unnumbered) != has(self.defaultGateway)",
        "mode Unnumbered needs either unnumbered or defaultGateway",
    ),
)
AutoDiscovery = Annotated[BGPAutoDiscovery, _DISCOVERY]


class PeerConfigReference(Value, frozen=True, kw_only=True):
    """PeerConfigReference names a CiliumBGPPeerConfig."""

    name: Annotated[str, Meta(description="Name of the CiliumBGPPeerConfig")]


_HAS_ADDRESS: Final = (
    "has(self.peerAddress) || has(self.autoDiscovery)",
    "either peerAddress or autoDiscovery is needed",
)
_LINK_LOCAL: Final = (
    "!has(self.peerInterface) || !has(self.peerAddress)"
    " || self.peerAddress.startsWith('fe80:') || self.peerAddress.startsWith('FE80:')",
    "with peerInterface, peerAddress is an IPv6 link-local address",
)
_NO_LOCAL_ADDRESS: Final = (
    "!has(self.peerInterface) || !has(self.localAddress)",
    "peerInterface and localAddress exclude each other",
)


class CiliumBGPPeer(Value, frozen=True, kw_only=True):
    """CiliumBGPPeer is a neighbour of an instance."""

    name: Annotated[Name, Meta(description="Name of the peer, unique within the instance")]
    peer_address: Annotated[Address | None, Meta(description="IPv4 or IPv6 address of the peer")] = None
    peer_interface: Annotated[
        Name | None, Meta(description="Interface over which an IPv6 link-local peerAddress is reached")
    ] = None
    peer_asn: Annotated[
        ASNOrAny, published("AS number of the peer; 0 takes the one of its OPEN message", default=0)
    ] = msgspec.field(name="peerASN", default=0)
    auto_discovery: Annotated[AutoDiscovery | None, Meta(description="How the peer's address is found")] = None
    peer_config_ref: Annotated[
        PeerConfigReference | None, Meta(description="CiliumBGPPeerConfig of the session; defaults hold without it")
    ] = None


class CiliumBGPInstance(Value, frozen=True, kw_only=True):
    """CiliumBGPInstance is a virtual router on each selected node."""

    name: Annotated[Name, Meta(description="Name of the instance, unique within the cluster configuration")]
    local_asn: Annotated[ASN | None, Meta(description="AS number of the instance")] = msgspec.field(
        name="localASN", default=None
    )
    local_port: Annotated[Port | None, Meta(description="Port to listen on; without it the instance only connects")] = (
        None
    )
    peers: Annotated[
        tuple[Annotated[CiliumBGPPeer, rules(_LINK_LOCAL, _HAS_ADDRESS)], ...],
        list_map("Neighbours of the instance", "name"),
    ] = ()


class CiliumBGPClusterConfigSpec(Value, frozen=True, kw_only=True):
    """CiliumBGPClusterConfigSpec says which nodes run which instances."""

    node_selector: Annotated[Selector, selector("Nodes to which this applies; all without it")] = None
    bgp_instances: Annotated[
        tuple[CiliumBGPInstance, ...],
        list_map("Virtual routers of each node", "name", minItems=1, maxItems=16),
    ] = msgspec.field(name="bgpInstances")


class CiliumBGPClusterConfigStatus(Value, frozen=True, kw_only=True):
    """CiliumBGPClusterConfigStatus is what the operator made of the configuration."""

    conditions: Conditions = ()


class CiliumBGPClusterConfig(Resource, frozen=True, kw_only=True):
    """CiliumBGPClusterConfig says which nodes run which BGP instances with which peers."""

    spec: Annotated[CiliumBGPClusterConfigSpec, Meta(description="The wanted configuration")]
    status: Annotated[CiliumBGPClusterConfigStatus, Meta(description="What became of it")] = (
        CiliumBGPClusterConfigStatus()
    )


class CiliumBGPTransport(Value, frozen=True, kw_only=True):
    """CiliumBGPTransport says how the TCP connection to a peer is made."""

    peer_port: Annotated[Port, published("Port of the peer", default=179)] = 179
    source_interface: Annotated[
        str | None,
        Meta(description="Interface whose only address of the peer's family is the session's source address"),
    ] = None


class CiliumBGPTimers(Value, frozen=True, kw_only=True):
    """CiliumBGPTimers are the timers of a session (RFC 4271)."""

    connect_retry_time_seconds: Annotated[ConnectRetryTime, published("ConnectRetryTimer", default=120)] = 120
    hold_time_seconds: Annotated[HoldTime, published("HoldTimer; a change resets the session", default=90)] = 90
    keep_alive_time_seconds: Annotated[
        KeepAliveTime, published("KeepaliveTimer, at most holdTimeSeconds; a change resets the session", default=30)
    ] = 30


class CiliumBGPGracefulRestart(Value, frozen=True, kw_only=True):
    """CiliumBGPNeighborGracefulRestart is what is offered of graceful restart (RFC 4724)."""

    enabled: Annotated[bool, Meta(description="Whether the capability is offered")]
    restart_time_seconds: Annotated[
        RestartTime, published("How long the peer keeps routes over a restart", default=120)
    ] = 120


class CiliumBGPFamilyWithAdverts(Value, frozen=True, kw_only=True):
    """CiliumBGPFamilyWithAdverts is an address family and what is advertised in it."""

    afi: AFI
    safi: SAFI
    advertisements: Annotated[
        Selector, selector("CiliumBGPAdvertisements for this family; nothing is advertised without it")
    ] = None


_TIMERS: Final = rules(
    ("self.keepAliveTimeSeconds <= self.holdTimeSeconds", "keepAliveTimeSeconds exceeds holdTimeSeconds")
)


class CiliumBGPPeerConfigSpec(Value, frozen=True, kw_only=True):
    """CiliumBGPPeerConfigSpec are the parameters of sessions."""

    transport: Annotated[CiliumBGPTransport | None, Meta(description="How connections are made")] = None
    timers: Annotated[Annotated[CiliumBGPTimers, _TIMERS] | None, Meta(description="Timers of the session")] = None
    auth_secret_ref: Annotated[
        str | None, Meta(description="Secret with the TCP password under the key `password`; none without it")
    ] = None
    graceful_restart: Annotated[
        CiliumBGPGracefulRestart | None, Meta(description="Graceful restart; not offered without it")
    ] = None
    ebgp_multihop: Annotated[TTL, published("TTL of an eBGP session's packets; of no meaning for iBGP", default=1)] = 1
    families: Annotated[
        tuple[CiliumBGPFamilyWithAdverts, ...],
        Meta(description="Address families of the session; IPv6 and IPv4 unicast without it"),
    ] = ()


class CiliumBGPPeerConfigStatus(Value, frozen=True, kw_only=True):
    """CiliumBGPPeerConfigStatus is what the operator made of the configuration."""

    conditions: Conditions = ()


class CiliumBGPPeerConfig(Resource, frozen=True, kw_only=True):
    """CiliumBGPPeerConfig has the parameters of sessions with peers that refer to it."""

    spec: Annotated[CiliumBGPPeerConfigSpec, Meta(description="The wanted parameters")]
    status: Annotated[CiliumBGPPeerConfigStatus, Meta(description="What became of them")] = CiliumBGPPeerConfigStatus()


class BGPCommunities(Value, frozen=True, kw_only=True):
    """BGPCommunities are added to routes."""

    standard: Annotated[
        tuple[StandardCommunity, ...],
        Meta(description="Communities (RFC 1997) as a number or two numbers with a colon: 65000:100"),
    ] = ()
    well_known: Annotated[tuple[WellKnownCommunity, ...], Meta(description="Communities by their names")] = ()
    large: Annotated[tuple[LargeCommunity, ...], Meta(description="Large communities (RFC 8092): 65000:100:200")] = ()


class BGPAttributes(Value, frozen=True, kw_only=True):
    """BGPAttributes are set on advertised routes."""

    communities: Annotated[BGPCommunities | None, Meta(description="Communities of the routes")] = None
    local_preference: Annotated[Int64 | None, Meta(description="Local preference towards iBGP peers")] = None


class BGPServiceOptions(Value, frozen=True, kw_only=True):
    """BGPServiceOptions says which addresses of services are advertised."""

    addresses: Annotated[
        tuple[Annotated[str, published(enum=["LoadBalancerIP", "ClusterIP", "ExternalIP"])], ...],
        published("Kinds of addresses", minItems=1),
    ]
    aggregation_length_ipv4: Annotated[
        Annotated[int, Meta(ge=0, le=31)] | None, Meta(description="Length to which IPv4 addresses are aggregated")
    ] = msgspec.field(name="aggregationLengthIPv4", default=None)
    aggregation_length_ipv6: Annotated[
        Annotated[int, Meta(ge=0, le=127)] | None, Meta(description="Length to which IPv6 addresses are aggregated")
    ] = msgspec.field(name="aggregationLengthIPv6", default=None)


class BGPInterfaceOptions(Value, frozen=True, kw_only=True):
    """BGPInterfaceOptions names an interface whose addresses are advertised as host routes."""

    name: Annotated[str, Meta(description="Name of the interface")]


class BGPAdvertisement(Value, frozen=True, kw_only=True):
    """BGPAdvertisement says which routes are advertised, with which attributes."""

    advertisement_type: Annotated[
        Literal["PodCIDR", "CiliumPodIPPool", "Service", "Interface"], Meta(description="What is advertised")
    ]
    service: Annotated[BGPServiceOptions | None, Meta(description="Options of type Service")] = None
    interface: Annotated[BGPInterfaceOptions | None, Meta(description="Options of type Interface")] = None
    selector: Annotated[Selector, selector("Objects of the type; none are selected without it. Not for PodCIDR")] = None
    attributes: Annotated[BGPAttributes | None, Meta(description="Attributes of the routes")] = None


_ADVERTISEMENT: Final = rules(
    ("self.advertisementType != 'Service' || has(self.service)", "advertisementType Service needs service"),
    ("self.advertisementType == 'Service' || !has(self.service)", "service is only for advertisementType Service"),
    ("self.advertisementType != 'Interface' || has(self.interface)", "advertisementType Interface needs interface"),
    (
        "self.advertisementType == 'Interface' || !has(self.interface)",
        "interface is only for advertisementType Interface",
    ),
    ("self.advertisementType != 'PodCIDR' || !has(self.selector)", "advertisementType PodCIDR takes no selector"),
)


class CiliumBGPAdvertisementSpec(Value, frozen=True, kw_only=True):
    """CiliumBGPAdvertisementSpec is a list of advertisements."""

    advertisements: Annotated[
        tuple[Annotated[BGPAdvertisement, _ADVERTISEMENT], ...], Meta(description="What is advertised")
    ]


class CiliumBGPAdvertisement(Resource, frozen=True, kw_only=True):
    """CiliumBGPAdvertisement says what is advertised by families that select it by its labels."""

    spec: CiliumBGPAdvertisementSpec


class CiliumBGPNodePeer(Value, frozen=True, kw_only=True):
    """CiliumBGPNodePeer is a neighbour of an instance on one node."""

    name: Annotated[str, Meta(description="Name of the peer")]
    peer_address: Annotated[Address | None, Meta(description="IPv4 or IPv6 address of the peer")] = None
    peer_interface: Annotated[
        Name | None, Meta(description="Interface over which an IPv6 link-local peerAddress is reached")
    ] = None
    peer_asn: Annotated[ASNOrAny | None, Meta(description="AS number of the peer, 0 for any")] = msgspec.field(
        name="peerASN", default=None
    )
    auto_discovery: Annotated[AutoDiscovery | None, Meta(description="How the peer's address is found")] = None
    local_address: Annotated[
        Address | None, Meta(description="Source address of the session, from CiliumBGPNodeConfigOverride")
    ] = None
    peer_config_ref: Annotated[
        PeerConfigReference | None, Meta(description="CiliumBGPPeerConfig of the session; defaults hold without it")
    ] = None


class CiliumBGPNodeInstance(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeInstance is a virtual router of one node."""

    name: Annotated[Name, Meta(description="Name of the instance")]
    local_asn: Annotated[ASN | None, Meta(description="AS number of the instance")] = msgspec.field(
        name="localASN", default=None
    )
    router_id: Annotated[IPv4 | None, Meta(description="BGP identifier; the agent chooses one without it")] = (
        msgspec.field(name="routerID", default=None)
    )
    local_port: Annotated[Port | None, Meta(description="Port to listen on; without it the instance only connects")] = (
        None
    )
    peers: Annotated[
        tuple[Annotated[CiliumBGPNodePeer, rules(_LINK_LOCAL, _NO_LOCAL_ADDRESS, _HAS_ADDRESS)], ...],
        list_map("Neighbours of the instance", "name"),
    ] = ()


class CiliumBGPNodeSpec(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeSpec is the BGP configuration of one node."""

    bgp_instances: Annotated[
        tuple[CiliumBGPNodeInstance, ...],
        list_map("Virtual routers of the node", "name", minItems=1, maxItems=16),
    ] = msgspec.field(name="bgpInstances")


class CiliumBGPTimersState(Value, frozen=True, kw_only=True):
    """CiliumBGPTimersState are the negotiated timers."""

    applied_hold_time_seconds: Annotated[Int32 | None, Meta(description="Negotiated hold time")] = None
    applied_keepalive_seconds: Annotated[Int32 | None, Meta(description="Interval of keepalives")] = None


class BGPFamilyRouteCount(Value, frozen=True, kw_only=True):
    """BGPFamilyRouteCount is the number of routes exchanged in a family."""

    afi: AFI
    safi: SAFI
    received: Annotated[Int32 | None, Meta(description="Routes received from the peer")] = None
    advertised: Annotated[Int32 | None, Meta(description="Routes advertised to the peer")] = None


class CiliumBGPNodePeerStatus(Value, frozen=True, kw_only=True):
    """CiliumBGPNodePeerStatus is the state of a session."""

    name: Annotated[str, Meta(description="Name of the peer")]
    peer_address: Annotated[str, Meta(description="Address of the peer")]
    peer_asn: Annotated[Int64 | None, Meta(description="AS number of the peer")] = msgspec.field(
        name="peerASN", default=None
    )
    peering_state: Annotated[str | None, Meta(description="State of the session")] = None
    timers: Annotated[CiliumBGPTimersState | None, Meta(description="Negotiated timers")] = None
    established_time: Annotated[
        str | None, Meta(description="Since when the session is established, RFC 3339 in UTC")
    ] = None
    route_count: Annotated[tuple[BGPFamilyRouteCount, ...], Meta(description="Routes exchanged, by family")] = ()


class CiliumBGPNodeInstanceStatus(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeInstanceStatus is the state of an instance."""

    name: Annotated[str, Meta(description="Name of the instance")]
    local_asn: Annotated[Int64 | None, Meta(description="AS number of the instance")] = msgspec.field(
        name="localASN", default=None
    )
    peers: Annotated[tuple[CiliumBGPNodePeerStatus, ...], list_map("State of each session", "name")] = ()


class CiliumBGPNodeStatus(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeStatus is the state of BGP on one node, written by its agent."""

    bgp_instances: Annotated[tuple[CiliumBGPNodeInstanceStatus, ...], list_map("State of each instance", "name")] = (
        msgspec.field(name="bgpInstances", default=())
    )
    conditions: Conditions = ()


class CiliumBGPNodeConfig(Resource, frozen=True, kw_only=True):
    """CiliumBGPNodeConfig is the BGP configuration of the node of its name; the operator writes it."""

    spec: Annotated[CiliumBGPNodeSpec, Meta(description="The wanted configuration")]
    status: Annotated[CiliumBGPNodeStatus, Meta(description="What the node's agent observed last")] = (
        CiliumBGPNodeStatus()
    )


class CiliumBGPPeerOverride(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeConfigPeerOverride is what differs for a peer on one node."""

    name: Annotated[Name, Meta(description="Name of the peer")]
    local_address: Annotated[Address | None, Meta(description="Source address of the session")] = None
    local_port: Annotated[
        Int32 | None, Meta(description="Source port of the session; deprecated and without effect")
    ] = None
    peer_interface: Annotated[
        Name | None, Meta(description="Interface on which the peer is, instead of the cluster configuration's")
    ] = None


class CiliumBGPInstanceOverride(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeConfigInstanceOverride is what differs for an instance on one node."""

    name: Annotated[Name, Meta(description="Name of the instance")]
    router_id: Annotated[IPv4 | None, Meta(description="BGP identifier, unique among all instances")] = msgspec.field(
        name="routerID", default=None
    )
    local_port: Annotated[Int32 | None, Meta(description="Port to listen on")] = None
    local_asn: Annotated[ASN | None, Meta(description="AS number")] = msgspec.field(name="localASN", default=None)
    peers: Annotated[
        tuple[Annotated[CiliumBGPPeerOverride, rules(_NO_LOCAL_ADDRESS)], ...], list_map("What differs by peer", "name")
    ] = ()


class CiliumBGPNodeConfigOverrideSpec(Value, frozen=True, kw_only=True):
    """CiliumBGPNodeConfigOverrideSpec is what differs on one node."""

    bgp_instances: Annotated[
        tuple[CiliumBGPInstanceOverride, ...], list_map("What differs by instance", "name", minItems=1)
    ] = msgspec.field(name="bgpInstances")


class CiliumBGPNodeConfigOverride(Resource, frozen=True, kw_only=True):
    """CiliumBGPNodeConfigOverride is what differs on the node of its name from the cluster configuration."""

    spec: Annotated[CiliumBGPNodeConfigOverrideSpec, Meta(description="What differs")]


CLUSTER_CONFIGS = Kind(GROUP, "v2", "ciliumbgpclusterconfigs", "CiliumBGPClusterConfig", False, CiliumBGPClusterConfig)
PEER_CONFIGS = Kind(GROUP, "v2", "ciliumbgppeerconfigs", "CiliumBGPPeerConfig", False, CiliumBGPPeerConfig)
ADVERTISEMENTS = Kind(GROUP, "v2", "ciliumbgpadvertisements", "CiliumBGPAdvertisement", False, CiliumBGPAdvertisement)
NODE_CONFIGS = Kind(GROUP, "v2", "ciliumbgpnodeconfigs", "CiliumBGPNodeConfig", False, CiliumBGPNodeConfig)
NODE_CONFIG_OVERRIDES = Kind(
    GROUP, "v2", "ciliumbgpnodeconfigoverrides", "CiliumBGPNodeConfigOverride", False, CiliumBGPNodeConfigOverride
)
