"""Replies of other servers, kept for their time to live, negative ones too (RFC 2308). The least used go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec

_MOST_S: Final = 3600.0
_NEGATIVE_MOST_S: Final = 30.0

Key = tuple[str, int, bool]


class _Kept(msgspec.Struct, frozen=True):
    reply: dns.message.Message
    since: float
    until: float


class Cache:
    """Not more than `most` replies. Times are seconds of the caller's clock."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> dns.message.Message | None:
        """A reply with its records' remaining time to live."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return _aged(kept.reply, int(now - kept.since))

    def put(self, key: Key, reply: dns.message.Message, now: float) -> None:
        """Keep a reply, if its server said for how long."""
        lifetime = lifetime_s(reply)
        if lifetime <= 0:
            return
        self._kept[key] = _Kept(reply, now, now + lifetime)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def lifetime_s(reply: dns.message.Message) -> float:
    """How long a reply may be kept; 0 for one that may not."""
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0.0
    if reply.answer:
        return min(_MOST_S, min(rrset.ttl for rrset in reply.answer))
    for rrset in reply.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return float(min(_NEGATIVE_MOST_S, rrset.ttl, rrset[0].minimum))
    return 0.0


def _aged(reply: dns.message.Message, age_s: int) -> dns.message.Message:
    aged = dns.message.QueryMessage(id=reply.id)
    aged.flags, aged.question = reply.flags, reply.question
    aged.set_rcode(reply.rcode())
    for theirs, ours in (
        (reply.answer, aged.answer),
        (reply.authority, aged.authority),
        (reply.additional, aged.additional),
    ):
        for rrset in theirs:
            ours.append(dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - age_s), list(rrset)))
    return aged
