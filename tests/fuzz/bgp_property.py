"""What must hold for any octets fed to the BGP and BFD decoders; shared by the fuzz targets and the Hypothesis tests."""

from __future__ import annotations

from stentor.bgp.bfd.errors import Malformed
from stentor.bgp.bfd.packet import decode as decode_packet
from stentor.bgp.bfd.packet import encode as encode_packet
from stentor.bgp.capability import Capabilities, Open, Session
from stentor.bgp.errors import Code, PeerFault
from stentor.bgp.nlri import Family, format_prefix, parse_prefix
from stentor.bgp.update import Routes, UpdateDecoder, encode_block, encode_update, encode_withdraw
from stentor.bgp.wire import HEADER, Kind, decode_message, encode_open, frame, split_messages

BOTH = frozenset(Family)
NONE: frozenset[Family] = frozenset()


def make_session(
    *, ebgp: bool, as4: bool, add_path: bool, extended_next_hop: bool = True, max_message: int = 4096
) -> Session:
    """A session as two OPENs would agree on it."""
    return Session(
        local_as=65001,
        peer=Open(65002 if ebgp else 65001, 90, 1, Capabilities()),
        hold_s=90,
        keepalive_s=30,
        families=BOTH,
        as4=as4,
        add_path_in=BOTH if add_path else NONE,
        add_path_out=BOTH if add_path else NONE,
        extended_next_hop=frozenset((Family.IPV4,)) if extended_next_hop else NONE,
        max_message=max_message,
    )


SESSIONS = [
    make_session(ebgp=bool(bits & 1), as4=bool(bits & 2), add_path=bool(bits & 4), extended_next_hop=bool(bits & 8))
    for bits in range(16)
]


def check_stream(data: bytes) -> None:
    """Any stream: whole messages or a fault, never both silent and stuck; every OPEN survives the way back."""
    try:
        messages, taken = split_messages(data)
    except PeerFault as fault:
        assert fault.code == Code.HEADER
        return
    assert sum(HEADER + len(body) for _, body in messages) == taken <= len(data)
    for kind, body in messages:
        if kind is not Kind.UPDATE:
            check_message(kind, body)


def check_message(kind: Kind, body: bytes) -> None:
    """One body of a kind that is not UPDATE, within the lengths that framing lets through."""
    try:
        message = decode_message(kind, body)
    except PeerFault as fault:
        assert fault.code in (Code.OPEN, Code.ROUTE_REFRESH)
        return
    if isinstance(message, Open):
        ((_, again),) = split_messages(encode_open(message))[0]
        repeated = decode_message(Kind.OPEN, again)
        assert isinstance(repeated, Open)
        assert (repeated.asn, repeated.hold_s, repeated.identifier) == (message.asn, message.hold_s, message.identifier)
        assert set(repeated.capabilities.families) == set(message.capabilities.families)
        assert repeated.capabilities.add_path == message.capabilities.add_path
        assert repeated.capabilities.graceful == message.capabilities.graceful
        assert repeated.capabilities.long_lived == message.capabilities.long_lived


def check_update(session: Session, body: bytes) -> None:
    """One UPDATE body (4 octets at least, as framing ensures): accepted values are canonical and survive the way back."""
    try:
        update = UpdateDecoder(session).decode(body)
    except PeerFault as fault:
        assert fault.code == Code.UPDATE
        return
    for routes in update.withdrawn:
        assert not routes.prefixes or _read(session, encode_withdraw(session, routes.family, routes.prefixes)) == (
            routes.prefixes,
            [],
        )
    for routes in update.announced:
        assert routes.attributes is not None
        for prefix in routes.prefixes:
            plain = prefix[4:] if routes.family in session.add_path_in else prefix
            assert parse_prefix(format_prefix(routes.family, plain)) == (routes.family, plain)
        _check_again(session, routes)


def _check_again(session: Session, routes: Routes) -> None:
    assert routes.attributes is not None
    block = encode_block(session, routes.family, routes.attributes)
    try:
        messages = encode_update(session, routes.family, routes.attributes, routes.prefixes, block)
    except ValueError:
        assert len(block) > session.max_message // 2, "only attributes that fill a message leave no room for a prefix"
        return
    assert all(len(message) <= session.max_message for message in messages)
    prefixes, again = _read(session, messages)
    assert prefixes == []
    assert [prefix for each in again for prefix in each.prefixes] == routes.prefixes
    assert {each.attributes for each in again} <= {routes.attributes}


def _read(session: Session, messages: list[bytes]) -> tuple[list[bytes], list[Routes]]:
    """Withdrawn prefixes and announcements of our own messages, which nobody may find fault with."""
    withdrawn: list[bytes] = []
    announced: list[Routes] = []
    decoder = UpdateDecoder(session)
    for message in messages:
        ((kind, body),) = split_messages(message, session.max_message)[0]
        assert kind is Kind.UPDATE
        update = decoder.decode(body)
        assert not update.faults
        withdrawn += [prefix for routes in update.withdrawn for prefix in routes.prefixes]
        announced += update.announced
    return withdrawn, announced


def check_bfd(data: bytes) -> None:
    """Any UDP payload: discarded, or a packet that survives the way back."""
    try:
        packet = decode_packet(data)
    except Malformed:
        return
    assert decode_packet(encode_packet(packet)) == packet


_KINDS = (Kind.OPEN, Kind.NOTIFICATION, Kind.KEEPALIVE, Kind.ROUTE_REFRESH)


def check_message_input(data: bytes) -> None:
    """The first octet chooses: a body of one kind, put into a right frame, or a stream as it is."""
    if data and data[0] < len(_KINDS):
        check_stream(frame(_KINDS[data[0]], data[1:4078]))
    else:
        check_stream(data[1:])


def check_update_input(data: bytes) -> None:
    """The first octet chooses the session; framing promises four octets of body."""
    if len(data) >= 5:
        check_update(SESSIONS[data[0] % len(SESSIONS)], data[1:4078])
