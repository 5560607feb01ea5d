"""Nodes and endpoints → routes, addresses from which the overlay takes packets, what is not masqueraded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stentor.net.address import Addr, Prefix
from stentor.net.identity import Reserved
from stentor.state import Derivation, Input, Table
from stentor.tables.endpoint import Endpoint
from stentor.tables.masquerade import Exclusion
from stentor.tables.node import Node, NodeAddress
from stentor.tables.route import Route, RouteKey

HOST_DEVICE: Final = "cilium_host"
_LAST_METRIC: Final = 1 << 20
_UNDERLAY: Final = ("InternalIP", "ExternalIP")


def derive_routes(
    endpoints: Table[int, Endpoint], nodes: Table[tuple[str, str], Node], output: Table[RouteKey, Route], *, mtu: int
) -> Derivation[Prefix, RouteKey, Route]:
    """A host route for each local address, one into the host device for each remote pod CIDR; the local pod
    CIDR is unreachable apart from that."""

    def source(family: int) -> Addr | None:
        return next((node.address("CiliumInternalIP", family) for node in nodes.by("local", True)), None)

    def compute(prefix: Prefix) -> Iterable[Route]:
        for endpoint in endpoints.by("address", prefix.addr) if prefix.is_host else ():
            return (Route(prefix=prefix, device=endpoint.host_ifname, source=source(prefix.family)),)
        for node in nodes.by("cidr", prefix):
            if node.is_local:  # what no longer exists must not leave by the default route
                return (Route(prefix=prefix, metric=_LAST_METRIC),)
            if source(prefix.family) is not None:
                return (Route(prefix=prefix, device=HOST_DEVICE, source=source(prefix.family), mtu=mtu),)
        return ()

    def of_node(node: Node) -> Iterable[Prefix]:
        if not node.is_local:
            return node.pod_cidrs
        # The local node's router addresses are the source of every route.
        local = (addr.host_prefix for endpoint in endpoints for addr in endpoint.addresses)
        return (*local, *(prefix for other in nodes for prefix in other.pod_cidrs))

    inputs = (Input(endpoints, lambda row: (addr.host_prefix for addr in row.addresses)), Input(nodes, of_node))
    return Derivation("routes", output, compute, inputs)


def derive_node_addresses(
    nodes: Table[tuple[str, str], Node], output: Table[Addr, NodeAddress]
) -> Derivation[Addr, Addr, NodeAddress]:
    """Underlay addresses of the other nodes: tunnelled packets from anywhere else are refused."""

    def compute(addr: Addr) -> Iterable[NodeAddress]:
        for node in nodes.by("address", addr):
            if not node.is_local and any(addr in node.addresses_of(kind) for kind in _UNDERLAY):
                return (NodeAddress(addr=addr, node_id=0, identity=Reserved.REMOTE_NODE),)
        return ()

    inputs = (Input(nodes, lambda node: (addr for _, addr in node.addresses)),)
    return Derivation("node-addresses", output, compute, inputs)


def derive_masquerade_exclusions(
    nodes: Table[tuple[str, str], Node], output: Table[Prefix, Exclusion], *, native: tuple[Prefix, ...]
) -> Derivation[Prefix, Prefix, Exclusion]:
    """Pod CIDRs of all nodes and the native routing CIDRs see pods' own addresses."""

    def compute(prefix: Prefix) -> Iterable[Exclusion]:
        if nodes.by("cidr", prefix) or prefix in native:
            return (Exclusion(prefix=prefix),)
        return ()

    def of_node(node: Node) -> Iterable[Prefix]:
        return (*node.pod_cidrs, *native)

    return Derivation("masquerade-exclusions", output, compute, (Input(nodes, of_node),))
