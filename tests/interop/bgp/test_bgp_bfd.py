"""BFD beside BGP sessions of every kind: unnumbered, inside an AS (multihop), graceful or not, disabled by the neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from peers.bench import Bench, wait_for
from peers.bird import Bird
from peers.frr import Frr
from peers.pair import BIRD, FRR_BFD, SLOW, THEIR_PREFIX, Pair
from peers.speaker import Speaker
from stentor.bgp.bfd.client import fetch


class Link:
    """``ar`` of ours to ``ra`` of theirs; addresses as asked for."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ours, self.theirs = bench.namespace("a"), bench.namespace("r")
        bench.link(self.ours, "ar", ["10.0.2.1/24"], self.theirs, "ra", ["10.0.2.2/24"])

    def speak(self, **peer: Any) -> Speaker:
        """Our speaker with one peer that has BFD."""
        peer = {"name": "router", "timers": {"connectRetryTimeSeconds": 1}, "bfd": SLOW.ours(), **peer}
        instance = {"name": "default", "localASN": 65001, "routerID": "10.0.2.1", "localPort": 179, "peers": [peer]}
        return Speaker(self.bench, self.ours, {"instances": [instance]})


@pytest.fixture
def link() -> Iterator[Link]:
    with Bench() as bench:
        yield Link(bench)


def both_up(speaker: Speaker) -> None:
    wait_for("BGP and BFD", lambda: speaker.is_established("router") and speaker.peer("router")["bfdState"] == "up", 60)


def test_unnumbered_with_frr(link: Link) -> None:
    """Neither side knows an address of the other beforehand: BFD follows what router advertisements tell."""
    zebra = "interface ra\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 1\n"
    bgpd = """
router bgp 65002
 bgp router-id 10.0.2.2
 no bgp ebgp-requires-policy
 neighbor ra interface remote-as external
 neighbor ra bfd
 neighbor ra bfd profile fast
 neighbor ra timers connect 1
"""
    frr = Frr(link.bench, link.theirs, {"zebra": zebra, "bgpd": bgpd, "bfdd": SLOW.fill(FRR_BFD)})
    speaker = link.speak(interface="ar", peerASN="external")
    both_up(speaker)
    (status,) = fetch(speaker.bfd_socket)
    assert status.endpoint.interface == "ar"
    assert status.endpoint.peer == link.bench.link_local(link.theirs, "ra")
    assert frr.bfd_state(link.bench.link_local(link.ours, "ar")) == "up"
    frr.processes["bfdd"].kill()
    wait_for("the session ends", lambda: speaker.peer("router")["flaps"])


def test_multihop_inside_an_as_with_bird(link: Link) -> None:
    configuration = BIRD.replace("as 65002", "as 65001").replace(
        'interface "ra" {',
        'multihop { min rx interval INTERVAL ms; min tx interval INTERVAL ms; multiplier MULTIPLIER; }; interface "ra" {',
    )
    bird = Bird(link.bench, link.theirs, SLOW.fill(configuration))
    speaker = link.speak(peerAddress="10.0.2.2", peerASN=65001)
    both_up(speaker)
    assert [status.endpoint.multihop for status in fetch(speaker.bfd_socket)] == [True]
    assert bird.bfd_state("10.0.2.1") == "Up"


def test_single_hop_inside_an_as_with_frr(link: Link) -> None:
    """FRR takes the single hop where the peer is on a link of its own; naming our interface says the same."""
    bgpd = "router bgp 65001\n neighbor 10.0.2.1 remote-as 65001\n neighbor 10.0.2.1 bfd\n neighbor 10.0.2.1 bfd profile fast\n"
    frr = Frr(link.bench, link.theirs, {"zebra": "", "bgpd": bgpd, "bfdd": SLOW.fill(FRR_BFD)})
    speaker = link.speak(peerAddress="10.0.2.2", interface="ar", peerASN=65001)
    both_up(speaker)
    assert [status.endpoint.multihop for status in fetch(speaker.bfd_socket)] == [False]
    assert frr.bfd_state("10.0.2.1") == "up"


def test_disabled_by_the_neighbour_is_no_failure(link: Link) -> None:
    bgpd = "router bgp 65002\n neighbor 10.0.2.1 remote-as 65001\n neighbor 10.0.2.1 bfd\n neighbor 10.0.2.1 bfd profile fast\n"
    frr = Frr(link.bench, link.theirs, {"zebra": "", "bgpd": bgpd, "bfdd": SLOW.fill(FRR_BFD)})
    speaker = link.speak(peerAddress="10.0.2.2", interface="ar", peerASN=65002)
    both_up(speaker)
    frr.ask("conf t", "bfd", "profile fast", "shutdown")
    wait_for("we hear it", lambda: speaker.peer("router")["bfdState"] == "down")
    assert fetch(speaker.bfd_socket)[0].is_disabled_by_neighbor
    frr.ask("conf t", "bfd", "profile fast", "no shutdown")
    both_up(speaker)
    assert speaker.peer("router")["flaps"] == 0


def test_a_removed_peer_takes_its_session_along(link: Link) -> None:
    bird = Bird(link.bench, link.theirs, SLOW.fill(BIRD))
    speaker = link.speak(peerAddress="10.0.2.2", interface="ar", peerASN=65002)
    both_up(speaker)
    instance = {"name": "default", "localASN": 65001, "routerID": "10.0.2.1", "localPort": 179}
    speaker.configure({"instances": [instance]})
    wait_for("no session is left", lambda: not fetch(speaker.bfd_socket))
    wait_for("BIRD sees it down", lambda: bird.bfd_state("10.0.2.1") != "Up")


@pytest.mark.parametrize("is_graceful", [False, True])
def test_a_dead_neighbour_whose_bfd_shares_its_fate(is_graceful: bool) -> None:
    """BIRD's C bit is clear: with ``graceful`` its silence may be a restart and routes stay, otherwise they go."""
    with Bench() as bench:
        pair = Pair(bench, "bird", is_graceful=is_graceful)
        assert not fetch(pair.speaker.bfd_socket)[0].independent
        pair.router.kill()
        wait_for("the session ends", lambda: not pair.speaker.is_established("router"))
        wait_for("BFD is down", lambda: pair.speaker.peer("router")["bfdState"] == "down")
        assert bool(pair.speaker.route(THEIR_PREFIX)) is is_graceful
