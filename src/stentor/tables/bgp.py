"""Resources of the BGP control plane and of addresses for services, as agents and the operator know them: without status."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from stentor.api import bgp, l2, lbipam, peering, stentor
from stentor.api.meta import ObjectMeta
from stentor.state import Table

S = TypeVar("S")


class Configured(msgspec.Struct, Generic[S], frozen=True):
    """What a user wants. `created` is RFC 3339 text in UTC, so that texts order as times do."""

    name: str
    spec: S
    labels: dict[str, str] = {}
    uid: str = ""
    generation: int = 0
    created: str = ""

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts older objects first, then by name: who was first wins."""
        return (self.created, self.name)


def configured(metadata: ObjectMeta, spec: S) -> Configured[S]:
    """The row of an object."""
    return Configured(
        metadata.name,
        spec,
        metadata.labels,
        metadata.uid,
        metadata.generation,
        metadata.creation_timestamp or "",
    )


ClusterConfig = Configured[bgp.CiliumBGPClusterConfigSpec]
PeerConfig = Configured[bgp.CiliumBGPPeerConfigSpec]
Advertisement = Configured[bgp.CiliumBGPAdvertisementSpec]
NodeConfig = Configured[bgp.CiliumBGPNodeSpec]
NodeConfigOverride = Configured[bgp.CiliumBGPNodeConfigOverrideSpec]
PeeringPolicy = Configured[peering.CiliumBGPPeeringPolicySpec]
PeerOptions = Configured[stentor.PeerOptionsSpec]
InstanceOptions = Configured[stentor.InstanceOptionsSpec]
LoadBalancerPool = Configured[lbipam.CiliumLoadBalancerIPPoolSpec]
L2Policy = Configured[l2.CiliumL2AnnouncementPolicySpec]


def _by_name(row: Configured[S]) -> str:
    return row.name


def cluster_configs() -> Table[str, ClusterConfig]:
    """CiliumBGPClusterConfigs by name."""
    return Table("bgp-cluster-configs", _by_name)


def peer_configs() -> Table[str, PeerConfig]:
    """CiliumBGPPeerConfigs by name."""
    return Table("bgp-peer-configs", _by_name)


def advertisements() -> Table[str, Advertisement]:
    """CiliumBGPAdvertisements by name."""
    return Table("bgp-advertisements", _by_name)


def node_configs() -> Table[str, NodeConfig]:
    """CiliumBGPNodeConfigs by name, which is the node's."""
    return Table("bgp-node-configs", _by_name)


def node_config_overrides() -> Table[str, NodeConfigOverride]:
    """CiliumBGPNodeConfigOverrides by name, which is the node's."""
    return Table("bgp-node-config-overrides", _by_name)


def peering_policies() -> Table[str, PeeringPolicy]:
    """CiliumBGPPeeringPolicies by name."""
    return Table("bgp-peering-policies", _by_name)


def peer_options() -> Table[str, PeerOptions]:
    """StentorBGPPeerOptions by name."""
    return Table("bgp-peer-options", _by_name)


def instance_options() -> Table[str, InstanceOptions]:
    """StentorBGPInstanceOptions by name."""
    return Table("bgp-instance-options", _by_name)


def lb_pools() -> Table[str, LoadBalancerPool]:
    """CiliumLoadBalancerIPPools by name."""
    return Table("lb-pools", _by_name)


def l2_policies() -> Table[str, L2Policy]:
    """CiliumL2AnnouncementPolicies by name."""
    return Table("l2-policies", _by_name)
