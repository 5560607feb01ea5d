"""What both APIs come to: virtual routers with their peers, what is advertised, and which fields cannot be used."""

from __future__ import annotations

from enum import Enum

import msgspec

from stentor.api.meta import LabelSelector
from stentor.bgp.config import Kernel, Peer, PolicyConfig
from stentor.state import Column, Table

PEERING_POLICY = "CiliumBGPPeeringPolicy"
NODE_CONFIG = "CiliumBGPNodeConfig"


class Origin(Enum):
    """What an entry's routes are made of, under upstream's names of advertisement types."""

    POD_CIDR = "PodCIDR"
    POD_POOL = "CiliumPodIPPool"
    SERVICE = "Service"
    INTERFACE = "Interface"


class AddressKind(Enum):
    """Which addresses of a service, under upstream's names."""

    LOAD_BALANCER = "LoadBalancerIP"
    CLUSTER = "ClusterIP"
    EXTERNAL = "ExternalIP"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to advertise; its name is the tag of its routes. Without a selector no service matches.

    `aggregation` is the shorter prefix length to advertise, by family (4, 6); `pools` restricts addresses to those of load
    balancer pools with such labels.
    """

    name: str
    origin: Origin
    selector: LabelSelector | None = None
    addresses: frozenset[AddressKind] = frozenset()
    aggregation: tuple[tuple[int, int], ...] = ()
    pools: LabelSelector | None = None
    interface: str = ""

    def length(self, family: int, host: int) -> int:
        """The prefix length of an address of `family`, whose full length is `host`."""
        return dict(self.aggregation).get(family, host)


class Attributes(msgspec.Struct, frozen=True):
    """What an advertisement sets, in text as the resources have it."""

    standard: tuple[str, ...] = ()
    well_known: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    local_preference: int | None = None


class Grant(msgspec.Struct, frozen=True):
    """A peer is told an entry's routes, with these attributes."""

    entry: str
    attributes: Attributes = Attributes()


class PeerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A peer: its session, whose families name no policy yet, and by afi (`ipv4`, `ipv6`) what it is told and what is taken
    of it. `peer_config` is the CiliumBGPPeerConfig that the session has its parameters from."""

    config: Peer
    grants: tuple[tuple[str, tuple[Grant, ...]], ...] = ()
    imports: tuple[tuple[str, PolicyConfig], ...] = ()
    peer_config: str = ""

    def granted(self, afi: str) -> tuple[Grant, ...]:
        return dict(self.grants).get(afi, ())


class InstancePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual router. `entries` are all that any of its peers is told."""

    name: str
    local_asn: int
    router_id: str
    local_port: int | None = None
    listen_addresses: tuple[str, ...] = ()
    kernel: Kernel | None = None
    peers: tuple[PeerPlan, ...] = ()
    entries: tuple[Entry, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """A field that cannot be used. `source` names the object, `peer` the one that has no session for it. A waiting one is no
    error."""

    source: str
    field: str
    text: str
    instance: str = ""
    peer: str = ""
    is_waiting: bool = False

    def __str__(self) -> str:
        where = f"{self.source}: {self.field}" if self.field else self.source
        return f"{where}: {self.text}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of this node. `api` is the kind that the plan was made from, empty when nothing selects the node.

    A drained node tells its peers that its routes are about to go; an excluded one advertises no service, a leaving one
    nothing.
    """

    api: str = ""
    source: str = ""
    instances: tuple[InstancePlan, ...] = ()
    problems: tuple[Problem, ...] = ()
    is_drained: bool = False
    is_excluded: bool = False
    is_leaving: bool = False


class PlanRow(msgspec.Struct, frozen=True):
    """The one row of the table of plans."""

    plan: Plan
    key: str = "plan"


def plans() -> Table[str, PlanRow]:
    """The plan of this node."""
    return Table(
        "bgp-plan",
        lambda row: row.key,
        columns=(
            Column("SOURCE", lambda row: f"{row.plan.api}/{row.plan.source}" if row.plan.api else ""),
            Column("INSTANCES", lambda row: ", ".join(each.name for each in row.plan.instances)),
            Column("PROBLEMS", lambda row: "; ".join(map(str, row.plan.problems))),
        ),
    )
