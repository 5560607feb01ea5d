"""Path attributes (RFC 4271 §5, §6.3; RFC 7606): one descriptor a row, decoded to one frozen value.

``decode_attributes`` never trusts a length. What is wrong with an attribute is answered as RFC 7606 asks: its row says
whether it is dropped, the routes are treated as withdrawn or the session is reset; of several faults in one message the
strongest counts. MP_REACH_NLRI and MP_UNREACH_NLRI carry routes, not properties: they are returned undecoded for ``update``.
"""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct as Layout
from typing import Any

import msgspec

from stentor.bgp.errors import Code, PeerFault

OPTIONAL, TRANSITIVE, PARTIAL, EXTENDED = 0x80, 0x40, 0x20, 0x10
WELL_KNOWN, OPTIONAL_TRANSITIVE = TRANSITIVE, OPTIONAL | TRANSITIVE

AS_TRANS = 23456
MALFORMED_LIST, UNKNOWN_WELL_KNOWN, BAD_OPTIONAL = 1, 2, 9

GRACEFUL_SHUTDOWN = 0xFFFF0000
LLGR_STALE = 0xFFFF0006
NO_LLGR = 0xFFFF0007
NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03

MP_REACH, MP_UNREACH = 14, 15
_FIXED_WORDS = 16
_U32 = Layout("!I")


class Outcome(IntEnum):
    """Reactions to a malformed attribute, weakest first (RFC 7606 §2)."""

    DISCARD = 1
    WITHDRAW = 2
    RESET = 3


class Origin(IntEnum):
    """ORIGIN values, most preferred first."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentKind(IntEnum):
    """AS_PATH segment types; the confederation ones are refused (RFC 5065 §5 allows them inside a confederation only)."""

    SET = 1
    SEQUENCE = 2


class Segment(msgspec.Struct, frozen=True):
    """One AS_PATH segment."""

    kind: SegmentKind
    asns: tuple[int, ...]


class Unknown(msgspec.Struct, frozen=True):
    """An optional transitive attribute that we do not interpret: passed on with the partial bit (RFC 4271 §5)."""

    flags: int
    code: int
    body: bytes


class Attributes(msgspec.Struct, frozen=True, cache_hash=True):
    """All properties of a route. ``next_hop``: 4, 16 or 32 octets (global, link-local). Communities are sorted and distinct."""

    origin: Origin = Origin.IGP
    as_path: tuple[Segment, ...] = ()
    next_hop: bytes = b""
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, bytes] | None = None
    communities: tuple[int, ...] = ()
    originator_id: bytes | None = None
    cluster_list: tuple[bytes, ...] = ()
    extended_communities: tuple[bytes, ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    unknown: tuple[Unknown, ...] = ()


class Malformed(Exception):
    """An attribute's body is not what its specification says; the row decides what follows."""


class Row(msgspec.Struct, frozen=True):
    """One attribute: its field of ``Attributes``, flags, codec (with AS number size) and RFC 7606 outcome."""

    code: int
    field: str
    flags: int
    decode: Callable[[bytes, int], object]
    encode: Callable[[Any, int], bytes]
    outcome: Outcome
    internal_only: bool = False


class Fault(msgspec.Struct, frozen=True):
    """A malformed attribute that did not end the session."""

    outcome: Outcome
    code: int
    reason: str


class Decoded(msgspec.Struct, frozen=True):
    """A decoded attribute block. ``attributes`` is None when the routes must be treated as withdrawn."""

    attributes: Attributes | None
    faults: tuple[Fault, ...]


def _exactly(size: int) -> Callable[[bytes], bytes]:
    def check(body: bytes) -> bytes:
        if len(body) != size:
            raise Malformed(f"length {len(body)} instead of {size}")
        return body

    return check


_four, _none = _exactly(4), _exactly(0)


def _words(body: bytes, size: int) -> list[bytes]:
    if not body or len(body) % size:
        raise Malformed(f"length {len(body)} is no multiple of {size}")
    return [body[i : i + size] for i in range(0, len(body), size)]


def _decode_origin(body: bytes, _as_size: int) -> Origin:
    if len(body) != 1 or body[0] > Origin.INCOMPLETE:
        raise Malformed(f"origin {body.hex() or 'of no length'}")
    return Origin(body[0])


def _decode_as_path(body: bytes, as_size: int) -> tuple[Segment, ...]:
    """RFC 7606 §7.2: unknown type, overrun, underrun and an empty segment are malformed."""
    segments = []
    position = 0
    while position < len(body):
        if len(body) - position < 2:
            raise Malformed("a single octet is left after the last segment")
        kind, count = body[position], body[position + 1]
        stop = position + 2 + count * as_size
        if kind not in (SegmentKind.SET, SegmentKind.SEQUENCE):
            raise Malformed(f"segment type {kind}")
        if not count or stop > len(body):
            raise Malformed(f"segment of {count} numbers with {len(body) - position - 2} octets left")
        octets = body[position + 2 : stop]
        asns = tuple(int.from_bytes(octets[i : i + as_size], "big") for i in range(0, len(octets), as_size))
        if 0 in asns:
            raise Malformed("AS 0 (RFC 7607)")
        segments.append(Segment(SegmentKind(kind), asns))
        position = stop
    return tuple(segments)


def _encode_as_path(path: tuple[Segment, ...], as_size: int) -> bytes:
    out = bytearray()
    for segment in path:
        out += bytes((segment.kind, len(segment.asns)))
        for asn in segment.asns:
            out += (asn if as_size == 4 or asn < 65536 else AS_TRANS).to_bytes(as_size, "big")
    return bytes(out)


def _decode_next_hop(body: bytes, _as_size: int) -> bytes:
    _four(body)
    if not is_usable_next_hop(body):
        raise Malformed("not a unicast address")
    return body


def _decode_aggregator(body: bytes, as_size: int) -> tuple[int, bytes]:
    _exactly(as_size + 4)(body)
    if not any(body[:as_size]):
        raise Malformed("AS 0 (RFC 7607)")
    return int.from_bytes(body[:as_size], "big"), body[as_size:]


def _encode_aggregator(value: tuple[int, bytes], as_size: int) -> bytes:
    asn = value[0] if as_size == 4 or value[0] < 65536 else AS_TRANS
    return asn.to_bytes(as_size, "big") + value[1]


def _decode_u32(body: bytes, _as_size: int) -> int:
    return int.from_bytes(_four(body), "big")


def _encode_u32(value: int, _as_size: int) -> bytes:
    return _U32.pack(value)


def _decode_communities(body: bytes, _as_size: int) -> tuple[int, ...]:
    return tuple(sorted({int.from_bytes(word, "big") for word in _words(body, 4)}))


def _decode_large(body: bytes, _as_size: int) -> tuple[tuple[int, int, int], ...]:
    parts = {
        (int.from_bytes(w[:4], "big"), int.from_bytes(w[4:8], "big"), int.from_bytes(w[8:], "big"))
        for w in _words(body, 12)
    }
    return tuple(sorted(parts))


ROWS: dict[int, Row] = {
    row.code: row
    for row in (
        Row(1, "origin", WELL_KNOWN, _decode_origin, lambda v, _: bytes((v,)), Outcome.WITHDRAW),
        Row(2, "as_path", WELL_KNOWN, _decode_as_path, _encode_as_path, Outcome.WITHDRAW),
        Row(3, "next_hop", WELL_KNOWN, _decode_next_hop, lambda v, _: bytes(v), Outcome.WITHDRAW),
        Row(4, "med", OPTIONAL, _decode_u32, _encode_u32, Outcome.WITHDRAW),
        Row(5, "local_pref", WELL_KNOWN, _decode_u32, _encode_u32, Outcome.WITHDRAW, internal_only=True),
        Row(6, "atomic_aggregate", WELL_KNOWN, lambda b, _: _none(b) == b"", lambda v, _: b"", Outcome.DISCARD),
        Row(7, "aggregator", OPTIONAL_TRANSITIVE, _decode_aggregator, _encode_aggregator, Outcome.DISCARD),
        Row(
            8,
            "communities",
            OPTIONAL_TRANSITIVE,
            _decode_communities,
            lambda v, _: b"".join(map(_U32.pack, v)),
            Outcome.WITHDRAW,
        ),
        Row(9, "originator_id", OPTIONAL, lambda b, _: _four(b), lambda v, _: bytes(v), Outcome.WITHDRAW, True),
        Row(
            10,
            "cluster_list",
            OPTIONAL,
            lambda b, _: tuple(_words(b, 4)),
            lambda v, _: b"".join(v),
            Outcome.WITHDRAW,
            True,
        ),
        Row(
            16,
            "extended_communities",
            OPTIONAL_TRANSITIVE,
            lambda b, _: tuple(sorted(set(_words(b, 8)))),
            lambda v, _: b"".join(v),
            Outcome.WITHDRAW,
        ),
        Row(17, "as4_path", OPTIONAL_TRANSITIVE, lambda b, _: _decode_as_path(b, 4), _encode_as_path, Outcome.DISCARD),
        Row(
            18,
            "as4_aggregator",
            OPTIONAL_TRANSITIVE,
            lambda b, _: _decode_aggregator(b, 4),
            _encode_aggregator,
            Outcome.DISCARD,
        ),
        Row(
            32,
            "large_communities",
            OPTIONAL_TRANSITIVE,
            _decode_large,
            lambda v, _: b"".join(_U32.pack(x) for triple in v for x in triple),
            Outcome.WITHDRAW,
        ),
    )
}
_MP_FLAGS = OPTIONAL
_FROM_OLD_SPEAKER_ONLY = frozenset((17, 18))
_DEFAULTS = {name: getattr(Attributes(), name) for name in Attributes.__struct_fields__}
_ENCODED = tuple(row for row in ROWS.values() if row.field in _DEFAULTS and row.field != "next_hop")


class Parts(msgspec.Struct):
    """An attribute block split into its members, before their bodies are read."""

    plain: list[tuple[int, int, bytes]]
    reach: bytes | None = None
    unreach: bytes | None = None
    overrun: str = ""


def split_attributes(block: bytes) -> Parts:
    """Cut a block into (flags, code, body); a length that does not fit ends it (RFC 7606 §4: treat as withdraw).

    PeerFault for a second MP_REACH_NLRI or MP_UNREACH_NLRI (§3 g); of other attributes the first counts.
    """
    parts = Parts([])
    seen = set()
    position, end = 0, len(block)
    while position < end:
        flags = block[position]
        head = 4 if flags & EXTENDED else 3
        if end - position < head:
            parts.overrun = "the last attribute has no room for its header"
            break
        code = block[position + 1]
        start = position + head
        stop = start + int.from_bytes(block[position + 2 : start], "big")
        if stop > end:
            parts.overrun = f"attribute {code} reaches over the end of the attributes"
            break
        position = stop
        if code in seen:
            if code in (MP_REACH, MP_UNREACH):
                raise PeerFault(Code.UPDATE, MALFORMED_LIST, reason=f"attribute {code} appears twice")
            continue
        seen.add(code)
        if code == MP_REACH:
            parts.reach = _check_mp(flags, block[start:stop], code)
        elif code == MP_UNREACH:
            parts.unreach = _check_mp(flags, block[start:stop], code)
        else:
            parts.plain.append((flags, code, block[start:stop]))
    return parts


def _check_mp(flags: int, body: bytes, code: int) -> bytes:
    # Its routes would be lost with it, so that treat-as-withdraw is no option (RFC 7606 §5.3, §7.11).
    if flags & OPTIONAL_TRANSITIVE != _MP_FLAGS:
        raise PeerFault(Code.UPDATE, 4, bytes((flags, code)), f"attribute {code} has flags {flags:#x}")
    return body


def decode_attributes(parts: Parts, *, as4: bool, ebgp: bool, next_hop: bytes | None, announces: bool) -> Decoded:
    """Read the bodies. ``next_hop`` is MP_REACH_NLRI's, ``announces`` whether the message carries routes at all.

    PeerFault only for an unrecognised well-known attribute (RFC 4271 §6.3).
    """
    as_size = 4 if as4 else 2
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    unknown: list[Unknown] = []
    if parts.overrun:
        faults.append(Fault(Outcome.WITHDRAW, 0, parts.overrun))
    for flags, code, body in parts.plain:
        row = ROWS.get(code)
        if row is None:
            _keep_unknown(flags, code, body, unknown)
        elif (row.internal_only and ebgp) or (as4 and code in _FROM_OLD_SPEAKER_ONLY):
            continue
        elif (flags ^ row.flags) & OPTIONAL_TRANSITIVE:
            faults.append(Fault(Outcome.WITHDRAW, code, f"{row.field} has flags {flags:#x}"))
        else:
            try:
                values[row.field] = row.decode(body, as_size)
            except Malformed as error:
                faults.append(Fault(row.outcome, code, f"{row.field}: {error}"))
    if next_hop is not None:
        values["next_hop"] = next_hop
        if not any(is_usable_next_hop(part) for part in (next_hop[:16], next_hop[16:])):
            faults.append(Fault(Outcome.WITHDRAW, MP_REACH, "next_hop: not a unicast address"))
    if announces:
        faults += [Fault(Outcome.WITHDRAW, code, f"{name} is missing") for code, name in _missing(values, faults)]
    if any(fault.outcome is Outcome.WITHDRAW for fault in faults):
        return Decoded(None, tuple(faults))
    _merge_as4(values)
    return Decoded(Attributes(**values, unknown=tuple(sorted(unknown, key=lambda each: each.code))), tuple(faults))


def _missing(values: dict[str, Any], faults: list[Fault]) -> list[tuple[int, str]]:
    seen = {fault.code for fault in faults}
    return [(c, n) for c, n in ((1, "origin"), (2, "as_path"), (3, "next_hop")) if n not in values and c not in seen]


def _keep_unknown(flags: int, code: int, body: bytes, unknown: list[Unknown]) -> None:
    if not flags & OPTIONAL:
        data = bytes((flags & ~EXTENDED, code, len(body) & 0xFF)) + body
        raise PeerFault(Code.UPDATE, UNKNOWN_WELL_KNOWN, data, f"unknown well-known attribute {code}")
    if flags & TRANSITIVE:
        unknown.append(Unknown((flags | PARTIAL) & ~EXTENDED, code, body))


def _merge_as4(values: dict[str, Any]) -> None:
    """Join what a two-octet speaker could not say with AS4_PATH and AS4_AGGREGATOR (RFC 6793 §4.2.3)."""
    as4_path: tuple[Segment, ...] | None = values.pop("as4_path", None)
    as4_aggregator = values.pop("as4_aggregator", None)
    aggregator = values.get("aggregator")
    if aggregator is not None and as4_aggregator is not None and aggregator[0] != AS_TRANS:
        return
    if aggregator is not None and as4_aggregator is not None:
        values["aggregator"] = as4_aggregator
    if as4_path is None:
        return
    path: tuple[Segment, ...] = values.get("as_path", ())
    surplus = path_length(path) - path_length(as4_path)
    if surplus >= 0:
        values["as_path"] = _join(_take(path, surplus), as4_path)


def _take(path: tuple[Segment, ...], count: int) -> tuple[Segment, ...]:
    taken = []
    for segment in path:
        if count <= 0:
            break
        asns = segment.asns if segment.kind is SegmentKind.SET else segment.asns[:count]
        taken.append(Segment(segment.kind, asns))
        count -= 1 if segment.kind is SegmentKind.SET else len(asns)
    return tuple(taken)


def _join(head: tuple[Segment, ...], tail: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if head and tail and head[-1].kind is tail[0].kind is SegmentKind.SEQUENCE:
        asns = head[-1].asns + tail[0].asns
        if len(asns) <= 255:
            return (*head[:-1], Segment(SegmentKind.SEQUENCE, asns), *tail[1:])
    return head + tail


def encode_attributes(attributes: Attributes, *, as4: bool, ebgp: bool, next_hop: bool) -> bytes:
    """The block without MP_REACH_NLRI, in ascending order of codes; NEXT_HOP only when asked for (classic IPv4 routes)."""
    as_size = 4 if as4 else 2
    members: list[tuple[int, bytes]] = []
    if next_hop:
        members.append((3, _frame(WELL_KNOWN, 3, attributes.next_hop)))
    for row in _ENCODED:
        value = getattr(attributes, row.field)
        is_set = value != _DEFAULTS[row.field] or row.code <= 2
        if is_set and not (row.internal_only and ebgp):
            members.append((row.code, _frame(row.flags, row.code, row.encode(value, as_size))))
    if not as4:
        members += _encode_as4(attributes)
    members += [(each.code, _frame(each.flags, each.code, each.body)) for each in attributes.unknown]
    return b"".join(member for _, member in sorted(members))


def _encode_as4(attributes: Attributes) -> list[tuple[int, bytes]]:
    members = []
    if any(asn > 65535 for segment in attributes.as_path for asn in segment.asns):
        members.append((17, _frame(OPTIONAL_TRANSITIVE, 17, _encode_as_path(attributes.as_path, 4))))
    if attributes.aggregator is not None and attributes.aggregator[0] > 65535:
        members.append((18, _frame(OPTIONAL_TRANSITIVE, 18, _encode_aggregator(attributes.aggregator, 4))))
    return members


def _frame(flags: int, code: int, body: bytes) -> bytes:
    if len(body) > 255:
        return bytes((flags | EXTENDED, code)) + len(body).to_bytes(2, "big") + body
    return bytes((flags, code, len(body))) + body


frame_attribute = _frame


def is_usable_next_hop(address: bytes) -> bool:
    """Whether ``address`` (4 or 16 octets) can be a next hop: neither unset, loopback (IPv4), multicast nor reserved."""
    if not any(address):
        return False
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 224
    return address[0] != 0xFF


def path_length(path: tuple[Segment, ...]) -> int:
    """AS_PATH length of the decision process: a set counts one (RFC 4271 §9.1.2.2 a)."""
    return sum(1 if segment.kind is SegmentKind.SET else len(segment.asns) for segment in path)


def weigh(attributes: Attributes) -> int:
    """About how many words of memory a value takes."""
    return (
        _FIXED_WORDS
        + sum(len(segment.asns) for segment in attributes.as_path)
        + len(attributes.communities)
        + 3 * len(attributes.large_communities)
        + 2 * len(attributes.extended_communities)
        + len(attributes.cluster_list)
        + sum(len(each.body) // 8 for each in attributes.unknown)
    )


def first_as(path: tuple[Segment, ...]) -> int | None:
    """The neighbouring AS of a path, None for an empty path or one that begins with a set."""
    return path[0].asns[0] if path and path[0].kind is SegmentKind.SEQUENCE else None


def prepend(path: tuple[Segment, ...], asn: int, count: int = 1) -> tuple[Segment, ...]:
    """``path`` with ``asn`` in front ``count`` times; a full segment (255) starts a new one (RFC 4271 §5.1.2)."""
    for _ in range(count):
        if path and path[0].kind is SegmentKind.SEQUENCE and len(path[0].asns) < 255:
            path = (Segment(SegmentKind.SEQUENCE, (asn, *path[0].asns)), *path[1:])
        else:
            path = (Segment(SegmentKind.SEQUENCE, (asn,)), *path)
    return path


def format_path(path: tuple[Segment, ...]) -> str:
    """``65001 65002 {65003,65004}``."""
    words = []
    for segment in path:
        text = [str(asn) for asn in segment.asns]
        words += ["{" + ",".join(text) + "}"] if segment.kind is SegmentKind.SET else text
    return " ".join(words)
