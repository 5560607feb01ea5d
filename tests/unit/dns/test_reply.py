"""Queries from bytes, replies to bytes: whatever comes in, what goes out is a reply that fits or nothing."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.dns import reply as replies
from stentor.dns import row
from stentor.dns.cache import Cache, lifetime_s
from stentor.dns.reply import Query
from stentor.dns.upstream import Server
from stentor.dns.zone import Answer, Kind, Outcome, Record, Zone
from stentor.net.address import Addr

ZONE = Zone("cluster.local", row.services(), row.slices(), row.namespaces())


def query(name: str = "a.svc.cluster.local", kind: str = "A", **options: object) -> dns.message.QueryMessage:
    return dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]


def accepted(message: dns.message.Message, *, is_udp: bool = True) -> Query:
    found = replies.read(message.to_wire(), is_udp=is_udp)
    assert isinstance(found, Query)
    return found


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    found = replies.read(raw, is_udp=True)
    if isinstance(found, bytes):
        assert found[:2] == raw[:2]
        assert found[2] & 0x80
        dns.message.from_wire(found)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_query(at: int, value: int) -> None:
    raw = bytearray(query(use_edns=0, payload=4096).to_wire())
    raw[at % len(raw)] = value
    replies.read(bytes(raw), is_udp=True)
    replies.read(bytes(raw[: at % len(raw)]), is_udp=False)


@pytest.mark.parametrize(
    ("options", "is_udp", "room"),
    [
        ({}, True, 512),
        ({"use_edns": 0, "payload": 100}, True, 512),
        ({"use_edns": 0, "payload": 1000}, True, 1000),
        ({"use_edns": 0, "payload": 4096}, True, 1232),
        ({"use_edns": 0, "payload": 1000}, False, 65535),
    ],
)
def test_room(options: dict[str, object], is_udp: bool, room: int) -> None:
    assert accepted(query(**options), is_udp=is_udp).room == room


def refused(message: dns.message.Message) -> int:
    found = replies.read(message.to_wire(), is_udp=True)
    assert isinstance(found, bytes)
    return dns.message.from_wire(found).rcode()


def test_what_is_not_answered() -> None:
    assert refused(query(kind="AXFR")) == dns.rcode.REFUSED
    assert refused(query(kind="ANY")) == dns.rcode.NOTIMP
    assert refused(dns.message.make_query("a", "A", rdclass="CH")) == dns.rcode.REFUSED
    assert refused(query(use_edns=1)) == dns.rcode.BADVERS
    several = query()
    several.question *= 2
    assert refused(several) == dns.rcode.FORMERR
    notify = query()
    notify.set_opcode(dns.opcode.NOTIFY)
    assert refused(notify) == dns.rcode.NOTIMP
    assert replies.read(dns.message.make_response(query()).to_wire(), is_udp=True) is None


def test_a_reply_keeps_number_question_and_case() -> None:
    asked = query("A.svc.Cluster.local")
    found = Answer(Outcome.ANSWER, (Record("A.svc.Cluster.local", Kind.A, "10.96.0.1"),))
    own = replies.answer(accepted(asked), ZONE, found, random.Random(1))
    back = dns.message.from_wire(replies.pack(own, 512))
    assert back.id == asked.id
    assert back.question[0].name.to_text() == "A.svc.Cluster.local."
    assert back.flags & dns.flags.AA
    assert back.flags & dns.flags.RA
    assert [str(each) for each in back.answer] == ["A.svc.Cluster.local. 5 IN A 10.96.0.1"]


def test_no_record_comes_with_the_zones_authority() -> None:
    own = replies.answer(accepted(query()), ZONE, Answer(Outcome.NO_SUCH_NAME), random.Random(1))
    assert own.rcode() == dns.rcode.NXDOMAIN
    assert [each.rdtype for each in own.authority] == [dns.rdatatype.SOA]


def test_too_much_is_cut_over_udp_and_whole_over_tcp() -> None:
    records = tuple(Record("a.svc.cluster.local", Kind.A, f"10.0.0.{n}") for n in range(200))
    for is_udp, count in ((True, 0), (False, 200)):
        asked = accepted(query(), is_udp=is_udp)
        own = replies.answer(asked, ZONE, Answer(Outcome.ANSWER, records), random.Random(1))
        back = dns.message.from_wire(replies.pack(own, asked.room))
        assert bool(back.flags & dns.flags.TC) == is_udp
        assert sum(len(rrset) for rrset in back.answer) == count


def reply_with(ttl: int, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.Message:
    made = dns.message.make_response(query("example.com"))
    made.set_rcode(rcode)
    section = made.answer if rcode == dns.rcode.NOERROR else made.authority
    kind, data = ("A", "192.0.2.1") if rcode == dns.rcode.NOERROR else ("SOA", "a. b. 1 2 3 4 20")
    section.append(dns.rrset.from_text("example.com.", ttl, "IN", kind, data))
    return made


def test_the_cache_ages_and_forgets() -> None:
    cache = Cache(most=2)
    key = ("example.com", 1, False)
    cache.put(key, reply_with(30), 100.0)
    found = cache.get(key, 110.0)
    assert found is not None
    assert found.answer[0].ttl == 20
    assert cache.get(key, 130.0) is None
    for name in "abc":
        cache.put((name, 1, False), reply_with(30), 100.0)
    assert [cache.get((name, 1, False), 101.0) is not None for name in "abc"] == [False, True, True]


def test_lifetimes() -> None:
    assert lifetime_s(reply_with(300)) == 300
    assert lifetime_s(reply_with(300, dns.rcode.NXDOMAIN)) == 20
    assert lifetime_s(reply_with(0)) == 0
    assert lifetime_s(reply_with(300, dns.rcode.SERVFAIL)) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", Server(Addr.parse("192.0.2.1"), 53)),
        ("192.0.2.1:5353", Server(Addr.parse("192.0.2.1"), 5353)),
        ("fd00::1", Server(Addr.parse("fd00::1"), 53)),
        ("[fd00::1]:5353", Server(Addr.parse("fd00::1"), 5353)),
        ("[fd00::1]", Server(Addr.parse("fd00::1"), 53)),
    ],
)
def test_servers(text: str, expected: Server) -> None:
    assert Server.parse(text) == expected


@pytest.mark.parametrize("text", ["", "a", "192.0.2.1:0", "192.0.2.1:99999", "[::1", "1.2.3.4:x"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError):
        Server.parse(text)
