"""decode(encode(x)) == x for every message, and no input but the protocol's own error."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.bgp.attribute import Attributes, Origin, Segment, SegmentKind, Unknown
from stentor.bgp.capability import AddPath, Capabilities, Graceful, LongLived, Open, Session
from stentor.bgp.errors import PeerFault
from stentor.bgp.nlri import Family, format_prefix, pack_prefix, parse_prefix
from stentor.bgp.update import UpdateDecoder, encode_block, encode_update, encode_withdraw, fits
from stentor.bgp.wire import HEADER, Kind, decode_message, decode_open, encode_open, split_messages

asns = st.integers(1, 2**32 - 1)
u32 = st.integers(0, 2**32 - 1)
families = st.sampled_from(list(Family))


def unique(elements: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(elements, max_size=5).map(lambda found: tuple(sorted(set(found))))  # type: ignore[type-var]


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


segments = st.builds(Segment, st.sampled_from(list(SegmentKind)), st.lists(asns, min_size=1, max_size=6).map(tuple))
unknown = st.builds(Unknown, st.just(0xE0), st.integers(100, 200), st.binary(max_size=300))
attributes = st.builds(
    Attributes,
    origin=st.sampled_from(list(Origin)),
    as_path=st.lists(segments, max_size=4).map(tuple),
    med=st.none() | u32,
    local_pref=st.none() | u32,
    atomic_aggregate=st.booleans(),
    aggregator=st.none() | st.tuples(asns, octets(4)),
    communities=unique(u32),
    originator_id=st.none() | octets(4),
    cluster_list=st.lists(octets(4), max_size=3).map(tuple),
    extended_communities=unique(octets(8)),
    large_communities=unique(st.tuples(u32, u32, u32)),
    unknown=st.lists(unknown, max_size=2, unique_by=lambda each: each.code).map(
        lambda found: tuple(sorted(found, key=lambda each: each.code))
    ),
)


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> list[bytes]:
    size = family.bits // 8
    pairs = draw(st.lists(st.tuples(octets(size), st.integers(0, family.bits)), min_size=1, max_size=30))
    return [pack_prefix(address, length) for address, length in pairs]


def make_session(*, ebgp: bool = False, **fields: object) -> Session:
    return Session(
        local_as=65001,
        peer=Open(65002 if ebgp else 65001, 90, 2),
        hold_s=90,
        keepalive_s=30,
        families=frozenset(Family),
        **fields,  # type: ignore[arg-type]
    )


@given(st.data(), families, attributes, st.booleans())
def test_updates(data: st.DataObject, family: Family, sent: Attributes, has_ids: bool) -> None:
    keys = data.draw(prefixes(family))
    extended = data.draw(st.booleans())
    if has_ids:
        keys = [data.draw(octets(4)) + key for key in keys]
    session = make_session(
        add_path_in=frozenset((family,)) if has_ids else frozenset(),
        extended_next_hop=frozenset((Family.IPV4,)) if extended else frozenset(),
    )
    sizes = [16, 32] if family is Family.IPV6 else [4, 16, 32] if extended else [4]
    next_hop = bytes((10,)) + data.draw(octets(data.draw(st.sampled_from(sizes)) - 1))
    sent = Attributes(**{**{n: getattr(sent, n) for n in sent.__struct_fields__}, "next_hop": next_hop})
    block = encode_block(session, family, sent)
    if not fits(session, family, sent, block):
        return
    decoder = UpdateDecoder(session)
    for _ in range(2):  # the second time from the decoder's memory
        seen = []
        for message in encode_update(session, family, sent, keys, block):
            ((kind, body),), taken = split_messages(message)
            assert (kind, taken) == (Kind.UPDATE, len(message))
            got = decoder.decode(body)
            assert got.faults == ()
            (routes,) = got.announced
            assert (routes.family, routes.attributes) == (family, sent)
            seen += routes.prefixes
        assert seen == keys
    gone = [
        key
        for m in encode_withdraw(session, family, keys)
        for r in decoder.decode(m[HEADER:]).withdrawn
        for key in r.prefixes
    ]
    assert gone == keys


capabilities = st.builds(
    Capabilities,
    families=st.lists(families, unique=True).map(tuple),
    route_refresh=st.booleans(),
    enhanced_refresh=st.booleans(),
    extended_message=st.booleans(),
    four_octet_as=asns,
    graceful=st.none()
    | st.builds(Graceful, st.integers(0, 4095), st.booleans(), st.booleans(), st.dictionaries(families, st.booleans())),
    long_lived=st.dictionaries(families, st.builds(LongLived, st.integers(0, 2**24 - 1), st.booleans())),
    add_path=st.dictionaries(families, st.sampled_from([AddPath(1), AddPath(2), AddPath(3)])),
    extended_next_hop=st.sampled_from([(), (Family.IPV4,)]),
    host_name=st.text(st.characters(codec="ascii"), max_size=64),
)


@given(capabilities, st.sampled_from([0, 3, 90, 65535]), st.integers(1, 2**32 - 1))
def test_opens(offer: Capabilities, hold_s: int, identifier: int) -> None:
    assert offer.four_octet_as is not None
    sent = Open(offer.four_octet_as, hold_s, identifier, offer)
    got = decode_open(encode_open(sent)[HEADER:])
    plain = {name: getattr(got.capabilities, name) for name in offer.__struct_fields__ if name != "codes"}
    assert plain == {name: getattr(offer, name) for name in plain}
    assert (got.asn, got.hold_s, got.identifier) == (sent.asn, hold_s, identifier)


@given(st.data(), families)
def test_prefix_text(data: st.DataObject, family: Family) -> None:
    for key in data.draw(prefixes(family)):
        assert parse_prefix(format_prefix(family, key)) == (family, key)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_garbage_updates_raise_nothing_else(body: bytes, ebgp: bool, has_ids: bool) -> None:
    ids = frozenset(Family) if has_ids else frozenset()
    decoder = UpdateDecoder(make_session(ebgp=ebgp, add_path_in=ids))
    with suppress(PeerFault):
        decoder.decode(body.ljust(4, b"\0"))


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([Kind.OPEN, Kind.NOTIFICATION, Kind.ROUTE_REFRESH]))
def test_garbage_messages_raise_nothing_else(body: bytes, kind: Kind) -> None:
    with suppress(PeerFault):
        decode_message(kind, body.ljust(10, b"\0") if kind is Kind.OPEN else body.ljust(2, b"\0"))


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6]), max_size=6), st.binary(max_size=60))
def test_framing_of_mutated_streams(kinds: list[int], tail: bytes) -> None:
    stream = b"".join(b"\xff" * 16 + b"\x00\x17" + bytes((kind,)) + bytes(4) for kind in kinds) + tail
    with suppress(PeerFault):
        messages, taken = split_messages(stream)
        assert sum(HEADER + len(body) for _, body in messages) == taken <= len(stream)
