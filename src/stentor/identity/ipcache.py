"""The ipcache: endpoints here and elsewhere, nodes and their pod CIDRs → identity and node of every prefix.

Whoever knows more precisely wins: this agent's own endpoints, then other nodes' CiliumEndpoints, then nodes' addresses, then
nodes' pod CIDRs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from stentor.net.address import Addr, Prefix
from stentor.net.identity import Reserved
from stentor.state import Derivation, Input, Table
from stentor.tables.endpoint import Endpoint, PublishedEndpoint
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag
from stentor.tables.node import Node

_UNDERLAY = ("InternalIP", "ExternalIP")


def tunnel_of(node: Node, families: tuple[int, ...]) -> Addr | None:
    """Address to which packets for a node are encapsulated: of the first family that both ends have."""
    return next((addr for family in families if (addr := node.address("InternalIP", family)) is not None), None)


def derive_ipcache(
    endpoints: Table[int, Endpoint],
    published: Table[tuple[str, str], PublishedEndpoint],
    nodes: Table[tuple[str, str], Node],
    output: Table[Prefix, IPCacheEntry],
    *,
    families: tuple[int, ...],
    node_ports: Sequence[Prefix] = (),
) -> Derivation[Prefix, Prefix, IPCacheEntry]:
    """One row a prefix. `families` are those of the underlay, the preferred one first. Node ports are served at nodes'
    addresses within `node_ports`; empty: at all."""

    def node_at(addr: Addr | None) -> Node | None:
        found = nodes.by("address", addr) if addr is not None else []
        return found[0] if found else None

    def of_endpoint(prefix: Prefix) -> IPCacheEntry | None:
        if not prefix.is_host:
            return None
        own = [row for row in endpoints.by("address", prefix.addr) if row.identity]
        if own:  # two for a moment, when an address is given anew: any fixed choice will do
            local = max(own, key=lambda row: row.id)
            return IPCacheEntry(prefix=prefix, identity=local.identity, source="agent")
        remote = [
            (row, node)
            for row in published.by("address", prefix.addr)
            if row.identity and (node := node_at(row.node)) is not None and not node.is_local
        ]
        if not remote:
            return None
        # An address that moved may be named twice for a moment: any fixed choice will do until the older one is gone.
        row, node = max(remote, key=lambda pair: (pair[0].state == "ready", pair[0].key))
        tunnel = tunnel_of(node, families) or row.node
        return IPCacheEntry(prefix=prefix, identity=row.identity, tunnel=tunnel, encrypt_key=row.encrypt_key)

    def of_node(prefix: Prefix) -> IPCacheEntry | None:
        is_served = not node_ports or any(each.covers(prefix.addr) for each in node_ports)
        flags = IPCacheFlag.NONE if is_served else IPCacheFlag.NO_NODE_PORT
        for node in nodes.by("address", prefix.addr) if prefix.is_host else ():
            if node.is_local:
                return IPCacheEntry(prefix=prefix, identity=Reserved.HOST, flags=flags, source="agent")
            if any(prefix.addr in node.addresses_of(kind) for kind in _UNDERLAY):
                flags |= IPCacheFlag.SKIP_TUNNEL
            return IPCacheEntry(
                prefix=prefix, identity=Reserved.REMOTE_NODE, tunnel=tunnel_of(node, families), flags=flags
            )
        for node in nodes.by("cidr", prefix):
            if not node.is_local:
                return IPCacheEntry(
                    prefix=prefix, identity=Reserved.WORLD, tunnel=tunnel_of(node, families), source="generated"
                )
        return None

    def compute(prefix: Prefix) -> Iterable[IPCacheEntry]:
        entry = of_endpoint(prefix) or of_node(prefix)
        return () if entry is None else (entry,)

    def of_node_row(node: Node) -> Iterator[Prefix]:
        for _, addr in node.addresses:
            yield addr.host_prefix
            for row in published.by("node", addr):
                yield from (each.host_prefix for each in row.addresses)
        yield from node.pod_cidrs

    inputs = (
        Input(endpoints, lambda row: (addr.host_prefix for addr in row.addresses)),
        Input(published, lambda row: (addr.host_prefix for addr in row.addresses)),
        Input(nodes, of_node_row),
    )
    return Derivation("ipcache", output, compute, inputs)
