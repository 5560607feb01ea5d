"""The configuration: Helm-style values under upstream's names, one typed schema.

Loaded from YAML and ``--set a.b=c``; an unknown key or a wrong value is an error that names the key and the nearest known one.
Defaults are upstream's except where docs/configuration.md says otherwise.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import yaml

from stentor.net.address import Prefix
from stentor.runtime.duration import parse_duration_s


class ConfigError(ValueError):
    """A value that cannot be used; `key` is its dotted path."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class Section(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A level of the tree."""


class Cluster(Section, frozen=True):
    name: str = "default"
    id: int = 0


class IPFamily(Section, frozen=True):
    enabled: bool = True


class IPv6Family(Section, frozen=True):
    enabled: bool = False


class IPAMOperator(Section, frozen=True):
    cluster_pool_ipv4_pod_cidr_list: tuple[str, ...] = msgspec.field(
        default=("10.0.0.0/8",), name="clusterPoolIPv4PodCIDRList"
    )
    cluster_pool_ipv4_mask_size: int = msgspec.field(default=24, name="clusterPoolIPv4MaskSize")
    cluster_pool_ipv6_pod_cidr_list: tuple[str, ...] = msgspec.field(
        default=("fd00::/104",), name="clusterPoolIPv6PodCIDRList"
    )
    cluster_pool_ipv6_mask_size: int = msgspec.field(default=120, name="clusterPoolIPv6MaskSize")


class IPAM(Section, frozen=True):
    mode: Literal["cluster-pool", "kubernetes"] = "cluster-pool"
    operator: IPAMOperator = IPAMOperator()


class BPF(Section, frozen=True):
    masquerade: bool = True
    datapath_mode: Literal["veth"] = "veth"
    enable_tcx: bool = msgspec.field(default=True, name="enableTCX")
    host_legacy_routing: bool = False
    map_dynamic_size_ratio: float = 0.0025
    ct_tcp_max: int = 524288
    ct_any_max: int = 262144
    nat_max: int = 524288
    policy_map_max: int = 16384
    lxc_map_max: int = 65535
    ipcache_max: int = 512000
    node_map_max: int = 16384
    frag_map_max: int = 8192
    lb_map_max: int = 65536
    lb_external_cluster_ip: bool = msgspec.field(default=False, name="lbExternalClusterIP")
    lb_algorithm_annotation: bool = False
    lb_source_range_all_types: bool = False


class LoadBalancer(Section, frozen=True):
    algorithm: Literal["random", "maglev"] = "random"
    mode: Literal["snat"] = "snat"
    acceleration: Literal["disabled", "native", "best-effort"] = "disabled"
    dsr_dispatch: Literal["opt"] = "opt"
    service_topology: bool = False


class Maglev(Section, frozen=True):
    table_size: int = 16381
    hash_seed: str = "JLfvgnHc2kaSUFaI"


class NodePort(Section, frozen=True):
    range: str = "30000,32767"
    addresses: tuple[str, ...] = ()
    bind_protection: bool = True
    enable_health_check: bool = True


class SocketLB(Section, frozen=True):
    enabled: bool = True
    host_namespace_only: bool = False
    terminate_pod_connections: bool = True


class K8s(Section, frozen=True):
    service_proxy_name: str = ""


class Prometheus(Section, frozen=True):
    enabled: bool = True
    port: int = 9962


class Operator(Section, frozen=True):
    prometheus: Prometheus = Prometheus(port=9963)
    replicas: int = 1
    identity_gc_interval: str = msgspec.field(default="15m", name="identityGCInterval")
    endpoint_gc_interval: str = msgspec.field(default="5m", name="endpointGCInterval")


class SecretsNamespace(Section, frozen=True):
    create: bool = False
    name: str = "kube-system"


class StatusReport(Section, frozen=True):
    enabled: bool = True


class RouterIDAllocation(Section, frozen=True):
    mode: Literal["default", "ip-pool"] = "default"
    ip_pool: str = ""


class BGPControlPlane(Section, frozen=True):
    enabled: bool = False
    secrets_namespace: SecretsNamespace = SecretsNamespace()
    status_report: StatusReport = StatusReport()
    router_id_allocation: RouterIDAllocation = msgspec.field(default=RouterIDAllocation(), name="routerIDAllocation")


class L2Announcements(Section, frozen=True):
    enabled: bool = False
    lease_duration: str = "15s"
    lease_renew_deadline: str = "5s"
    lease_retry_period: str = "2s"


class ExternalIPs(Section, frozen=True):
    enabled: bool = False


class CNI(Section, frozen=True):
    exclusive: bool = True
    log_file: str = "/var/run/cilium/cilium-cni.log"


class Debug(Section, frozen=True):
    enabled: bool = False


class ClusterMesh(Section, frozen=True):
    max_connected_clusters: int = 255
    use_api_server: bool = msgspec.field(default=False, name="useAPIServer")


class Values(Section, frozen=True):
    """The whole tree. Every field is documented in docs/configuration.md."""

    cluster: Cluster = Cluster()
    ipv4: IPFamily = IPFamily()
    ipv6: IPv6Family = IPv6Family()
    ipam: IPAM = IPAM()
    bpf: BPF = BPF()
    routing_mode: Literal["tunnel"] = "tunnel"
    tunnel_protocol: Literal["vxlan"] = "vxlan"
    tunnel_port: int = 8472
    mtu: int = msgspec.field(default=0, name="MTU")
    devices: tuple[str, ...] = ()
    kube_proxy_replacement: bool = True
    kube_proxy_replacement_healthz_bind_addr: str = ""
    load_balancer: LoadBalancer = LoadBalancer()
    maglev: Maglev = Maglev()
    node_port: NodePort = NodePort()
    socket_lb: SocketLB = msgspec.field(default=SocketLB(), name="socketLB")
    service_no_backend_response: Literal["reject", "drop"] = "reject"
    k8s: K8s = K8s()
    bgp_control_plane: BGPControlPlane = BGPControlPlane()
    default_lb_service_ipam: Literal["lbipam", "none"] = msgspec.field(default="lbipam", name="defaultLBServiceIPAM")
    l2announcements: L2Announcements = L2Announcements()
    external_ips: ExternalIPs = msgspec.field(default=ExternalIPs(), name="externalIPs")
    enable_ipv4_masquerade: bool = msgspec.field(default=True, name="enableIPv4Masquerade")
    enable_ipv6_masquerade: bool = msgspec.field(default=True, name="enableIPv6Masquerade")
    ipv4_native_routing_cidr: str = msgspec.field(default="", name="ipv4NativeRoutingCIDR")
    ipv6_native_routing_cidr: str = msgspec.field(default="", name="ipv6NativeRoutingCIDR")
    labels: str = ""
    policy_enforcement_mode: Literal["default", "always", "never"] = "default"
    identity_change_grace_period: str = "5s"
    cni: CNI = CNI()
    prometheus: Prometheus = Prometheus()
    operator: Operator = Operator()
    clustermesh: ClusterMesh = ClusterMesh()
    debug: Debug = Debug()


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CLUSTER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


def load(
    files: Iterable[str | Path] = (), settings: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> Values:
    """Values from YAML files, later ones over earlier ones, then ``a.b=c`` settings. ConfigError names the wrong key."""
    tree: dict[str, Any] = dict(base or {})
    for file in files:
        tree = merge(tree, read_yaml(Path(file)))
    for setting in settings:
        tree = merge(tree, parse_setting(setting))
    return parse(tree)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping; ConfigError with the file's name and line when it is not one."""
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("", f"{path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError("", f"{path}: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError("", f"{path}: values are a mapping, not {type(loaded).__name__}")
    return loaded


def parse_setting(text: str) -> dict[str, Any]:
    """One ``a.b=c`` as a tree; the value is read as YAML (``true``, ``3``, ``[a, b]``)."""
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError("", f"--set {text!r} is not of the form a.b=c")
    try:
        tree: Any = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(path, f"{value!r} is not YAML: {error}") from error
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, level by level; lists and scalars replace."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse(tree: Mapping[str, Any]) -> Values:
    """A tree as typed, checked values."""
    known = list(paths(Values))
    for path in _unknown(tree, Values, ""):
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        raise ConfigError(path, "unknown key" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        values = msgspec.convert(tree, Values)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        key = where.strip(".`")
        choices = _choices(key)
        raise ConfigError(key, f"{problem}; it is one of {', '.join(choices)}" if choices else problem) from error
    check(values)
    return values


def paths(section: type[msgspec.Struct], above: str = "") -> Iterator[str]:
    """Dotted paths of every key of the schema."""
    for field in msgspec.structs.fields(section):
        path = above + field.encode_name
        yield path
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from paths(field.type, path + ".")


def _unknown(tree: Mapping[str, Any], section: type[msgspec.Struct], above: str) -> Iterator[str]:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(section)}
    for key, value in tree.items():
        if key not in fields:
            yield f"{above}{key}"
        elif isinstance(value, Mapping) and isinstance(fields[key], type) and issubclass(fields[key], msgspec.Struct):
            yield from _unknown(value, fields[key], f"{above}{key}.")


def _choices(path: str) -> tuple[str, ...]:
    """What a key of a closed set may be; empty for every other key."""
    kind: Any = Values
    for name in path.split("."):
        kind = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}.get(name)
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            break
    return get_args(kind) if get_origin(kind) is Literal else ()


def check(values: Values) -> None:
    """What types cannot say; raises ConfigError for the first thing wrong."""
    check_cluster_name(values.cluster.name)
    most = values.clustermesh.max_connected_clusters
    if most not in (255, 511):
        raise ConfigError("clustermesh.maxConnectedClusters", f"{most}: 255 or 511")
    if not 0 <= values.cluster.id <= most:
        raise ConfigError("cluster.id", f"{values.cluster.id}: from 0 to {most}")
    if not (values.ipv4.enabled or values.ipv6.enabled):
        raise ConfigError("ipv4.enabled", "at least one of ipv4.enabled and ipv6.enabled has to be true")
    if not values.bpf.masquerade and (values.enable_ipv4_masquerade or values.enable_ipv6_masquerade):
        raise ConfigError("bpf.masquerade", "false is refused while masquerading is on: there is no iptables mode")
    if not values.kube_proxy_replacement:
        raise ConfigError("kubeProxyReplacement", "false is refused: there is no other proxy")
    for name, rows in msgspec.to_builtins(values.bpf).items():
        if name.endswith("Max") and rows < 1:
            raise ConfigError(f"bpf.{name}", f"{rows}: at least 1")
    _check_pools(values)
    _check_services(values)
    _check_texts(values)
    _check_announcements(values)
    _check_bgp(values)
    for name, port in (
        ("tunnelPort", values.tunnel_port),
        ("prometheus.port", values.prometheus.port),
        ("operator.prometheus.port", values.operator.prometheus.port),
    ):
        if not 0 < port < 65536:
            raise ConfigError(name, f"{port}: from 1 to 65535")


def check_cluster_name(name: str) -> None:
    """Upstream's rule; ConfigError."""
    if not _CLUSTER_NAME.fullmatch(name):
        raise ConfigError("cluster.name", f"{name!r}: lower case letters, digits and '-', at most 32 characters")


MAGLEV_SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
"""Primes that upstream accepts as `maglev.tableSize`."""


def node_port_range(text: str) -> tuple[int, int]:
    """First and last of ``30000,32767``; ValueError."""
    first, comma, last = text.partition(",")
    if not (comma and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ValueError(f"{text!r} is not of the form 30000,32767")
    if not 0 < int(first) <= int(last) < 65536:
        raise ValueError(f"{text!r} is no range of ports")
    return int(first), int(last)


def bind_address(text: str) -> tuple[str, int]:
    """Host and port of ``0.0.0.0:10256`` or ``[::]:10256``; ValueError."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not of the form ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _check_texts(values: Values) -> None:
    """Texts with a form of their own; an empty one means that the setting is off."""
    checks: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("identityChangeGracePeriod", values.identity_change_grace_period, parse_duration_s),
        ("operator.identityGCInterval", values.operator.identity_gc_interval, parse_duration_s),
        ("operator.endpointGCInterval", values.operator.endpoint_gc_interval, parse_duration_s),
        ("l2announcements.leaseDuration", values.l2announcements.lease_duration, parse_duration_s),
        ("l2announcements.leaseRenewDeadline", values.l2announcements.lease_renew_deadline, parse_duration_s),
        ("l2announcements.leaseRetryPeriod", values.l2announcements.lease_retry_period, parse_duration_s),
        ("ipv4NativeRoutingCIDR", values.ipv4_native_routing_cidr, partial(IPv4Network, strict=False)),
        ("ipv6NativeRoutingCIDR", values.ipv6_native_routing_cidr, partial(IPv6Network, strict=False)),
        ("nodePort.range", values.node_port.range, node_port_range),
        ("kubeProxyReplacementHealthzBindAddr", values.kube_proxy_replacement_healthz_bind_addr, bind_address),
    )
    for key, text, parse in checks:
        if text or parse is parse_duration_s:
            try:
                parse(text)
            except ValueError as error:
                raise ConfigError(key, str(error)) from error


def _check_announcements(values: Values) -> None:
    leases = values.l2announcements
    duration_s, deadline_s, period_s = map(
        parse_duration_s, (leases.lease_duration, leases.lease_renew_deadline, leases.lease_retry_period)
    )
    if period_s <= 0:
        raise ConfigError("l2announcements.leaseRetryPeriod", f"{leases.lease_retry_period}: above 0")
    if deadline_s < 1.2 * period_s:
        raise ConfigError(
            "l2announcements.leaseRenewDeadline",
            f"{leases.lease_renew_deadline}: at least 1.2 times leaseRetryPeriod ({leases.lease_retry_period})",
        )
    if duration_s <= deadline_s:
        raise ConfigError(
            "l2announcements.leaseDuration",
            f"{leases.lease_duration}: longer than leaseRenewDeadline ({leases.lease_renew_deadline})",
        )


def _check_bgp(values: Values) -> None:
    allocation = values.bgp_control_plane.router_id_allocation
    if allocation.mode == "ip-pool" or allocation.ip_pool:
        try:
            IPv4Network(allocation.ip_pool)
        except ValueError as error:
            raise ConfigError("bgpControlPlane.routerIDAllocation.ipPool", f"{error}; an IPv4 prefix") from error
    secrets = values.bgp_control_plane.secrets_namespace.name
    if secrets and not _NAMESPACE.fullmatch(secrets):
        raise ConfigError("bgpControlPlane.secretsNamespace.name", f"{secrets!r} is no name of a namespace")


def _check_services(values: Values) -> None:
    for index, text in enumerate(values.node_port.addresses):
        try:
            Prefix.parse(text)
        except ValueError as error:
            raise ConfigError(f"nodePort.addresses[{index}]", str(error)) from error
    if values.maglev.table_size not in MAGLEV_SIZES:
        raise ConfigError("maglev.tableSize", f"{values.maglev.table_size}: one of {', '.join(map(str, MAGLEV_SIZES))}")
    try:
        seed = base64.b64decode(values.maglev.hash_seed, validate=True)
    except ValueError:
        seed = b""
    if len(seed) != 12:
        raise ConfigError("maglev.hashSeed", f"{values.maglev.hash_seed!r}: 12 bytes in base64")


def _check_pools(values: Values) -> None:
    pools = values.ipam.operator
    above = "ipam.operator.clusterPoolIPv"
    for version, is_on, cidrs, mask in (
        (4, values.ipv4.enabled, pools.cluster_pool_ipv4_pod_cidr_list, pools.cluster_pool_ipv4_mask_size),
        (6, values.ipv6.enabled, pools.cluster_pool_ipv6_pod_cidr_list, pools.cluster_pool_ipv6_mask_size),
    ):
        if is_on and values.ipam.mode == "cluster-pool" and not cidrs:
            raise ConfigError(f"{above}{version}PodCIDRList", f"empty, but ipv{version}.enabled is true")
        for index, text in enumerate(cidrs):
            key = f"{above}{version}PodCIDRList[{index}]"
            try:
                prefix = Prefix.parse(text, strict=True)
            except ValueError as error:
                raise ConfigError(key, str(error)) from error
            if prefix.family != version:
                raise ConfigError(key, f"{text} is not IPv{version}")
            if not prefix.length <= mask <= (32 if version == 4 else 128):
                raise ConfigError(f"{above}{version}MaskSize", f"/{mask} does not fit into {text}")
