"""Messages against bytes written by hand from the RFCs, and the reaction to each class of fault."""

from __future__ import annotations

import pytest

from stentor.bgp.attribute import Attributes, Origin, Outcome, Segment, SegmentKind
from stentor.bgp.capability import AddPath, Capabilities, Graceful, LongLived, Open, Session, negotiate
from stentor.bgp.errors import Cease, Code, PeerFault
from stentor.bgp.nlri import Family, decode_prefixes, pack_prefix, parse_prefix
from stentor.bgp.update import (
    Update,
    UpdateDecoder,
    encode_block,
    encode_end_of_rib,
    encode_update,
    encode_withdraw,
)
from stentor.bgp.wire import (
    HEADER,
    KEEPALIVE,
    MARKER,
    Kind,
    Notification,
    Refresh,
    decode_message,
    decode_open,
    encode_notification,
    encode_open,
    encode_refresh,
    frame,
    shutdown,
    split_messages,
)

BOTH = (Family.IPV4, Family.IPV6)
SEQUENCE = SegmentKind.SEQUENCE


def session(*, ebgp: bool = True, as4: bool = True, **extra: object) -> Session:
    """A session of AS 65001 with AS 65002, or 65001 when internal."""
    asn = 65002 if ebgp else 65001
    ours = Capabilities(families=BOTH, four_octet_as=65001 if as4 else None)
    theirs = Capabilities(families=BOTH, four_octet_as=asn if as4 else None)
    agreed = negotiate(Open(65001, 90, 1, ours), Open(asn, 90, 2, theirs))
    return Session(**{**{name: getattr(agreed, name) for name in agreed.__struct_fields__}, **extra})


def update(attributes: str, nlri: str = "18c00002", withdrawn: str = "") -> bytes:
    """An UPDATE body of hexadecimal parts."""
    block, gone = bytes.fromhex(attributes), bytes.fromhex(withdrawn)
    return len(gone).to_bytes(2, "big") + gone + len(block).to_bytes(2, "big") + block + bytes.fromhex(nlri)


ORIGIN, PATH, NEXT_HOP = "40010100", "400206 0201 0000fdea", "400304 0a000202"
GOOD = ORIGIN + PATH + NEXT_HOP
EXAMPLE = parse_prefix("192.0.2.0/24")[1]


def read(body: bytes, agreed: Session | None = None) -> Update:
    return UpdateDecoder(agreed or session()).decode(body)


def test_keepalive_is_a_bare_header() -> None:
    assert bytes.fromhex("ff" * 16 + "001304") == KEEPALIVE


def test_open_as_a_router_sends_it() -> None:
    # Version 4, AS 23456, hold 180, identifier 10.0.0.1; MP IPv4 and IPv6, refresh, four-octet AS 4200000000.
    body = bytes.fromhex("04 5ba0 00b4 0a000001 16 0214 0104 0001 0001 0104 0002 0001 0200 4104 fa56ea00")
    got = decode_open(body)
    assert (got.asn, got.hold_s, got.identifier) == (4200000000, 180, 0x0A000001)
    assert got.capabilities.families == BOTH
    assert got.capabilities.route_refresh


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("03 fde9 00b4 0a000001 00", (2, 1)),
        ("04 fde9 00b4 00000000 00", (2, 3)),
        ("04 fde9 0001 0a000001 00", (2, 6)),
        ("04 fde9 0002 0a000001 00", (2, 6)),
        ("04 0000 00b4 0a000001 00", (2, 2)),
        ("04 fde9 00b4 0a000001 05 0203 4104", (2, 0)),
        ("04 fde9 00b4 0a000001 02 0100", (2, 4)),
        ("04 fde9 00b4 0a000001 09 0200", (2, 0)),
    ],
    ids=["version", "identifier", "hold 1", "hold 2", "AS 0", "capability overrun", "parameter", "length"],
)
def test_open_faults(body: str, code: tuple[int, int]) -> None:
    with pytest.raises(PeerFault) as caught:
        decode_open(bytes.fromhex(body))
    assert (caught.value.code, caught.value.subcode) == code


def test_a_known_capability_of_wrong_length_is_ignored() -> None:
    got = decode_open(bytes.fromhex("04 fde9 00b4 0a000001 0a 0208 0103 000100 4101 00"))
    assert got.asn == 65001
    assert got.capabilities.families == ()


def test_long_open_takes_the_extended_form() -> None:
    offer = Capabilities(families=BOTH, four_octet_as=65001, host_name="h" * 64)
    many = Capabilities(
        families=BOTH,
        four_octet_as=65001,
        host_name="h" * 64,
        graceful=Graceful(120, True, True, dict.fromkeys(BOTH, True)),
        long_lived=dict.fromkeys(BOTH, LongLived(3600, True)),
        add_path=dict.fromkeys(BOTH, AddPath.SEND | AddPath.RECEIVE),
        extended_next_hop=(Family.IPV4,) * 30,
    )
    short, long = encode_open(Open(65001, 90, 1, offer)), encode_open(Open(65001, 90, 1, many))
    assert short[HEADER + 9] == len(short) - HEADER - 10
    assert long[HEADER + 9 : HEADER + 11] == b"\xff\xff"
    got = decode_open(long[HEADER:]).capabilities
    assert got.graceful == many.graceful
    assert got.long_lived == many.long_lived
    assert got.extended_next_hop == (Family.IPV4,)


@pytest.mark.parametrize(
    ("data", "subcode"),
    [
        (b"\xfe" + MARKER[1:] + b"\x00\x13\x04", 1),
        (MARKER + b"\x00\x12\x04", 2),
        (MARKER + b"\x10\x01\x02", 2),
        (MARKER + b"\x00\x14\x04", 2),
        (MARKER + b"\x00\x16\x02", 2),
        (MARKER + b"\x00\x13\x09", 3),
    ],
    ids=["marker", "short", "long", "keepalive with body", "short update", "type"],
)
def test_header_faults(data: bytes, subcode: int) -> None:
    with pytest.raises(PeerFault) as caught:
        split_messages(data.ljust(64, b"\0"))
    assert (caught.value.code, caught.value.subcode) == (1, subcode)


def test_a_bad_header_does_not_swallow_the_messages_before_it() -> None:
    messages, taken = split_messages(KEEPALIVE * 2 + b"\0" * 19)
    assert [kind for kind, _ in messages] == [Kind.KEEPALIVE, Kind.KEEPALIVE]
    assert taken == 2 * len(KEEPALIVE)


def test_shutdown_text_survives() -> None:
    sent = shutdown(Cease.SHUTDOWN, "Wartung über Nacht")
    got = decode_message(Kind.NOTIFICATION, encode_notification(sent)[HEADER:])
    assert isinstance(got, Notification)
    assert got.text == "Wartung über Nacht"
    assert got.describe() == "Cease/Administrative Shutdown: Wartung über Nacht"


def test_a_hard_reset_says_what_it_encloses() -> None:
    got = Notification(Code.CEASE, Cease.HARD_RESET, bytes((6, 2, 3)) + b"bye")
    assert got.describe() == "Cease/Hard Reset: Cease/Administrative Shutdown: bye"
    assert got.text == "bye"
    assert Notification(Code.CEASE, Cease.HARD_RESET, b"\6").describe() == "Cease/Hard Reset"


def test_shutdown_text_is_cut_at_a_character() -> None:
    assert shutdown(Cease.SHUTDOWN, "ü" * 200).text == "ü" * 127


def test_refresh_round_trip_and_faults() -> None:
    message = Refresh(Family.IPV6, 2)
    assert decode_message(Kind.ROUTE_REFRESH, encode_refresh(message)[HEADER:]) == message
    assert decode_message(Kind.ROUTE_REFRESH, bytes.fromhex("0019 00 41")) is None
    with pytest.raises(PeerFault) as caught:
        decode_message(Kind.ROUTE_REFRESH, b"\0\1\0")
    assert (caught.value.code, caught.value.subcode) == (7, 1)


def test_update_of_classic_ipv4_routes() -> None:
    got = read(update(GOOD, "18c00002 20c6336401", withdrawn="10 0a01"))
    assert got.withdrawn[0].prefixes == [parse_prefix("10.1.0.0/16")[1]]
    (routes,) = got.announced
    assert routes.prefixes == [EXAMPLE, parse_prefix("198.51.100.1/32")[1]]
    assert routes.attributes == Attributes(
        origin=Origin.IGP, as_path=(Segment(SEQUENCE, (65002,)),), next_hop=bytes((10, 0, 2, 2))
    )


def test_host_bits_of_a_prefix_are_cleared() -> None:
    (routes,) = read(update(GOOD, "19 c00002ff")).announced
    assert routes.prefixes == [parse_prefix("192.0.2.128/25")[1]]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 700])
@pytest.mark.parametrize(("family", "length"), [(Family.IPV4, 24), (Family.IPV4, 32), (Family.IPV6, 64)])
def test_long_fields_of_one_length(family: Family, length: int, count: int) -> None:
    prefixes = [pack_prefix(number.to_bytes(3, "big").ljust(16, b"\7"), length) for number in range(count)]
    field = b"".join(prefixes)
    assert decode_prefixes(b"head" + field + b"tail", 4, 4 + len(field), family) == prefixes
    odd = pack_prefix(bytes(16), 9)
    assert decode_prefixes(field + odd, 0, len(field) + len(odd), family) == [*prefixes, odd]
    with pytest.raises(PeerFault):
        decode_prefixes(field, 0, len(field) - 1, family)


def test_end_of_rib_of_both_families() -> None:
    assert read(encode_end_of_rib(Family.IPV4)[HEADER:]).end_of_rib is Family.IPV4
    assert read(encode_end_of_rib(Family.IPV6)[HEADER:]).end_of_rib is Family.IPV6


MALFORMED = [
    ("ORIGIN length", "40010200 00" + PATH + NEXT_HOP, Outcome.WITHDRAW),
    ("ORIGIN value", "40010103" + PATH + NEXT_HOP, Outcome.WITHDRAW),
    ("ORIGIN flags", "c0010100" + PATH + NEXT_HOP, Outcome.WITHDRAW),
    ("ORIGIN missing", PATH + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH missing", ORIGIN + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH segment type", ORIGIN + "400206 0501 0000fdea" + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH confederation", ORIGIN + "400206 0301 0000fdea" + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH overrun", ORIGIN + "400206 0202 0000fdea" + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH underrun", ORIGIN + "400207 0201 0000fdea 02" + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH empty segment", ORIGIN + "400202 0200" + NEXT_HOP, Outcome.WITHDRAW),
    ("AS_PATH AS 0", ORIGIN + "400206 0201 00000000" + NEXT_HOP, Outcome.WITHDRAW),
    ("NEXT_HOP length", ORIGIN + PATH + "400303 0a0002", Outcome.WITHDRAW),
    ("NEXT_HOP unset", ORIGIN + PATH + "400304 00000000", Outcome.WITHDRAW),
    ("NEXT_HOP multicast", ORIGIN + PATH + "400304 e0000001", Outcome.WITHDRAW),
    ("NEXT_HOP missing", ORIGIN + PATH, Outcome.WITHDRAW),
    ("MED length", GOOD + "800403 000001", Outcome.WITHDRAW),
    ("ATOMIC_AGGREGATE length", GOOD + "400601 00", Outcome.DISCARD),
    ("AGGREGATOR length", GOOD + "c00706 fdea0a000001", Outcome.DISCARD),
    ("AGGREGATOR AS 0", GOOD + "c00708 00000000 0a000001", Outcome.DISCARD),
    ("COMMUNITY length", GOOD + "c00803 fdea00", Outcome.WITHDRAW),
    ("COMMUNITY empty", GOOD + "c00800", Outcome.WITHDRAW),
    ("EXTENDED_COMMUNITY length", GOOD + "c01007 0002fdea000000", Outcome.WITHDRAW),
    ("LARGE_COMMUNITY length", GOOD + "c0200b 0000fdea00000001000000", Outcome.WITHDRAW),
    ("attribute overrun", GOOD + "c00810 fdea0001", Outcome.WITHDRAW),
    ("attribute without header", GOOD + "c008", Outcome.WITHDRAW),
]


@pytest.mark.parametrize(("name", "attributes", "outcome"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_malformed_attributes(name: str, attributes: str, outcome: Outcome) -> None:
    got = read(update(attributes))
    assert outcome in [fault.outcome for fault in got.faults]
    if outcome is Outcome.WITHDRAW:
        assert [routes.prefixes for routes in got.withdrawn] == [[EXAMPLE]]
        assert got.announced == ()
    else:
        (routes,) = got.announced
        assert routes.prefixes == [EXAMPLE]
        assert routes.attributes == read(update(GOOD)).announced[0].attributes


@pytest.mark.parametrize(
    ("attributes", "field"),
    [("400503 000064", "local_pref"), ("800903 0a0000", "originator_id"), ("800a03 0a0000", "cluster_list")],
)
def test_internal_attributes_are_ignored_from_ebgp_and_withdraw_from_ibgp(attributes: str, field: str) -> None:
    external = read(update(GOOD + attributes))
    assert external.announced[0].attributes == read(update(GOOD)).announced[0].attributes
    internal = read(update(GOOD + attributes), session(ebgp=False))
    assert internal.announced == ()
    assert field in internal.faults[0].reason


MP_GOOD = "800e 1c 0002 01 10 20010db8000000000000000000000002 00 30 20010db80001"
RESET = [
    ("withdrawn overrun", bytes.fromhex("00ff 0000"), (3, 1)),
    ("attributes overrun", bytes.fromhex("0000 00ff"), (3, 1)),
    ("prefix length", update(GOOD, "21c000020000"), (3, 10)),
    ("prefix overrun", update(GOOD, "18c000"), (3, 10)),
    ("unknown well-known", update(GOOD + "406300"), (3, 2)),
    ("MP_REACH twice", update(ORIGIN + PATH + MP_GOOD.replace(" ", "") * 2, ""), (3, 1)),
    ("MP_REACH short", update(ORIGIN + PATH + "800e03 000201", ""), (3, 9)),
    ("MP_REACH next hop length", update(ORIGIN + PATH + "800e08 0002 01 03 0a0b0c 00", ""), (3, 9)),
    ("MP_REACH prefix length", update(ORIGIN + PATH + MP_GOOD.replace("30 2001", "81 2001"), ""), (3, 9)),
    ("MP_REACH flags", update(ORIGIN + PATH + MP_GOOD.replace("800e", "c00e"), ""), (3, 4)),
    ("MP_UNREACH short", update("800f02 0002", ""), (3, 9)),
]


@pytest.mark.parametrize(("name", "body", "code"), RESET, ids=[case[0] for case in RESET])
def test_faults_that_end_the_session(name: str, body: bytes, code: tuple[int, int]) -> None:
    with pytest.raises(PeerFault) as caught:
        read(body)
    assert (caught.value.code, caught.value.subcode) == code


def test_unknown_attributes() -> None:
    (routes,) = read(update(GOOD + "c06302 abcd" + "806401 00")).announced
    assert routes.attributes is not None
    (kept,) = routes.attributes.unknown
    assert (kept.code, kept.flags, kept.body) == (0x63, 0xE0, b"\xab\xcd")


def test_a_repeated_attribute_counts_once() -> None:
    (routes,) = read(update(GOOD + "80040400000005" + "80040400000006")).announced
    assert routes.attributes is not None
    assert routes.attributes.med == 5


def test_two_octet_speaker_and_as4_path() -> None:
    agreed = session(as4=False)
    block = ORIGIN + "400208 0203 fdea 5ba0 5ba0" + NEXT_HOP + "c0110a 0202 000186a0 000186a1"
    (routes,) = read(update(block), agreed).announced
    assert routes.attributes is not None
    assert routes.attributes.as_path == (Segment(SEQUENCE, (65002, 100000, 100001)),)
    sent = encode_block(agreed, Family.IPV4, routes.attributes)
    assert bytes.fromhex("0203fdea5ba05ba0") in sent
    (again,) = read(len(b"").to_bytes(2, "big") + len(sent).to_bytes(2, "big") + sent + EXAMPLE, agreed).announced
    assert again.attributes == routes.attributes


def test_four_octet_speakers_ignore_as4_path() -> None:
    (routes,) = read(update(GOOD + "c0110a 0202 000186a0 000186a1")).announced
    assert routes.attributes is not None
    assert routes.attributes.as_path == (Segment(SEQUENCE, (65002,)),)


def test_ipv4_over_an_ipv6_next_hop_needs_the_capability() -> None:
    attributes = Attributes(as_path=(Segment(SEQUENCE, (65002,)),), next_hop=bytes.fromhex("fe80" + "00" * 13 + "02"))
    plain, extended = session(), session(extended_next_hop=frozenset((Family.IPV4,)))
    block = encode_block(extended, Family.IPV4, attributes)
    (message,) = encode_update(extended, Family.IPV4, attributes, [EXAMPLE], block)
    (routes,) = read(message[HEADER:], extended).announced
    assert (routes.family, routes.prefixes, routes.attributes) == (Family.IPV4, [EXAMPLE], attributes)
    with pytest.raises(PeerFault):
        read(message[HEADER:], plain)


def test_reach_is_the_first_attribute() -> None:
    attributes = Attributes(next_hop=bytes(15) + b"\x01")
    prefix = parse_prefix("2001:db8::/32")[1]
    (message,) = encode_update(
        session(), Family.IPV6, attributes, [prefix], encode_block(session(), Family.IPV6, attributes)
    )
    assert message[HEADER + 4 : HEADER + 6] == b"\x80\x0e"


def test_messages_stay_within_their_limit() -> None:
    attributes = Attributes(as_path=(Segment(SEQUENCE, (65001,)),), next_hop=bytes((10, 0, 0, 1)))
    prefixes = [b"\x20" + number.to_bytes(4, "big") for number in range(40_000)]
    for limit in (4096, 65535):
        agreed = session(max_message=limit)
        messages = encode_update(
            agreed, Family.IPV4, attributes, prefixes, encode_block(agreed, Family.IPV4, attributes)
        )
        messages += encode_withdraw(agreed, Family.IPV4, prefixes)
        assert max(map(len, messages)) <= limit
        assert len(messages) <= 2 * (1 + 5 * 40_000 // (limit - 60))


def test_marker_of_frames() -> None:
    assert frame(Kind.UPDATE, b"\0\0\0\0") == MARKER + b"\x00\x17\x02" + bytes(4)
