"""The pod and overlay programs against the model: random nodes, policies and packets, in sequences that share connections.

A case is a seed and a length: plain random choices reach far more of the good paths than drawn ones, whose bias is to the
simple, and a shorter sequence of the same seed is its own beginning, so failures still shrink.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapaths.bench import OWN, Bench, tunnel_key
from datapaths.model import EGRESS, HERE, INGRESS, Drop, Endpoint, Known, Model, Outcome, Rule
from datapaths.packet import ACK, ECHO, FIN, ICMP, ICMP6, RST, SCTP, SYN, TCP, UDP, Packet, Wrapping
from stentor.datapath import targets
from stentor.tables.policy import PolicyRule

LOCAL = {4: ("10.1.0.11", "10.1.0.12"), 6: ("fd00:1::11", "fd00:1::12")}
REMOTE = {4: ("10.2.0.11", "10.2.0.12"), 6: ("fd00:2::11", "fd00:2::12")}
OTHER = {4: ("192.0.2.1", "192.0.2.2", "203.0.113.9"), 6: ("2001:db8::1", "2001:db8::2", "2001:db8:f::9")}
PREFIXES = ("10.2.0.0/24", "10.0.0.0/8", "203.0.113.0/24", "0.0.0.0/0", "fd00:2::/64", "fd00::/16", "2001:db8:f::/48")
OUTER = ("192.0.2.2", "2001:db8::2", "192.0.2.77")
WORKLOADS = (256, 300, 301)
IDENTITIES = (*WORKLOADS * 3, 1, 2, 6, 7, 8, 9, 1 << 16 | 300, 1 << 24 | 5, 2 << 24 | 1, 200, 0)
PEERS = (0, 0, 0, 0, 1, 2, 6, 9, 10, *WORKLOADS)
PORTS = (53, 80, 81, 8080, 8472)
FORMS = ((0, 0, 0), (0, 0, 0), (TCP, 0, 0), (UDP, 0, 0), (ICMP, 0, 0), (ICMP6, 0, 0), (ICMP, 256 + 8, 16), (ICMP, 256, 16),
         (ICMP6, 256 + 128, 16), (ICMP6, 256 + 1, 16), (SCTP, 0, 0))  # fmt: skip
STRANGE = {4: (5, 13), 6: (133, 134, 135, 137, 143)}

Step = tuple[str, Packet, int, str]


def make_model(r: Random) -> Model:
    model = Model(underlay=OWN)
    for number in (0, 1):
        ifindex = HERE if not number or r.random() < 0.5 else 7
        row = Endpoint(number + 1, ifindex, r.choice(WORKLOADS), r.choice((1, 1, 1, 1, 2, 2, 0)))
        for family in (4, 6):
            if r.random() < 0.95:
                model.endpoints[LOCAL[family][number]] = row
    names = [address for family in (4, 6) for address in (*REMOTE[family], *OTHER[family])]
    for prefix in (*r.sample(names, r.randint(4, len(names))), *r.sample(PREFIXES, r.randint(0, 4))):
        tunnel = r.choice(("", "192.0.2.2", "2001:db8::2"))
        model.known.append(Known(prefix, r.choice(IDENTITIES), tunnel, bool(tunnel) and r.random() < 0.3))
    for own in (OTHER[4][0], OTHER[6][0]):
        if r.random() < 0.5:
            model.known = [row for row in model.known if row.prefix != own] + [Known(own, 1)]
    model.nodes = set(r.sample(OUTER, 2))
    for _ in range(r.randint(1, 12)):
        model.peers[r.choice((1, 2)), r.choice((INGRESS, EGRESS)), r.choice(PEERS)] = r.randint(1, 4)
    for policy in (1, 2):
        for direction in (INGRESS, EGRESS):
            if r.random() < 0.7:
                model.peers[policy, direction, 0] = r.randint(1, 3)
    rules = {
        (rule.class_id, rule.proto, rule.port, rule.bits): rule
        for rule in (make_rule(r) for _ in range(r.randint(3, 14)))
    }
    model.rules = list(rules.values())
    return model


def make_rule(r: Random) -> Rule:
    class_id, deny = r.randint(1, 3), r.random() < 0.3
    if r.random() < 0.5:
        return Rule(class_id, *r.choice(FORMS), deny)
    bits = r.choice((16, 16, 9, 15))
    return Rule(class_id, r.choice((TCP, UDP, SCTP)), r.choice(PORTS) >> (16 - bits) << (16 - bits), bits, deny)


def make_packet(r: Random, *, is_quoted: bool = False) -> Packet:
    family = r.choice((4, 6))
    locals_, others = LOCAL[family], (*REMOTE[family], *OTHER[family])
    src, dst = r.choice(locals_ * 3 + others), r.choice(locals_ * 3 + others)
    icmp = ICMP if family == 4 else ICMP6
    p = Packet(src, dst, id=r.randint(1, 2))
    if not is_quoted and r.random() < 0.2:
        p = replace(p, fragment=r.choice(("first", "later")))
    if family == 6 and not is_quoted and r.random() < 0.15:
        p = replace(p, options=r.choice((0, 1, 2, 4, 5)), inner_options=r.choice((0, 1, 3)))
    kind = r.random()
    if kind < 0.15:
        return replace(p, proto=icmp, sport=r.randint(0, 2), type=r.choice(ECHO[family]))
    if kind < 0.18 and not is_quoted:
        return replace(p, proto=icmp, type=r.choice(STRANGE[family]))
    ports = r.choice((40000, 40001, 80)), r.choice(PORTS)
    sport, dport = ports if r.random() < 0.7 else ports[::-1]
    flags = r.choice((SYN, SYN, SYN | ACK, ACK, ACK, ACK | FIN, RST))
    proto = r.choice((TCP, TCP, UDP, SCTP))
    return replace(p, proto=proto, sport=sport, dport=dport, flags=flags if proto == TCP else ACK)


def make_error(r: Random, about: Packet) -> Packet:
    """From somewhere on the way of a packet, mostly to its sender."""
    v4 = about.family == 4
    src = r.choice((about.dst, *OTHER[about.family], *LOCAL[about.family]))
    dst = about.src if r.random() < 0.85 else r.choice(LOCAL[about.family])
    return Packet(src, dst, ICMP if v4 else ICMP6, type=3 if v4 else r.choice((1, 2)), quoted=about,
                  fragment="first" if r.random() < 0.05 else "")  # fmt: skip


def make_steps(r: Random, length: int) -> list[Step]:
    found: list[Step] = []
    while len(found) < length:
        p, kind = make_packet(r), r.random()
        if found and kind < 0.6:
            p = r.choice(found)[1]
            if p.quoted is None and kind < 0.4:
                p = p.turned() if kind < 0.3 else make_error(r, replace(p, options=0, inner_options=0))
        at_home = {*LOCAL[4], *LOCAL[6]}
        program = (
            "from_container"
            if p.src in at_home and r.random() < 0.9
            else r.choice(("to_container", "from_overlay", "from_netdev"))
        )
        found.append((program, p, r.choice(IDENTITIES), r.choice(OUTER)))
    return found


def replace_pod(r: Random, model: Model, address: str, ifindex: int) -> Endpoint:
    """The pod is gone, and another one has its address at once."""
    model.endpoints[address] = replace(model.endpoints[address], ifindex=ifindex, identity=r.choice(WORKLOADS))
    return model.endpoints[address]


def make_wrapping(r: Random, identity: int, outer: str) -> Wrapping:
    """Nearly always plain; `test_vxlan.py` has all the ways not to be."""
    around = Wrapping(outer, OTHER[6][0] if ":" in outer else OWN, identity & 0xFFFFFF)
    return around if r.random() < 0.9 else replace(around, place=0x2000)


def agree(bench: Bench, seed: int, length: int) -> list[tuple[str, Outcome]]:
    """Runs one case; what came out, step by step."""
    r = Random(seed)
    model, outcomes = make_model(r), []
    bench.fill(model)
    for number, (program, packet, identity, outer) in enumerate(make_steps(r, length)):
        if model.endpoints and r.random() < 0.05:
            address = r.choice(list(model.endpoints))
            bench.put_endpoint(address, replace_pod(r, model, address, 100 + number))
        if program == "from_netdev":
            around = make_wrapping(r, identity, outer)
            expected, got = model.from_netdev(packet, around), bench.outcome(program, packet, around=around)
        elif program == "from_overlay":
            expected = model.from_overlay(packet, identity, outer)
            got = bench.outcome(program, packet, tunnel_key(identity, outer))
        else:
            expected, got = getattr(model, program)(packet), bench.outcome(program, packet)
        assert expected == got, (program, packet)
        outcomes.append((program, expected))
    return outcomes


cases = given(seed=st.integers(0, 2**64 - 1), length=st.integers(1, 16))


@settings(max_examples=1500)
@cases
def test_programs_agree_with_the_model(bench: Bench, seed: int, length: int) -> None:
    agree(bench, seed, length)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(max_examples=15_000)
@cases
def test_programs_agree_with_the_model_at_length(bench: Bench, seed: int, length: int) -> None:
    agree(bench, seed, length)


def test_cases_reach_every_outcome(bench: Bench) -> None:
    """The generator is worth something only if all paths are walked, the good ones often."""
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(300):
        for program, outcome in agree(bench, seed, 16):
            seen[program, str(getattr(outcome, "reason", type(outcome).__name__))] += 1
    drops = {"132", "133", "144", "146", "151", "156", "157", "170", "171", "172", "175", "176", "181", "203"}
    assert drops - {reason for _, reason in seen} == set()
    good = [("from_container", "Deliver"), ("from_container", "Overlay"), ("from_container", "Stack"),
            ("to_container", "Stack"), ("from_overlay", "Deliver"), ("from_overlay", "Stack"),
            ("from_netdev", "Deliver"), ("from_netdev", "Stack")]  # fmt: skip
    assert [pair for pair in good if seen[pair] < 5] == []


@pytest.mark.parametrize(("asks", "reason"), [({"proxy": 7}, 180), ({"auth": 1}, 189)])
def test_what_nobody_provides_yet_admits_nothing(bench: Bench, asks: dict[str, int], reason: int) -> None:
    model = Model(
        peers={(1, EGRESS, 0): 1},
        endpoints={LOCAL[4][0]: Endpoint(1, HERE, 300, 1)},
        rules=[Rule(1, TCP, 80, 16, False)],
    )
    bench.fill(model)
    rule = PolicyRule(class_id=1, protocol=TCP, port=80, port_bits=16, **asks)
    assert asyncio.run(targets.rules(bench.maps).apply([(rule.key, rule)], [])) == {}
    assert bench.outcome("from_container", Packet(LOCAL[4][0], REMOTE[4][0])) == Drop(reason, 1, EGRESS)
