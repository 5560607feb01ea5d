"""From a query's bytes to a reply's, with dnspython as the codec: what may be asked, EDNS, truncation. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import msgspec

from stentor.dns.zone import TTL_S, Answer, Kind, Outcome, Record, Zone

UDP_MOST: Final = 1232
"""Largest UDP reply: no fragments on any path (DNS flag day 2020)."""
UDP_LEAST: Final = 512
TCP_MOST: Final = 65535
_HEADER_BYTES: Final = 12
_KINDS: Final = {dns.rdatatype.from_text(kind.value): kind for kind in Kind}


class Query(msgspec.Struct, frozen=True):
    """A question that may be answered; `room` is how many bytes the asker takes."""

    message: dns.message.QueryMessage
    name: str
    kind: Kind | None
    room: int

    @property
    def key(self) -> tuple[str, int, bool]:
        """What a cached reply is found under."""
        question = self.message.question[0]
        return self.name.lower(), int(question.rdtype), bool(self.message.ednsflags & dns.flags.DO)


def read(raw: bytes, *, is_udp: bool) -> Query | bytes | None:
    """A query; or the reply to one that cannot be answered; or None for what deserves none."""
    if len(raw) < _HEADER_BYTES or raw[2] & 0x80:  # replies are never replied to
        return None
    try:
        message = dns.message.from_wire(raw)
    except (dns.exception.DNSException, ValueError, IndexError):
        return raw[:2] + bytes((0x80 | raw[2] & 0x79, dns.rcode.FORMERR)) + bytes(8)
    room = max(UDP_LEAST, min(message.payload, UDP_MOST)) if is_udp else TCP_MOST
    problem = _problem(message)
    if problem is not None:
        return refuse(message, problem, room)
    assert isinstance(message, dns.message.QueryMessage)
    question = message.question[0]
    name = question.name.to_text(omit_final_dot=True) if question.name != dns.name.root else ""
    return Query(message, name, _KINDS.get(question.rdtype), room)


def _problem(message: dns.message.Message) -> dns.rcode.Rcode | None:
    if message.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(message.question) != 1:
        return dns.rcode.FORMERR
    if message.edns > 0:
        return dns.rcode.BADVERS
    question = message.question[0]
    if question.rdclass != dns.rdataclass.IN or question.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        return dns.rcode.REFUSED
    if question.rdtype == dns.rdatatype.ANY:  # RFC 8482: a reply may be as small as this
        return dns.rcode.NOTIMP
    return None


def refuse(message: dns.message.Message, rcode: dns.rcode.Rcode, room: int = UDP_LEAST) -> bytes:
    """A reply without records."""
    reply = _reply_to(message)
    reply.set_rcode(rcode)
    return pack(reply, room)


def failure(query: Query) -> dns.message.Message:
    """SERVFAIL: who would know the answer does not say."""
    reply = _reply_to(query.message)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply


def answer(query: Query, zone: Zone | None, found: Answer, rng: random.Random) -> dns.message.Message:
    """The reply of a zone, or of hosts without one; records come in random order, which spreads clients that take the first."""
    reply = _reply_to(query.message)
    reply.flags |= dns.flags.AA
    if found.outcome is Outcome.NO_SUCH_NAME:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    records = list(found.records)
    if len(records) > 1 and records[0].kind is not Kind.CNAME:
        rng.shuffle(records)
    _add(reply, reply.answer, records)
    _add(reply, reply.additional, found.additional)
    if not records and zone is not None:
        _add(reply, reply.authority, (zone.authority(),))
    return reply


def append(reply: dns.message.Message, target: dns.message.Message) -> None:
    """What an alias' target resolved to, behind the alias."""
    reply.answer.extend(target.answer)
    if target.rcode() != dns.rcode.NOERROR:
        reply.set_rcode(target.rcode())
    reply.flags &= ~dns.flags.AA


def relay(query: Query, reply: dns.message.Message) -> dns.message.Message:
    """Another server's reply under the asker's number and question."""
    own = _reply_to(query.message)
    own.flags |= reply.flags & (dns.flags.AD | dns.flags.AA)
    own.set_rcode(reply.rcode())
    own.answer, own.authority, own.additional = reply.answer, reply.authority, reply.additional
    return own


def pack(reply: dns.message.Message, room: int) -> bytes:
    """Bytes that fit; a reply too large is cut to its question and says so."""
    try:
        return reply.to_wire(max_size=room)
    except dns.exception.TooBig:
        reply.answer, reply.authority, reply.additional = [], [], []
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=room)


def _reply_to(message: dns.message.Message) -> dns.message.Message:
    return dns.message.make_response(message, recursion_available=True, our_payload=UDP_MOST)


def _add(reply: dns.message.Message, section: list[dns.rrset.RRset], records: Iterable[Record]) -> None:
    for record in records:
        kind = dns.rdatatype.from_text(record.kind.value)
        name = dns.name.from_text(record.name)
        rrset = reply.find_rrset(section, name, dns.rdataclass.IN, kind, create=True)
        rrset.add(dns.rdata.from_text(dns.rdataclass.IN, kind, record.data), TTL_S)
