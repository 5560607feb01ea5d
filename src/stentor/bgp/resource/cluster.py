"""CiliumBGPClusterConfigs on nodes: who runs which configuration, with which overrides. Pure: the operator acts on it.

A node runs one cluster configuration. Of several that select it the one stays that it runs already, else the oldest is taken;
the others are in conflict.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stentor.api.bgp import (
    CiliumBGPClusterConfigSpec,
    CiliumBGPInstance,
    CiliumBGPInstanceOverride,
    CiliumBGPNodeConfigOverrideSpec,
    CiliumBGPNodeInstance,
    CiliumBGPNodePeer,
    CiliumBGPNodeSpec,
    CiliumBGPPeer,
    CiliumBGPPeerOverride,
)
from stentor.tables.bgp import ClusterConfig, NodeConfigOverride


class Assignment(msgspec.Struct, frozen=True):
    """Which configuration each node runs, which nodes each one selects, and with which others it is in conflict."""

    runs: dict[str, str] = {}
    selected: dict[str, tuple[str, ...]] = {}
    conflicts: dict[str, tuple[str, ...]] = {}


def assign(
    configs: Mapping[str, ClusterConfig], nodes: Mapping[str, dict[str, str]], present: Mapping[str, str]
) -> Assignment:
    """`nodes` are their labels by name, `present` the configuration that a node runs: empty when its CiliumBGPNodeConfig is
    somebody else's, which stays."""
    runs: dict[str, str] = {}
    selected: dict[str, list[str]] = {name: [] for name in configs}
    conflicts: dict[str, set[str]] = {name: set() for name in configs}
    ordered = sorted(configs.values(), key=lambda each: each.age_key)
    for node, labels in sorted(nodes.items()):
        wanting = [each.name for each in ordered if _selects(each.spec, labels)]
        for name in wanting:
            selected[name].append(node)
        if wanting and present.get(node) != "":
            chosen = runs[node] = present[node] if present.get(node) in wanting else wanting[0]
            for name in wanting:
                if name != chosen:
                    conflicts[name].add(chosen)
    return Assignment(
        runs,
        {name: tuple(found) for name, found in selected.items()},
        {name: tuple(sorted(found)) for name, found in conflicts.items()},
    )


def _selects(spec: CiliumBGPClusterConfigSpec, labels: dict[str, str]) -> bool:
    return spec.node_selector is None or spec.node_selector.matches(labels)


def node_spec(config: CiliumBGPClusterConfigSpec, override: NodeConfigOverride | None) -> CiliumBGPNodeSpec:
    """What the CiliumBGPNodeConfig of a node says."""
    changes = override.spec if override is not None else CiliumBGPNodeConfigOverrideSpec(bgp_instances=())
    by_name = {each.name: each for each in changes.bgp_instances}
    return CiliumBGPNodeSpec(
        bgp_instances=tuple(
            _instance(each, by_name.get(each.name) or CiliumBGPInstanceOverride(name=each.name))
            for each in config.bgp_instances
        )
    )


def _instance(instance: CiliumBGPInstance, override: CiliumBGPInstanceOverride) -> CiliumBGPNodeInstance:
    by_name = {each.name: each for each in override.peers}
    return CiliumBGPNodeInstance(
        name=instance.name,
        local_asn=instance.local_asn if override.local_asn is None else override.local_asn,
        router_id=override.router_id,
        local_port=instance.local_port if override.local_port is None else override.local_port,
        peers=tuple(
            _peer(each, by_name.get(each.name) or CiliumBGPPeerOverride(name=each.name)) for each in instance.peers
        ),
    )


def _peer(peer: CiliumBGPPeer, override: CiliumBGPPeerOverride) -> CiliumBGPNodePeer:
    return CiliumBGPNodePeer(
        name=peer.name,
        peer_address=peer.peer_address,
        peer_interface=override.peer_interface or peer.peer_interface,
        peer_asn=peer.peer_asn,
        auto_discovery=peer.auto_discovery,
        local_address=override.local_address,
        peer_config_ref=peer.peer_config_ref,
    )
