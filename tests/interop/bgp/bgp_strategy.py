"""Hypothesis strategies for BGP values: whatever the encoders may be given."""

from __future__ import annotations

from hypothesis import strategies as st

from stentor.bgp.attribute import Attributes, Origin, Segment, SegmentKind, Unknown
from stentor.bgp.capability import AddPath, Capabilities, Graceful, LongLived, Open, Session
from stentor.bgp.errors import Cease, Code
from stentor.bgp.nlri import Family, pack_prefix
from stentor.bgp.wire import Notification, Refresh, shutdown

U32 = st.integers(0, 0xFFFFFFFF)
ASN = st.sampled_from((1, 23, 64512, 65001, 65535, 65536, 4200000000)) | st.integers(1, 0xFFFFFFFF)
FAMILIES = st.sampled_from(Family)
V4_HOP = st.sampled_from((b"\x0a\0\0\1", b"\xc0\0\2\1", b"\xc6\x33\x64\xfe"))
V6_HOP = st.sampled_from((b"\x20\1\x0d\xb8" + bytes(11) + b"\1", b"\x20\1\x0d\xb8" + bytes(11) + b"\2"))
LINK_LOCAL = b"\xfe\x80" + bytes(13) + b"\1"
_INTERPRETED = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32))


def prefixes(family: Family, *, path_ids: bool) -> st.SearchStrategy[bytes]:
    """Wire-form prefixes; with path identifiers if asked for.

    At least 8 bits long: tshark guesses whether there are path identifiers, and shorter ones can be read both ways.
    """
    plain = st.integers(8, family.bits).flatmap(
        lambda length: st.binary(min_size=family.bits // 8, max_size=family.bits // 8).map(
            lambda address: pack_prefix(address, length)
        )
    )
    return st.builds(lambda head, tail: head + tail, st.binary(min_size=4, max_size=4), plain) if path_ids else plain


def tables(family: Family, *, path_ids: bool, most: int = 30) -> st.SearchStrategy[list[bytes]]:
    """Distinct prefixes."""
    return st.lists(prefixes(family, path_ids=path_ids), min_size=1, max_size=most, unique=True)


_SEGMENTS = st.builds(
    Segment, st.sampled_from(SegmentKind), st.lists(ASN, min_size=1, max_size=6).map(tuple)
) | st.builds(Segment, st.just(SegmentKind.SEQUENCE), st.just(tuple(range(1, 256))))
_UNKNOWN = st.builds(
    Unknown,
    st.sampled_from((0xE0,)),
    st.integers(20, 254).filter(lambda code: code not in _INTERPRETED and code > 128),
    st.binary(max_size=300),
)


@st.composite
def attributes(draw: st.DrawFn, session: Session, family: Family) -> Attributes:
    """Attributes that a session can carry: an eBGP one has nothing internal."""
    hops = V4_HOP if family is Family.IPV4 else V6_HOP
    if family in session.extended_next_hop:
        hops = hops | V6_HOP
    hop = draw(hops)
    if len(hop) == 16 and draw(st.booleans()):
        hop += LINK_LOCAL
    internal = not session.ebgp
    unknown = draw(st.lists(_UNKNOWN, max_size=3, unique_by=lambda each: each.code))
    return Attributes(
        origin=draw(st.sampled_from(Origin)),
        as_path=tuple(draw(st.lists(_SEGMENTS, max_size=4))),
        next_hop=hop,
        med=draw(st.none() | U32),
        local_pref=draw(U32) if internal else None,
        atomic_aggregate=draw(st.booleans()),
        aggregator=draw(st.none() | st.tuples(ASN.filter(lambda asn: asn != 23456), st.binary(min_size=4, max_size=4))),
        communities=_set(draw(st.lists(U32, max_size=8))),
        originator_id=draw(st.none() | st.binary(min_size=4, max_size=4)) if internal else None,
        cluster_list=tuple(draw(st.lists(st.binary(min_size=4, max_size=4), max_size=4))) if internal else (),
        extended_communities=_set(
            draw(st.lists(st.binary(min_size=6, max_size=6).map(lambda b: b"\0\2" + b), max_size=4))
        ),
        large_communities=_set(draw(st.lists(st.tuples(U32, U32, U32), max_size=4))),
        unknown=tuple(sorted(unknown, key=lambda each: each.code)),
    )


def _set(values: list) -> tuple:  # type: ignore[type-arg]
    return tuple(sorted(set(values)))


@st.composite
def opens(draw: st.DrawFn) -> Open:
    """Any OPEN that we may send."""
    families = tuple(draw(st.lists(FAMILIES, unique=True)))
    asn = draw(ASN)
    graceful = st.builds(
        Graceful, st.integers(0, 4095), st.booleans(), st.booleans(), st.dictionaries(FAMILIES, st.booleans())
    )
    stale = st.builds(LongLived, st.integers(0, 0xFFFFFF), st.booleans())
    capabilities = Capabilities(
        families=families,
        route_refresh=draw(st.booleans()),
        enhanced_refresh=draw(st.booleans()),
        extended_message=draw(st.booleans()),
        four_octet_as=asn if asn > 65535 or draw(st.booleans()) else None,
        graceful=draw(st.none() | graceful),
        long_lived=draw(st.dictionaries(FAMILIES, stale)),
        add_path=draw(st.dictionaries(FAMILIES, st.sampled_from([AddPath(mode) for mode in (1, 2, 3)]))),
        extended_next_hop=draw(st.sampled_from(((), (Family.IPV4,)))),
        host_name=draw(st.text("abcdefgh-.0123456789", max_size=64)),
    )
    return Open(asn, draw(st.sampled_from((0, 3, 90, 65535))), draw(st.integers(1, 0xFFFFFFFF)), capabilities)


NOTIFICATIONS = st.builds(
    shutdown,
    st.sampled_from((Cease.SHUTDOWN, Cease.RESET)),
    st.text(st.characters(exclude_categories=("C",)), max_size=200),
) | st.sampled_from(
    [Notification(Code.CEASE, cease) for cease in Cease]
    + [Notification(Code.HOLD_TIMER), Notification(Code.UPDATE, 1), Notification(Code.OPEN, 2)]
    + [Notification(Code.HEADER, 2, b"\0\x12"), Notification(Code.FSM, 3)]
    + [Notification(Code.CEASE, Cease.MAX_PREFIXES, b"\0\1\1\0\0\0\x64")]
    + [Notification(Code.CEASE, Cease.HARD_RESET, bytes((6, Cease.SHUTDOWN, 3)) + b"bye")]
)
REFRESHES = st.builds(Refresh, FAMILIES, st.sampled_from((0, 1, 2)))
