"""Malformed UPDATEs as data: every class of RFC 7606 (with RFC 4271, 6793, 7607 and 8092), and the reaction asked for.

A case's bytes are built for one sender: its AS decides between an eBGP and an iBGP session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from peers.raw import attribute, nlri, update
from stentor.bgp.wire import Kind, frame

EBGP_AS, IBGP_AS = 65009, 65001
WITHDRAW, KEEP = "withdraw", "keep"
MED = 77

ORIGIN = attribute(0x40, 1, b"\0")
MEDIUM = attribute(0x80, 4, MED.to_bytes(4, "big"))
PREFERENCE = attribute(0x40, 5, (100).to_bytes(4, "big"))
FIRST_NEIGHBOR = bytes((2, 1)) + EBGP_AS.to_bytes(4, "big")


class Sender(NamedTuple):
    """Who sends: its address is the next hop; ``prefix`` is what the malformed message announces."""

    address: bytes
    is_external: bool
    prefix: str

    def parts(self) -> dict[int, bytes]:
        """Well-formed attributes by code: ORIGIN, AS_PATH, NEXT_HOP, MED and inside an AS LOCAL_PREF."""
        path = attribute(0x40, 2, FIRST_NEIGHBOR if self.is_external else b"")
        parts = {1: ORIGIN, 2: path, 3: attribute(0x40, 3, self.address), 4: MEDIUM}
        return parts if self.is_external else {**parts, 5: PREFERENCE}

    def good(self, prefix: str) -> bytes:
        """A right announcement, without MED."""
        return update(b"".join(body for code, body in self.parts().items() if code != 4), nlri(prefix))


Build = Callable[[Sender], bytes]


class Case(NamedTuple):
    """``verdict``: ``withdraw``, ``keep`` (the route stays, with or without the attribute) or ``reset CODE/SUBCODE``."""

    name: str
    clause: str
    verdict: str
    build: Build
    is_external: bool = True


def put(code: int, raw: bytes) -> Build:
    """The announcement with attribute ``code`` replaced by these octets (header included)."""
    return lambda sender: update(
        b"".join(dict(sorted({**sender.parts(), code: raw}.items())).values()), nlri(sender.prefix)
    )


def without(code: int) -> Build:
    return lambda sender: update(b"".join(b for c, b in sender.parts().items() if c != code), nlri(sender.prefix))


def after(raw: bytes) -> Build:
    """These octets behind all attributes."""
    return lambda sender: update(b"".join(sender.parts().values()) + raw, nlri(sender.prefix))


def announce(octets: bytes) -> Build:
    """These octets behind the prefix in the NLRI field."""
    return lambda sender: update(b"".join(sender.parts().values()), nlri(sender.prefix) + octets)


def _lengths(withdrawn: int | None = None, attributes: int | None = None) -> Build:
    """An announcement with one of the two length fields off by this much."""

    def build(sender: Sender) -> bytes:
        block = b"".join(sender.parts().values())
        head = (withdrawn or 0).to_bytes(2, "big") + (len(block) + (attributes or 0)).to_bytes(2, "big")
        return frame(Kind.UPDATE, head + block + nlri(sender.prefix))

    return build


def _path(*octets: int) -> Build:
    return put(2, attribute(0x40, 2, bytes(octets)))


def _reach(next_hop: bytes, prefixes: bytes, flags: int = 0x80) -> bytes:
    return attribute(flags, 14, bytes((0, 2, 1, len(next_hop))) + next_hop + b"\0" + prefixes)


_V6 = nlri("2001:db8:7606::/48")
_GLOBAL = bytes.fromhex("20010db8000000000000000000000009")
_NINE = EBGP_AS.to_bytes(4, "big")

CASES = (
    Case("origin of length 0", "7606 §7.1", WITHDRAW, put(1, attribute(0x40, 1, b""))),
    Case("origin of length 2", "7606 §7.1", WITHDRAW, put(1, attribute(0x40, 1, b"\0\0"))),
    Case("origin 3", "7606 §7.1", WITHDRAW, put(1, attribute(0x40, 1, b"\3"))),
    Case("origin missing", "7606 §3 d", WITHDRAW, without(1)),
    Case("origin with flag optional", "7606 §3 c", WITHDRAW, put(1, attribute(0xC0, 1, b"\0"))),
    Case("origin without flag transitive", "7606 §3 c", WITHDRAW, put(1, attribute(0x00, 1, b"\0"))),
    Case("origin twice", "7606 §3 g", KEEP, after(attribute(0x40, 1, b"\2"))),
    Case("as path of an unknown segment type", "7606 §7.2", WITHDRAW, _path(2, 1, *_NINE, 9, 1, *_NINE)),
    Case("as path with a confederation segment", "5065 §5", WITHDRAW, _path(2, 1, *_NINE, 3, 1, *_NINE)),
    Case("as path segment that overruns", "7606 §7.2", WITHDRAW, _path(2, 3, *_NINE)),
    Case("as path with one octet left", "7606 §7.2", WITHDRAW, _path(2, 1, *_NINE, 2)),
    Case("as path with an empty segment", "7606 §7.2", WITHDRAW, _path(2, 1, *_NINE, 2, 0)),
    Case("as path with as 0", "7607 §2", WITHDRAW, _path(2, 2, *_NINE, 0, 0, 0, 0)),
    Case("as path of another first as", "4271 §6.3", WITHDRAW, _path(2, 1, 0, 0, 0xFD, 0xE8)),
    Case("as path missing", "7606 §3 d", WITHDRAW, without(2)),
    Case("next hop of length 3", "7606 §7.3", WITHDRAW, put(3, attribute(0x40, 3, b"\x0a\x09\x01"))),
    Case("next hop of length 5", "7606 §7.3", WITHDRAW, put(3, attribute(0x40, 3, b"\x0a\x09\x01\x02\0"))),
    Case("next hop 0.0.0.0", "4271 §6.3", WITHDRAW, put(3, attribute(0x40, 3, bytes(4)))),
    Case("next hop that is multicast", "4271 §6.3", WITHDRAW, put(3, attribute(0x40, 3, b"\xe0\0\0\1"))),
    Case("next hop missing", "7606 §3 d", WITHDRAW, without(3)),
    Case("med of length 3", "7606 §7.4", WITHDRAW, put(4, attribute(0x80, 4, bytes(3)))),
    Case("med of length 5", "7606 §7.4", WITHDRAW, put(4, attribute(0x80, 4, bytes(5)))),
    Case("med with flag transitive", "7606 §3 c", WITHDRAW, put(4, attribute(0xC0, 4, bytes(4)))),
    Case("local preference of length 3", "7606 §7.5", WITHDRAW, put(5, attribute(0x40, 5, bytes(3))), False),
    Case("local preference of length 3, external", "7606 §7.5", KEEP, put(5, attribute(0x40, 5, bytes(3)))),
    Case("atomic aggregate of length 1", "7606 §7.6", KEEP, put(6, attribute(0x40, 6, b"\0"))),
    Case("aggregator of length 6", "7606 §7.7", KEEP, put(7, attribute(0xC0, 7, bytes((0xFD, 0xE9, 10, 0, 0, 1))))),
    Case("aggregator of length 9", "7606 §7.7", KEEP, put(7, attribute(0xC0, 7, bytes(9)))),
    Case("aggregator with as 0", "7607 §2", KEEP, put(7, attribute(0xC0, 7, bytes((0, 0, 0, 0, 10, 0, 0, 1))))),
    Case("communities of length 3", "7606 §7.8", WITHDRAW, put(8, attribute(0xC0, 8, bytes(3)))),
    Case("communities of length 0", "7606 §7.8", WITHDRAW, put(8, attribute(0xC0, 8, b""))),
    Case("communities without flag transitive", "7606 §3 c", WITHDRAW, put(8, attribute(0x80, 8, b"\xfd\xe9\0\1"))),
    Case("originator of length 3", "7606 §7.9", WITHDRAW, put(9, attribute(0x80, 9, bytes(3))), False),
    Case("originator of length 3, external", "7606 §7.9", KEEP, put(9, attribute(0x80, 9, bytes(3)))),
    Case("cluster list of length 3", "7606 §7.10", WITHDRAW, put(10, attribute(0x80, 10, bytes(3))), False),
    Case("cluster list of length 0", "7606 §7.10", WITHDRAW, put(10, attribute(0x80, 10, b"")), False),
    Case("cluster list of length 3, external", "7606 §7.10", KEEP, put(10, attribute(0x80, 10, bytes(3)))),
    Case("extended communities of length 7", "7606 §7.14", WITHDRAW, put(16, attribute(0xC0, 16, bytes(7)))),
    Case("extended communities of length 0", "7606 §7.14", WITHDRAW, put(16, attribute(0xC0, 16, b""))),
    Case("large communities of length 11", "8092 §6", WITHDRAW, put(32, attribute(0xC0, 32, bytes(11)))),
    Case("large communities of length 0", "8092 §6", WITHDRAW, put(32, attribute(0xC0, 32, b""))),
    Case("as4 path from a new speaker", "6793 §6", KEEP, put(17, attribute(0xC0, 17, b"\2\1"))),
    Case("as4 aggregator from a new speaker", "6793 §6", KEEP, put(18, attribute(0xC0, 18, bytes(3)))),
    Case("unknown optional transitive", "4271 §6.3", KEEP, after(attribute(0xC0, 250, b"xyz"))),
    Case("unknown optional non-transitive", "4271 §6.3", KEEP, after(attribute(0x80, 250, b"xyz"))),
    Case("unknown well-known", "4271 §6.3", "reset 3/2", after(attribute(0x40, 250, b"xyz"))),
    Case("attribute that overruns", "7606 §4", WITHDRAW, after(bytes((0xC0, 8, 8)) + bytes(4))),
    Case("attribute header cut off", "7606 §4", WITHDRAW, after(b"\xc0\x08")),
    Case("attributes that overrun the message", "7606 §4", "reset 3/1", _lengths(attributes=200)),
    Case("withdrawn routes that overrun the message", "7606 §4", "reset 3/1", _lengths(withdrawn=2000)),
    Case("prefix length 33", "7606 §5.3", "reset 3/10", announce(b"\x21\xc6\x12\0\0\0")),
    Case("prefix that overruns", "7606 §5.3", "reset 3/10", announce(b"\x20\xc6\x12")),
    Case("mp reach twice", "7606 §3 g", "reset 3/1", after(_reach(_GLOBAL, _V6) + _reach(_GLOBAL, _V6))),
    Case("mp reach with prefix length 129", "7606 §5.3", "reset 3/9", after(_reach(_GLOBAL, b"\x81" + bytes(17)))),
    Case("mp reach next hop of length 5", "7606 §7.11", "reset 3/9", after(_reach(bytes(5), _V6))),
    Case("mp reach too short", "7606 §5.3", "reset 3/9", after(attribute(0x80, 14, b"\0\2\1"))),
    Case("mp unreach too short", "7606 §5.3", "reset 3/9", after(attribute(0x80, 15, b"\0\2"))),
    Case(
        "mp unreach with a prefix that overruns",
        "7606 §5.3",
        "reset 3/9",
        after(attribute(0x80, 15, b"\0\2\1\x40\x20")),
    ),
)
