"""rtnetlink messages for routes with several next hops (linux/rtnetlink.h): bytes in, bytes out.

Only what installation of BGP routes needs: IPv4 and IPv6 unicast, multipath, gateways of either family (routes of RFC 8950 have
an IPv6 gateway for an IPv4 prefix).
"""

from collections.abc import Iterator, Mapping
from struct import Struct as Layout

import msgspec

from stentor.bgp.nlri import Family, Prefix

PROTOCOL = 179
"""Who made a route (rtm_protocol): a number of our own, so that no other routing daemon takes our routes for its own."""

NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
REQUEST, ACK, REPLACE, EXCLUSIVE, CREATE, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_DST, _OIF, _GATEWAY, _PRIORITY, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 6, 9, 15, 18
_AF_INET, _AF_INET6, _UNICAST = 2, 10, 1
_FAMILIES = {Family.IPV4: _AF_INET, Family.IPV6: _AF_INET6}
_HEADER = Layout("=IHHII")
_ROUTE = Layout("=BBBBBBBBI")
_ATTRIBUTE = Layout("=HH")
_NEXT_HOP = Layout("=HBBi")
_U32 = Layout("=I")


class Hop(msgspec.Struct, frozen=True, order=True):
    """A gateway (4 or 16 octets). Without ``interface`` the kernel looks for the link, which link-local addresses forbid."""

    address: bytes
    interface: str = ""


class Selection(msgspec.Struct, frozen=True):
    """Which of the kernel's routes are ours: a routing table and a metric."""

    table: int
    metric: int


class Found(msgspec.Struct, frozen=True):
    """A route of ours as the kernel has it."""

    family: Family
    prefix: Prefix
    hops: int


def frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message with its header."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, sequence, 0) + body


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, sequence, body) of every whole message."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[position + _HEADER.size : position + length]
        position += length + (-length % 4)


def encode_route(
    selection: Selection, family: Family, prefix: Prefix, hops: tuple[Hop, ...], indexes: Mapping[str, int]
) -> bytes:
    """The body of NEW_ROUTE; with no hops that of DELETE_ROUTE. KeyError when ``indexes`` does not know an interface."""
    body = _ROUTE.pack(_FAMILIES[family], prefix[0], 0, 0, 0, PROTOCOL, 0, _UNICAST, 0)
    if prefix[0]:
        body += _attribute(_DST, prefix[1:].ljust(family.bits // 8, b"\0"))
    body += _attribute(_TABLE, _U32.pack(selection.table)) + _attribute(_PRIORITY, _U32.pack(selection.metric))
    if len(hops) == 1:
        oif = _attribute(_OIF, _U32.pack(indexes[hops[0].interface])) if hops[0].interface else b""
        return body + _gateway(family, hops[0]) + oif
    members = b""
    for hop in hops:
        gateway = _gateway(family, hop)
        index = indexes[hop.interface] if hop.interface else 0
        members += _NEXT_HOP.pack(_NEXT_HOP.size + len(gateway), 0, 0, index) + gateway
    return body + (_attribute(_MULTIPATH, members) if members else b"")


def encode_dump(selection: Selection, family: Family) -> bytes:
    """The body of GET_ROUTE | DUMP; a kernel with strict checking answers with our table's and protocol's routes only."""
    head = _ROUTE.pack(_FAMILIES[family], 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
    return head + _attribute(_TABLE, _U32.pack(selection.table))


def decode_route(selection: Selection, body: bytes) -> Found | None:
    """A NEW_ROUTE of a dump, None when it is not one of ours."""
    kind, length, _, _, table, protocol, _, route_kind, _ = _ROUTE.unpack_from(body)
    family = Family.IPV4 if kind == _AF_INET else Family.IPV6
    members = dict(_attributes(body[_ROUTE.size :]))
    table = _U32.unpack(members[_TABLE])[0] if _TABLE in members else table
    metric = _U32.unpack(members[_PRIORITY])[0] if _PRIORITY in members else 0
    if (protocol, table, metric, route_kind) != (PROTOCOL, selection.table, selection.metric, _UNICAST):
        return None
    prefix = bytes((length,)) + members.get(_DST, b"")[: (length + 7) // 8]
    return Found(family, prefix, _count_hops(members.get(_MULTIPATH)))


def _count_hops(multipath: bytes | None) -> int:
    if multipath is None:
        return 1
    count = position = 0
    while position + _NEXT_HOP.size <= len(multipath):
        length = _NEXT_HOP.unpack_from(multipath, position)[0]
        if length < _NEXT_HOP.size:
            break
        position += length + (-length % 4)
        count += 1
    return count


def _gateway(family: Family, hop: Hop) -> bytes:
    if len(hop.address) * 8 == family.bits:
        return _attribute(_GATEWAY, hop.address)
    return _attribute(_VIA, _AF_INET6.to_bytes(2, "little") + hop.address)


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[position + _ATTRIBUTE.size : position + length]
        position += length + (-length % 4)
