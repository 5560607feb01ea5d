"""tshark as a judge of our encoder: every kind of message, over every kind of session, decodes without a complaint."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from bgp_strategy import NOTIFICATIONS, REFRESHES, attributes, opens, tables
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from peers import capture
from peers.raw import attribute, nlri, update
from stentor.bgp.attribute import Attributes, Segment, SegmentKind
from stentor.bgp.capability import AddPath, Capabilities, Open, Session, negotiate
from stentor.bgp.nlri import Family
from stentor.bgp.update import encode_block, encode_end_of_rib, encode_update, encode_withdraw, fits
from stentor.bgp.wire import KEEPALIVE, Kind, encode_notification, encode_open, encode_refresh

ONCE = settings(
    max_examples=1, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)


def agree(*, ebgp: bool, as4: bool, add_path: bool) -> tuple[Session, list[bytes], list[bytes]]:
    """A session and the OPENs that lead to it."""
    modes = dict.fromkeys(Family, AddPath.SEND | AddPath.RECEIVE) if add_path else {}
    offer = Capabilities(families=tuple(Family), extended_next_hop=(Family.IPV4,), add_path=modes)
    ours = Open(65001, 90, 0xC0000201, msgspec.structs.replace(offer, four_octet_as=65001 if as4 else None))
    asn = 65002 if ebgp else 65001
    theirs = Open(asn, 90, 0xC0000202, msgspec.structs.replace(offer, four_octet_as=asn if as4 else None))
    return negotiate(ours, theirs), [encode_open(ours), KEEPALIVE], [encode_open(theirs), KEEPALIVE]


FLAVOURS = [agree(ebgp=bool(n & 1), as4=bool(n & 2), add_path=bool(n & 4)) for n in range(8)]


def collect(strategy: st.SearchStrategy[bytes] | st.SearchStrategy[list[bytes]], count: int) -> list[bytes]:
    """Messages drawn from a strategy, the same at every run."""
    found: list[bytes] = []

    @settings(ONCE, max_examples=count)
    @given(strategy)
    def draw(messages: bytes | list[bytes]) -> None:
        found.extend([messages] if isinstance(messages, bytes) else messages)

    draw()
    return found


def changes(session: Session) -> st.SearchStrategy[list[bytes]]:
    """Announcements and withdrawals of both families."""

    @st.composite
    def build(draw: st.DrawFn) -> list[bytes]:
        family = draw(st.sampled_from(Family))
        prefixes = draw(tables(family, path_ids=family in session.add_path_out))
        value = draw(
            attributes(session, family).filter(
                lambda each: fits(session, family, each, encode_block(session, family, each))
            )
        )
        block = encode_block(session, family, value)
        return [*encode_update(session, family, value, prefixes, block), *encode_withdraw(session, family, prefixes)]

    return build()


def judge(path: Path, conversations: list[tuple[list[bytes], list[bytes]]], as_octets: int = 4) -> None:
    """Write, dissect, compare: as many messages of the right types, and no complaint."""
    written = capture.write(path, conversations)
    assert capture.complaints(path, as_octets) == ""
    found = capture.kinds(path)
    assert len(found) == written
    assert sorted(found) == sorted(message[18] for pair in conversations for side in pair for message in side)


@pytest.mark.parametrize("number", range(len(FLAVOURS)))
def test_updates(number: int, tmp_path: Path) -> None:
    session, ours, theirs = FLAVOURS[number]
    said = collect(changes(session), 40) + [encode_end_of_rib(family) for family in Family]
    assert {Kind.UPDATE} == {message[18] for message in said}
    judge(tmp_path / "updates.pcap", [([*ours, *said], theirs)], 4 if session.as4 else 2)


def test_full_messages(tmp_path: Path) -> None:
    """As long as they may be; this tshark does not know the extended messages of RFC 8654."""
    session, ours, theirs = FLAVOURS[3]
    chosen = random.Random(1).sample(range(1 << 24, 200 << 24), 30_000)
    prefixes = [b"\x20" + number.to_bytes(4, "big") for number in chosen]
    value = Attributes(as_path=(Segment(SegmentKind.SEQUENCE, (65001,)),), next_hop=b"\x0a\0\0\1", communities=(1, 2))
    said = encode_update(session, Family.IPV4, value, prefixes, encode_block(session, Family.IPV4, value))
    assert max(map(len, said)) > 4090
    judge(tmp_path / "full.pcap", [([*ours, *said], theirs)])


def test_everything_else(tmp_path: Path) -> None:
    said = collect(opens().map(encode_open), 60)
    pairs = [([message, KEEPALIVE], [said[0], KEEPALIVE]) for message in said]
    _, ours, theirs = FLAVOURS[7]
    pairs += [([*ours, message], theirs) for message in collect(NOTIFICATIONS.map(encode_notification), 40)]
    pairs += [([*ours, *collect(REFRESHES.map(encode_refresh), 6)], theirs)]
    judge(tmp_path / "rest.pcap", pairs)


def test_the_judge_sees_a_fault(tmp_path: Path) -> None:
    """An ORIGIN of two octets: a judge that says nothing here would say nothing at all."""
    _, ours, theirs = FLAVOURS[3]
    path = tmp_path / "fault.pcap"
    capture.write(path, [([*ours, update(attribute(0x40, 1, b"\0\0"), nlri("192.0.2.0/24"))], theirs)])
    assert "ORIGIN" in capture.complaints(path)
