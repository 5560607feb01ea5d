"""Nodes of the cluster, and which underlay addresses are theirs."""

from __future__ import annotations

import msgspec

from stentor.net.address import Addr, Prefix
from stentor.state import Column, Table


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `addresses` pairs Kubernetes' address type (InternalIP, ExternalIP, CiliumInternalIP) with an address."""

    name: str
    cluster: str = "default"
    addresses: tuple[tuple[str, Addr], ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    encrypt_key: int = 0
    is_local: bool = False
    source: str = "custom-resource"
    operator_error: str = ""

    def addresses_of(self, kind: str) -> tuple[Addr, ...]:
        return tuple(addr for each, addr in self.addresses if each == kind)

    def address(self, kind: str, family: int) -> Addr | None:
        """The first address of a type and family (4 or 6)."""
        return next((addr for addr in self.addresses_of(kind) if addr.family == family), None)


class NodePrefixes(msgspec.Struct, frozen=True):
    """The pod CIDRs that the operator gives to a node, and what kept it from giving more."""

    name: str
    pod_cidrs: tuple[Prefix, ...]
    error: str = ""


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the datapath's node map: an outer address from which tunnelled packets are accepted."""

    addr: Addr
    node_id: int
    identity: int


def nodes() -> Table[tuple[str, str], Node]:
    """By (cluster, name)."""
    return Table(
        "nodes",
        lambda row: (row.cluster, row.name),
        indexes={
            "name": lambda row: (row.name,),
            "address": lambda row: tuple(addr for _, addr in row.addresses),
            "cidr": lambda row: row.pod_cidrs,
            "local": lambda row: (True,) if row.is_local else (),
        },
        columns=(
            Column("Name", lambda row: f"{row.cluster}/{row.name}"),
            Column("IPv4 Address", lambda row: row.address("InternalIP", 4) or ""),
            Column("Endpoint CIDR", lambda row: ", ".join(str(p) for p in row.pod_cidrs if p.family == 4)),
            Column("IPv6 Address", lambda row: row.address("InternalIP", 6) or ""),
            Column("IPv6 Endpoint CIDR", lambda row: ", ".join(str(p) for p in row.pod_cidrs if p.family == 6)),
            Column("Source", lambda row: row.source),
        ),
    )


def node_addresses() -> Table[Addr, NodeAddress]:
    """Desired rows of the node map, by outer address."""
    return Table("node-addresses", lambda row: row.addr)


def node_prefixes() -> Table[str, NodePrefixes]:
    """By node name."""
    return Table(
        "node-prefixes",
        lambda row: row.name,
        columns=(
            Column("NODE", lambda row: row.name),
            Column("POD CIDRS", lambda row: ", ".join(map(str, row.pod_cidrs))),
            Column("ERROR", lambda row: row.error),
        ),
    )
