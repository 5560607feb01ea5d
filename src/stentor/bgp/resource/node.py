"""What decisions about BGP have to know of the node: what Kubernetes says of it, and what its kernel has."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

import msgspec

from stentor.api.core import Node
from stentor.net.address import Addr
from stentor.state import Table

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


class BGPNode(msgspec.Struct, frozen=True, kw_only=True):
    """The Node object: `is_cordoned` when nothing new is scheduled to it, `is_leaving` when it is about to be gone."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    is_cordoned: bool = False
    is_leaving: bool = False

    @property
    def is_excluded(self) -> bool:
        """Whether load balancers are told to leave it out, or must because it is going."""
        return self.is_leaving or EXCLUDED in dict(self.labels)

    @property
    def is_drained(self) -> bool:
        return self.is_cordoned or self.is_leaving


class Gateway(msgspec.Struct, frozen=True):
    """Where a default route leads. `family` is that of the route; `interface` its device."""

    family: int
    addr: Addr
    interface: str
    metric: int = 0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's kernel has: default routes, and the global addresses of devices."""

    gateways: tuple[Gateway, ...] = ()
    addresses: tuple[tuple[str, tuple[Addr, ...]], ...] = ()
    key: str = "machine"

    def gateway(self, family: int) -> Gateway | None:
        """Of the default route that the kernel prefers."""
        found = [each for each in self.gateways if each.family == family]
        return min(found, key=lambda each: each.metric, default=None)

    def of_interface(self, name: str) -> tuple[Addr, ...]:
        return dict(self.addresses).get(name, ())


def node_row(node: Node) -> BGPNode:
    """Of a Node."""
    taints = {taint.key for taint in node.spec.taints}
    return BGPNode(
        name=node.metadata.name,
        labels=tuple(sorted(node.metadata.labels.items())),
        annotations=tuple(
            sorted((key, value) for key, value in node.metadata.annotations.items() if key.startswith("cilium.io/bgp-"))
        ),
        is_cordoned=node.spec.unschedulable,
        is_leaving=node.is_terminating or OUT_OF_SERVICE in taints,
    )


def default_router_id(name: str, address: Addr | None) -> str:
    """The node's IPv4 address; without one a number made of its name, as stable as that."""
    if address is not None:
        return str(address)
    digest = hashlib.sha256(name.encode()).digest()
    return str(IPv4Address(int.from_bytes(digest[:4], "big") | 1))


def nodes() -> Table[str, BGPNode]:
    """This node; one row."""
    return Table("bgp-node", lambda row: row.name)


def machines() -> Table[str, Machine]:
    """This machine; one row."""
    return Table("bgp-machine", lambda row: row.key)
