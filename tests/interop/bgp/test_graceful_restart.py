"""Graceful restart in the rare turns: a second restart during the first, other policies meanwhile, ends that are meant to last.

The other side is made of bytes, so that it restarts exactly when and how a test wants it, or another speaker of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from peers.bench import Bench, wait_for
from peers.raw import RawPeer, attribute, nlri, update
from peers.speaker import Speaker
from stentor.bgp.capability import Capabilities, Graceful
from stentor.bgp.errors import Cease
from stentor.bgp.nlri import Family
from stentor.bgp.update import encode_end_of_rib
from stentor.bgp.wire import Kind, Notification, encode_notification

OURS, THEIRS, THEIR_AS = "10.0.2.1", "10.0.2.2", 65002
FIRST, SECOND = "198.51.100.0/24", "203.0.113.0/24"
END = encode_end_of_rib(Family.IPV4)
QUICK = {"connectRetryTimeSeconds": 0.2, "idleHoldTimeSeconds": 0.1}


def configure(number: int, *, imports: str = "accept", asn: int = THEIR_AS, **fields: Any) -> dict[str, Any]:
    """Speaker ``number`` of 1 and 2 with the other one as its peer, which restarts gracefully."""
    other = {
        "name": "other",
        "peerAddress": THEIRS if number == 1 else OURS,
        "peerASN": asn,
        "timers": QUICK,
        "gracefulRestart": {"enabled": True, "restartTimeSeconds": 600},
        "families": [{"afi": "ipv4", "import": imports}],
        "transport": {"passive": number == 1},
    }
    instance = {"name": "main", "localASN": 65000 + number, "routerID": f"10.0.2.{number}", "localPort": 179}
    return {"instances": [instance | {"peers": [other], **fields}]}


class Stage:
    """Our speaker and a wire to the other side."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ours, self.theirs = bench.namespace("a"), bench.namespace("r")
        bench.link(self.ours, "ar", [f"{OURS}/24"], self.theirs, "ra", [f"{THEIRS}/24"])
        self.speaker = Speaker(bench, self.ours, configure(1))

    def restart(self, *prefixes: str, kept: bool = True, has_n: bool = True, ends: bool = True) -> RawPeer:
        """A session of the other side that announces ``prefixes`` and, with ``ends``, End-of-RIB."""
        graceful = Graceful(600, restarting=kept, notification=has_n, families={Family.IPV4: kept})
        peer = RawPeer(self.theirs, THEIRS, OURS, THEIR_AS)
        peer.establish(Capabilities(families=(Family.IPV4,), graceful=graceful))
        hop = attribute(0x40, 3, bytes((10, 0, 2, 2)))
        path = attribute(0x40, 2, bytes((2, 1)) + THEIR_AS.to_bytes(4, "big"))
        peer.send(*(update(attribute(0x40, 1, b"\0") + path + hop, nlri(each)) for each in prefixes))
        if ends:
            peer.send(END)
        wait_for("all is learned", lambda: self.known() >= set(prefixes))
        return peer

    def fall(self, peer: RawPeer, *last: bytes) -> None:
        """The other side says ``last`` and is gone; without a last word it closes the connection."""
        if last:
            peer.send(*last)
        else:
            peer.close()
        wait_for("the session is over", lambda: not self.speaker.is_established("other"))
        peer.close()

    def known(self) -> set[str]:
        return {route["prefix"] for route in self.speaker.routes()}


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Bench() as bench:
        yield Stage(bench)


def test_a_second_restart_before_the_first_is_over_drops_what_was_stale(stage: Stage) -> None:
    """RFC 4724 §4.2: a route that was marked stale before must go."""
    stage.fall(stage.restart(FIRST, SECOND))
    assert stage.known() == {FIRST, SECOND}
    stage.fall(stage.restart(FIRST, ends=False))
    assert stage.known() == {FIRST}


def test_a_peer_that_kept_nothing_has_its_routes_dropped_at_its_return(stage: Stage) -> None:
    stage.fall(stage.restart(FIRST, SECOND))
    peer = stage.restart(kept=False, ends=False)
    wait_for("nothing is left", lambda: not stage.known())
    peer.close()


def test_kept_routes_meet_the_policies_of_their_peers_return(stage: Stage) -> None:
    stage.fall(stage.restart(FIRST, SECOND))
    statement = {"match": {"prefixes": [FIRST]}, "action": "reject"}
    other = configure(1, imports="some")
    other["policies"] = [{"name": "some", "statements": [statement], "default": "accept"}]
    stage.speaker.configure(other)
    peer = stage.restart(ends=False)
    wait_for("the policy of now is in force", lambda: stage.known() == {SECOND})
    peer.close()


@pytest.mark.parametrize(
    ("notification", "has_n", "is_kept"),
    [
        (Notification(6, Cease.RESET), True, True),
        (Notification(6, Cease.RESET), False, False),
        (Notification(6, Cease.HARD_RESET, bytes((6, Cease.SHUTDOWN))), True, False),
    ],
    ids=["notification", "notification without N bit", "hard reset"],
)
def test_what_a_notification_means(stage: Stage, notification: Notification, has_n: bool, is_kept: bool) -> None:
    stage.fall(stage.restart(FIRST, has_n=has_n), encode_notification(notification))
    wait_for("as RFC 8538 says", lambda: bool(stage.known()) is is_kept)


def test_an_open_that_is_refused_does_not_take_the_place_of_a_session(stage: Stage) -> None:
    """A restarting peer's new connection replaces the old one, but only if it is that peer."""
    peer = stage.restart(FIRST)
    stranger = RawPeer(stage.theirs, THEIRS, OURS, 65099)
    stranger.open(Capabilities(families=(Family.IPV4,), graceful=Graceful(600)))
    wait_for("it is refused", lambda: stranger.poll(0.1) or stranger.closed)
    assert stranger.notification == Notification(2, 2, (65099).to_bytes(2, "big"))
    assert stage.speaker.is_established("other")
    assert stage.speaker.peer("other")["flaps"] == 0
    peer.close()


def test_ends_that_last_are_hard_resets_and_others_are_not(stage: Stage) -> None:
    routes = [{"prefixes": ["192.0.2.0/24"]}]
    stage.speaker.configure(configure(1, routes=routes))
    them = Speaker(stage.bench, stage.theirs, configure(2, asn=65001), "other")
    wait_for("learned", lambda: them.route("192.0.2.0/24"))
    stage.speaker.ask(request="peering", peer="other", action="reset")
    wait_for("the reset", lambda: them.peer("other")["flaps"] == 1)
    assert them.route("192.0.2.0/24")
    wait_for("up again", lambda: stage.speaker.is_established("other"))
    stage.speaker.ask(request="peering", peer="other", action="disable", text="for good")
    wait_for("dropped", lambda: not them.route("192.0.2.0/24"))
    assert "Hard Reset: Cease/Administrative Shutdown: for good" in them.peer("other")["lastError"]


def test_a_flood_is_not_kept_as_if_for_a_restart(stage: Stage) -> None:
    limited = configure(1)
    limited["instances"][0]["peers"][0]["families"] = [{"afi": "ipv4", "prefixLimit": {"maximum": 1}}]
    stage.speaker.configure(limited)
    graceful = Graceful(600, notification=True, families={Family.IPV4: True})
    peer = RawPeer(stage.theirs, THEIRS, OURS, THEIR_AS)
    peer.establish(Capabilities(families=(Family.IPV4,), graceful=graceful))
    hop = attribute(0x40, 3, bytes((10, 0, 2, 2)))
    path = attribute(0x40, 2, bytes((2, 1)) + THEIR_AS.to_bytes(4, "big"))
    peer.send(update(attribute(0x40, 1, b"\0") + path + hop, nlri(FIRST, SECOND)))
    wait_for("it is thrown out", lambda: peer.poll(0.1) or peer.closed)
    assert peer.notification is not None
    assert (peer.notification.inner.subcode, peer.notification.subcode) == (Cease.MAX_PREFIXES, Cease.HARD_RESET)
    wait_for("nothing is kept", lambda: not stage.known())
    assert stage.speaker.peer("other")["sessionState"] == "idle"
    assert [kind for kind, _ in peer.received if kind is Kind.NOTIFICATION] == [Kind.NOTIFICATION]
    peer.close()
