"""What a topology comes to: machines with ports, addresses, gateways and routes; clusters with their values.

Pure: from a `Topology` to a `Plan`, or to a TopologyError that lists every problem with its path. Nothing is created here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stentor.sys.netlink import IPAddress, IPInterface, IPNetwork


class Port(msgspec.Struct, frozen=True):
    """A machine's place on a network; `interface` is its name inside the machine."""

    network: str
    interface: str
    addresses: tuple[IPInterface, ...]


class StaticRoute(msgspec.Struct, frozen=True):
    """A default route is one to 0.0.0.0/0 or ::/0."""

    destination: IPNetwork
    gateway: IPAddress


class Machine(msgspec.Struct, frozen=True):
    """A node or a host; `cluster` is empty for a host."""

    name: str
    ports: tuple[Port, ...]
    routes: tuple[StaticRoute, ...]
    cluster: str = ""
    forward: bool = False
    labels: dict[str, str] = {}
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    run: tuple[tuple[str, ...], ...] = ()

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Of all ports; a node's InternalIPs are the first of each family."""
        return tuple(address.ip for port in self.ports for address in port.addresses)

    @property
    def node_addresses(self) -> tuple[IPAddress, ...]:
        """The first address of each family, IPv4 first."""
        first = {a.version: a for a in reversed(self.addresses)}
        return tuple(first[version] for version in sorted(first))


class Network(msgspec.Struct, frozen=True):
    """An Ethernet segment; `mtu` in bytes."""

    name: str
    cidrs: tuple[IPNetwork, ...]
    mtu: int


class Cluster(msgspec.Struct, frozen=True):
    """A cluster; the first service CIDR is that of the primary family."""

    name: str
    id: int
    control_plane: str
    nodes: tuple[str, ...]
    service_cidrs: tuple[IPNetwork, ...]

    @property
    def api_addresses(self) -> tuple[IPAddress, ...]:
        """Of the Service `kubernetes`: the first address of each service CIDR."""
        return tuple(cidr[1] for cidr in self.service_cidrs)

    @property
    def dns_addresses(self) -> tuple[IPAddress, ...]:
        """Of the Service `kube-dns`: the tenth address of each service CIDR."""
        return tuple(cidr[10] for cidr in self.service_cidrs)


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image of the topology: a command on the host, or an absolute directory as root."""

    command: tuple[str, ...] = ()
    rootfs: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """A file with the clusters that it is applied to."""

    path: str
    clusters: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True):
    """All of a lab, resolved and checked: whatever reads it need not doubt it."""

    name: str
    networks: tuple[Network, ...]
    machines: tuple[Machine, ...]
    clusters: tuple[Cluster, ...]
    images: dict[str, Image]
    manifests: tuple[Manifest, ...]

    def machine(self, name: str) -> Machine:
        """KeyError if there is none."""
        return next(m for m in self.machines if m.name == name)

    def cluster(self, name: str) -> Cluster:
        return next(c for c in self.clusters if c.name == name)
