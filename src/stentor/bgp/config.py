"""The speaker's configuration: typed, strict, with errors that name the field. The same types travel over the control socket.

Names are those of Cilium's BGP resources where they have the field (``localASN``, ``peerASN``, ``holdTimeSeconds`` …).
``compile_policy`` and ``compile_route`` turn text into the values of ``policy`` and ``attribute``.
"""

from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from stentor.bgp.errors import ConfigError
from stentor.bgp.nlri import Family

ASN = Annotated[int, Meta(ge=1, le=4294967295)]
Port = Annotated[int, Meta(ge=0, le=65535)]
U32 = Annotated[int, Meta(ge=0, le=4294967295)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]


def _rename(name: str) -> str:
    """Python's names to upstream's; ``import`` is no Python name."""
    head, *rest = name.removesuffix("_policy").split("_")
    return head + "".join(_ABBREVIATIONS.get(word, word.capitalize()) for word in rest)


_ABBREVIATIONS = {"asn": "ASN", "asns": "ASNs", "id": "ID", "ao": "AO", "as": "AS"}


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_rename, omit_defaults=True):
    """Base of all configuration values."""


class Timers(Strict, frozen=True):
    """``holdTimeSeconds`` 0 switches keepalives off; keepalives default to a third of the negotiated hold time."""

    connect_retry_time_seconds: Annotated[float, Meta(ge=0.05, le=65535)] = 5
    hold_time_seconds: Annotated[int, Meta(ge=0, le=65535)] = 90
    keep_alive_time_seconds: Annotated[float, Meta(gt=0, le=65535)] | None = None
    idle_hold_time_seconds: Annotated[float, Meta(ge=0, le=65535)] = 1


class Transport(Strict, frozen=True):
    """How the TCP connection is made."""

    peer_port: Annotated[int, Meta(ge=1, le=65535)] = 179
    local_address: str | None = None
    passive: bool = False


class GracefulRestart(Strict, frozen=True):
    """``longLivedStaleTimeSeconds`` above 0 offers long-lived graceful restart as well."""

    enabled: bool = False
    restart_time_seconds: Annotated[int, Meta(ge=1, le=4095)] = 120
    long_lived_stale_time_seconds: Annotated[int, Meta(ge=0, le=0xFFFFFF)] = 0


class AddPathMode(Strict, frozen=True):
    """``send`` is how many paths of a prefix the peer gets at most; 0 does not offer to send."""

    receive: bool = False
    send: Annotated[int, Meta(ge=0, le=64)] = 0


class PrefixLimit(Strict, frozen=True):
    """More prefixes than ``maximum`` end the session for ``restartSeconds`` (0: until it is enabled again)."""

    maximum: Annotated[int, Meta(ge=1)]
    restart_seconds: Annotated[float, Meta(ge=0)] = 0
    warning_only: bool = False


class FamilyConfig(Strict, frozen=True):
    """One address family of a peer; ``import`` and ``export`` name policies."""

    afi: Literal["ipv4", "ipv6"]
    safi: Literal["unicast"] = "unicast"
    import_policy: str = "accept"
    export_policy: str = "local"
    add_path: AddPathMode = AddPathMode()
    prefix_limit: PrefixLimit | None = None
    next_hop: str | None = None
    default_originate: bool = False

    @property
    def family(self) -> Family:
        return Family.IPV4 if self.afi == "ipv4" else Family.IPV6


class TTLSecurity(Strict, frozen=True):
    """GTSM (RFC 5082): accept only packets that crossed fewer than ``hops`` routers."""

    hops: Annotated[int, Meta(ge=1, le=254)] = 1


class Bfd(Strict, frozen=True):
    """A BFD session beside the BGP session (RFC 5882). ``graceful`` leaves a peer's restart alone when its C bit is clear."""

    transmit_interval_milliseconds: Annotated[int, Meta(ge=1, le=60000)] = 300
    receive_interval_milliseconds: Annotated[int, Meta(ge=1, le=60000)] = 300
    detect_multiplier: Annotated[int, Meta(ge=1, le=255)] = 3
    multihop: bool | None = None
    graceful: bool = False


class TcpAO(Strict, frozen=True):
    """TCP Authentication Option (RFC 5925); refused where the kernel lacks it."""

    key_id: Annotated[int, Meta(ge=0, le=255)]
    key: Annotated[str, Meta(min_length=1, max_length=80)]
    algorithm: Literal["hmac(sha1)", "cmac(aes128)", "hmac(sha256)"] = "hmac(sha1)"


BUILT_IN = frozenset(("accept", "reject", "local"))
_DEFAULT_FAMILIES = (FamilyConfig("ipv4"), FamilyConfig("ipv6"))


class Peer(Strict, frozen=True):
    """A neighbour, a range of them (``peerAddress: 10.0.0.0/24``) or whoever is on ``interface`` (no ``peerAddress``).

    ``peerASN`` 0 accepts any number, ``external`` any but ours.
    """

    name: Name
    peer_address: str | None = None
    interface: str | None = None
    peer_asn: Annotated[int, Meta(ge=0, le=4294967295)] | Literal["external"] = 0
    local_asn: ASN | None = None
    enabled: bool = True
    password: Annotated[str, Meta(max_length=80)] | None = None
    password_file: str | None = None
    tcp_ao: TcpAO | None = None
    transport: Transport = Transport()
    timers: Timers = Timers()
    ebgp_multihop: Annotated[int, Meta(ge=1, le=255)] = 1
    ttl_security: TTLSecurity | None = None
    graceful_restart: GracefulRestart = GracefulRestart()
    families: tuple[FamilyConfig, ...] = _DEFAULT_FAMILIES
    extended_next_hop: bool | None = None
    extended_messages: bool = True
    bfd: Bfd | None = None
    enforce_first_as: bool = True
    allow_own_as: Annotated[int, Meta(ge=0, le=10)] = 0
    max_dynamic_peers: Annotated[int, Meta(ge=1, le=10000)] = 100


class Communities(Strict, frozen=True):
    """Upstream's form of communities."""

    standard: tuple[str, ...] = ()
    well_known: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()


class Route(Strict, frozen=True):
    """Prefixes to originate, listed or one a line in ``file``; ``tags`` are for export policies to match."""

    prefixes: tuple[str, ...] = ()
    file: str | None = None
    next_hop: str | None = None
    communities: Communities = Communities()
    local_preference: U32 | None = None
    med: U32 | None = None
    origin: Literal["igp", "egp", "incomplete"] = "igp"
    as_path: tuple[ASN, ...] = ()
    tags: tuple[str, ...] = ()


class MatchConfig(Strict, frozen=True):
    """Conditions that must all hold; of a list, one member. Prefixes read ``10.0.0.0/8 ge 16 le 24``."""

    families: tuple[Literal["ipv4", "ipv6"], ...] = ()
    prefixes: tuple[str, ...] = ()
    sources: tuple[Literal["local", "ebgp", "ibgp"], ...] = ()
    tags: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    as_path_contains: tuple[ASN, ...] = ()
    neighbor_asns: tuple[ASN, ...] = ()
    max_as_path_length: Annotated[int, Meta(ge=0, le=1000)] | None = None


class SetConfig(Strict, frozen=True):
    """Changes of an accepting or continuing statement."""

    local_preference: U32 | None = None
    med: U32 | None = None
    prepend: Annotated[int, Meta(ge=0, le=32)] = 0
    prepend_asn: ASN | None = None
    next_hop: str | None = None
    add_communities: tuple[str, ...] = ()
    remove_communities: tuple[str, ...] = ()
    add_large_communities: tuple[str, ...] = ()
    remove_large_communities: tuple[str, ...] = ()
    add_extended_communities: tuple[str, ...] = ()


class StatementConfig(Strict, frozen=True):
    """One step of a policy."""

    name: str = ""
    match: MatchConfig = MatchConfig()
    set: SetConfig | None = None
    action: Literal["accept", "reject", "continue"] = "accept"


class PolicyConfig(Strict, frozen=True):
    """A named policy. ``accept``, ``reject`` and ``local`` (our own routes) exist without being configured."""

    name: Name
    statements: tuple[StatementConfig, ...] = ()
    default: Literal["accept", "reject"] = "reject"


class Kernel(Strict, frozen=True):
    """Installation of received routes; off unless it is configured. ``maximumPaths`` above 1 makes ECMP routes."""

    table: Annotated[int, Meta(ge=1, le=4294967295)] = 254
    metric: Annotated[int, Meta(ge=1, le=4294967295)] = 200
    maximum_paths: Annotated[int, Meta(ge=1, le=128)] = 1


class Instance(Strict, frozen=True):
    """A virtual router: its own AS, identifier, routes and peers. Without ``localPort`` it only connects."""

    name: Name
    local_asn: ASN
    router_id: str
    local_port: Port | None = None
    listen_addresses: tuple[str, ...] = ("0.0.0.0", "::")
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()
    kernel: Kernel | None = None


class Config(Strict, frozen=True):
    """The whole configuration."""

    instances: tuple[Instance, ...] = ()
    policies: tuple[PolicyConfig, ...] = ()


def load(path: str) -> Config:
    """Read and check a YAML file; ConfigError names what is wrong."""
    try:
        text = FilePath(path).read_text()
    except OSError as error:
        raise ConfigError("", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("", "not UTF-8 text") from error
    return parse(text)


def parse(text: str) -> Config:
    """As ``load`` from text."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        raw = yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ConfigError("", f"not YAML: {error}") from error
    return convert({} if raw is None else raw)


def convert(raw: Any) -> Config:
    """Check plain data (from YAML or JSON) against the schema and for consistency."""
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        raise ConfigError(where.rstrip("`").lstrip(".") or "configuration", text) from error
    check(config)
    for index, instance in enumerate(config.instances):
        for number, peer in enumerate(instance.peers):
            if not peer.families:  # controllers may have nothing for a peer to speak, a file only by mistake
                raise ConfigError(f"instances[{index}].peers[{number}].families", "is empty; leave it out for both")
    return config


def check(config: Config) -> None:
    """What types cannot say: references, addresses, duplicates."""
    for number, policy in enumerate(config.policies):
        if policy.name in BUILT_IN:
            raise ConfigError(f"policies[{number}].name", f"{policy.name!r} is built in")
    names = BUILT_IN | {policy.name for policy in config.policies}
    _check_unique("policies", [policy.name for policy in config.policies])
    _check_unique("instances", [instance.name for instance in config.instances])
    for index, instance in enumerate(config.instances):
        where = f"instances[{index}]"
        parse_router_id(instance.router_id, f"{where}.routerID")
        for number, address in enumerate(instance.listen_addresses):
            _check_address(address, f"{where}.listenAddresses[{number}]")
        _check_unique(f"{where}.peers", [peer.name for peer in instance.peers])
        for number, peer in enumerate(instance.peers):
            _check_peer(peer, instance, names, f"{where}.peers[{number}]")
        addresses = [str(ip_network(peer.peer_address)) for peer in instance.peers if peer.peer_address]
        _check_unique(f"{where}.peers", addresses, "peerAddress")


def _check_peer(peer: Peer, instance: Instance, policies: frozenset[str], where: str) -> None:
    if peer.peer_address is None and peer.interface is None:
        raise ConfigError(f"{where}.peerAddress", "is missing; an unnumbered peer needs interface instead")
    if peer.peer_address is not None:
        try:
            network = ip_network(peer.peer_address)
        except ValueError as error:
            raise ConfigError(f"{where}.peerAddress", str(error)) from None
        if network.is_multicast or (network.num_addresses == 1 and network.is_unspecified):
            raise ConfigError(f"{where}.peerAddress", f"{peer.peer_address} is not the address of a peer")
        if network.num_addresses > 1 and instance.local_port is None:
            raise ConfigError(
                f"{where}.peerAddress", "a range of peers needs localPort of the instance: they connect to us"
            )
        if network.is_link_local and network.version == 6 and peer.interface is None:
            raise ConfigError(f"{where}.interface", "is missing; a link-local peerAddress needs it")
        _check_local(peer, network.version, f"{where}.transport.localAddress")
    if peer.transport.passive and instance.local_port is None:
        raise ConfigError(f"{where}.transport.passive", "needs localPort of the instance")
    if peer.timers.hold_time_seconds in (1, 2):
        raise ConfigError(f"{where}.timers.holdTimeSeconds", "must be 0 or at least 3 (RFC 4271 §4.2)")
    if peer.password is not None and peer.password_file is not None:
        raise ConfigError(f"{where}.passwordFile", "and password exclude each other")
    if peer.ttl_security is not None and peer.ebgp_multihop > 1:
        raise ConfigError(f"{where}.ttlSecurity", "and ebgpMultihop exclude each other (RFC 5082)")
    _check_unique(f"{where}.families", [each.afi for each in peer.families], "afi")
    for number, each in enumerate(peer.families):
        for field, name in (("import", each.import_policy), ("export", each.export_policy)):
            if name not in policies:
                raise ConfigError(f"{where}.families[{number}].{field}", f"no policy {name!r}")
        _check_next_hop(each.next_hop, each.family, f"{where}.families[{number}].nextHop")


def _check_local(peer: Peer, version: int, where: str) -> None:
    local = peer.transport.local_address
    if local is None:
        return
    _check_address(local, where)
    if ip_address(local).version != version:
        raise ConfigError(where, "is not of the family of peerAddress")


def _check_next_hop(text: str | None, family: Family, where: str) -> None:
    if text is None or text in ("self", "unchanged"):
        return
    _check_address(text, where)
    if family is Family.IPV6 and ip_address(text).version == 4:
        raise ConfigError(where, "an IPv6 route needs an IPv6 next hop")


def _check_address(text: str, where: str) -> None:
    try:
        ip_address(text)
    except ValueError as error:
        raise ConfigError(where, str(error)) from None


def _check_unique(where: str, names: list[str], field: str = "name") -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(where, f"{field} {name!r} appears twice")


def parse_router_id(text: str, where: str) -> int:
    """``10.0.0.1`` as a number; not 0."""
    try:
        number = int(IPv4Address(text))
    except ValueError:
        raise ConfigError(where, f"{text!r} is not in the form of an IPv4 address") from None
    if not number:
        raise ConfigError(where, "0.0.0.0 is no identifier")
    return number
