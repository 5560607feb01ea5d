"""VXLAN wrapped and unwrapped by the programs: what is plain, what is left to the device, how marks travel."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from datapaths.bench import OWN, TC_OK, TC_REDIRECT, Bench
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Overlay, Rule
from datapaths.packet import ACK, TCP, UDP, Packet, fold, frame, in_frame, unwrap, wrap
from datapaths.wrapping import FLAWS, NODE, NODE_V6, PLAIN

POD, FAR = {4: "10.1.0.11", 6: "fd00:1::11"}, {4: "10.2.0.11", 6: "fd00:2::11"}


@pytest.fixture
def node(bench: Bench) -> Bench:
    model = Model(rules=[Rule(1, 0, 0, 0, False)], peers={(1, INGRESS, 0): 1, (1, EGRESS, 0): 1})
    model.nodes = {NODE, NODE_V6}
    model.endpoints = {ip: Endpoint(1, HERE, 300, 1) for ip in POD.values()}
    model.known = [Known(ip, 301, NODE) for ip in FAR.values()]
    bench.fill(model)
    return bench


def arriving(family: int, **changes: object) -> Packet:
    return replace(Packet(FAR[family], POD[family]), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("flaw", FLAWS)
def test_what_is_not_plain_is_left_to_the_device(node: Bench, flaw: str, family: int) -> None:
    sent = wrap(FLAWS[flaw], in_frame(arriving(family)))
    trial = node.run("from_netdev", sent)
    assert (trial.verdict, trial.data, node.events()) == (TC_OK, sent, [])


@pytest.mark.parametrize(
    ("what", "inner"),
    [
        ("bytes behind the end", in_frame(arriving(4)) + b"trailer"),
        ("for no pod of this node", in_frame(Packet(FAR[4], "10.1.0.99"))),
        ("for the node itself", in_frame(Packet(FAR[4], "10.1.0.1"))),
        ("ARP inside", bytes(12) + b"\x08\x06" + bytes(46)),
        ("no whole header inside", in_frame(arriving(4))[:30]),
    ],
)
def test_other_contents_are_left_to_the_device(node: Bench, what: str, inner: bytes) -> None:
    sent = wrap(PLAIN, inner) if what != "bytes behind the end" else wrap(PLAIN, inner[:-7], b"trailer")
    trial = node.run("from_netdev", sent)
    assert (trial.verdict, trial.data, node.events()) == (TC_OK, sent, [])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 100, 1380])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_there_and_back_is_the_identity(node: Bench, family: int, proto: int, size: int) -> None:
    """What one node wraps another one unwraps, byte for byte, whatever its MAC addresses were."""
    p = Packet(POD[family], FAR[family], proto, payload=bytes(i & 255 for i in range(size)))
    assert node.outcome("from_container", p) == Overlay(300, NODE)
    around, inner = unwrap(node.run("from_container", frame(p)).data)
    assert fold(wrap(around, inner)[14:34]) == 0
    back = arriving(family, proto=proto, payload=p.payload)
    trial = node.run("from_netdev", wrap(replace(around, src=NODE, dst=OWN, vni=301), in_frame(back)))
    assert trial.verdict == TC_REDIRECT
    assert trial.data == trial.data[:12] + in_frame(back)[12:]
    assert struct.unpack_from("=I", trial.context, 8) == (HERE,)


@pytest.mark.parametrize("family", [4, 6])
def test_flows_have_source_ports_of_their_own(node: Bench, family: int) -> None:
    """ECMP and receive queues tell flows apart by it; a flow keeps its port."""

    def port(sport: int) -> int:
        data = node.run("from_container", frame(Packet(POD[family], FAR[family], sport=sport))).data
        return unwrap(data)[0].source_port

    ports = {sport: port(sport) for sport in range(40000, 40064)}
    assert len(set(ports.values())) > 32
    assert {sport: port(sport) for sport in ports} == ports


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("inside", "outside"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_marks_on_the_way_out(node: Bench, family: int, inside: int, outside: int) -> None:
    p = Packet(POD[family], FAR[family], ecn=inside)
    around, inner = unwrap(node.run("from_container", frame(p)).data)
    assert (around.ecn, inner) == (outside, in_frame(p))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("outside", range(4))
@pytest.mark.parametrize("inside", range(4))
def test_marks_on_the_way_in(node: Bench, family: int, outside: int, inside: int) -> None:
    """RFC 6040: congestion of the underlay reaches a pod that understands it; the device drops it where none does."""
    sent = wrap(replace(PLAIN, ecn=outside), in_frame(arriving(family, ecn=inside)))
    trial = node.run("from_netdev", sent)
    if outside == 3 and not inside:
        assert (trial.verdict, trial.data) == (TC_OK, sent)
        return
    expected = 3 if outside == 3 else inside
    assert (trial.verdict, trial.data[12:]) == (TC_REDIRECT, in_frame(arriving(family, ecn=expected))[12:])


def test_a_reply_leaves_by_the_overlay(node: Bench) -> None:
    asked = arriving(4, flags=2)
    node.run("from_netdev", wrap(PLAIN, in_frame(asked)))
    assert node.outcome("from_container", replace(asked.turned(), flags=ACK)) == Overlay(300, NODE)


@pytest.mark.parametrize("family", [4, 6])
def test_what_passes_through_the_node_does_not_become_its_own(node: Bench, family: int) -> None:
    """Routed towards another node's pod, a packet from outside keeps the identity of its sender."""
    outside = Packet("203.0.113.9" if family == 4 else "2001:db8:f::9", FAR[family])
    for came_by, identity in ((0, 1), (5, 9 if family == 4 else 10)):
        around, inner = unwrap(node.run("from_host", frame(outside), came_by=came_by).data)
        assert (around.vni, inner) == (identity, in_frame(outside))
