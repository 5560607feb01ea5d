"""Frames that nobody should send: every program decides something, and touches nothing that it drops or lets pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapaths.bench import TC_OK, TC_REDIRECT, TC_SHOT, Bench, tunnel_key
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Rule
from datapaths.packet import SYN, TCP, UDP, Packet, frame, ping, unreachable

POD, FAR = {4: "10.1.0.11", 6: "fd00:1::11"}, {4: "10.2.0.11", 6: "fd00:2::11"}
PROGRAMS = ("from_container", "to_container", "from_overlay", "from_host", "to_netdev", "from_netdev")


def seeds() -> list[bytes]:
    found = []
    for f in (4, 6):
        asked = Packet(POD[f], FAR[f], TCP, flags=SYN)
        found += [asked, Packet(POD[f], FAR[f], UDP, fragment="first"), Packet(FAR[f], POD[f], UDP, fragment="later"),
                  ping(POD[f], FAR[f]), unreachable(FAR[f], POD[f], asked), Packet(FAR[f], POD[f], options=3)]  # fmt: skip
    return [frame(p) for p in found]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A good frame with some bytes changed and its end cut off, or noise behind an Ethernet header.

    Test runs want the IP header to be there, so nothing is shorter.
    """
    if draw(st.integers(0, 9)) == 0:
        kind = draw(st.sampled_from((b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00")))
        return bytes(12) + kind + draw(st.binary(min_size=40, max_size=120))
    data = bytearray(draw(st.sampled_from(seeds())))
    for at, value in draw(st.lists(st.tuples(st.integers(12, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[at] = value
    return bytes(data[: draw(st.integers(54, max(54, len(data))))])


@pytest.mark.parametrize("program", PROGRAMS)
@settings(max_examples=150)
@given(data=frames())
def test_any_frame_gets_a_verdict(bench: Bench, program: str, data: bytes) -> None:
    model = Model(rules=[Rule(1, 0, 0, 0, False)], peers={(1, INGRESS, 0): 1, (1, EGRESS, 0): 1}, nodes={"192.0.2.2"})
    model.endpoints = {ip: Endpoint(1, HERE, 300, 1) for ip in POD.values()}
    model.known = [Known(ip, 301, "192.0.2.2") for ip in FAR.values()]
    bench.fill(model)
    trial = bench.run(program, data, tunnel_key(301, "192.0.2.2"))
    events = bench.events()
    assert trial.verdict in (TC_OK, TC_SHOT, TC_REDIRECT)
    assert len(events) == (trial.verdict == TC_SHOT)
    if trial.verdict != TC_REDIRECT:
        assert trial.data == data


@pytest.mark.parametrize("family", [4, 6])
def test_a_first_fragment_holds_what_is_judged_by(bench: Bench, family: int) -> None:
    """RFC 1858: where its IP header ends it before the flags, the receiver takes them from the next fragment."""
    model = Model(rules=[Rule(1, 0, 0, 0, False)], peers={(1, INGRESS, 0): 1}, nodes={"192.0.2.2"})
    model.endpoints = {POD[family]: Endpoint(1, HERE, 300, 1)}
    model.known = [Known(FAR[family], 301, "192.0.2.2")]
    bench.fill(model)
    asked = Packet(FAR[family], POD[family], flags=SYN)
    assert bench.run("from_overlay", frame(asked), tunnel_key(301, "192.0.2.2")).verdict == TC_REDIRECT
    whole = frame(replace(asked.turned(), fragment="first"))
    assert bench.run("from_container", whole).verdict == TC_REDIRECT
    at, headers = (16, 20) if family == 4 else (18, 8)
    for length, verdict in ((16, TC_REDIRECT), (8, TC_SHOT)):
        cut = whole[:at] + (headers + length).to_bytes(2, "big") + whole[at + 2 :]
        assert bench.run("from_container", cut).verdict == verdict
    assert [event.reason for event in bench.events()] == [134]
