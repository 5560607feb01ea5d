"""Services on their way to the datapath: what the API says, the frontends that follow, the load-balancing entries.

`services`, `endpoint_slices`, `host_ports` and `local_nodes` are filled by sources; `frontends` holds what each service claims;
`lb_entries` is what the maps get, one row an address and port, whoever claims it.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag

import msgspec

from stentor.api.meta import ObjectKey
from stentor.net.address import Addr, Prefix
from stentor.state import Column, Table


class Protocol(IntEnum):
    """IP protocol numbers under Kubernetes' names."""

    TCP = 6
    UDP = 17
    SCTP = 132


class ServiceType(Enum):
    """What a frontend is, as upstream prints it. Earlier ones win when two services claim one address and port."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_IPS = "ExternalIPs"
    HOST_PORT = "HostPort"

    @property
    def rank(self) -> int:
        return list(ServiceType).index(self)

    @property
    def is_external(self) -> bool:
        """Whether clients outside the cluster are meant to reach it."""
        return self is not ServiceType.CLUSTER_IP


class Distribution(Enum):
    """`trafficDistribution`: which backends are preferred; PreferClose is the older name of PreferSameZone."""

    NONE = ""
    SAME_ZONE = "PreferSameZone"
    SAME_NODE = "PreferSameNode"


class Algorithm(Enum):
    """How a backend is chosen for a connection from outside."""

    RANDOM = "random"
    MAGLEV = "maglev"


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a service; `node_port` 0 is none."""

    name: str = ""
    protocol: Protocol = Protocol.TCP
    port: int
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Service, parsed. `problems` name fields that could not be used; what could be used is used.

    `affinity_s` is the session affinity's timeout, 0 without; `exposed_as` which of the types its annotation allows;
    `node_selector` the annotation that limits on which nodes it is served, as label requirements that must all hold.
    """

    key: ObjectKey
    type: str = "ClusterIP"
    cluster_ips: tuple[Addr, ...] = ()
    external_ips: tuple[Addr, ...] = ()
    ingress_ips: tuple[Addr, ...] = ()
    ports: tuple[Port, ...] = ()
    is_headless: bool = False
    external_local: bool = False
    internal_local: bool = False
    affinity_s: int = 0
    distribution: Distribution = Distribution.NONE
    source_ranges: tuple[Prefix, ...] = ()
    source_ranges_deny: bool = False
    health_check_node_port: int = 0
    load_balancer_class: str = ""
    algorithm: Algorithm | None = None
    exposed_as: frozenset[ServiceType] | None = None
    node_selector: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


class SlicePort(msgspec.Struct, frozen=True):
    """A port of every endpoint of a slice; matched to a service's port by name and protocol."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. `zones` and `nodes` are its hints: who should use it."""

    addr: Addr
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False
    node: str = ""
    zone: str = ""
    zones: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """An EndpointSlice, parsed; its addresses are of one family."""

    key: ObjectKey
    service: ObjectKey
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()
    problems: tuple[str, ...] = ()


class HostPort(msgspec.Struct, frozen=True, kw_only=True):
    """A container's port on the addresses of its node. `host_ip` None stands for all of them."""

    container: str
    protocol: Protocol
    host_ip: Addr | None
    host_port: int
    port: int


class HostPorts(msgspec.Struct, frozen=True, kw_only=True):
    """The host ports of one pod, and its addresses."""

    pod: ObjectKey
    addresses: tuple[Addr, ...]
    ports: tuple[HostPort, ...]


class LocalNode(msgspec.Struct, frozen=True, kw_only=True):
    """What service decisions have to know of the node on which they are made."""

    name: str
    zone: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    addresses: tuple[Addr, ...] = ()


class FrontendKey(msgspec.Struct, frozen=True, order=True):
    """What a client connects to. The unspecified address of a family stands for every node's addresses (NodePort)."""

    addr: Addr
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        host = str(self.addr) if self.addr.is_ipv4 else f"[{self.addr}]"
        return f"{host}:{self.port}/{self.protocol.name}"


class BackendState(Enum):
    """`TERMINATING` ones keep the connections that they have; they get new ones only while nobody is active."""

    ACTIVE = "active"
    TERMINATING = "terminating"


class Backend(msgspec.Struct, frozen=True, order=True):
    """Where connections go."""

    addr: Addr
    port: int
    is_terminating: bool = False

    @property
    def state(self) -> BackendState:
        return BackendState.TERMINATING if self.is_terminating else BackendState.ACTIVE

    def __str__(self) -> str:
        host = str(self.addr) if self.addr.is_ipv4 else f"[{self.addr}]"
        return f"{host}:{self.port}"


Backends = tuple[Backend, ...]
"""Sorted, active ones first; equal sets are equal tuples."""


class EntryFlag(IntFlag):
    """How the datapath treats an entry; the bits are those of bpf/maps/lb.h."""

    NONE = 0
    EXTERNAL = 1  # meant for clients outside: NodePort, LoadBalancer, externalIPs, HostPort
    AFFINITY = 2
    SOURCE_RANGES = 4  # sources have to be looked up
    SOURCE_RANGES_DENY = 8  # listed sources are refused, not admitted
    EXTERNAL_LOCAL = 16  # externalTrafficPolicy: Local
    MAGLEV = 32
    ROUTABLE = 64  # a ClusterIP that clients outside may use (bpf.lbExternalClusterIP)


class LBEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the load-balancing maps: backends for clients inside the cluster and for those outside."""

    key: FrontendKey
    internal: Backends = ()
    external: Backends = ()
    flags: EntryFlag = EntryFlag.NONE
    affinity_s: int = 0
    source_ranges: tuple[Prefix, ...] = ()


class Frontend(msgspec.Struct, frozen=True, kw_only=True):
    """One address and port that a service claims on this node."""

    service: ObjectKey
    type: ServiceType
    port_name: str
    entry: LBEntry

    @property
    def key(self) -> tuple[FrontendKey, ObjectKey, ServiceType]:
        return (self.entry.key, self.service, self.type)

    @property
    def precedence(self) -> tuple[int, ObjectKey]:
        """The least claim of an address and port gets it."""
        return (self.type.rank, self.service)


def services() -> Table[ObjectKey, Service]:
    """Services of the cluster that this proxy serves, by namespace and name."""
    return Table(
        "services", lambda row: row.key, indexes={"address": lambda row: (*row.ingress_ips, *row.external_ips)}
    )


def endpoint_slices() -> Table[ObjectKey, EndpointSlice]:
    """Backends of services, by the slice's namespace and name."""
    return Table("endpoint-slices", lambda row: row.key, indexes={"service": lambda row: (row.service,)})


def host_ports() -> Table[ObjectKey, HostPorts]:
    """Pods of this node that have host ports."""
    return Table("host-ports", lambda row: row.pod)


def local_nodes() -> Table[str, LocalNode]:
    """This node; one row."""
    return Table("local-nodes", lambda row: row.name)


def frontends() -> Table[tuple[FrontendKey, ObjectKey, ServiceType], Frontend]:
    """Every claim of an address and port on this node."""
    return Table(
        "frontends",
        lambda row: row.key,
        indexes={"key": lambda row: (row.entry.key,), "service": lambda row: (row.service,)},
        columns=(
            Column("Frontend", lambda row: row.entry.key),
            Column("Service Type", lambda row: row.type.value),
            Column("Backend", lambda row: "\n".join(str(backend) for backend in row.entry.internal)),
        ),
    )


def lb_entries() -> Table[FrontendKey, LBEntry]:
    """Desired content of the load-balancing maps."""
    return Table(
        "lb-entries",
        lambda row: row.key,
        columns=(
            Column("SERVICE ADDRESS", lambda row: row.key),
            Column("BACKEND ADDRESS", lambda row: "\n".join(str(backend) for backend in row.internal)),
        ),
    )
