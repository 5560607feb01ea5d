"""Capabilities of OPEN (RFC 5492) and what two speakers agree on.

A capability that we know but cannot read is ignored like an unknown one (RFC 5492 §3): it costs that capability only.
"""

from collections.abc import Mapping
from enum import IntFlag
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812

import msgspec

from stentor.bgp.errors import Code, PeerFault
from stentor.bgp.nlri import Family, find_family

MULTIPROTOCOL, ROUTE_REFRESH, EXTENDED_NEXT_HOP, EXTENDED_MESSAGE = 1, 2, 5, 6
GRACEFUL_RESTART, FOUR_OCTET_AS, ADD_PATH, ENHANCED_REFRESH, LONG_LIVED, HOST_NAME = 64, 65, 69, 70, 71, 73
BAD_CAPABILITIES = 7

_FAMILY = Layout("!HBB")
_FAMILY_FLAGS = Layout("!HBB")
_NEXT_HOP = Layout("!HHH")
_RESTARTING, _NOTIFICATION = 0x8, 0x4
_FORWARDING = 0x80


class AddPath(IntFlag):
    """Directions of additional paths, from the sender's view (RFC 7911 §4)."""

    RECEIVE = 1
    SEND = 2


class Graceful(msgspec.Struct, frozen=True):
    """RFC 4724 §3 and RFC 8538 §2; ``families`` tells whether forwarding state was preserved."""

    restart_s: int
    restarting: bool = False
    notification: bool = False
    families: Mapping[Family, bool] = {}


class LongLived(msgspec.Struct, frozen=True):
    """One family of the long-lived graceful restart capability (RFC 9494 §3.1)."""

    stale_s: int
    forwarding: bool = False


class Capabilities(msgspec.Struct, frozen=True):
    """What a speaker offers. ``four_octet_as`` is its AS number when it sent capability 65; ``codes`` all codes received."""

    families: tuple[Family, ...] = ()
    route_refresh: bool = False
    enhanced_refresh: bool = False
    extended_message: bool = False
    four_octet_as: int | None = None
    graceful: Graceful | None = None
    long_lived: Mapping[Family, LongLived] = {}
    add_path: Mapping[Family, AddPath] = {}
    extended_next_hop: tuple[Family, ...] = ()
    host_name: str = ""
    codes: tuple[int, ...] = ()


class Open(msgspec.Struct, frozen=True):
    """An OPEN message; ``asn`` is the real number, four octets included. ``identifier`` is 4 octets as a number."""

    asn: int
    hold_s: int
    identifier: int
    capabilities: Capabilities = Capabilities()


class Session(msgspec.Struct, frozen=True):
    """What both OPENs agree on; everything that encoding and decoding of UPDATEs depends on.

    ``add_path_in`` are the families whose received prefixes carry path identifiers. ``peer`` is the peer's whole OPEN.
    """

    local_as: int
    peer: Open
    hold_s: int
    keepalive_s: float
    families: frozenset[Family]
    as4: bool = True
    add_path_in: frozenset[Family] = frozenset()
    add_path_out: frozenset[Family] = frozenset()
    extended_next_hop: frozenset[Family] = frozenset()
    max_message: int = 4096
    route_refresh: bool = False
    enhanced_refresh: bool = False

    @property
    def ebgp(self) -> bool:
        return self.local_as != self.peer.asn


def negotiate(local: Open, peer: Open, keepalive_s: float | None = None) -> Session:
    """The session of two OPENs. A peer without the multiprotocol capability speaks IPv4 unicast only (RFC 4760 §8)."""
    ours, theirs = local.capabilities, peer.capabilities
    families = frozenset(ours.families) & frozenset(theirs.families or (Family.IPV4,))
    hold_s = min(local.hold_s, peer.hold_s)
    return Session(
        local_as=local.asn,
        peer=peer,
        hold_s=hold_s,
        keepalive_s=min(keepalive_s or hold_s / 3, hold_s / 3),
        families=families,
        as4=ours.four_octet_as is not None and theirs.four_octet_as is not None,
        add_path_in=frozenset(f for f in families if _agree(ours.add_path, theirs.add_path, f, AddPath.RECEIVE)),
        add_path_out=frozenset(f for f in families if _agree(theirs.add_path, ours.add_path, f, AddPath.RECEIVE)),
        extended_next_hop=frozenset(ours.extended_next_hop) & frozenset(theirs.extended_next_hop),
        max_message=65535 if ours.extended_message and theirs.extended_message else 4096,
        route_refresh=ours.route_refresh and theirs.route_refresh,
        enhanced_refresh=ours.enhanced_refresh and theirs.enhanced_refresh,
    )


def _agree(receiver: Mapping[Family, AddPath], sender: Mapping[Family, AddPath], family: Family, want: AddPath) -> bool:
    return bool(receiver.get(family, 0) & want) and bool(sender.get(family, 0) & AddPath.SEND)


class _Builder:
    """Collects one OPEN's capabilities; several instances of a code add up where the specification says so."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.families: list[Family] = []
        self.flags: set[int] = set()
        self.four_octet_as: int | None = None
        self.graceful: Graceful | None = None
        self.long_lived: dict[Family, LongLived] = {}
        self.add_path: dict[Family, AddPath] = {}
        self.extended_next_hop: list[Family] = []
        self.host_name = ""

    def multiprotocol(self, body: bytes) -> None:
        afi, _, safi = _FAMILY.unpack(body)
        family = find_family(afi, safi)
        if family is not None and family not in self.families:
            self.families.append(family)

    def next_hops(self, body: bytes) -> None:
        for afi, safi, next_hop_afi in _NEXT_HOP.iter_unpack(body):
            if (afi, safi, next_hop_afi) == (1, 1, 2) and Family.IPV4 not in self.extended_next_hop:
                self.extended_next_hop.append(Family.IPV4)

    def restart(self, body: bytes) -> None:
        head = int.from_bytes(body[:2], "big")
        families = {}
        for afi, safi, flags in _FAMILY_FLAGS.iter_unpack(body[2:]):
            family = find_family(afi, safi)
            if family is not None:
                families[family] = bool(flags & _FORWARDING)
        bits = head >> 12
        self.graceful = Graceful(head & 0xFFF, bool(bits & _RESTARTING), bool(bits & _NOTIFICATION), families)

    def stale(self, body: bytes) -> None:
        for position in range(0, len(body), 7):
            afi, safi, flags = _FAMILY_FLAGS.unpack(body[position : position + 4])
            family = find_family(afi, safi)
            if family is not None and position + 7 <= len(body):
                seconds = int.from_bytes(body[position + 4 : position + 7], "big")
                self.long_lived[family] = LongLived(seconds, bool(flags & _FORWARDING))

    def four_octets(self, body: bytes) -> None:
        if len(body) == 4:
            self.four_octet_as = int.from_bytes(body, "big")

    def paths(self, body: bytes) -> None:
        for afi, safi, mode in _FAMILY_FLAGS.iter_unpack(body):
            family = find_family(afi, safi)
            if family is not None and mode in (1, 2, 3):
                self.add_path[family] = AddPath(mode)

    def name(self, body: bytes) -> None:
        self.host_name = body[1 : 1 + body[0]].decode(errors="replace") if body else ""

    def build(self) -> Capabilities:
        return Capabilities(
            families=tuple(self.families),
            route_refresh=ROUTE_REFRESH in self.flags,
            enhanced_refresh=ENHANCED_REFRESH in self.flags,
            extended_message=EXTENDED_MESSAGE in self.flags,
            four_octet_as=self.four_octet_as,
            graceful=self.graceful,
            long_lived=self.long_lived,
            add_path=self.add_path,
            extended_next_hop=tuple(self.extended_next_hop),
            host_name=self.host_name,
            codes=tuple(self.codes),
        )


_DECODERS = {
    MULTIPROTOCOL: _Builder.multiprotocol,
    EXTENDED_NEXT_HOP: _Builder.next_hops,
    GRACEFUL_RESTART: _Builder.restart,
    FOUR_OCTET_AS: _Builder.four_octets,
    ADD_PATH: _Builder.paths,
    LONG_LIVED: _Builder.stale,
    HOST_NAME: _Builder.name,
}


def decode_capabilities(parameters: list[bytes]) -> Capabilities:
    """Read the bodies of all capability parameters; PeerFault when the lengths do not add up (RFC 5492 §5)."""
    builder = _Builder()
    for body in parameters:
        position = 0
        while position < len(body):
            if position + 2 > len(body) or position + 2 + body[position + 1] > len(body):
                raise PeerFault(Code.OPEN, 0, reason="a capability reaches over the end of its parameter")
            code, length = body[position], body[position + 1]
            value = body[position + 2 : position + 2 + length]
            position += 2 + length
            builder.codes.append(code)
            builder.flags.add(code)
            decoder = _DECODERS.get(code)
            if decoder is not None:
                try:
                    decoder(builder, value)
                except LayoutError:
                    continue
    return builder.build()


def encode_capabilities(offer: Capabilities) -> bytes:
    """All capabilities one after the other, ready for an optional parameter of type 2."""
    out = [_tlv(MULTIPROTOCOL, _FAMILY.pack(f.afi, 0, f.safi)) for f in offer.families]
    for is_offered, code in (
        (offer.route_refresh, ROUTE_REFRESH),
        (offer.enhanced_refresh, ENHANCED_REFRESH),
        (offer.extended_message, EXTENDED_MESSAGE),
    ):
        if is_offered:
            out.append(_tlv(code, b""))
    if offer.extended_next_hop:
        out.append(_tlv(EXTENDED_NEXT_HOP, b"".join(_NEXT_HOP.pack(f.afi, f.safi, 2) for f in offer.extended_next_hop)))
    if offer.graceful is not None:
        out.append(_tlv(GRACEFUL_RESTART, _encode_graceful(offer.graceful)))
    if offer.four_octet_as is not None:
        out.append(_tlv(FOUR_OCTET_AS, offer.four_octet_as.to_bytes(4, "big")))
    if offer.add_path:
        out.append(_tlv(ADD_PATH, b"".join(_FAMILY_FLAGS.pack(f.afi, f.safi, m) for f, m in offer.add_path.items())))
    if offer.long_lived:
        out.append(_tlv(LONG_LIVED, b"".join(_encode_stale(f, each) for f, each in offer.long_lived.items())))
    if offer.host_name:
        name = offer.host_name.encode()[:64]
        out.append(_tlv(HOST_NAME, bytes((len(name),)) + name + b"\0"))
    return b"".join(out)


def _encode_graceful(graceful: Graceful) -> bytes:
    bits = (_RESTARTING if graceful.restarting else 0) | (_NOTIFICATION if graceful.notification else 0)
    families = (_FAMILY_FLAGS.pack(f.afi, f.safi, _FORWARDING if kept else 0) for f, kept in graceful.families.items())
    return (bits << 12 | graceful.restart_s).to_bytes(2, "big") + b"".join(families)


def _encode_stale(family: Family, each: LongLived) -> bytes:
    flags = _FORWARDING if each.forwarding else 0
    return _FAMILY_FLAGS.pack(family.afi, family.safi, flags) + each.stale_s.to_bytes(3, "big")


def _tlv(code: int, body: bytes) -> bytes:
    return bytes((code, len(body))) + body
