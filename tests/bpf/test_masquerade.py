"""Masquerading on an uplink, packets in and packets out: to_netdev and from_netdev, both families, checksums and all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapaths.bench import MAGLEV_SIZE as SIZE
from datapaths.bench import TC_OK, TC_REDIRECT, TC_SHOT, Bench
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Rule
from datapaths.packet import ACK, ICMP, ICMP6, SCTP, SYN, TCP, UDP, Packet, frame, ping, read, unreachable
from stentor.datapath import targets
from stentor.datapath.connection import Side, connection_key, translations
from stentor.datapath.maps import NAT_ENTRY, NAT_KEY
from stentor.datapath.row import Exclusion, Uplink
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr, Prefix
from stentor.services import maglev
from stentor.sys.bpf import Trial
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

POD = {4: "10.1.0.11", 6: "fd00:1::11"}
POD2 = {4: "10.1.0.12", 6: "fd00:1::12"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
FAR = {4: "203.0.113.9", 6: "2001:db8:f::9"}
RANGE = range(32768, 65536)
BOTH = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(bench: Bench) -> Bench:
    """A node with two pods that may do anything, and this device for its uplink."""
    model = Model(
        rules=[Rule(1, 0, 0, 0, False)],
        known=[Known(ip, 1) for ip in NODE.values()] + [Known(ip, 300) for ip in (*POD.values(), *POD2.values())],
    )
    for number, pods in enumerate((POD, POD2), 1):
        for ip in pods.values():
            model.endpoints[ip] = Endpoint(number, HERE, 300, 1)
    model.peers = {(1, INGRESS, 0): 1, (1, EGRESS, 0): 1}
    bench.fill(model)
    uplink = Uplink(ifindex=HERE, ipv4=Addr.parse(NODE[4]), ipv6=Addr.parse(NODE[6]))
    assert asyncio.run(targets.uplinks(bench.maps).apply([(HERE, uplink)], [])) == {}
    return bench


def leave(node: Bench, p: Packet) -> bytes:
    """From the pod to the wire; what is on the wire."""
    assert node.run("from_container", frame(p)).verdict == TC_OK
    trial = node.run("to_netdev", frame(p))
    assert trial.verdict == TC_OK
    return trial.data


def packets(family: int) -> list[Packet]:
    return [Packet(POD[family], FAR[family], TCP, flags=SYN), Packet(POD[family], FAR[family], UDP),
            Packet(POD[family], FAR[family], SCTP), ping(POD[family], FAR[family])]  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", range(4), ids=["tcp", "udp", "sctp", "echo"])
def test_a_connection_out_and_its_answer(node: Bench, family: int, kind: int) -> None:
    p = packets(family)[kind]
    out = read(leave(node, p))
    assert (out.src, out.dst, out.dport, out.is_intact) == (NODE[family], FAR[family], read(frame(p)).dport, True)
    assert kind == 2 or out.sport in RANGE
    answer = replace(p, src=NODE[family], sport=out.sport).turned()
    trial = node.run("from_netdev", frame(answer))
    assert trial.verdict == TC_REDIRECT
    back = read(trial.data)
    assert (back.src, back.dst, back.is_intact) == (FAR[family], POD[family], True)
    assert (back.sport if p.is_icmp else back.dport) == p.sport


@BOTH
def test_ports_in_the_range_are_kept_and_never_shared(node: Bench, family: int) -> None:
    first = read(leave(node, Packet(POD[family], FAR[family], sport=50000, flags=SYN)))
    second = read(leave(node, Packet(POD2[family], FAR[family], sport=50000, flags=SYN)))
    assert first.sport == 50000
    assert second.sport in set(RANGE) - {50000}
    elsewhere = read(leave(node, Packet(POD2[family], FAR[family], sport=50000, dport=443, flags=SYN)))
    assert elsewhere.sport == 50000  # another destination port: another connection


@BOTH
def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones(node: Bench, family: int) -> None:
    p = Packet(POD[family], FAR[family], UDP, sport=50000, payload=b"\0\0")
    at = slice(len(frame(p)) - 4, len(frame(p)) - 2)
    p = replace(p, payload=frame(replace(p, src=NODE[family]))[at])  # makes up for all the rest
    assert frame(p)[at] != b"\0\0"
    assert leave(node, p)[at] == b"\xff\xff"


@BOTH
def test_node_and_pod_do_not_share_a_port(node: Bench, family: int) -> None:
    own = Packet(NODE[family], FAR[family], UDP, sport=50000)
    assert read(node.run("to_netdev", frame(own)).data).sport == 50000
    assert read(leave(node, replace(own, src=POD[family]))).sport != 50000
    answer = node.run("from_netdev", frame(own.turned()))
    assert (answer.verdict, read(answer.data).dst) == (TC_OK, NODE[family])


@BOTH
def test_pod_before_node(node: Bench, family: int) -> None:
    pod = Packet(POD[family], FAR[family], UDP, sport=50000)
    assert read(leave(node, pod)).sport == 50000
    out = read(node.run("to_netdev", frame(replace(pod, src=NODE[family]))).data)
    assert out.sport != 50000
    assert out.is_intact
    answer = Packet(FAR[family], NODE[family], UDP, sport=pod.dport, dport=out.sport)
    back = read(node.run("from_netdev", frame(answer)).data)
    assert (back.dst, back.dport, back.is_intact) == (NODE[family], 50000, True)


@BOTH
def test_the_same_connection_keeps_its_port(node: Bench, family: int) -> None:
    p = Packet(POD[family], FAR[family], sport=1024, flags=SYN)
    ports = {read(leave(node, replace(p, flags=flags))).sport for flags in (SYN, ACK, ACK)}
    assert len(ports) == 1
    assert sorted(t.side for t in translations(node.maps)) == [Side.OUT, Side.IN]


@BOTH
@pytest.mark.parametrize("kind", range(4), ids=["tcp", "udp", "sctp", "echo"])
def test_an_error_from_outside_reaches_the_pod_with_its_own_packet_in_it(node: Bench, family: int, kind: int) -> None:
    p = packets(family)[kind]
    out = read(leave(node, p))
    sent = replace(p, src=NODE[family], sport=out.sport)
    trial = node.run(
        "from_netdev", frame(unreachable("198.51.100.1" if family == 4 else "2001:db8:e::1", NODE[family], sent))
    )
    assert trial.verdict == TC_REDIRECT
    error = read(trial.data)
    assert (error.dst, error.is_intact) == (POD[family], True)
    assert error.quoted is not None
    assert (error.quoted.src, error.quoted.sport, error.quoted.dst) == (POD[family], p.sport, FAR[family])


@BOTH
def test_a_pods_error_about_an_answer_leaves_with_the_nodes_address_in_it(node: Bench, family: int) -> None:
    p = Packet(POD[family], FAR[family], UDP, sport=1024)
    out = read(leave(node, p))
    error = unreachable(POD[family], FAR[family], p.turned())
    trial = node.run("to_netdev", frame(error))
    sent = read(trial.data)
    assert (trial.verdict, sent.src, sent.is_intact) == (TC_OK, NODE[family], True)
    assert sent.quoted is not None
    assert (sent.quoted.dst, sent.quoted.dport) == (NODE[family], out.sport)


@BOTH
def test_who_asked_the_pod_itself_gets_the_pods_answer(node: Bench, family: int) -> None:
    asked = Packet(FAR[family], POD[family], sport=40000, dport=80, flags=SYN)
    assert node.run("to_container", frame(asked)).verdict == TC_OK
    trial = node.run("to_netdev", frame(asked.turned()))
    assert (trial.verdict, trial.data) == (TC_OK, frame(asked.turned()))


@BOTH
def test_excluded_destinations_see_the_pod(node: Bench, family: int) -> None:
    prefix = Prefix.parse("203.0.113.0/24" if family == 4 else "2001:db8:f::/48")
    assert asyncio.run(targets.exclusions(node.maps).apply([(prefix, Exclusion(prefix=prefix))], [])) == {}
    p = Packet(POD[family], FAR[family], flags=SYN)
    assert leave(node, p) == frame(p)


@BOTH
def test_an_answer_to_nobody_stays_with_the_node(node: Bench, family: int) -> None:
    p = Packet(FAR[family], NODE[family], sport=80, dport=50001)
    trial = node.run("from_netdev", frame(p))
    assert (trial.verdict, trial.data) == (TC_OK, frame(p))


def outside_says(node: Bench, family: int, port: int, proto: int = UDP, **changes: object) -> Trial:
    """What comes from outside to a port that stands for a pod's."""
    said = replace(Packet(FAR[family], NODE[family], proto, sport=80, dport=port), **changes)  # type: ignore[arg-type]
    return node.run("from_netdev", frame(said))


def forget_connections(node: Bench) -> None:
    for name in ("conntrack_tcp", "conntrack_any"):
        node.maps[name].delete_batch([key for key, _ in node.maps[name].items()])


def forget_half(node: Bench, side: Side) -> None:
    """As a map that is full does; the other half was used last a while ago."""
    for key, value in list(node.maps["nat"].items()):
        if NAT_KEY.unpack(key)[-1] == side:
            del node.maps["nat"][key]
        else:
            addr, port, expires = NAT_ENTRY.unpack(value)
            node.maps["nat"][key] = NAT_ENTRY.pack(addr, port, expires - 5)


@BOTH
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_translation_outlives_what_conntrack_remembers(node: Bench, family: int, proto: int) -> None:
    """The other side speaks first after a while: what the pod says to that still leaves from the node."""
    p = Packet(POD[family], FAR[family], proto, sport=1024)
    port = read(leave(node, p)).sport
    forget_connections(node)
    assert outside_says(node, family, port, proto).verdict == TC_REDIRECT
    out = read(leave(node, p))
    assert (out.src, out.sport) == (NODE[family], port)


@BOTH
@pytest.mark.parametrize("sport", [1024, 50000])
def test_the_way_back_is_made_again_when_it_is_lost(node: Bench, family: int, sport: int) -> None:
    p = Packet(POD[family], FAR[family], UDP, sport=sport)
    port = read(leave(node, p)).sport
    forget_half(node, Side.IN)
    assert read(leave(node, p)).sport == port
    assert outside_says(node, family, port).verdict == TC_REDIRECT


@BOTH
def test_a_way_back_that_another_has_taken_meanwhile_is_left_to_it(node: Bench, family: int) -> None:
    p, other = (Packet(pods[family], FAR[family], UDP, sport=50000) for pods in (POD, POD2))
    assert read(leave(node, p)).sport == 50000
    forget_half(node, Side.IN)
    assert read(leave(node, other)).sport == 50000
    assert read(leave(node, p)).sport != 50000
    assert read(outside_says(node, family, 50000).data).dst == POD2[family]


@BOTH
def test_the_way_out_is_found_again_when_it_is_lost(node: Bench, family: int) -> None:
    p = Packet(POD[family], FAR[family], UDP, sport=50000)
    assert read(leave(node, p)).sport == 50000
    forget_half(node, Side.OUT)
    assert read(leave(node, p)).sport == 50000


@BOTH
@pytest.mark.parametrize("who", [POD, NODE], ids=["pod", "node"])
def test_a_port_at_which_a_service_answers_stands_for_nobody(node: Bench, family: int, who: dict[int, str]) -> None:
    at = FrontendKey(Addr.parse(NODE[family]), 50000, Protocol.UDP)
    target = ServiceTarget(
        node.maps, lambda found: maglev.table(found, SIZE, maglev.parse_seed(maglev.DEFAULT_SEED)), SIZE
    )
    backends = (Backend(Addr.parse(POD2[family]), 7000),)
    assert asyncio.run(target.apply([(at, LBEntry(key=at, external=backends, flags=EntryFlag.EXTERNAL))], [])) == {}
    p = Packet(who[family], FAR[family], UDP, sport=50000)
    out = read(leave(node, p) if who is POD else node.run("to_netdev", frame(p)).data)
    assert (out.src, out.is_intact) == (NODE[family], True)
    assert out.sport != 50000
    back = read(outside_says(node, family, out.sport).data)
    assert (back.dst, back.dport) == (who[family], 50000)


@BOTH
@pytest.mark.parametrize("forged", [POD2, NODE], ids=["a pod of this node", "this node"])
def test_nobody_outside_has_an_address_of_this_node(node: Bench, family: int, forged: dict[int, str]) -> None:
    trial = node.run("from_netdev", frame(Packet(forged[family], POD[family], flags=SYN)))
    assert trial.verdict == TC_SHOT
    assert [event.reason for event in node.events()] == [132]


@BOTH
def test_what_is_for_another_host_is_left_alone(node: Bench, family: int) -> None:
    """A switch floods what is for a host that it does not know."""
    out = read(leave(node, Packet(POD[family], FAR[family], flags=SYN)))
    answer = frame(Packet(FAR[family], NODE[family], sport=80, dport=out.sport))
    flooded = bytes.fromhex("0200000000ee") + answer[6:]
    trial = node.run("from_netdev", flooded)
    assert (trial.verdict, trial.data) == (TC_OK, flooded)
    assert node.run("from_netdev", answer).verdict == TC_REDIRECT


@BOTH
def test_a_forged_pod_beside_the_overlay_is_dropped(node: Bench, family: int) -> None:
    remote = Known("10.2.0.11" if family == 4 else "fd00:2::11", 300, "192.0.2.2")
    model = Model(known=[remote], endpoints={POD[family]: Endpoint(1, HERE, 300, 1)})
    node.fill(model)
    assert node.run("from_netdev", frame(Packet(remote.prefix, POD[family]))).verdict == TC_SHOT
    assert [event.reason for event in node.events()] == [132]


def test_a_full_range_is_told(node: Bench) -> None:
    ports = {Packet(POD[4], FAR[4], SCTP, sport=5), Packet(POD2[4], FAR[4], SCTP, sport=5)}
    first, second = sorted(ports, key=lambda p: p.src)
    assert read(leave(node, first)).sport == 5
    assert node.run("to_netdev", frame(second)).verdict == TC_SHOT
    assert [event.reason for event in node.events()] == [168]


@BOTH
def test_the_overlay_and_strangers_pass(node: Bench, family: int) -> None:
    icmp, kind = (ICMP, 13) if family == 4 else (ICMP6, 135)
    strange = [
        Packet(NODE[family], FAR[family], UDP, sport=50000, dport=8472),
        Packet(NODE[family], FAR[family], 89),
        Packet(FAR[family], NODE[family], 89),
        Packet(NODE[family], FAR[family], icmp, type=kind),
    ]
    for p in strange:
        for program in ("to_netdev", "from_netdev"):
            trial = node.run(program, frame(p))
            assert (trial.verdict, trial.data) == (TC_OK, frame(p))
    arp = bytes.fromhex("ffffffffffff0200000000010806") + bytes(46)
    assert node.run("to_netdev", arp).verdict == TC_OK
    assert list(translations(node.maps)) == []


@BOTH
def test_fragments_of_a_datagram_leave_together(node: Bench, family: int) -> None:
    first = Packet(POD[family], FAR[family], UDP, sport=1024, fragment="first")
    later = replace(first, fragment="later")
    assert leave(node, first)[14:] != frame(first)[14:]
    out = leave(node, later)
    family_at = 26 if family == 4 else 22
    size = 4 if family == 4 else 16
    assert out[family_at : family_at + size] == Addr.parse(NODE[family]).packed
    assert out[family_at + 2 * size :] == frame(later)[family_at + 2 * size :]


@settings(max_examples=300)
@given(
    family=st.sampled_from((4, 6)),
    proto=st.sampled_from((TCP, UDP, "echo")),
    sport=st.integers(1, 65535),
    dport=st.integers(1, 65535).filter(lambda port: port != 8472),
    payload=st.binary(max_size=64),
)
def test_there_and_back_is_the_identity(
    bench: Bench, family: int, proto: int | str, sport: int, dport: int, payload: bytes
) -> None:
    uplink = Uplink(ifindex=HERE, ipv4=Addr.parse(NODE[4]), ipv6=Addr.parse(NODE[6]))
    bench.fill(
        Model(
            rules=[Rule(1, 0, 0, 0, False)],
            peers={(1, EGRESS, 0): 1},
            endpoints={POD[family]: Endpoint(1, HERE, 300, 1)},
        )
    )
    asyncio.run(targets.uplinks(bench.maps).apply([(HERE, uplink)], []))
    sent = (
        ping(POD[family], FAR[family], sport)
        if proto == "echo"
        else Packet(POD[family], FAR[family], int(proto), sport, dport)
    )
    sent = replace(sent, payload=payload)
    out = read(leave(bench, sent))
    assert (out.src, out.is_intact) == (NODE[family], True)
    answer = replace(sent, src=NODE[family], sport=out.sport).turned()
    back = bench.run("from_netdev", frame(answer))
    assert back.data[14:] == frame(replace(sent.turned()))[14:]


@settings(max_examples=200)
@given(
    pod=st.integers(1, 2**32 - 2),
    far=st.integers(1, 2**32 - 2),
    sport=st.integers(1, 65535),
    family=st.sampled_from((4, 6)),
)
def test_user_space_finds_the_connection_of_a_translation(
    bench: Bench, pod: int, far: int, sport: int, family: int
) -> None:
    """Collecting garbage needs the key that the programs make; its order of ends is theirs."""
    base = 0xFFFF << 32 if family == 4 else 0xFD00 << 112
    one, two = Addr(base + pod), Addr(base + far)
    bench.fill(
        Model(
            rules=[Rule(1, 0, 0, 0, False)], peers={(1, EGRESS, 0): 1}, endpoints={str(one): Endpoint(1, HERE, 300, 1)}
        )
    )
    bench.run("from_container", frame(Packet(str(one), str(two), UDP, sport=sport, dport=53)))
    keys = [key for key, _ in bench.maps["conntrack_any"].items()]
    assert keys in ([connection_key((one, sport), (two, 53), UDP)], [])
    assert keys or pod == far
