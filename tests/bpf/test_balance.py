"""Load balancing against a plain model: random services, packets and changes of backends, in sequences that share flows.

A case is a seed and a length, as in `test_model`. Where a backend is chosen at random, the model knows who may be chosen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from random import Random
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapaths.bench import MAGLEV_SIZE as SIZE
from datapaths.bench import OVERLAY_IFINDEX, TC_OK, TC_REDIRECT, TC_SHOT, Bench, tunnel_key
from datapaths.model import EGRESS, HERE, INGRESS, Endpoint, Known, Model, Rule
from datapaths.packet import (
    ACK,
    FIN,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Packet,
    Wrapping,
    contents,
    frame,
    in_frame,
    read,
    unreachable,
    unwrap,
    wrap,
)
from datapaths.wrapping import FLAWS, PLAIN
from stentor.datapath import targets
from stentor.datapath.maps import LB_FLOW, NAT_KEY
from stentor.datapath.row import Uplink
from stentor.datapath.service_flow import Side, collect
from stentor.datapath.service_target import ServiceTarget
from stentor.datapath.verdict import Drop
from stentor.net.address import Addr, Prefix
from stentor.services import maglev
from stentor.sys.bpf import Trial, try_program
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

LOCAL = {4: ("10.1.0.11", "10.1.0.12"), 6: ("fd00:1::11", "fd00:1::12")}
REMOTE = {4: ("10.2.0.11", "10.2.0.12"), 6: ("fd00:2::11", "fd00:2::12")}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
OTHER_NODE = {4: "192.0.2.2", 6: "2001:db8::2"}
ROUTER = {4: "192.0.2.77", 6: "2001:db8:aa::77"}
CLIENTS = {4: ("203.0.113.9", "203.0.113.10", "198.51.100.3"), 6: ("2001:db8:f::9", "2001:db8:f::10", "2001:db8:e::3")}
VIPS = {4: ("10.96.0.1", "192.0.2.80", "192.0.2.81"), 6: ("fd00:96::1", "2001:db8:7::80", "2001:db8:7::81")}
ANY = {4: "0.0.0.0", 6: "::"}
RANGES = {4: ("203.0.113.0/24", "203.0.113.9/32"), 6: ("2001:db8:f::/48", "2001:db8:f::9/128")}
TARGET, NODE_PORT = 8080, 30080
XDP_PASS, XDP_TX = 2, 3
ECT0, CE = 2, 3  # marks of congestion
ELSEWHERE = bytes.fromhex("0200000000ee")  # the MAC address of another host
SEED = maglev.parse_seed(maglev.DEFAULT_SEED)
FULL = 0xFFFFFFFF

FlowKey = tuple[str, int, str, int, int]
End = tuple[str, int]


def mix(value: int, word: int) -> int:
    value ^= word * 0xCC9E2D51 & FULL
    value = (value << 13 | value >> 19) & FULL
    return (value * 5 + 0xE6546B64) & FULL


def hash_flow(p: Packet, with_port: bool) -> int:
    """`hash_flow` of bpf/lib/balance.h, as a little-endian CPU reads its words."""
    words = [
        [int.from_bytes(Addr.parse(ip).packed16[i : i + 4], "little") for i in (0, 4, 8, 12)] for ip in (p.src, p.dst)
    ]
    value = p.proto
    for source, destination in zip(*words, strict=True):
        value = mix(mix(value, source), destination)
    sport, dport = (int.from_bytes(port.to_bytes(2, "big"), "little") for port in (p.sport, p.dport))
    value = mix(value, (sport if with_port else 0) << 16 | dport)
    value ^= value >> 16
    value = value * 0x85EBCA6B & FULL
    return value ^ value >> 13


@dataclass
class Balancing:
    """Services of one node, and the flows and clients that it remembers."""

    entries: dict[FrontendKey, LBEntry] = field(default_factory=dict)
    flows: dict[FlowKey, End] = field(default_factory=dict)
    closed: set[FlowKey] = field(default_factory=set)
    clients: dict[tuple[str, FrontendKey], End] = field(default_factory=dict)

    def find(self, p: Packet) -> LBEntry | None:
        exact = self.entries.get(FrontendKey(Addr.parse(p.dst), p.dport, Protocol(p.proto)))
        if exact or not 30000 <= p.dport <= 32767 or p.dst not in (*NODE.values(), *OTHER_NODE.values()):
            return exact
        return self.entries.get(FrontendKey(Addr.parse(ANY[p.family]), p.dport, Protocol(p.proto)))

    def may_choose(self, p: Packet, entry: LBEntry) -> set[End] | Drop:
        """Backends that the packet may go to, or why it goes to none."""
        flags = entry.flags
        if not flags & (EntryFlag.EXTERNAL | EntryFlag.ROUTABLE):
            return Drop.CLUSTER_ADDRESS
        if flags & EntryFlag.SOURCE_RANGES:
            is_listed = any(ip_address(p.src) in ip_network(str(prefix)) for prefix in entry.source_ranges)
            if is_listed == bool(flags & EntryFlag.SOURCE_RANGES_DENY):
                return Drop.SOURCE_RANGE
        members = {(str(each.addr), each.port) for each in entry.external}
        key = flow_key(p)
        known = self.flows.get(key)
        if known in members and not (key in self.closed and p.flags == SYN and p.proto == TCP):
            return {known}  # type: ignore[arg-type]
        if flags & EntryFlag.AFFINITY and self.clients.get((p.src, entry.key)) in members:
            return {self.clients[p.src, entry.key]}
        active = [each for each in entry.external if not each.is_terminating] or list(entry.external)
        if not active:
            return Drop.NO_BACKEND
        if flags & EntryFlag.MAGLEV:
            bucket = hash_flow(p, not flags & EntryFlag.AFFINITY) % SIZE
            chosen = active[maglev.table(active, SIZE, SEED)[bucket]]
            return {(str(chosen.addr), chosen.port)}
        return {(str(each.addr), each.port) for each in active}

    def remember(self, p: Packet, entry: LBEntry, chosen: End) -> None:
        key = flow_key(p)
        members = {(str(each.addr), each.port) for each in entry.external}
        is_known = self.flows.get(key) in members and not (key in self.closed and p.flags == SYN)
        if not is_known:
            self.closed.discard(key)
            if entry.flags & EntryFlag.AFFINITY:
                self.clients[p.src, entry.key] = chosen
        self.flows[key] = chosen
        if p.proto == TCP and p.flags & (FIN | RST):
            self.closed.add(key)


def flow_key(p: Packet) -> FlowKey:
    return (p.src, p.sport, p.dst, p.dport, p.proto)


class World:
    """The bench as a node of two pods, with another node behind the overlay."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.seen: Counter[str] = Counter()
        known = [Known(ip, 1) for ip in NODE.values()]
        known += [Known(ip, 300) for family in (4, 6) for ip in LOCAL[family]]
        known += [Known(ip, 6, OTHER_NODE[4], True) for ip in OTHER_NODE.values()]
        known += [Known(ip, 300, OTHER_NODE[4]) for family in (4, 6) for ip in REMOTE[family]]
        # Clients that a policy of this node names, which means nothing elsewhere, and an API server outside.
        known += [Known(prefix, 1 << 24 | 5) for prefix in ("198.51.100.0/24", "2001:db8:e::/48")]
        known += [Known(ip, 7) for ip in ("203.0.113.10", "2001:db8:f::10")]
        model = Model(rules=[Rule(1, 0, 0, 0, False)], known=known, nodes={OTHER_NODE[4]})
        for family in (4, 6):
            for number, ip in enumerate(LOCAL[family], 1):
                model.endpoints[ip] = Endpoint(number, HERE, 300, 1)
        model.peers = {(1, INGRESS, 0): 1, (1, EGRESS, 0): 1}
        bench.fill(model)
        uplink = Uplink(ifindex=HERE, ipv4=Addr.parse(NODE[4]), ipv6=Addr.parse(NODE[6]))
        assert asyncio.run(targets.uplinks(bench.maps).apply([(HERE, uplink)], [])) == {}
        self.model = Balancing()
        self.target = ServiceTarget(bench.maps, lambda found: maglev.table(found, SIZE, SEED), SIZE)

    def put(self, entry: LBEntry) -> None:
        self.model.entries[entry.key] = entry
        assert asyncio.run(self.target.apply([(entry.key, entry)], [])) == {}

    def drop(self, key: FrontendKey) -> None:
        del self.model.entries[key]
        self.model.clients = {who: end for who, end in self.model.clients.items() if who[1] != key}
        assert asyncio.run(self.target.apply([], [key])) == {}

    def check(self, p: Packet) -> str:
        """Runs a packet from outside; a word for what happened."""
        trial = self.bench.run("from_netdev", frame(p))
        events = self.bench.events()
        entry = self.model.find(p)
        if entry is None:
            assert (trial.verdict, trial.data, events) == (TC_OK, frame(p), [])
            self.check_wire(p, trial)
            return "no service"
        expected = self.model.may_choose(p, entry)
        if isinstance(expected, Drop):
            assert [event.reason for event in events] == [expected]
            if expected is Drop.NO_BACKEND:
                assert trial.verdict == TC_REDIRECT
                self.check_refusal(p, trial.data)
            else:
                assert trial.verdict == TC_SHOT
            return expected.name
        assert events == []
        out = read(contents(trial.data))
        assert out.is_intact
        chosen = (out.dst, out.dport)
        assert chosen in expected
        self.model.remember(p, entry, chosen)
        self.seen[self.check_wire(p, trial)] += 1
        return self._check_way(p, out.src, out.sport, out.dst, trial.verdict)

    @staticmethod
    def check_refusal(p: Packet, data: bytes) -> None:
        """The packet has become an ICMP error about itself: port unreachable."""
        out = read(data)
        assert out.is_intact
        assert (out.src, out.dst) == (p.dst, p.src)
        assert data[34 if p.family == 4 else 54 :][:2] == (b"\3\3" if p.family == 4 else b"\1\4")
        quoted = out.quoted
        assert quoted is not None
        assert (quoted.src, quoted.dst, quoted.sport, quoted.dport) == (p.src, p.dst, p.sport, p.dport)

    def check_error(self, p: Packet, sender: str) -> str:
        """An ICMP error about an answer to a packet that went to a backend last, from the client or a router on the way, and
        what reaches that backend."""
        address, port = self.model.flows[flow_key(p)]
        trial = self.bench.run("from_netdev", frame(unreachable(sender, p.dst, p.turned())))
        assert self.bench.events() == []
        out = read(contents(trial.data))
        assert out.is_intact
        assert out.dst == address
        assert out.quoted is not None
        assert (out.quoted.src, out.quoted.sport) == (address, port)
        if address in (*LOCAL[p.family], NODE[p.family]):
            assert (out.src, out.quoted.dst, out.quoted.dport) == (sender, p.src, p.sport)
            assert trial.verdict == (TC_OK if address == NODE[p.family] else TC_REDIRECT)
        else:
            assert (out.src, out.quoted.dst) == (NODE[p.family], NODE[p.family])
            assert trial.verdict == TC_REDIRECT
        return "error passed on"

    def check_backends_error(self, p: Packet, router: str) -> str:
        """An ICMP error about a packet that a backend got, from a pod itself or from behind the node, as its client gets it."""
        address, port = self.model.flows[flow_key(p)]
        program, sender = ("from_container", address) if address in LOCAL[p.family] else ("to_netdev", router)
        if address not in (*LOCAL[p.family], NODE[p.family]):
            return "elsewhere"
        trial = self.bench.run(program, frame(unreachable(sender, p.src, replace(p, dst=address, dport=port))))
        assert self.bench.events() == []
        out = read(contents(trial.data))
        assert out.is_intact
        assert (out.src, out.dst) == (p.dst, p.src)
        assert out.quoted is not None
        assert (out.quoted.src, out.quoted.sport, out.quoted.dst, out.quoted.dport) == (p.src, p.sport, p.dst, p.dport)
        return "error answered"

    def check_wire(self, p: Packet, there: Trial) -> str:
        """At XDP a packet that `from_netdev` has just led to another node's pod comes out the same, in the overlay; all others
        go on as they are. And so does its answer."""
        trial = try_program(self.bench.programs["from_wire"], frame(p))
        entry = self.model.find(p)
        chosen = self.model.flows.get(flow_key(p))
        is_remote = entry is not None and there.verdict == TC_REDIRECT and chosen and chosen[0] in REMOTE[p.family]
        if not is_remote or p.proto == SCTP or p.flags == SYN or entry.flags & EntryFlag.SOURCE_RANGES:  # type: ignore[union-attr]
            assert (trial.verdict, trial.data) == (XDP_PASS, frame(p))
            return "left to tc"
        assert trial.verdict == XDP_TX
        outer, inner = unwrap(trial.data)
        expected, _ = unwrap(there.data)
        assert inner[14:] == contents(there.data)[14:]
        assert trial.data == wrap(outer, inner)
        assert replace(outer, id=expected.id, source_port=expected.source_port) == expected
        assert (outer.vni, outer.ecn) == (9 if p.family == 4 else 10, p.ecn if p.ecn < CE else ECT0)
        flooded = ELSEWHERE + frame(p)[6:]
        assert try_program(self.bench.programs["from_wire"], flooded).data == flooded
        self._check_wire_answer(p, inner)
        return "by XDP"

    def _check_wire_answer(self, p: Packet, asked: bytes) -> None:
        """What the backend answers, as the overlay's hook and as XDP hand it to the client."""
        ends = read(asked)
        answer = frame(replace(p, src=ends.src, dst=ends.dst, sport=ends.sport, dport=ends.dport).turned())
        there = self.bench.run("from_overlay", answer, tunnel_key(300, OTHER_NODE[4]))
        assert there.verdict == TC_REDIRECT
        outer = wrap(Wrapping(OTHER_NODE[4], NODE[4], 300), answer)
        here = try_program(self.bench.programs["from_wire"], outer)
        assert here.verdict == XDP_TX
        assert here.data[14:] == there.data[14:]
        assert read(here.data).is_intact

    def _check_way(self, p: Packet, src: str, sport: int, dst: str, verdict: int) -> str:
        if dst in LOCAL[p.family] or dst == NODE[p.family]:
            assert (src, sport) == (p.src, p.sport)
            assert verdict == (TC_OK if dst == NODE[p.family] else TC_REDIRECT)
            return "this node" if dst == NODE[p.family] else "pod here"
        assert src == NODE[p.family]
        assert sport in range(32768, 65536) or p.proto == SCTP
        assert verdict == TC_REDIRECT
        return "elsewhere"

    def check_answer(self, p: Packet) -> str:
        """The answer of a pod or of the node to a packet that went there last."""
        address, port = self.model.flows[flow_key(p)]
        answer = replace(p, dst=address, dport=port).turned()
        program = "from_container" if address in LOCAL[p.family] else "to_netdev"
        if address not in (*LOCAL[p.family], NODE[p.family]):
            return "elsewhere"
        trial = self.bench.run(program, frame(answer))
        assert self.bench.events() == []
        out = read(contents(trial.data))
        assert (out.src, out.sport, out.dst, out.dport, out.is_intact) == (p.dst, p.dport, p.src, p.sport, True)
        return "answered"


def make_entry(r: Random) -> LBEntry:
    family = r.choice((4, 6))
    at, port = r.choice([(ANY[family], NODE_PORT), *((vip, r.choice((80, 81))) for vip in VIPS[family])])
    protocol = Protocol(r.choice((TCP, TCP, UDP, SCTP)))
    # SCTP's checksum covers its ports, so it keeps them, and two clients with one port cannot share a way through the node.
    places = [*LOCAL[family], *LOCAL[family], NODE[family], *(REMOTE[family] if protocol is not Protocol.SCTP else ())]
    chosen = {Addr.parse(ip): r.random() < 0.25 for ip in r.sample(places, r.randint(0, 4))}
    target = port if protocol is Protocol.SCTP else TARGET
    backends = [Backend(addr, target, terminating) for addr, terminating in chosen.items()]
    external = tuple(sorted(backends, key=lambda each: (each.is_terminating, each)))
    flags = r.choice([EntryFlag.EXTERNAL] * 6 + [EntryFlag.ROUTABLE, EntryFlag.NONE])
    ranges: tuple[Prefix, ...] = ()
    if r.random() < 0.3:
        ranges = (Prefix.parse(r.choice(RANGES[family])),)
        flags |= EntryFlag.SOURCE_RANGES | r.choice((EntryFlag.NONE, EntryFlag.SOURCE_RANGES_DENY))
    if r.random() < 0.3:
        flags |= EntryFlag.AFFINITY
    if r.random() < 0.3 and external:
        flags |= EntryFlag.MAGLEV
    key = FrontendKey(Addr.parse(at), port, protocol)
    return LBEntry(key=key, external=external, flags=flags, affinity_s=3600, source_ranges=ranges)


def make_packet(r: Random, world: World) -> Packet:
    if world.model.entries and r.random() < 0.9:
        key = r.choice(list(world.model.entries))
        family, port, proto = key.addr.family, key.port, int(key.protocol)
        dst = r.choice((NODE[family], NODE[family], OTHER_NODE[family])) if key.port == NODE_PORT else str(key.addr)
    else:
        family, port, proto = r.choice((4, 6)), r.choice((80, NODE_PORT, NODE_PORT + 1)), r.choice((TCP, UDP))
        dst = r.choice((*VIPS[family], OTHER_NODE[family]))
    flags = r.choice((SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST)) if proto == TCP else ACK
    # One port never speaks to two services: which of them an answer of a common backend belongs to, nobody could tell.
    sport = r.choice((1024, 40000, 50000)) + crc32(f"{dst} {port} {proto}".encode()) % 8000
    return Packet(r.choice(CLIENTS[family]), dst, proto, sport, port, flags, ecn=r.choice((0, 0, 1, 2, 3)))


def run_case(bench: Bench, seed: int, length: int) -> Counter[str]:
    r, world = Random(seed), World(bench)
    seen: Counter[str] = Counter()
    for _ in range(4):
        world.put(make_entry(r))
    for _ in range(length):
        if r.random() < 0.04:
            world.put(make_entry(r))
        if r.random() < 0.02 and world.model.entries:
            world.drop(r.choice(list(world.model.entries)))
        p = make_packet(r, world)
        outcome = world.check(p)
        seen[outcome] += 1
        if outcome in ("pod here", "this node") and r.random() < 0.5:
            seen[world.check_answer(p)] += 1
        if outcome in ("pod here", "this node", "elsewhere") and r.random() < 0.1:
            seen[world.check_error(p, r.choice((p.src, ROUTER[p.family])))] += 1
            seen[world.check_backends_error(p, r.choice((NODE[p.family], ROUTER[p.family])))] += 1
    return seen + world.seen


@given(st.integers(0, 1 << 32), st.integers(1, 200))
@settings(max_examples=100)
def test_any_packet_goes_where_the_model_says(bench: Bench, seed: int, length: int) -> None:
    run_case(bench, seed, length)


def test_every_outcome_is_reached(bench: Bench) -> None:
    """And as many packets as the issue asks of the default tier: none differs."""
    seen: Counter[str] = Counter()
    for seed in range(50):
        seen += run_case(bench, seed, 200)
    assert sum(seen.values()) >= 10_000
    wanted = {
        "no service",
        "pod here",
        "this node",
        "elsewhere",
        "answered",
        "error passed on",
        "error answered",
        "by XDP",
        "left to tc",
    }
    wanted |= {Drop.CLUSTER_ADDRESS.name, Drop.SOURCE_RANGE.name, Drop.NO_BACKEND.name}
    assert {each for each in wanted if seen[each] >= 50} == wanted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_packets(bench: Bench) -> None:
    seen: Counter[str] = Counter()
    for seed in range(1_000, 1_500):
        seen += run_case(bench, seed, 200)
    assert sum(seen.values()) >= 100_000


def test_a_stream_of_sctp_to_another_port_is_refused(bench: Bench) -> None:
    world = World(bench)
    at = FrontendKey(Addr.parse(ANY[4]), NODE_PORT, Protocol.SCTP)
    world.put(LBEntry(key=at, external=(Backend(Addr.parse(LOCAL[4][0]), TARGET),), flags=EntryFlag.EXTERNAL))
    trial = bench.run("from_netdev", frame(Packet(CLIENTS[4][0], NODE[4], SCTP, dport=NODE_PORT)))
    assert trial.verdict == TC_SHOT
    assert [event.reason for event in bench.events()] == [Drop.NAT_UNSUPPORTED_PROTOCOL]


def test_the_overlay_carries_the_clients_identity(bench: Bench) -> None:
    world = World(bench)
    backends = (Backend(Addr.parse(REMOTE[4][0]), TARGET),)
    at = FrontendKey(Addr.parse(ANY[4]), NODE_PORT, Protocol.TCP)
    world.put(LBEntry(key=at, external=backends, flags=EntryFlag.EXTERNAL))
    trial = bench.run("from_netdev", frame(Packet(CLIENTS[4][0], NODE[4], TCP, dport=NODE_PORT, flags=SYN)))
    assert int.from_bytes(trial.context[8:12], "little") == OVERLAY_IFINDEX
    around, _ = unwrap(trial.data)
    assert (around.src, around.dst, around.vni) == (NODE[4], OTHER_NODE[4], 9)  # world-ipv4


def node_port(
    world: World, family: int, *backends: str, protocol: Protocol = Protocol.UDP, port: int = TARGET
) -> Packet:
    """A service at every node's address, and a client's packet to it."""
    at = FrontendKey(Addr.parse(ANY[family]), NODE_PORT, protocol)
    found = tuple(Backend(Addr.parse(ip), port) for ip in backends)
    world.put(LBEntry(key=at, internal=found, external=found, flags=EntryFlag.EXTERNAL))
    return Packet(CLIENTS[family][0], NODE[family], int(protocol), dport=NODE_PORT)


def dropped(bench: Bench, program: str, p: Packet) -> list[int]:
    assert bench.run(program, frame(p)).verdict == TC_SHOT
    return [event.reason for event in bench.events()]


BOTH = pytest.mark.parametrize("family", [4, 6])


@BOTH
def test_datagrams_to_a_service_and_past_it_from_one_port(bench: Bench, family: int) -> None:
    """Whichever way the client took last, answers go."""
    world = World(bench)
    pod = LOCAL[family][0]
    asked = node_port(world, family, pod)
    direct = replace(asked, dst=pod, dport=TARGET)
    answer = frame(direct.turned())
    for program, p in (("to_container", direct), ("from_netdev", asked)) * 2:
        assert bench.run(program, frame(p)).verdict in (TC_OK, TC_REDIRECT)
        trial = bench.run("from_container", answer)
        out = read(trial.data)
        assert (out.src, out.sport, out.dst, out.dport) == (p.dst, p.dport, p.src, p.sport)


@BOTH
@pytest.mark.parametrize("place", [LOCAL, REMOTE], ids=["here", "there"])
def test_what_nobody_answered_for_long_still_has_its_answer_led_back(
    bench: Bench, family: int, place: dict[int, str]
) -> None:
    world = World(bench)
    p = node_port(world, family, place[family][0])
    asked = read(contents(bench.run("from_netdev", frame(p)).data))
    for key, value in list(bench.maps["lb_flows"].items()):
        addr, port, closed, expires = LB_FLOW.unpack(value)
        age = 1000 if NAT_KEY.unpack(key)[-1] == Side.FROM_BACKEND else 1
        bench.maps["lb_flows"][key] = LB_FLOW.pack(addr, port, closed, expires - age)
    bench.run("from_netdev", frame(p))
    assert collect(bench.maps) == 0
    for key, value in list(bench.maps["lb_flows"].items()):
        addr, port, closed, expires = LB_FLOW.unpack(value)
        if NAT_KEY.unpack(key)[-1] == Side.FROM_BACKEND:
            del bench.maps["lb_flows"][key]
        else:
            bench.maps["lb_flows"][key] = LB_FLOW.pack(addr, port, closed, expires - 1)
    bench.run("from_netdev", frame(p))
    answer = frame(replace(p, src=asked.src, sport=asked.sport, dst=asked.dst, dport=asked.dport).turned())
    here = place is LOCAL
    trial = (
        bench.run("from_container", answer)
        if here
        else bench.run("from_overlay", answer, tunnel_key(300, OTHER_NODE[4]))
    )
    out = read(trial.data)
    assert (out.src, out.sport, out.dst, out.dport, out.is_intact) == (p.dst, p.dport, p.src, p.sport, True)


@BOTH
@pytest.mark.parametrize("forged", [LOCAL, NODE], ids=["a pod of this node", "this node"])
@pytest.mark.parametrize("place", [LOCAL, REMOTE], ids=["here", "there"])
def test_nobody_outside_has_an_address_of_this_node(
    bench: Bench, family: int, place: dict[int, str], forged: dict[int, str]
) -> None:
    """Its identity would open what is closed to clients outside."""
    world = World(bench)
    p = node_port(world, family, place[family][0])
    source = forged[family] if isinstance(forged[family], str) else forged[family][1]
    assert dropped(bench, "from_netdev", replace(p, src=source)) == [Drop.INVALID_SOURCE]


@BOTH
def test_a_node_on_the_way_counts_as_a_hop(bench: Bench, family: int) -> None:
    """Two services that are each other's backends would send a packet round for ever."""
    world = World(bench)
    p = node_port(world, family, OTHER_NODE[family])
    there = bench.run("from_netdev", frame(replace(p, ttl=2)))
    out = read(there.data)
    assert (out.dst, out.is_intact, ttl_of(there.data)) == (OTHER_NODE[family], True, 1)
    assert dropped(bench, "from_netdev", replace(p, ttl=1)) == [Drop.TTL_EXCEEDED]
    answer = Packet(out.dst, out.src, UDP, out.dport, out.sport)
    back = bench.run("from_netdev", frame(replace(answer, ttl=2)))
    assert (read(back.data).is_intact, ttl_of(back.data)) == (True, 1)
    assert dropped(bench, "from_netdev", replace(answer, ttl=1)) == [Drop.TTL_EXCEEDED]


def ttl_of(data: bytes) -> int:
    return data[22] if data[12:14] == b"\x08\0" else data[21]


def wire_answer(world: World, family: int) -> Packet:
    """What a backend behind the overlay answers to a client outside; its flow is known."""
    p = node_port(world, family, REMOTE[family][0])
    asked = read(contents(world.bench.run("from_netdev", frame(p)).data))
    return replace(p, src=asked.src, sport=asked.sport, dst=asked.dst, dport=asked.dport).turned()


@BOTH
@pytest.mark.parametrize("flaw", FLAWS)
def test_the_driver_unwraps_only_what_is_plain(bench: Bench, family: int, flaw: str) -> None:
    answer = in_frame(wire_answer(World(bench), family))
    plain = replace(PLAIN, vni=300)
    assert try_program(bench.programs["from_wire"], wrap(plain, answer)).verdict == XDP_TX
    around = replace(FLAWS[flaw], vni=300)
    trial = try_program(bench.programs["from_wire"], wrap(around, answer))
    assert (trial.verdict, trial.data) == (XDP_PASS, wrap(around, answer))


@BOTH
@pytest.mark.parametrize("changes", [{"ttl": 1}], ids=["last hop"])
def test_the_driver_leaves_what_ends_here(bench: Bench, family: int, changes: dict[str, int]) -> None:
    answer = replace(wire_answer(World(bench), family), **changes)
    sent = wrap(replace(PLAIN, vni=300), in_frame(answer))
    trial = try_program(bench.programs["from_wire"], sent)
    assert (trial.verdict, trial.data) == (XDP_PASS, sent)


@BOTH
def test_the_driver_leaves_congestion_of_the_underlay_to_the_hooks_behind(bench: Bench, family: int) -> None:
    sent = wrap(replace(PLAIN, vni=300, ecn=CE), in_frame(wire_answer(World(bench), family)))
    assert try_program(bench.programs["from_wire"], sent).verdict == XDP_PASS


def test_no_service_leads_into_another_nodes_overlay(bench: Bench) -> None:
    """The other node takes what comes from this one for wrapped by it."""
    p = node_port(World(bench), 4, OTHER_NODE[4], port=8472)
    assert dropped(bench, "from_netdev", p) == [Drop.ENCAPSULATION_PROHIBITED]
