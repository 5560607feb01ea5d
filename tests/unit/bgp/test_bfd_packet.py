"""BFD control packets: every check of RFC 5880 §6.8.6 that needs no session, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.bgp.bfd.errors import Malformed
from stentor.bgp.bfd.packet import LENGTH, Diagnostic, Packet, State, decode, encode

# RFC 5880 §4.1, by hand: version 1, diagnostic 1, Up, poll and C bit, multiplier 3, 50 ms both ways.
WIRE = bytes.fromhex("21e80318 00000001 00000002 0000c350 0000c350 00000000")
VALUE = Packet(
    state=State.UP,
    multiplier=3,
    my_discriminator=1,
    your_discriminator=2,
    desired_min_tx_us=50_000,
    required_min_rx_us=50_000,
    diagnostic=Diagnostic.DETECTION_EXPIRED,
    poll=True,
    independent=True,
)


def test_known_octets() -> None:
    assert encode(VALUE) == WIRE
    assert decode(WIRE) == VALUE


def patched(position: int, value: int) -> bytes:
    return WIRE[:position] + bytes((value,)) + WIRE[position + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shorter than a header"),
        (WIRE[:-1], "shorter than a header"),
        (patched(0, 0x01), "wrong version"),
        (patched(0, 0x41), "wrong version"),
        (patched(3, 23), "wrong length"),
        (patched(3, 25), "wrong length"),
        (patched(1, 0xE8 | 0x04), "authentication is not in use"),
        (patched(1, 0xE8 | 0x01), "multipoint"),
        (patched(2, 0), "multiplier 0"),
        (patched(7, 0), "discriminator 0"),
        (patched(11, 0), "no discriminator of ours in this state"),
        (patched(11, 0)[:1] + b"\x80" + patched(11, 0)[2:], "no discriminator of ours in this state"),
    ],
)
def test_discards(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(data)
    assert reason == caught.value.reason


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_first_packets_have_no_discriminator_of_ours(state: State) -> None:
    data = patched(11, 0)
    assert decode(data[:1] + bytes((state << 6,)) + data[2:]).your_discriminator == 0


def test_octets_after_the_packet_are_ignored() -> None:
    assert decode(WIRE + b"padding") == VALUE


U32 = st.integers(0, 0xFFFFFFFF)
PACKETS = st.builds(
    Packet,
    state=st.sampled_from(State),
    multiplier=st.integers(1, 255),
    my_discriminator=st.integers(1, 0xFFFFFFFF),
    your_discriminator=st.integers(1, 0xFFFFFFFF),
    desired_min_tx_us=U32,
    required_min_rx_us=U32,
    required_min_echo_rx_us=U32,
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    independent=st.booleans(),
    demand=st.booleans(),
)


@given(PACKETS)
def test_decode_inverts_encode(packet: Packet) -> None:
    data = encode(packet)
    assert len(data) == LENGTH
    assert decode(data) == packet


@given(st.binary(max_size=64) | st.binary(min_size=22, max_size=30).map(lambda tail: b"\x20\xc0" + tail))
def test_any_octets_decode_or_are_malformed(data: bytes) -> None:
    try:
        packet = decode(data)
    except Malformed:
        return
    assert decode(encode(packet)) == packet
