"""From a topology to a plan: names, addresses, gateways, routes, values; and every way in which they may contradict.

Pure. All problems are collected, so that one run tells them all, each with the path of its value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stentor.lab import routing
from stentor.lab import topology as t
from stentor.lab.addressing import Addressing
from stentor.lab.errors import TopologyError
from stentor.lab.plan import Cluster, Image, Machine, Manifest, Plan
from stentor.lab.problem import Problems
from stentor.runtime import config
from stentor.sys.netlink import IPNetwork

_POD_CIDR_KEYS = ("clusterPoolIPv4PodCIDRList", "clusterPoolIPv6PodCIDRList")
_SERVICE_CIDRS = {"ipv4": "10.96.0.0/16", "ipv6": "fd00:96::/112"}
# Values that a lab sets below the topology's: a laptop's maps, not a data centre's.
_LAB_VALUES: dict[str, Any] = {
    "bpf": dict.fromkeys(("ctTcpMax", "ctAnyMax", "natMax", "lxcMapMax", "ipcacheMax", "nodeMapMax"), 32768)
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
        self.problems = Problems()
        self.settings = self._settings(settings)
        self.addressing = Addressing(self.spec, self.problems)

    def plan(self) -> Plan:
        self.problems.check_label("metadata.name", self.name)
        machines = [*self._nodes(), *self._hosts()]
        self._check_names()
        clusters = tuple(self._cluster(index, cluster) for index, cluster in enumerate(self.spec.clusters))
        self._check_cluster_ids(clusters)
        self._check_prefixes(clusters)
        routed = routing.route(machines, self.spec.routes, self.problems)
        images = {ref: self._image(ref, image) for ref, image in self.spec.images.items()}
        manifests = tuple(self._manifest(index, entry) for index, entry in enumerate(self.spec.manifests))
        if self.problems:
            raise TopologyError(self.problems)
        return Plan(self.name, tuple(self.addressing.networks.values()), routed, clusters, images, manifests)

    # Machines

    def _nodes(self) -> Iterable[Machine]:
        for c, cluster in enumerate(self.spec.clusters):
            identity = {"cluster": {"name": cluster.name, "id": self._cluster_id(c, cluster)}}
            for n, node in enumerate(cluster.nodes):
                path = f"spec.clusters[{c}].nodes[{n}]"
                own = config.merge(config.merge(self._cluster_values(cluster), node.values), self.settings)
                values = config.merge(own, identity)
                self._check_values(f"spec.clusters[{c}]", f"nodes[{n}].", cluster, node, values)
                ports = self.addressing.ports.get(path, ())
                if ports and not any(port.addresses for port in ports):
                    self.problems.add(f"{path}.networks[0].addresses", "a node needs an address")
                yield Machine(node.name, ports, (), cluster.name, True, node.labels, values)

    def _hosts(self) -> Iterable[Machine]:
        for h, host in enumerate(self.spec.hosts):
            path = f"spec.hosts[{h}]"
            for file in host.files:
                self._check_file(f"{path}.files[{file}]", file)
            for r, argv in enumerate(host.run):
                if not argv or not argv[0]:
                    self.problems.add(f"{path}.run[{r}]", "a command is a list with a program's name first")
            run = tuple(tuple(argv) for argv in host.run)
            yield Machine(
                host.name, self.addressing.ports.get(path, ()), (), "", host.forward, files=host.files, run=run
            )

    def _check_file(self, path: str, file: str) -> None:
        parts = Path(file).parts
        if not file.startswith("/") or ".." in parts or file.endswith("/"):
            self.problems.add(path, "a file's path is absolute and without '..'")
        elif len(parts) < 3 or not Path("/", parts[1]).is_dir():
            self.problems.add(
                path, f"/{parts[1] if len(parts) > 1 else ''} is no directory here: a machine has the same top level"
            )
        elif parts[1] in ("proc", "sys", "dev"):
            self.problems.add(path, f"/{parts[1]} is the kernel's: no file can be made there")

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for path, name in self._machine_names():
            self.problems.check_label(path, name)
            if name in seen:
                self.problems.add(path, f"{name!r} is already the name of {seen[name]}")
            seen.setdefault(name, path.removesuffix(".name"))
        clusters: set[str] = set()
        for c, cluster in enumerate(self.spec.clusters):
            path = f"spec.clusters[{c}].name"
            try:
                config.check_cluster_name(cluster.name)
            except config.ConfigError as e:
                self.problems.add(path, e.problem)
            if cluster.name in clusters:
                self.problems.add(path, f"{cluster.name!r} is the name of another cluster")
            clusters.add(cluster.name)

    def _machine_names(self) -> Iterable[tuple[str, str]]:
        for c, cluster in enumerate(self.spec.clusters):
            for n, node in enumerate(cluster.nodes):
                yield f"spec.clusters[{c}].nodes[{n}].name", node.name
        for h, host in enumerate(self.spec.hosts):
            yield f"spec.hosts[{h}].name", host.name

    # Values

    def _settings(self, settings: tuple[str, ...]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for setting in settings:
            try:
                tree = config.merge(tree, config.parse_setting(setting))
            except config.ConfigError as e:
                self.problems.add("", str(e))
        for key in ("name", "id"):
            if _has(tree, f"cluster.{key}"):
                self.problems.add(f"--set cluster.{key}", f"comes from spec.clusters[].{key} of the topology")
        return tree

    def _cluster_values(self, cluster: t.Cluster) -> dict[str, Any]:
        """The lab's defaults and the cluster's own; an IP family is on if a network carries it."""
        families = {f"ipv{version}": {"enabled": version in self.addressing.families} for version in (4, 6)}
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
            if not e.key.startswith("cluster."):  # that is told with its own path
                separator = " " if holder == "--set" else "."
                self.problems.add(f"{holder}{separator}{e.key}" if e.key else holder, e.problem)

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
            self.problems.add(f"{path}.controlPlane", f"{control_plane!r} is no node of this cluster")
        for key in ("name", "id"):
            if _has(cluster.values, f"cluster.{key}"):
                self.problems.add(f"{path}.values.cluster.{key}", f"comes from {path}.{key}: leave it out here")
        values = config.merge(self._cluster_values(cluster), self.settings)
        defaults = [cidr for family, cidr in _SERVICE_CIDRS.items() if _is_enabled(values, family)]
        texts = cluster.service_cidrs or defaults
        cidrs = [cidr for at, cidr in self.problems.prefixes(f"{path}.serviceCIDRs", texts)]
        if len({cidr.version for cidr in cidrs}) != len(cidrs):
            self.problems.add(f"{path}.serviceCIDRs", "at most one prefix of each family")
        for n, cidr in enumerate(cidrs):
            if cidr.num_addresses < 16:
                self.problems.add(f"{path}.serviceCIDRs[{n}]", f"{cidr} has fewer than 16 addresses")
                return Cluster(cluster.name, 0, control_plane, names, ())
        return Cluster(cluster.name, self._cluster_id(index, cluster), control_plane, names, tuple(cidrs))

    def _check_cluster_ids(self, clusters: tuple[Cluster, ...]) -> None:
        seen: dict[int, str] = {}
        for index, cluster in enumerate(clusters):
            if cluster.id and cluster.id in seen:
                self.problems.add(f"spec.clusters[{index}].id", f"{cluster.id} is the id of {seen[cluster.id]} too")
            seen[cluster.id] = cluster.name

    def _check_prefixes(self, clusters: tuple[Cluster, ...]) -> None:
        """Networks, services and written pod CIDRs; upstream's default pod CIDR, 10.0.0.0/8, may cover anything."""
        networks = [
            (f"spec.networks[{n}].cidrs", cidr)
            for n, net in enumerate(self.addressing.networks.values())
            for cidr in net.cidrs
        ]
        for index, cluster in enumerate(clusters):
            for n, cidr in enumerate(cluster.service_cidrs):
                self.problems.check_overlap(f"spec.clusters[{index}].serviceCIDRs[{n}]", cidr, networks)
        used = list(networks)
        for path, cidr in self._pod_cidrs():
            self.problems.check_overlap(path, cidr, used)
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

    # Images, manifests

    def _image(self, ref: str, image: t.Image) -> Image:
        path = f"spec.images[{ref}]"
        if (image.command is None) == (image.rootfs is None):
            self.problems.add(path, "an image has either command or rootfs")
        if image.command is not None and not image.command:
            self.problems.add(f"{path}.command", "is empty")
        rootfs = self._file(f"{path}.rootfs", image.rootfs, directory=True) if image.rootfs is not None else ""
        return Image(tuple(image.command or ()), rootfs)

    def _manifest(self, index: int, entry: str | t.Manifest) -> Manifest:
        path = f"spec.manifests[{index}]"
        names = tuple(cluster.name for cluster in self.spec.clusters)
        if isinstance(entry, str):
            return Manifest(self._file(path, entry), names)
        if entry.cluster not in names:
            self.problems.add(f"{path}.cluster", f"there is no cluster {entry.cluster!r}")
        return Manifest(self._file(f"{path}.file", entry.file), (entry.cluster,))

    def _file(self, path: str, name: str, *, directory: bool = False) -> str:
        for candidate in (self.base / name, Path(name)):
            if candidate.is_dir() if directory else candidate.is_file():
                return str(candidate.resolve())
        self.problems.add(path, f"no {'directory' if directory else 'file'} {name}")
        return ""


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
