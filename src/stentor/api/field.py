"""What fields of several custom resources have in common: limits, formats, kinds of lists, rules.

`published` says what goes only into the CRD. Limits that are in a type (`Meta(ge=…)`) are also checked when an object is
decoded; limits that only the API server should check are published.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from stentor.api.meta import LabelSelector

DEFAULT: Final = "x-default"
"""Key under which `published` keeps a default: msgspec writes `default` itself, for every field."""

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4_PATTERN: Final = rf"({_OCTET}\.){{3}}{_OCTET}"
IPV6_PATTERN: Final = r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%\S+)?"
ADDRESS_PATTERN: Final = rf"^({IPV4_PATTERN}|{IPV6_PATTERN})$"

_U16 = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)"
_U32 = (
    r"(429496729[0-5]|42949672[0-8][0-9]|4294967[01][0-9]{2}|429496[0-6][0-9]{3}|42949[0-5][0-9]{4}|4294[0-8][0-9]{5}"
    r"|429[0-3][0-9]{6}|42[0-8][0-9]{7}|4[01][0-9]{8}|[1-3][0-9]{9}|[1-9][0-9]{0,8}|0)"
)
STANDARD_COMMUNITY_PATTERN: Final = rf"^({_U32}|{_U16}:{_U16})$"
LARGE_COMMUNITY_PATTERN: Final = rf"^{_U32}:{_U32}:{_U32}$"

WELL_KNOWN_COMMUNITIES: Final = (
    "internet", "planned-shut", "accept-own", "route-filter-translated-v4", "route-filter-v4",
    "route-filter-translated-v6", "route-filter-v6", "llgr-stale", "no-llgr", "blackhole", "no-export", "no-advertise",
    "no-export-subconfed", "no-peer",
)  # fmt: skip
AFIS: Final = ("ipv4", "ipv6", "l2vpn", "ls", "opaque")
SAFIS: Final = (
    "unicast", "multicast", "mpls_label", "encapsulation", "vpls", "evpn", "ls", "sr_policy", "mup", "mpls_vpn",
    "mpls_vpn_multicast", "route_target_constraints", "flowspec_unicast", "flowspec_vpn", "key_value",
)  # fmt: skip


def published(description: str = "", **keywords: Any) -> Meta:
    """Keywords for the CRD's schema alone; `default` is what the API server fills in."""
    if "default" in keywords:
        keywords[DEFAULT] = keywords.pop("default")
    return Meta(description=description or None, extra_json_schema=keywords or None)


def list_map(description: str, *keys: str, **keywords: Any) -> Meta:
    """A list whose members have unique keys."""
    return published(
        description, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}, **keywords
    )


def rules(*pairs: tuple[str, str]) -> Meta:
    """CEL rules with the message for who breaks them."""
    listed = [{"rule": rule, "message": message} for rule, message in pairs]
    return Meta(extra_json_schema={"x-kubernetes-validations": listed})


def selector(description: str) -> Meta:
    """A label selector, replaced as a whole by server-side apply."""
    return published(description, **{"x-kubernetes-map-type": "atomic"})


Selector = LabelSelector | None
"""None selects nothing or everything, as the field says; an empty selector selects everything."""

ASN = Annotated[int, Meta(ge=1, le=4294967295, extra_json_schema={"format": "int64"})]
ASNOrAny = Annotated[int, Meta(ge=0, le=4294967295, extra_json_schema={"format": "int64"})]
Port = Annotated[int, Meta(ge=1, le=65535, extra_json_schema={"format": "int32"})]
Int32 = Annotated[int, Meta(extra_json_schema={"format": "int32"})]
Int64 = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
Name = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": 255})]
Address = Annotated[str, Meta(extra_json_schema={"pattern": ADDRESS_PATTERN})]
IPv4 = Annotated[str, Meta(extra_json_schema={"format": "ipv4"})]
CIDR = Annotated[str, Meta(extra_json_schema={"format": "cidr"})]
AFI = Annotated[str, Meta(description="Address family", extra_json_schema={"enum": list(AFIS)})]
SAFI = Annotated[str, Meta(description="Subsequent address family", extra_json_schema={"enum": list(SAFIS)})]
StandardCommunity = Annotated[str, Meta(extra_json_schema={"pattern": STANDARD_COMMUNITY_PATTERN})]
LargeCommunity = Annotated[str, Meta(extra_json_schema={"pattern": LARGE_COMMUNITY_PATTERN})]
WellKnownCommunity = Annotated[str, Meta(extra_json_schema={"enum": list(WELL_KNOWN_COMMUNITIES)})]
ConnectRetryTime = Annotated[int, Meta(ge=1, le=2147483647, extra_json_schema={"format": "int32"})]
HoldTime = Annotated[int, Meta(ge=3, le=65535, extra_json_schema={"format": "int32"})]
KeepAliveTime = Annotated[int, Meta(ge=1, le=65535, extra_json_schema={"format": "int32"})]
TTL = Annotated[int, Meta(ge=1, le=255, extra_json_schema={"format": "int32"})]
RestartTime = Annotated[int, Meta(ge=1, le=4095, extra_json_schema={"format": "int32"})]
