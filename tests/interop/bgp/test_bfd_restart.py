"""BFD and graceful restart together (RFC 5882 §4.3), against BIRD and FRR, with packets flowing both ways.

What dies: our bgp process, our bfd process, the neighbour. Deadlines here are generous; benchmarks/bfd_detection.py measures.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from peers.bench import Bench, kill, wait_for
from peers.pair import ROUTERS, Pair
from stentor.bgp.bfd.client import fetch


@pytest.fixture(params=sorted(ROUTERS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Bench() as bench:
        yield Pair(bench, request.param)


def test_the_speaker_killed_and_started_again_costs_no_packet(pair: Pair) -> None:
    before = fetch(pair.speaker.bfd_socket)
    pings = pair.ping()
    pair.speaker.kill()
    wait_for("the neighbour notices the session's end", lambda: not pair.router.is_established())
    assert pair.router.is_bfd_up()
    assert pair.router.has_route()
    pair.speaker.start()
    pair.wait_up()
    assert pair.lost(pings) == 0
    after = fetch(pair.speaker.bfd_socket)
    assert [(each.discriminator, each.flaps) for each in after] == [(each.discriminator, 0) for each in before]


def test_bfd_that_hangs_takes_the_session_down_and_it_comes_back(pair: Pair) -> None:
    """Not killed at once: its successor may be there within the detection time, and then BIRD misses now and then that its
    session was down for some packets (its BFD has a thread of its own, which tells the other one the latest state only)."""
    before = pair.connections()
    assert before
    pair.bfd.send_signal(signal.SIGSTOP)
    # Not "is down": it may be up again between two looks.
    wait_for("the neighbour ends the session", lambda: before.isdisjoint(pair.connections()))
    wait_for("we notice", lambda: pair.speaker.peer("router")["flaps"] >= 1)
    kill(pair.bfd)
    pair.wait_up()


def test_the_neighbour_killed_takes_its_routes_along(pair: Pair) -> None:
    """It offered graceful restart, but BFD says that its forwarding is gone: stale routes would lead nowhere."""
    pair.router.kill()
    wait_for("its route leaves our kernel", lambda: not pair.installed())
    assert not pair.speaker.route("203.0.113.0/24")
