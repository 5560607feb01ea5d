"""Endpoints: the pods of this node as the agent knows them, and what the datapath has to know of each address."""

from __future__ import annotations

from enum import Enum

import msgspec

from stentor.net.address import Addr
from stentor.net.label import Labels
from stentor.state import Column, Table
from stentor.tables.realized import Realized, realized


class EndpointState(Enum):
    """Upstream's endpoint states, as `CiliumEndpoint.status.state` shows them. An endpoint that ends is no row any more."""

    CREATING = "creating"
    WAITING_FOR_IDENTITY = "waiting-for-identity"
    REGENERATING = "regenerating"
    READY = "ready"
    RESTORING = "restoring"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One pod's network attachment. `id` is unique on the node (1-65535); `ifindex` is the host end's."""

    id: int
    container_id: str
    container_ifname: str
    netns: str
    namespace: str
    pod: str
    pod_uid: str = ""
    host_ifname: str
    ifindex: int
    mac: bytes
    ipv4: Addr | None = None
    ipv6: Addr | None = None
    labels: Labels = ()
    identity: int = 0
    state: EndpointState = EndpointState.CREATING
    named_ports: tuple[tuple[str, int, int], ...] = ()
    created_at: float = 0.0

    @property
    def addresses(self) -> tuple[Addr, ...]:
        return tuple(addr for addr in (self.ipv4, self.ipv6) if addr is not None)


class EndpointEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the datapath's endpoint map: an address of a local endpoint.

    `policy_id` 0 means that no policy is in force yet: everything from and to it is dropped.
    """

    addr: Addr
    endpoint_id: int
    ifindex: int
    identity: int
    policy_id: int
    mac: bytes
    flags: int = 0


class PublishedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A CiliumEndpoint, as far as others need it: written for this node's endpoints, read for all others."""

    namespace: str
    name: str
    pod_uid: str = ""
    endpoint_id: int = 0
    identity: int = 0
    labels: tuple[str, ...] = ()
    addresses: tuple[Addr, ...] = ()
    node: Addr | None = None
    state: str = ""
    container_id: str = ""
    container_ifname: str = ""
    service_account: str = ""
    named_ports: tuple[tuple[str, int, int], ...] = ()
    encrypt_key: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return (self.namespace, self.name)


def published_endpoints(name: str = "cilium-endpoints") -> Table[tuple[str, str], PublishedEndpoint]:
    """By (namespace, name)."""
    return Table(
        name,
        lambda row: row.key,
        indexes={"address": lambda row: row.addresses, "node": lambda row: (row.node,)},
        columns=(
            Column("NAMESPACE", lambda row: row.namespace),
            Column("NAME", lambda row: row.name),
            Column("IDENTITY", lambda row: row.identity),
            Column("STATE", lambda row: row.state),
            Column("ADDRESSES", lambda row: ", ".join(map(str, row.addresses))),
            Column("NODE", lambda row: row.node or ""),
        ),
    )


def endpoints() -> Table[int, Endpoint]:
    """By endpoint id."""
    return Table(
        "endpoints",
        lambda row: row.id,
        indexes={
            "pod": lambda row: ((row.namespace, row.pod),),
            "container": lambda row: ((row.container_id, row.container_ifname),),
            "address": lambda row: row.addresses,
            "labels": lambda row: (row.labels,),
            "identity": lambda row: (row.identity,),
        },
        columns=(
            Column("ENDPOINT", lambda row: row.id),
            Column("STATE", lambda row: row.state.value),
            Column("IDENTITY", lambda row: row.identity),
            Column("POD", lambda row: f"{row.namespace}/{row.pod}"),
            Column("IPv6", lambda row: row.ipv6 or ""),
            Column("IPv4", lambda row: row.ipv4 or ""),
        ),
    )


def realized_entries() -> Table[Addr, Realized[Addr, EndpointEntry]]:
    """Rows that are in the endpoint map."""
    return realized("endpoint-entries", indexes={"policy": lambda there: (there.row.policy_id,)})


def endpoint_entries() -> Table[Addr, EndpointEntry]:
    """Desired rows of the endpoint map, by address."""
    return Table(
        "endpoint-entries",
        lambda row: row.addr,
        columns=(
            Column("IP", lambda row: row.addr),
            Column("ENDPOINT", lambda row: row.endpoint_id),
            Column("IFINDEX", lambda row: row.ifindex),
            Column("IDENTITY", lambda row: row.identity),
            Column("POLICY", lambda row: row.policy_id),
            Column("MAC", lambda row: row.mac.hex(":")),
        ),
    )
