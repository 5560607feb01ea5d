"""UPDATE messages (RFC 4271 §4.3, RFC 4760), decoded and encoded for one session.

``UpdateDecoder`` remembers attribute blocks it has seen: they are few in comparison with messages.
"""

from collections.abc import Iterable, Sequence

import msgspec

from stentor.bgp.attribute import (
    MP_REACH,
    MP_UNREACH,
    OPTIONAL,
    Attributes,
    Decoded,
    Fault,
    Outcome,
    Parts,
    decode_attributes,
    encode_attributes,
    frame_attribute,
    split_attributes,
)
from stentor.bgp.cache import Cache
from stentor.bgp.capability import Session
from stentor.bgp.errors import Code, PeerFault
from stentor.bgp.nlri import OPTIONAL_ATTRIBUTE, Family, decode_path_prefixes, decode_prefixes, find_family
from stentor.bgp.wire import HEADER, Kind, frame

CACHE_WORDS = 1_000_000


class Routes(msgspec.Struct, frozen=True):
    """Prefixes of one family with their common properties; with path identifiers if the session says so."""

    family: Family
    prefixes: list[bytes]
    attributes: Attributes | None = None


class Update(msgspec.Struct, frozen=True):
    """A decoded UPDATE. Routes treated as withdrawn are among ``withdrawn``; ``end_of_rib`` as RFC 4724 §2."""

    withdrawn: tuple[Routes, ...] = ()
    announced: tuple[Routes, ...] = ()
    faults: tuple[Fault, ...] = ()
    end_of_rib: Family | None = None


class UpdateDecoder:
    """Decodes the UPDATEs of one session; not to be used after the session ended."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ebgp = session.ebgp
        self._mixed: Cache[bytes, Decoded] = Cache(CACHE_WORDS)
        self._simple: Cache[bytes, Decoded] = Cache(CACHE_WORDS)

    def decode(self, body: bytes) -> Update:
        """One UPDATE body; PeerFault where RFC 7606 asks for a session reset, everything milder is in ``faults``."""
        removed = 2 + int.from_bytes(body[:2], "big")
        if removed + 2 > len(body):
            raise PeerFault(Code.UPDATE, 1, reason="withdrawn routes reach over the end of the message")
        start = removed + 2
        stop = start + int.from_bytes(body[removed:start], "big")
        if stop > len(body):
            raise PeerFault(Code.UPDATE, 1, reason="path attributes reach over the end of the message")
        withdrawn = self._prefixes(body, 2, removed, Family.IPV4)
        announced = self._prefixes(body, stop, len(body), Family.IPV4)
        block = body[start:stop]
        if announced and (known := self._simple.get(block)) is not None:
            return self._classic(withdrawn, announced, known)
        return self._general(block, withdrawn, announced)

    def decode_plain(self, body: bytes) -> tuple[Attributes, list[bytes]] | None:
        """An UPDATE that only announces classic IPv4 routes with attributes seen before: most of them. None for all others."""
        if body[0] or body[1]:
            return None
        stop = 4 + (body[2] << 8 | body[3])
        known = self._simple.get(body[4:stop])
        if known is None or known.attributes is None or known.faults:
            return None
        prefixes = self._prefixes(body, stop, len(body), Family.IPV4)
        return (known.attributes, prefixes) if prefixes else None

    def _classic(self, withdrawn: list[bytes], announced: list[bytes], known: Decoded) -> Update:
        gone = (Routes(Family.IPV4, withdrawn),) if withdrawn else ()
        routes = Routes(Family.IPV4, announced, known.attributes)
        if known.attributes is None:
            return Update((*gone, routes), (), known.faults)
        return Update(gone, (routes,), known.faults)

    def _general(self, block: bytes, withdrawn: list[bytes], announced: list[bytes]) -> Update:
        if not block and not withdrawn and not announced:
            return Update(end_of_rib=Family.IPV4)
        parts = split_attributes(block)
        gone = [Routes(Family.IPV4, withdrawn)] if withdrawn else []
        if parts.unreach is not None:
            routes = self._read_unreach(parts.unreach)
            if routes is not None and not routes.prefixes and not parts.plain and not gone and not announced:
                return Update(end_of_rib=routes.family)
            gone += [routes] if routes is not None and routes.prefixes else []
        fresh: list[Routes] = []
        faults: tuple[Fault, ...] = ()
        for routes, next_hop in self._announcements(parts, announced):
            decoded = self._read(parts, block, next_hop)
            faults += decoded.faults
            target = gone if decoded.attributes is None else fresh
            target.append(Routes(routes.family, routes.prefixes, decoded.attributes))
        if parts.overrun and not announced and parts.reach is None and parts.unreach is None and not withdrawn:
            faults += (Fault(Outcome.WITHDRAW, 0, parts.overrun),)
        return Update(tuple(gone), tuple(fresh), faults)

    def _announcements(self, parts: Parts, classic: list[bytes]) -> Iterable[tuple[Routes, bytes | None]]:
        if parts.reach is not None:
            reached = self._read_reach(parts.reach)
            if reached is not None:
                yield reached
        if classic:
            yield Routes(Family.IPV4, classic), None

    def _read(self, parts: Parts, block: bytes, next_hop: bytes | None) -> Decoded:
        """Attributes of routes with this next hop (None: the NEXT_HOP attribute's), from the cache when seen before."""
        if next_hop is None and parts.reach is None and parts.unreach is None:
            cache, key = self._simple, block
        else:
            cache = self._mixed
            key = b"".join(b"%c%c%b" % (f, c, len(b).to_bytes(2, "big") + b) for f, c, b in parts.plain)
            key += b"\xff" + next_hop if next_hop is not None else b"\xfe"
            key += parts.overrun.encode()
        known = cache.get(key)
        if known is None:
            known = decode_attributes(parts, as4=self._session.as4, ebgp=self._ebgp, next_hop=next_hop, announces=True)
            cache.keep(
                key, known, 16 + len(key) // 4
            )  # an AS number or a community of four octets becomes a word or more
        return known

    def _prefixes(self, body: bytes, start: int, end: int, family: Family, subcode: int = 10) -> list[bytes]:
        if start == end:
            return []
        if family in self._session.add_path_in:
            return decode_path_prefixes(body, start, end, family, subcode)
        return decode_prefixes(body, start, end, family, subcode)

    def _read_unreach(self, body: bytes) -> Routes | None:
        if len(body) < 3:
            raise PeerFault(Code.UPDATE, OPTIONAL_ATTRIBUTE, reason="MP_UNREACH_NLRI is too short")
        family = find_family(body[0] << 8 | body[1], body[2])
        if family is None or family not in self._session.families:
            return None
        return Routes(family, self._prefixes(body, 3, len(body), family, OPTIONAL_ATTRIBUTE))

    def _read_reach(self, body: bytes) -> tuple[Routes, bytes] | None:
        if len(body) < 5 or 5 + body[3] > len(body):
            raise PeerFault(Code.UPDATE, OPTIONAL_ATTRIBUTE, reason="MP_REACH_NLRI is too short")
        family = find_family(body[0] << 8 | body[1], body[2])
        if family is None or family not in self._session.families:
            return None
        start = 5 + body[3]
        next_hop = body[4 : start - 1]
        allowed = (
            (16, 32) if family is Family.IPV6 else (4, 16, 32) if family in self._session.extended_next_hop else (4,)
        )
        if len(next_hop) not in allowed:
            raise PeerFault(Code.UPDATE, OPTIONAL_ATTRIBUTE, reason=f"next hop of {len(next_hop)} octets")
        routes = Routes(family, self._prefixes(body, start, len(body), family, OPTIONAL_ATTRIBUTE))
        return routes, next_hop


def encode_update(
    session: Session, family: Family, attributes: Attributes, prefixes: Sequence[bytes], block: bytes
) -> list[bytes]:
    """Messages that announce ``prefixes``; ``block`` is ``encode_block``'s for the same attributes.

    IPv4 with an IPv4 next hop takes the classic form, everything else MP_REACH_NLRI, first in its block (RFC 7606 §5.1).
    """
    if is_classic(family, attributes):
        head = b"\0\0" + len(block).to_bytes(2, "big") + block
        room = session.max_message - HEADER - len(head)
        return [frame(Kind.UPDATE, head + body) for body in pack_prefixes(prefixes, room, family)]
    next_hop = attributes.next_hop
    reach = family.afi.to_bytes(2, "big") + bytes((family.safi, len(next_hop))) + next_hop + b"\0"
    room = session.max_message - HEADER - 4 - len(block) - 4 - len(reach)
    messages = []
    for body in pack_prefixes(prefixes, room, family):
        full = frame_attribute(OPTIONAL, MP_REACH, reach + body) + block
        messages.append(frame(Kind.UPDATE, b"\0\0" + len(full).to_bytes(2, "big") + full))
    return messages


def fits(session: Session, family: Family, attributes: Attributes, block: bytes) -> bool:
    """Whether a message has room for these attributes and one prefix of any length."""
    extra = 0 if is_classic(family, attributes) else 9 + len(attributes.next_hop)
    return HEADER + 4 + len(block) + extra + 4 + 1 + family.bits // 8 <= session.max_message


def is_classic(family: Family, attributes: Attributes) -> bool:
    """Whether these routes travel in the NLRI field and NEXT_HOP rather than MP_REACH_NLRI."""
    return family is Family.IPV4 and len(attributes.next_hop) == 4


def encode_block(session: Session, family: Family, attributes: Attributes) -> bytes:
    """The attribute block of ``encode_update``, without MP_REACH_NLRI."""
    return encode_attributes(attributes, as4=session.as4, ebgp=session.ebgp, next_hop=is_classic(family, attributes))


def encode_withdraw(session: Session, family: Family, prefixes: Sequence[bytes]) -> list[bytes]:
    """Messages that withdraw ``prefixes``."""
    if family is Family.IPV4:
        room = session.max_message - HEADER - 4
        bodies = pack_prefixes(prefixes, room, family)
        return [frame(Kind.UPDATE, len(body).to_bytes(2, "big") + body + b"\0\0") for body in bodies]
    head = family.afi.to_bytes(2, "big") + bytes((family.safi,))
    room = session.max_message - HEADER - 4 - 4 - len(head)
    blocks = (frame_attribute(OPTIONAL, MP_UNREACH, head + body) for body in pack_prefixes(prefixes, room, family))
    return [frame(Kind.UPDATE, b"\0\0" + len(block).to_bytes(2, "big") + block) for block in blocks]


def encode_end_of_rib(family: Family) -> bytes:
    """The End-of-RIB marker (RFC 4724 §2)."""
    if family is Family.IPV4:
        return frame(Kind.UPDATE, bytes(4))
    block = frame_attribute(OPTIONAL, MP_UNREACH, family.afi.to_bytes(2, "big") + bytes((family.safi,)))
    return frame(Kind.UPDATE, b"\0\0" + len(block).to_bytes(2, "big") + block)


def pack_prefixes(prefixes: Sequence[bytes], room: int, family: Family) -> list[bytes]:
    """Join prefixes into fields of at most ``room`` octets; ValueError when one alone does not fit."""
    total = b"".join(prefixes)
    if len(total) <= room:
        return [total] if total else []
    longest = 5 if family is Family.IPV4 else max(map(len, prefixes))
    longest = max(longest, len(prefixes[0]))
    step = room // longest
    if step < 1:
        raise ValueError("attributes leave no room for a prefix")
    return [b"".join(prefixes[i : i + step]) for i in range(0, len(prefixes), step)]
