"""From configuration text to the values that policies and routes work with; every error is a ConfigError naming the field."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as FilePath
from typing import TypeVar

import msgspec

from stentor.bgp.attribute import (
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    NO_LLGR,
    Attributes,
    Origin,
    Segment,
    SegmentKind,
)
from stentor.bgp.config import Config, PolicyConfig, Route, SetConfig, StatementConfig
from stentor.bgp.decision import Scope
from stentor.bgp.errors import ConfigError
from stentor.bgp.nlri import Family, Prefix, parse_address, parse_prefix
from stentor.bgp.policy import (
    ACCEPT_ALL,
    LOCAL_ONLY,
    REJECT_ALL,
    Change,
    Match,
    NextHop,
    Policy,
    PrefixRange,
    PrefixSet,
    Statement,
)

T = TypeVar("T")

WELL_KNOWN = {
    "internet": 0,
    "planned-shut": GRACEFUL_SHUTDOWN,
    "graceful-shutdown": GRACEFUL_SHUTDOWN,
    "accept-own": 0xFFFF0001,
    "llgr-stale": LLGR_STALE,
    "no-llgr": NO_LLGR,
    "blackhole": 0xFFFF029A,
    "no-export": NO_EXPORT,
    "no-advertise": NO_ADVERTISE,
    "no-export-subconfed": NO_EXPORT_SUBCONFED,
    "no-peer": 0xFFFFFF04,
}
_WELL_KNOWN_NAMES = {number: name for name, number in WELL_KNOWN.items()}
_SCOPES = {"local": Scope.LOCAL, "ebgp": Scope.EXTERNAL, "ibgp": Scope.INTERNAL}
_EXTENDED_SUBTYPES = {"rt": 2, "soo": 3}


def parse_community(text: str) -> int:
    """``65001:100``, a well-known name or a plain number."""
    known = WELL_KNOWN.get(text.lower())
    if known is not None:
        return known
    parts = _numbers(text)
    if len(parts) == 2 and max(parts) < 65536:
        return parts[0] << 16 | parts[1]
    if len(parts) == 1 and parts[0] < 2**32:
        return parts[0]
    raise ValueError(f"{text!r} is no community: neither 65001:100 nor one of {', '.join(WELL_KNOWN)}")


def parse_large(text: str) -> tuple[int, int, int]:
    """``65001:1:2``."""
    parts = _numbers(text)
    if len(parts) != 3 or max(parts) >= 2**32:
        raise ValueError(f"{text!r} is no large community")
    return parts[0], parts[1], parts[2]


def parse_extended(text: str) -> bytes:
    """``rt:65001:100`` and ``soo:65001:100`` (two- or four-octet AS), or 16 hexadecimal digits."""
    kind, _, rest = text.partition(":")
    if kind not in _EXTENDED_SUBTYPES:
        if len(text) != 16 or not set(text.lower()) <= set("0123456789abcdef"):
            raise ValueError(f"{text!r} is no extended community: neither rt:65001:100 nor soo:65001:100 nor 16 digits")
        return bytes.fromhex(text)
    parts = _numbers(rest)
    if len(parts) != 2 or max(parts) >= 2**32 or (parts[0] > 65535 and parts[1] > 65535):
        raise ValueError(f"{text!r} is no extended community")
    if parts[0] > 65535:
        return bytes((2, _EXTENDED_SUBTYPES[kind])) + parts[0].to_bytes(4, "big") + parts[1].to_bytes(2, "big")
    return bytes((0, _EXTENDED_SUBTYPES[kind])) + parts[0].to_bytes(2, "big") + parts[1].to_bytes(4, "big")


def format_community(number: int) -> str:
    """Inverse of ``parse_community``."""
    return _WELL_KNOWN_NAMES.get(number) or f"{number >> 16}:{number & 0xFFFF}"


def format_extended(raw: bytes) -> str:
    """Inverse of ``parse_extended``."""
    for name, subtype in _EXTENDED_SUBTYPES.items():
        if raw[:2] == bytes((0, subtype)):
            return f"{name}:{int.from_bytes(raw[2:4], 'big')}:{int.from_bytes(raw[4:], 'big')}"
        if raw[:2] == bytes((2, subtype)):
            return f"{name}:{int.from_bytes(raw[2:6], 'big')}:{int.from_bytes(raw[6:], 'big')}"
    return raw.hex()


def _numbers(text: str) -> list[int]:
    """Numbers between colons; none when it is anything else."""
    parts = text.split(":")
    is_numeric = all(part.isascii() and part.isdigit() and len(part) < 11 for part in parts)
    return [int(part) for part in parts] if is_numeric else []


def _each(where: str, texts: Iterable[str], read: Callable[[str], T]) -> list[T]:
    values = []
    for index, text in enumerate(texts):
        try:
            values.append(read(text))
        except ValueError as error:
            raise ConfigError(f"{where}[{index}]", str(error)) from None
    return values


def parse_range(text: str) -> PrefixRange:
    """``10.0.0.0/8``, ``… le 24``, ``… ge 16 le 24``; without a bound the prefix alone."""
    words = text.split()
    family, prefix = parse_prefix(words[0] if words else "")
    bounds = {"ge": prefix[0], "le": prefix[0]}
    given = dict(zip(words[1::2], words[2::2], strict=False))
    if len(words) % 2 == 0 or not given.keys() <= bounds.keys():
        raise ValueError(f"{text!r} is not of the form PREFIX [ge N] [le N]")
    bounds.update({word: int(value) for word, value in given.items()})
    if "ge" in given and "le" not in given:
        bounds["le"] = family.bits
    if not prefix[0] <= bounds["ge"] <= bounds["le"] <= family.bits:
        raise ValueError(f"{text!r}: lengths must not decrease and fit the family")
    return PrefixRange(family, prefix, bounds["ge"], bounds["le"])


def parse_next_hop(text: str | None) -> NextHop | bytes | None:
    """``self``, ``unchanged`` or an address."""
    if text is None:
        return None
    return NextHop(text) if text in ("self", "unchanged") else parse_address(text)


def compile_policies(configs: Iterable[PolicyConfig]) -> Mapping[str, Policy]:
    """All policies by name, the built-in ones included."""
    policies = {"accept": ACCEPT_ALL, "reject": REJECT_ALL, "local": LOCAL_ONLY}
    for index, config in enumerate(configs):
        policies[config.name] = compile_policy(config, f"policies[{index}]")
    return policies


def compile_policy(config: PolicyConfig, where: str) -> Policy:
    """One policy; ``where`` is its place in the configuration, for errors."""
    statements = [
        _compile_statement(statement, f"{where}.statements[{number}]", number)
        for number, statement in enumerate(config.statements)
    ]
    return Policy(config.name, statements, accepts=config.default == "accept")


def _compile_statement(config: StatementConfig, where: str, number: int) -> Statement:
    match, at = config.match, f"{where}.match"
    compiled = Match(
        families=frozenset(Family.IPV4 if name == "ipv4" else Family.IPV6 for name in match.families),
        prefixes=PrefixSet(_each(f"{at}.prefixes", match.prefixes, parse_range)) if match.prefixes else None,
        scopes=frozenset(_SCOPES[name] for name in match.sources),
        tags=frozenset(match.tags),
        communities=frozenset(_each(f"{at}.communities", match.communities, parse_community)),
        large_communities=frozenset(_each(f"{at}.largeCommunities", match.large_communities, parse_large)),
        path_contains=frozenset(match.as_path_contains),
        neighbour_as=frozenset(match.neighbor_asns),
        longest_path=match.max_as_path_length,
    )
    change = None if config.set is None else _compile_change(config.set, f"{where}.set")
    accepts = {"accept": True, "reject": False, "continue": None}[config.action]
    return Statement(config.name or f"#{number}", compiled, change, accepts)


def _compile_change(config: SetConfig, where: str) -> Change:
    try:
        next_hop = parse_next_hop(config.next_hop)
    except ValueError as error:
        raise ConfigError(f"{where}.nextHop", str(error)) from None
    return Change(
        local_pref=config.local_preference,
        med=config.med,
        prepend=config.prepend,
        prepend_as=config.prepend_asn or 0,
        next_hop=next_hop,
        add_communities=tuple(_each(f"{where}.addCommunities", config.add_communities, parse_community)),
        remove_communities=tuple(_each(f"{where}.removeCommunities", config.remove_communities, parse_community)),
        add_large_communities=tuple(_each(f"{where}.addLargeCommunities", config.add_large_communities, parse_large)),
        remove_large_communities=tuple(
            _each(f"{where}.removeLargeCommunities", config.remove_large_communities, parse_large)
        ),
        add_extended_communities=tuple(
            _each(f"{where}.addExtendedCommunities", config.add_extended_communities, parse_extended)
        ),
    )


class Originated(msgspec.Struct, frozen=True):
    """Prefixes to originate with their common properties."""

    attributes: Attributes
    tags: tuple[str, ...]
    prefixes: dict[Family, list[Prefix]]


def compile_all(config: Config) -> tuple[Mapping[str, Policy], Mapping[str, list[Originated]]]:
    """Policies by name and the routes of each instance; ConfigError for what the types of the configuration cannot tell."""
    routes = {
        instance.name: compile_routes(instance.routes, f"instances[{index}].routes")
        for index, instance in enumerate(config.instances)
    }
    return compile_policies(config.policies), routes


def compile_routes(configs: Iterable[Route], where: str) -> list[Originated]:
    """All entries of ``routes``, which stand at ``where``."""
    return [compile_route(config, f"{where}[{index}]") for index, config in enumerate(configs)]


def compile_route(config: Route, where: str) -> Originated:
    """One entry of ``routes``."""
    communities, at = config.communities, f"{where}.communities"
    standard = _each(f"{at}.standard", communities.standard, parse_community)
    standard += _each(f"{at}.wellKnown", communities.well_known, parse_community)
    try:
        next_hop = b"" if config.next_hop in (None, "self") else parse_address(config.next_hop or "")
    except ValueError as error:
        raise ConfigError(f"{where}.nextHop", str(error)) from None
    attributes = Attributes(
        origin=Origin[config.origin.upper()],
        as_path=(Segment(SegmentKind.SEQUENCE, config.as_path),) if config.as_path else (),
        next_hop=next_hop,
        med=config.med,
        local_pref=config.local_preference,
        communities=tuple(sorted(set(standard))),
        large_communities=tuple(sorted(set(_each(f"{at}.large", communities.large, parse_large)))),
        extended_communities=tuple(sorted(set(_each(f"{at}.extended", communities.extended, parse_extended)))),
    )
    prefixes: dict[Family, list[Prefix]] = {}
    for field, texts in ((f"{where}.prefixes", config.prefixes), (f"{where}.file", _read_lines(config.file, where))):
        for family, prefix in _each(field, texts, _parse_fast):
            prefixes.setdefault(family, []).append(prefix)
    if len(next_hop) == 4 and Family.IPV6 in prefixes:
        raise ConfigError(f"{where}.nextHop", "an IPv6 prefix needs an IPv6 next hop")
    return Originated(attributes, config.tags, prefixes)


def _read_lines(path: str | None, where: str) -> list[str]:
    if path is None:
        return []
    try:
        return FilePath(path).read_text().split()
    except OSError as error:
        raise ConfigError(f"{where}.file", f"cannot read {path}: {error.strerror}") from error


_FAST_SPANS = {8: 1, 16: 2, 24: 3, 32: 4}


def _parse_fast(text: str) -> tuple[Family, Prefix]:
    """``parse_prefix``; plain IPv4 prefixes of whole octets, the bulk of large files, without ``ipaddress``."""
    address, _, length = text.partition("/")
    octets = address.split(".")
    span = _FAST_SPANS.get(int(length)) if length.isdecimal() and len(length) < 3 else None
    if span is None or len(octets) != 4 or not all(octet.isdecimal() and len(octet) < 4 for octet in octets):
        return parse_prefix(text)
    packed = bytes(map(int, octets))
    if any(packed[span:]) or any(len(octet) > 1 and octet[0] == "0" for octet in octets):
        return parse_prefix(text)
    return Family.IPV4, bytes((span * 8,)) + packed[:span]
