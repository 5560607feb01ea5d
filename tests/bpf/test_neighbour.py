"""Questions for announced addresses under from_netdev: who gets which answer, and who gets none."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapaths.bench import TC_OK, TC_REDIRECT, Bench
from datapaths.model import HERE, Model
from datapaths.neighbour import (
    ASKER_MAC,
    NONCE,
    SOURCE_MAC,
    arp,
    group_of,
    multicast_mac,
    option,
    read_advertisement,
    solicitation,
)
from stentor.datapath import announcement, targets
from stentor.net.address import Addr
from stentor.tables.announcement import Announcement

VIP = {4: "192.0.2.100", 6: "2001:db8::100"}
ASKER = {4: "192.0.2.9", 6: "2001:db8::9"}
MAC = bytes.fromhex("0200000000cc")
LEASE = "cilium-l2announce-default-web"
HOUR_NS = 3600 * 10**9


@pytest.fixture
def node(bench: Bench) -> Bench:
    announce(bench)
    return bench


def announce(bench: Bench, *, until_ns: int | None = None, ifindex: int = HERE) -> None:
    bench.fill(Model())
    rows = [Announcement(addr=Addr.parse(ip), ifindex=ifindex, mac=MAC, lease=LEASE) for ip in VIP.values()]
    assert asyncio.run(targets.announcements(bench.maps).apply([(row.key, row) for row in rows], [])) == {}
    leases = announcement.Leases(bench.maps)
    leases.hold(LEASE, now_ns() + HOUR_NS if until_ns is None else until_ns)


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def responses(bench: Bench) -> int:
    return sum(each.responses for each in announcement.responders(bench.maps))


def is_unanswered(bench: Bench, data: bytes) -> bool:
    trial = bench.run("from_netdev", data)
    return trial.verdict == TC_OK and trial.data == data and responses(bench) == 0 and bench.events() == []


def test_a_request_gets_a_reply(node: Bench) -> None:
    trial = node.run("from_netdev", arp(ASKER[4], VIP[4]))
    assert (trial.verdict, struct.unpack_from("=I", trial.context, 8)[0]) == (TC_REDIRECT, HERE)
    vip, asker = Addr.parse(VIP[4]).packed, Addr.parse(ASKER[4]).packed
    reply = (
        ASKER_MAC + MAC + bytes.fromhex("0806 0001 0800 06 04 0002".replace(" ", "")) + MAC + vip + ASKER_MAC + asker
    )
    assert trial.data[:42] == reply
    assert responses(node) == 1


def test_a_probe_before_an_address_is_taken_gets_a_reply(node: Bench) -> None:
    """RFC 5227 2.1.1: the sender's address is unspecified."""
    trial = node.run("from_netdev", arp("0.0.0.0", VIP[4]))
    assert trial.verdict == TC_REDIRECT
    assert trial.data[38:42] == bytes(4)


@pytest.mark.parametrize("options", [b"", option(SOURCE_MAC, ASKER_MAC), option(NONCE, b"abcdef") * 2])
def test_a_solicitation_gets_an_advertisement(node: Bench, options: bytes) -> None:
    trial = node.run("from_netdev", solicitation(ASKER[6], VIP[6], options=options))
    assert (trial.verdict, struct.unpack_from("=I", trial.context, 8)[0]) == (TC_REDIRECT, HERE)
    said = read_advertisement(trial.data)
    assert (said.eth_dst, said.eth_src, said.mac) == (ASKER_MAC, MAC, MAC)
    assert (said.src, said.dst, said.target, said.hops) == (VIP[6], ASKER[6], VIP[6], 255)
    assert (said.flags, said.is_intact) == (0x60, True)  # solicited, override; no router
    assert responses(node) == 1


def test_padding_behind_a_solicitation_does_not_come_back(node: Bench) -> None:
    trial = node.run("from_netdev", solicitation(ASKER[6], VIP[6], padding=40))
    assert read_advertisement(trial.data).is_intact


def test_a_probe_for_duplicates_is_answered_to_everybody(node: Bench) -> None:
    """RFC 4861 7.2.4."""
    said = read_advertisement(node.run("from_netdev", solicitation("::", VIP[6], options=b"")).data)
    assert (said.eth_dst, said.dst, said.flags, said.is_intact) == (multicast_mac("ff02::1"), "ff02::1", 0x20, True)


def test_reachability_of_a_known_neighbour_is_confirmed(node: Bench) -> None:
    """Unicast, to the loopback device's MAC address of a test run."""
    asked = solicitation(ASKER[6], VIP[6], to=VIP[6], options=b"", destination=bytes(6))
    assert read_advertisement(node.run("from_netdev", asked).data).flags == 0x60
    assert node.run("from_netdev", arp(ASKER[4], VIP[4], destination=bytes(6))).verdict == TC_REDIRECT


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(arp(ASKER[4], "192.0.2.101"), id="other-address"),
        pytest.param(arp(ASKER[4], VIP[4], operation=2), id="reply"),
        pytest.param(arp(VIP[4], VIP[4]), id="gratuitous"),
        pytest.param(arp(ASKER[4], VIP[4], destination=bytes.fromhex("0200000000ee")), id="another-hosts-frame"),
        pytest.param(arp(ASKER[4], VIP[4], head=bytes.fromhex("000608000604")), id="another-hardware"),
        pytest.param(arp(ASKER[4], VIP[4], head=bytes.fromhex("000186dd0604")), id="another-protocol"),
        pytest.param(arp(ASKER[4], VIP[4], head=bytes.fromhex("000108000804")), id="long-hardware-addresses"),
        pytest.param(arp(ASKER[4], VIP[4], head=bytes.fromhex("000108000610")), id="long-addresses"),
        pytest.param(arp(ASKER[4], VIP[4])[:41], id="cut"),
        pytest.param(solicitation(ASKER[6], "2001:db8::101"), id="nd-other-address"),
        pytest.param(solicitation(ASKER[6], VIP[6], hops=254), id="nd-through-a-router"),
        pytest.param(solicitation(ASKER[6], VIP[6], code=1), id="nd-code"),
        pytest.param(solicitation(ASKER[6], VIP[6], spoil_sum=True), id="nd-checksum"),
        pytest.param(solicitation(ASKER[6], VIP[6], options=bytes(8)), id="nd-empty-option"),
        pytest.param(solicitation(ASKER[6], VIP[6], options=b"\x01\x02" + bytes(6)), id="nd-option-too-long"),
        pytest.param(solicitation(ASKER[6], VIP[6], options=bytes(4)), id="nd-half-an-option"),
        pytest.param(solicitation(ASKER[6], VIP[6], options=option(NONCE, bytes(46))), id="nd-too-long"),
        pytest.param(solicitation("::", VIP[6]), id="nd-probe-with-mac"),
        pytest.param(solicitation("::", VIP[6], to=VIP[6], options=b"", destination=bytes(6)), id="nd-probe-to-one"),
        pytest.param(solicitation(ASKER[6], VIP[6], destination=bytes.fromhex("0200000000ee")), id="nd-another-hosts-frame"),
        pytest.param(solicitation(ASKER[6], f"::ffff:{VIP[4]}"), id="nd-mapped"),
        pytest.param(solicitation(ASKER[6], VIP[6])[:-1], id="nd-cut"),
    ],
)  # fmt: skip
def test_no_answer(node: Bench, asked: bytes) -> None:
    assert is_unanswered(node, asked)


@pytest.mark.parametrize("asked", [arp(ASKER[4], VIP[4]), solicitation(ASKER[6], VIP[6])], ids=["arp", "nd"])
def test_answers_end_with_the_lease(bench: Bench, asked: bytes) -> None:
    announce(bench, until_ns=now_ns() + HOUR_NS)
    assert bench.run("from_netdev", asked).verdict == TC_REDIRECT
    announce(bench, until_ns=now_ns())
    assert is_unanswered(bench, asked)
    announce(bench)
    announcement.Leases(bench.maps).drop(LEASE)
    assert is_unanswered(bench, asked)


@pytest.mark.parametrize("asked", [arp(ASKER[4], VIP[4]), solicitation(ASKER[6], VIP[6])], ids=["arp", "nd"])
def test_an_address_is_announced_on_its_links_only(bench: Bench, asked: bytes) -> None:
    announce(bench, ifindex=HERE + 1)
    assert is_unanswered(bench, asked)


@settings(max_examples=400)
@given(
    seed=st.sampled_from(
        (arp(ASKER[4], VIP[4]), solicitation(ASKER[6], VIP[6]), solicitation("::", VIP[6], options=b""))
    ),
    changes=st.lists(st.tuples(st.integers(0, 85), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_damaged_questions(bench: Bench, seed: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever comes back is a good answer for an address that is announced; all else goes on as it was."""
    announce(bench)
    data = bytearray(seed)
    for at, value in changes:
        data[at % len(data)] = value
    trial = bench.run("from_netdev", bytes(data))
    bench.events()
    if trial.verdict != TC_REDIRECT:
        assert trial.data == data
    elif trial.data[12:14] == b"\x08\x06":
        assert trial.data[22:32] == MAC + Addr.parse(VIP[4]).packed
        assert trial.data[32:42] == bytes(data[22:32])
    else:
        said = read_advertisement(trial.data)
        assert (said.target, said.mac, said.is_intact) == (VIP[6], MAC, True)


def test_groups_are_the_kernels() -> None:
    assert group_of("2001:db8::1:2:3") == "ff02::1:ff02:3"
