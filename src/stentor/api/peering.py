"""CiliumBGPPeeringPolicy of cilium.io/v2alpha1, with every field that it had: the resource before CiliumBGPClusterConfig."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stentor.api.bgp import BGPCommunities, CiliumBGPGracefulRestart
from stentor.api.cilium import GROUP
from stentor.api.field import (
    AFI,
    CIDR,
    SAFI,
    TTL,
    ASNOrAny,
    ConnectRetryTime,
    HoldTime,
    KeepAliveTime,
    Port,
    Selector,
    published,
    selector,
)
from stentor.api.meta import Kind, Resource, Value

NODE_ANNOTATION: Final = "cilium.io/bgp-virtual-router."
"""Prefix of a Node's annotations; the rest is the local AS number, the value `router-id=10.0.0.1,local-port=179`."""

_U32 = Annotated[int, Meta(ge=0, le=4294967295, extra_json_schema={"format": "int64"})]


class CiliumBGPFamily(Value, frozen=True, kw_only=True):
    """CiliumBGPFamily is an address family of a session."""

    afi: AFI
    safi: SAFI


class CiliumBGPPathAttributes(Value, frozen=True, kw_only=True):
    """CiliumBGPPathAttributes are set on the routes of selected objects."""

    selector_type: Annotated[
        str,
        published(
            "Kind of the selected objects: CiliumNodes (PodCIDR), pools of addresses of services or of pods",
            enum=["PodCIDR", "CiliumLoadBalancerIPPool", "CiliumPodIPPool"],
        ),
    ]
    selector: Annotated[Selector, selector("Objects of that kind; all without it")] = None
    communities: Annotated[BGPCommunities | None, Meta(description="Communities of the routes")] = None
    local_preference: Annotated[_U32 | None, Meta(description="Local preference towards iBGP peers")] = None


class CiliumBGPNeighbor(Value, frozen=True, kw_only=True):
    """CiliumBGPNeighbor is a peer of a virtual router."""

    peer_address: Annotated[CIDR, Meta(description="Address of the peer with the length of a host: 10.0.0.1/32")]
    peer_port: Annotated[Port, published("Port of the peer", default=179)] = 179
    peer_asn: Annotated[ASNOrAny, Meta(description="AS number of the peer, 0 for any")] = msgspec.field(name="peerASN")
    auth_secret_ref: Annotated[
        str | None, Meta(description="Secret with the TCP password under the key `password`; none without it")
    ] = None
    ebgp_multihop_ttl: Annotated[
        TTL, published("TTL of an eBGP session's packets; of no meaning for iBGP", default=1)
    ] = msgspec.field(name="eBGPMultihopTTL", default=1)
    connect_retry_time_seconds: Annotated[ConnectRetryTime, published("ConnectRetryTimer (RFC 4271)", default=120)] = (
        120
    )
    hold_time_seconds: Annotated[HoldTime, published("HoldTimer; a change resets the session", default=90)] = 90
    keep_alive_time_seconds: Annotated[
        KeepAliveTime, published("KeepaliveTimer, at most holdTimeSeconds; a change resets the session", default=30)
    ] = 30
    graceful_restart: Annotated[
        CiliumBGPGracefulRestart | None, Meta(description="Graceful restart; not offered without it")
    ] = None
    families: Annotated[
        tuple[CiliumBGPFamily, ...],
        Meta(description="Address families of the session; IPv4 and IPv6 unicast without it"),
    ] = ()
    advertised_path_attributes: Annotated[
        tuple[CiliumBGPPathAttributes, ...], Meta(description="Attributes of selected routes towards this peer")
    ] = ()


class CiliumBGPVirtualRouter(Value, frozen=True, kw_only=True):
    """CiliumBGPVirtualRouter is a BGP instance with its peers and what it advertises."""

    local_asn: Annotated[ASNOrAny, Meta(description="AS number of the virtual router")] = msgspec.field(name="localASN")
    export_pod_cidr: Annotated[bool, published("Whether the node's pod CIDRs are advertised", default=False)] = (
        msgspec.field(name="exportPodCIDR", default=False)
    )
    pod_ip_pool_selector: Annotated[
        Selector, selector("CiliumPodIPPools whose CIDRs of this node are advertised; none without it")
    ] = msgspec.field(name="podIPPoolSelector", default=None)
    service_selector: Annotated[
        Selector, selector("Services that are advertised; none without it, all with an empty one")
    ] = None
    service_advertisements: Annotated[
        tuple[Annotated[str, published(enum=["LoadBalancerIP", "ClusterIP", "ExternalIP"])], ...],
        published("Kinds of addresses of services that are advertised", default=["LoadBalancerIP"]),
    ] = ("LoadBalancerIP",)
    neighbors: Annotated[tuple[CiliumBGPNeighbor, ...], published("Peers of the virtual router", minItems=1)]


class CiliumBGPPeeringPolicySpec(Value, frozen=True, kw_only=True):
    """CiliumBGPPeeringPolicySpec says which nodes run which virtual routers."""

    node_selector: Annotated[Selector, selector("Nodes to which this applies; all without it")] = None
    virtual_routers: Annotated[
        tuple[CiliumBGPVirtualRouter, ...], published("Virtual routers of each node", minItems=1)
    ]


class CiliumBGPPeeringPolicy(Resource, frozen=True, kw_only=True):
    """CiliumBGPPeeringPolicy says which nodes run which virtual BGP routers."""

    spec: Annotated[CiliumBGPPeeringPolicySpec | None, Meta(description="The wanted configuration")] = None


PEERING_POLICIES = Kind(
    GROUP, "v2alpha1", "ciliumbgppeeringpolicies", "CiliumBGPPeeringPolicy", False, CiliumBGPPeeringPolicy
)
