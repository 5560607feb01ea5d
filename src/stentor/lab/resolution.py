"""From a topology to a plan: names, addresses, gateways, routes, values; and every way in which they may contradict.

Pure. All problems are collected, so that one run tells them all, each with the path of its value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stentor.lab import topology as t
from stentor.lab.errors import TopologyError
from stentor.lab.plan import Cluster, Image, Machine, Manifest, Network, Plan, Port, StaticRoute
from stentor.runtime import config
from stentor.sys.netlink import IPAddress, IPInterface, IPNetwork

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CLUSTER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_LABEL_RULE = "lower case letters, digits and '-', at most 63 characters"
_POD_CIDR_KEYS = ("clusterPoolIPv4PodCIDRList", "clusterPoolIPv6PodCIDRList")
_SERVICE_CIDRS = {"ipv4": "10.96.0.0/16", "ipv6": "fd00:96::/112"}
# Values that a lab sets below the topology's: a laptop's maps, not a data centre's.
_LAB_VALUES: dict[str, Any] = {
    "bpf": dict.fromkeys(
        ("ctTcpMax", "ctAnyMax", "natMax", "policyMapMax", "lxcMapMax", "ipcacheMax", "nodeMapMax"), 32768
    )
}


def resolve(topology: t.Topology, *, name: str = "", settings: Sequence[str] = (), base: Path | None = None) -> Plan:
    """The plan of a topology, or TopologyError with everything that is wrong.

    `name` replaces metadata.name; `settings` are `a.b=c` values for every cluster; relative files are looked for beside
    `base`, the directory of the topology file, then in the working directory.
    """
    return _Resolver(topology, name or topology.metadata.name, tuple(settings), base or Path()).plan()


class _Resolver:
    """One resolution; `problems` grows while the parts are made."""

    def __init__(self, topology: t.Topology, name: str, settings: tuple[str, ...], base: Path) -> None:
        self.spec = topology.spec
        self.name = name
        self.base = base
        self.problems: list[tuple[str, str]] = []
        self.settings = self._settings(settings)
        self.networks: dict[str, Network] = {}
        self.owners: dict[tuple[str, IPAddress], str] = {}  # (network, address) → path of its first use

    def plan(self) -> Plan:
        if not _LABEL.fullmatch(self.name):
            self._problem("metadata.name", f"{self.name!r}: {_LABEL_RULE}")
        self._make_networks()
        claims = self._claim_addresses()
        machines = [*self._nodes(claims), *self._hosts(claims)]
        self._check_names()
        clusters = tuple(self._cluster(index, cluster) for index, cluster in enumerate(self.spec.clusters))
        self._check_cluster_ids(clusters)
        self._check_prefixes(clusters)
        routed = self._route(machines)
        images = {ref: self._image(ref, image) for ref, image in self.spec.images.items()}
        manifests = tuple(self._manifest(index, entry) for index, entry in enumerate(self.spec.manifests))
        if self.problems:
            raise TopologyError(self.problems)
        return Plan(self.name, tuple(self.networks.values()), routed, clusters, images, manifests)

    def _problem(self, path: str, message: str) -> None:
        self.problems.append((path, message))

    # Networks and addresses

    def _make_networks(self) -> None:
        used: list[tuple[str, IPNetwork]] = []
        for index, network in enumerate(self.spec.networks):
            path = f"spec.networks[{index}]"
            self._check_label(f"{path}.name", network.name)
            if network.name in self.networks:
                self._problem(f"{path}.name", f"{network.name!r} is the name of another network")
            cidrs = self._prefixes(f"{path}.cidrs", network.cidrs)
            for at, cidr in cidrs:
                self._check_overlap(at, cidr, used)
                used.append((at, cidr))
            self.networks[network.name] = Network(network.name, tuple(cidr for _, cidr in cidrs), network.mtu)

    def _claim_addresses(self) -> dict[str, tuple[Port, ...]]:
        """Ports by machine path. Written addresses are claimed before any is chosen for the others."""
        entries = list(self._attachments())
        written: dict[str, tuple[IPInterface, ...]] = {}
        for path, attachment in entries:
            if attachment.addresses is not None:
                written[path] = self._written_addresses(path, attachment)
        ports: dict[str, list[Port]] = {}
        for path, attachment in entries:
            machine = path[: path.rindex(".networks[")]
            addresses = written[path] if path in written else self._free_addresses(path, attachment.name)
            mine = ports.setdefault(machine, [])
            mine.append(Port(attachment.name, f"eth{len(mine)}", addresses))
        return {machine: tuple(mine) for machine, mine in ports.items()}

    def _attachments(self) -> Iterable[tuple[str, t.Attachment]]:
        for machine, attachments in self._machine_attachments():
            if not attachments:
                self._problem(f"{machine}.networks", "a machine has to be on a network")
            for index, attachment in enumerate(attachments):
                path = f"{machine}.networks[{index}]"
                if attachment.name not in self.networks:
                    known = ", ".join(self.networks)
                    self._problem(
                        f"{path}.name", f"no network {attachment.name!r} in spec.networks (there are: {known})"
                    )
                    continue
                yield path, attachment

    def _machine_attachments(self) -> Iterable[tuple[str, list[t.Attachment]]]:
        for c, cluster in enumerate(self.spec.clusters):
            for n, node in enumerate(cluster.nodes):
                yield f"spec.clusters[{c}].nodes[{n}]", node.networks
        for h, host in enumerate(self.spec.hosts):
            yield f"spec.hosts[{h}]", host.networks

    def _written_addresses(self, path: str, attachment: t.Attachment) -> tuple[IPInterface, ...]:
        found = []
        for index, text in enumerate(attachment.addresses or ()):
            at = f"{path}.addresses[{index}]"
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                self._problem(at, f"{text!r} is not an IP address (the prefix length comes from the network)")
                continue
            network = self.networks[attachment.name]
            cidr = next((c for c in network.cidrs if c.version == address.version and address in c), None)
            if cidr is None:
                cidrs = ", ".join(map(str, network.cidrs))
                self._problem(at, f"{text} is not in network {network.name} ({cidrs})")
            elif cidr.num_addresses > 2 and _is_reserved(address, cidr):
                self._problem(at, f"{text} is the network or broadcast address of {cidr}")
            elif owner := self.owners.get((network.name, address)):
                self._problem(at, f"{text} is already used by {owner}")
            else:
                self.owners[network.name, address] = at
                found.append(ipaddress.ip_interface(f"{address}/{cidr.prefixlen}"))
        return tuple(found)

    def _free_addresses(self, path: str, network_name: str) -> tuple[IPInterface, ...]:
        found = []
        for cidr in self.networks[network_name].cidrs:
            # .1 is left to routers, whose addresses people write down.
            candidates = (cidr[offset] for offset in range(2, min(cidr.num_addresses - 1, 1 << 16)))
            address = next((a for a in candidates if (network_name, a) not in self.owners), None)
            if address is None:
                self._problem(path, f"network {network_name} has no free address in {cidr}")
                continue
            self.owners[network_name, address] = path
            found.append(ipaddress.ip_interface(f"{address}/{cidr.prefixlen}"))
        return tuple(found)

    # Machines

    def _nodes(self, claims: dict[str, tuple[Port, ...]]) -> Iterable[Machine]:
        for c, cluster in enumerate(self.spec.clusters):
            identity = {"cluster": {"name": cluster.name, "id": self._cluster_id(c, cluster)}}
            for n, node in enumerate(cluster.nodes):
                path = f"spec.clusters[{c}].nodes[{n}]"
                own = config.merge(config.merge(self._cluster_values(cluster), node.values), self.settings)
                values = config.merge(own, identity)
                self._check_values(f"spec.clusters[{c}]", f"nodes[{n}].", cluster, node, values)
                ports = claims.get(path, ())
                if ports and not any(port.addresses for port in ports):
                    self._problem(f"{path}.networks[0].addresses", "a node needs an address")
                yield Machine(node.name, ports, (), cluster.name, True, node.labels, values)

    def _hosts(self, claims: dict[str, tuple[Port, ...]]) -> Iterable[Machine]:
        for h, host in enumerate(self.spec.hosts):
            path = f"spec.hosts[{h}]"
            for file in host.files:
                self._check_file(f"{path}.files[{file}]", file)
            for r, argv in enumerate(host.run):
                if not argv or not argv[0]:
                    self._problem(f"{path}.run[{r}]", "a command is a list with a program's name first")
            run = tuple(tuple(argv) for argv in host.run)
            yield Machine(host.name, claims.get(path, ()), (), "", host.forward, files=host.files, run=run)

    def _check_file(self, path: str, file: str) -> None:
        parts = Path(file).parts
        if not file.startswith("/") or ".." in parts or file.endswith("/"):
            self._problem(path, "a file's path is absolute and without '..'")
        elif len(parts) < 3 or not Path("/", parts[1]).is_dir():
            self._problem(
                path, f"/{parts[1] if len(parts) > 1 else ''} is no directory here: a machine has the same top level"
            )
        elif parts[1] in ("proc", "sys", "dev"):
            self._problem(path, f"/{parts[1]} is the kernel's: no file can be made there")

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for path, name in self._machine_names():
            self._check_label(path, name)
            if name in seen:
                self._problem(path, f"{name!r} is already the name of {seen[name]}")
            seen.setdefault(name, path.removesuffix(".name"))
        clusters: set[str] = set()
        for c, cluster in enumerate(self.spec.clusters):
            path = f"spec.clusters[{c}].name"
            if not _CLUSTER_NAME.fullmatch(cluster.name):
                self._problem(path, f"{cluster.name!r}: lower case letters, digits and '-', at most 32 characters")
            if cluster.name in clusters:
                self._problem(path, f"{cluster.name!r} is the name of another cluster")
            clusters.add(cluster.name)

    def _machine_names(self) -> Iterable[tuple[str, str]]:
        for c, cluster in enumerate(self.spec.clusters):
            for n, node in enumerate(cluster.nodes):
                yield f"spec.clusters[{c}].nodes[{n}].name", node.name
        for h, host in enumerate(self.spec.hosts):
            yield f"spec.hosts[{h}].name", host.name

    def _check_label(self, path: str, name: str) -> None:
        if not _LABEL.fullmatch(name):
            self._problem(path, f"{name!r}: {_LABEL_RULE}")

    # Values

    def _settings(self, settings: tuple[str, ...]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for setting in settings:
            try:
                tree = config.merge(tree, config.parse_setting(setting))
            except config.ConfigError as e:
                self._problem("--set", str(e))
        return tree

    def _cluster_values(self, cluster: t.Cluster) -> dict[str, Any]:
        """The lab's defaults and the cluster's own; an IP family is on if a network carries it."""
        carried = {cidr.version for network in self.networks.values() for cidr in network.cidrs}
        families = {f"ipv{version}": {"enabled": version in carried} for version in (4, 6)}
        return config.merge(config.merge(_LAB_VALUES, families), cluster.values)

    def _check_values(
        self, cluster_path: str, node_path: str, cluster: t.Cluster, node: t.Node, values: dict[str, Any]
    ) -> None:
        """Blames the innermost part that holds the wrong key; a fault of the cluster is told once."""
        try:
            config.parse(values)
        except config.ConfigError as e:
            holders = ((node.values, f"{cluster_path}.{node_path}values"), (self.settings, "--set"))
            holder = next((path for tree, path in holders if _has(tree, e.key)), f"{cluster_path}.values")
            problem = (f"{holder}.{e.key}" if e.key else holder, e.problem)
            if not e.key.startswith("cluster.") and problem not in self.problems:
                self.problems.append(problem)

    # Clusters

    def _cluster_id(self, index: int, cluster: t.Cluster) -> int:
        if cluster.id is not None:
            return cluster.id
        return 0 if len(self.spec.clusters) == 1 else index + 1

    def _cluster(self, index: int, cluster: t.Cluster) -> Cluster:
        path = f"spec.clusters[{index}]"
        names = tuple(node.name for node in cluster.nodes)
        control_plane = cluster.control_plane if cluster.control_plane is not None else names[0]
        if control_plane not in names:
            self._problem(f"{path}.controlPlane", f"{control_plane!r} is no node of this cluster")
        for key in ("name", "id"):
            if _has(cluster.values, f"cluster.{key}"):
                self._problem(f"{path}.values.cluster.{key}", f"comes from {path}.{key}: leave it out here")
        values = config.merge(self._cluster_values(cluster), self.settings)
        defaults = [cidr for family, cidr in _SERVICE_CIDRS.items() if _is_enabled(values, family)]
        texts = cluster.service_cidrs or defaults
        cidrs = [cidr for at, cidr in self._prefixes(f"{path}.serviceCIDRs", texts)]
        if len({cidr.version for cidr in cidrs}) != len(cidrs):
            self._problem(f"{path}.serviceCIDRs", "at most one prefix of each family")
        for n, cidr in enumerate(cidrs):
            if cidr.num_addresses < 16:
                self._problem(f"{path}.serviceCIDRs[{n}]", f"{cidr} has fewer than 16 addresses")
                return Cluster(cluster.name, 0, control_plane, names, ())
        return Cluster(cluster.name, self._cluster_id(index, cluster), control_plane, names, tuple(cidrs))

    def _check_cluster_ids(self, clusters: tuple[Cluster, ...]) -> None:
        seen: dict[int, str] = {}
        for index, cluster in enumerate(clusters):
            if cluster.id and cluster.id in seen:
                self._problem(f"spec.clusters[{index}].id", f"{cluster.id} is the id of {seen[cluster.id]} too")
            seen[cluster.id] = cluster.name

    def _check_prefixes(self, clusters: tuple[Cluster, ...]) -> None:
        """Networks, services and written pod CIDRs; upstream's default pod CIDR, 10.0.0.0/8, may cover anything."""
        networks = [
            (f"spec.networks[{n}].cidrs", cidr) for n, net in enumerate(self.networks.values()) for cidr in net.cidrs
        ]
        for index, cluster in enumerate(clusters):
            for n, cidr in enumerate(cluster.service_cidrs):
                self._check_overlap(f"spec.clusters[{index}].serviceCIDRs[{n}]", cidr, networks)
        used = list(networks)
        for path, cidr in self._pod_cidrs():
            self._check_overlap(path, cidr, used)
            used.append((path, cidr))

    def _pod_cidrs(self) -> Iterable[tuple[str, IPNetwork]]:
        for index, cluster in enumerate(self.spec.clusters):
            pool = cluster.values
            for step in ("ipam", "operator"):
                below = pool.get(step, {})
                pool = below if isinstance(below, dict) else {}
            for key in _POD_CIDR_KEYS:
                texts = pool.get(key, [])
                for n, text in enumerate(texts if isinstance(texts, list) else ()):
                    try:  # a wrong prefix is already told by the check of the values
                        cidr = ipaddress.ip_network(text)
                    except ValueError:
                        continue
                    yield f"spec.clusters[{index}].values.ipam.operator.{key}[{n}]", cidr

    # Routes

    def _route(self, machines: list[Machine]) -> tuple[Machine, ...]:
        routers = [
            (machine, port)
            for machine in machines
            if machine.forward and not machine.cluster
            for port in machine.ports
            if port.addresses
        ]
        written = self._written_routes({m.name: m for m in machines})
        routed = []
        for machine in machines:
            own = written.get(machine.name, [])
            defaults = {route.destination.version for route in own if route.destination.prefixlen == 0}
            gateways = [g for g in _gateways(machine, routers) if g.version not in defaults]
            automatic = [StaticRoute(_everything(gateway), gateway) for gateway in gateways]
            routed.append(msgspec.structs.replace(machine, routes=tuple(own + automatic)))
        return tuple(routed)

    def _written_routes(self, machines: dict[str, Machine]) -> dict[str, list[StaticRoute]]:
        routes: dict[str, list[StaticRoute]] = {}
        for index, route in enumerate(self.spec.routes):
            path = f"spec.routes[{index}]"
            machine = machines.get(route.machine)
            if machine is None:
                self._problem(f"{path}.machine", f"there is no machine {route.machine!r}")
                continue
            try:
                via = ipaddress.ip_address(route.via)
            except ValueError:
                self._problem(f"{path}.via", f"{route.via!r} is not an IP address")
                continue
            if not any(via in a.network for port in machine.ports for a in port.addresses if a.version == via.version):
                self._problem(f"{path}.via", f"{via} is on no network of {machine.name}")
            if route.to == "default":
                destination = _everything(via)
            else:
                parsed = self._prefixes(f"{path}.to", [route.to])
                if not parsed:
                    continue
                destination = parsed[0][1]
            if destination.version != via.version:
                self._problem(f"{path}.via", f"{via} is not of the family of {destination}")
            mine = routes.setdefault(machine.name, [])
            if any(other.destination == destination for other in mine):
                self._problem(f"{path}.to", f"{machine.name} has another route to {route.to}")
            mine.append(StaticRoute(destination, via))
        return routes

    # Images, manifests

    def _image(self, ref: str, image: t.Image) -> Image:
        path = f"spec.images[{ref}]"
        if (image.command is None) == (image.rootfs is None):
            self._problem(path, "an image has either command or rootfs")
        if image.command is not None and not image.command:
            self._problem(f"{path}.command", "is empty")
        rootfs = self._file(f"{path}.rootfs", image.rootfs, directory=True) if image.rootfs is not None else ""
        return Image(tuple(image.command or ()), rootfs)

    def _manifest(self, index: int, entry: str | t.Manifest) -> Manifest:
        path = f"spec.manifests[{index}]"
        names = tuple(cluster.name for cluster in self.spec.clusters)
        if isinstance(entry, str):
            return Manifest(self._file(path, entry), names)
        if entry.cluster not in names:
            self._problem(f"{path}.cluster", f"there is no cluster {entry.cluster!r}")
        return Manifest(self._file(f"{path}.file", entry.file), (entry.cluster,))

    def _file(self, path: str, name: str, *, directory: bool = False) -> str:
        for candidate in (self.base / name, Path(name)):
            if candidate.is_dir() if directory else candidate.is_file():
                return str(candidate.resolve())
        self._problem(path, f"no {'directory' if directory else 'file'} {name}")
        return ""

    # Prefixes

    def _prefixes(self, path: str, texts: Sequence[str]) -> list[tuple[str, IPNetwork]]:
        found = []
        for index, text in enumerate(texts):
            at = path if path.endswith(".to") else f"{path}[{index}]"
            try:
                found.append((at, ipaddress.ip_network(text)))
            except ValueError as e:
                self._problem(at, str(e))
        return found

    def _check_overlap(self, path: str, cidr: IPNetwork, used: Iterable[tuple[str, IPNetwork]]) -> None:
        for where, other in used:
            if _overlap(cidr, other):
                self._problem(path, f"{cidr} overlaps {other} of {where}")
                return


def _gateways(machine: Machine, routers: list[tuple[Machine, Port]]) -> Iterable[IPAddress]:
    """The only forwarding host on the machine's first network, per family; none when there are several."""
    if not machine.ports:
        return
    first = machine.ports[0].network
    for version in (4, 6):
        near = [
            (router, address.ip)
            for router, port in routers
            if port.network == first
            for address in port.addresses
            if address.version == version
        ]
        if len({router.name for router, _ in near}) == 1 and near[0][0].name != machine.name:
            yield near[0][1]


def _everything(address: IPAddress) -> IPNetwork:
    return ipaddress.ip_network("0.0.0.0/0" if address.version == 4 else "::/0")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False


def _is_reserved(address: IPAddress, cidr: IPNetwork) -> bool:
    return address == cidr.network_address or (cidr.version == 4 and address == cidr.broadcast_address)


def _is_enabled(values: dict[str, Any], family: str) -> bool:
    section = values[family]
    return isinstance(section, dict) and section.get("enabled") is True


def _has(tree: Any, key: str) -> bool:
    """Whether the dotted key, without its list positions, is in the tree of values."""
    for step in re.sub(r"\[\d+\]", "", key).split("."):
        if not isinstance(tree, dict) or step not in tree:
            return False
        tree = tree[step]
    return True
