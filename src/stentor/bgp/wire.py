"""Messages (RFC 4271 §4): framing, encoding and decoding, without sockets.

    16 octets of ones | length (2, header included) | type (1) | body

``split_messages`` cuts a stream, ``decode_message`` reads one body of any kind but UPDATE, which is ``update``'s. Every fault
of the peer is a ``PeerFault``.
"""

from enum import IntEnum

import msgspec

from stentor.bgp.attribute import AS_TRANS
from stentor.bgp.capability import Open, decode_capabilities, encode_capabilities
from stentor.bgp.errors import Cease, Code, PeerFault
from stentor.bgp.nlri import Family, find_family

MARKER = b"\xff" * 16
HEADER = 19
MAX_MESSAGE = 4096
VERSION = 4


class Kind(IntEnum):
    """Message types; ROUTE_REFRESH is RFC 2918's."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


_MINIMUM = {Kind.OPEN: 29, Kind.UPDATE: 23, Kind.NOTIFICATION: 21, Kind.KEEPALIVE: 19, Kind.ROUTE_REFRESH: 23}
_NEVER_EXTENDED = frozenset((Kind.OPEN, Kind.KEEPALIVE))


class Notification(msgspec.Struct, frozen=True):
    """A NOTIFICATION message."""

    code: int
    subcode: int = 0
    data: bytes = b""

    @property
    def inner(self) -> "Notification":
        """What a Hard Reset encloses (RFC 8538 §3.1), itself otherwise."""
        is_hard = (self.code, self.subcode) == (Code.CEASE, Cease.HARD_RESET)
        return Notification(self.data[0], self.data[1], self.data[2:]) if is_hard and len(self.data) > 1 else self

    @property
    def text(self) -> str:
        """The shutdown communication (RFC 9003), empty when there is none or it is not readable."""
        if self.inner is not self:
            return self.inner.text
        if self.code != Code.CEASE or self.subcode not in (Cease.SHUTDOWN, Cease.RESET) or not self.data:
            return ""
        body = self.data[1 : 1 + self.data[0]]
        return body.decode(errors="replace") if len(body) == self.data[0] else ""

    def describe(self) -> str:
        """``Cease/Administrative Shutdown: maintenance``."""
        code, subcodes = NAMES.get(self.code, (f"code {self.code}", {}))
        words = f"{code}/{subcodes.get(self.subcode, self.subcode)}" if self.subcode else code
        if self.inner is not self:
            return f"{words}: {self.inner.describe()}"
        return f"{words}: {self.text}" if self.text else words


class Refresh(msgspec.Struct, frozen=True):
    """ROUTE-REFRESH; ``subtype`` 0 asks, 1 and 2 begin and end a re-advertisement (RFC 7313)."""

    family: Family
    subtype: int = 0


class Keepalive(msgspec.Struct, frozen=True):
    """KEEPALIVE has no content."""


NAMES: dict[int, tuple[str, dict[int, str]]] = {
    Code.HEADER: (
        "Message Header Error",
        {1: "Connection Not Synchronized", 2: "Bad Message Length", 3: "Bad Message Type"},
    ),
    Code.OPEN: (
        "OPEN Message Error",
        {
            1: "Unsupported Version Number",
            2: "Bad Peer AS",
            3: "Bad BGP Identifier",
            4: "Unsupported Optional Parameter",
            6: "Unacceptable Hold Time",
            7: "Unsupported Capability",
        },
    ),
    Code.UPDATE: (
        "UPDATE Message Error",
        {
            1: "Malformed Attribute List",
            2: "Unrecognized Well-known Attribute",
            3: "Missing Well-known Attribute",
            4: "Attribute Flags Error",
            5: "Attribute Length Error",
            6: "Invalid ORIGIN Attribute",
            8: "Invalid NEXT_HOP Attribute",
            9: "Optional Attribute Error",
            10: "Invalid Network Field",
            11: "Malformed AS_PATH",
        },
    ),
    Code.HOLD_TIMER: ("Hold Timer Expired", {}),
    Code.FSM: ("Finite State Machine Error", {1: "in OpenSent", 2: "in OpenConfirm", 3: "in Established"}),
    Code.CEASE: (
        "Cease",
        {
            Cease.MAX_PREFIXES: "Maximum Number of Prefixes Reached",
            Cease.SHUTDOWN: "Administrative Shutdown",
            Cease.DECONFIGURED: "Peer De-configured",
            Cease.RESET: "Administrative Reset",
            Cease.REJECTED: "Connection Rejected",
            Cease.CONFIG_CHANGE: "Other Configuration Change",
            Cease.COLLISION: "Connection Collision Resolution",
            Cease.OUT_OF_RESOURCES: "Out of Resources",
            Cease.HARD_RESET: "Hard Reset",
            Cease.BFD_DOWN: "BFD Down",
        },
    ),
    Code.ROUTE_REFRESH: ("ROUTE-REFRESH Message Error", {1: "Invalid Message Length"}),
    Code.SEND_HOLD_TIMER: ("Send Hold Timer Expired", {}),
}


def shutdown(subcode: Cease, text: str = "") -> Notification:
    """A Cease with a shutdown communication of at most 255 octets of UTF-8 (RFC 9003)."""
    body = text.encode()[:255].decode(errors="ignore").encode()
    return Notification(Code.CEASE, subcode, bytes((len(body),)) + body if body else b"")


# -- framing ------------------------------------------------------------------------------------------------------------------


def frame(kind: Kind, body: bytes) -> bytes:
    """A whole message."""
    return b"%b%b%c%b" % (MARKER, (HEADER + len(body)).to_bytes(2, "big"), kind, body)


def split_messages(data: bytes | bytearray, limit: int = MAX_MESSAGE) -> tuple[list[tuple[Kind, bytes]], int]:
    """Whole messages at the front of ``data`` and the number of octets they take.

    A bad header behind them ends the list; PeerFault when it comes first (§6.1).
    """
    messages: list[tuple[Kind, bytes]] = []
    position, end = 0, len(data)
    while end - position >= HEADER:
        length = data[position + 16] << 8 | data[position + 17]
        if data[position + 18] == 2 and 23 <= length <= limit and data[position : position + 16] == MARKER:
            if position + length > end:
                break
            messages.append((Kind.UPDATE, bytes(data[position + HEADER : position + length])))
            position += length
            continue
        try:
            kind = _check_header(data[position : position + 16], data[position + 18], length, limit)
        except PeerFault:
            if messages:
                break
            raise
        if position + length > end:
            break
        messages.append((kind, bytes(data[position + HEADER : position + length])))
        position += length
    return messages, position


def _check_header(marker: bytes | bytearray, code: int, length: int, limit: int) -> Kind:
    if marker != MARKER:
        raise PeerFault(Code.HEADER, 1, reason="the marker is not all ones")
    size = length.to_bytes(2, "big")
    if length < HEADER or length > limit:
        raise PeerFault(Code.HEADER, 2, size, f"message of {length} octets")
    try:
        kind = Kind(code)
    except ValueError:
        raise PeerFault(Code.HEADER, 3, bytes((code,)), f"message type {code}") from None
    if kind is Kind.ROUTE_REFRESH and length != 23:
        return kind
    too_long = (kind is Kind.KEEPALIVE and length != HEADER) or (kind in _NEVER_EXTENDED and length > MAX_MESSAGE)
    if length < _MINIMUM[kind] or too_long:
        raise PeerFault(Code.HEADER, 2, size, f"{kind.name} of {length} octets")
    return kind


# -- everything but UPDATE ----------------------------------------------------------------------------------------------------


Message = Open | Notification | Keepalive | Refresh


def encode_open(message: Open) -> bytes:
    """OPEN; parameters over 255 octets take the extended form of RFC 9072."""
    offered = encode_capabilities(message.capabilities)
    head = bytes((VERSION,)) + (message.asn if message.asn < 65536 else AS_TRANS).to_bytes(2, "big")
    head += message.hold_s.to_bytes(2, "big") + message.identifier.to_bytes(4, "big")
    if not offered:
        return frame(Kind.OPEN, head + b"\0")
    if len(offered) + 2 <= 255:
        return frame(Kind.OPEN, head + bytes((len(offered) + 2, 2, len(offered))) + offered)
    body = b"\x02" + len(offered).to_bytes(2, "big") + offered
    return frame(Kind.OPEN, head + b"\xff\xff" + len(body).to_bytes(2, "big") + body)


def decode_open(body: bytes) -> Open:
    """OPEN's body (at least 10 octets); semantic checks against the configuration are the state machine's."""
    if body[0] != VERSION:
        raise PeerFault(Code.OPEN, 1, VERSION.to_bytes(2, "big"), f"version {body[0]}")
    asn, hold_s = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    identifier = int.from_bytes(body[5:9], "big")
    if not identifier:
        raise PeerFault(Code.OPEN, 3, reason="BGP identifier 0")
    if hold_s in (1, 2):
        raise PeerFault(Code.OPEN, 6, reason=f"hold time {hold_s}")
    capabilities = decode_capabilities(_split_parameters(body))
    if capabilities.four_octet_as is not None:
        asn = capabilities.four_octet_as
    if not asn:
        raise PeerFault(Code.OPEN, 2, reason="AS 0 (RFC 7607)")
    return Open(asn, hold_s, identifier, capabilities)


def _split_parameters(body: bytes) -> list[bytes]:
    length, start, size = body[9], 10, 1
    if length == 255 and len(body) > 12 and body[10] == 255:
        length, start, size = int.from_bytes(body[11:13], "big"), 13, 2
    if start + length != len(body):
        raise PeerFault(Code.OPEN, 0, reason="optional parameters do not fill the message")
    found = []
    while start < len(body):
        kind, begin = body[start], start + 1 + size
        stop = begin + int.from_bytes(body[start + 1 : begin], "big")
        if begin > len(body) or stop > len(body):
            raise PeerFault(Code.OPEN, 0, reason="an optional parameter reaches over the end")
        if kind != 2:
            raise PeerFault(Code.OPEN, 4, reason=f"optional parameter {kind}")
        found.append(body[begin:stop])
        start = stop
    return found


def encode_notification(message: Notification) -> bytes:
    """NOTIFICATION, its data cut to what a message may hold."""
    return frame(Kind.NOTIFICATION, bytes((message.code, message.subcode)) + message.data[: MAX_MESSAGE - HEADER - 2])


def encode_refresh(message: Refresh) -> bytes:
    """ROUTE-REFRESH."""
    family = message.family
    return frame(Kind.ROUTE_REFRESH, family.afi.to_bytes(2, "big") + bytes((message.subtype, family.safi)))


def decode_refresh(body: bytes) -> Refresh | None:
    """None for a family or subtype that we do not know: ignored (RFC 7313 §4). PeerFault for a wrong length (§5)."""
    if len(body) != 4:
        data = frame(Kind.ROUTE_REFRESH, body)
        raise PeerFault(Code.ROUTE_REFRESH, 1, data, f"ROUTE-REFRESH with {len(body)} octets")
    family = find_family(int.from_bytes(body[:2], "big"), body[3])
    return Refresh(family, body[2]) if family is not None and body[2] <= 2 else None


KEEPALIVE = frame(Kind.KEEPALIVE, b"")


def decode_message(kind: Kind, body: bytes) -> Open | Notification | Keepalive | Refresh | None:
    """Any message but UPDATE, which needs its session's ``UpdateDecoder``."""
    if kind is Kind.OPEN:
        return decode_open(body)
    if kind is Kind.NOTIFICATION:
        return Notification(body[0], body[1], body[2:])
    if kind is Kind.ROUTE_REFRESH:
        return decode_refresh(body)
    return Keepalive()
