"""Peers that misbehave, beside a real one (BIRD) that must not notice: its session never flaps and changes still reach it.

The hostile side is in the same listen range as anybody could be; memory is read from /proc.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from peers.bench import Bench, wait_for
from peers.bird import Bird
from peers.raw import CAPABILITIES, RawPeer, attribute, close_all, nlri, update
from peers.speaker import Speaker
from stentor.bgp.capability import Capabilities
from stentor.bgp.errors import Cease, Code
from stentor.bgp.nlri import Family
from stentor.bgp.wire import HEADER, KEEPALIVE, MARKER, Kind

HOSTILE_AS, LIMIT = 65009, 5000
BIRD = """
router id 10.1.0.2;
protocol device {}
protocol direct { ipv4; }
protocol bgp ours {
  local 10.1.0.2 as 65002; neighbor 10.1.0.1 as 65001; hold time 9; keepalive time 3;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export none; };
}
"""
MEMORY_KB = 400_000


def configure(routes: list[str]) -> dict[str, object]:
    hostile = {
        "name": "hostile",
        "peerAddress": "10.9.0.0/16",
        "peerASN": HOSTILE_AS,
        "families": [{"afi": "ipv4", "export": "accept", "prefixLimit": {"maximum": LIMIT}}],
        "maxDynamicPeers": 50,
    }
    good = {
        "name": "good",
        "peerAddress": "10.1.0.2",
        "peerASN": 65002,
        # One side connects: a collision may end a session that one end takes for established already (RFC 4271 §6.8).
        "transport": {"passive": True},
        "families": [{"afi": "ipv4", "export": "accept"}],
    }
    instance = {
        "name": "default",
        "localASN": 65001,
        "routerID": "10.1.0.1",
        "localPort": 179,
        "routes": [{"prefixes": routes}] if routes else [],
        "peers": [good, hostile],
    }
    return {"instances": [instance]}


class Stage:
    """``good`` ── ours ── ``bad``."""

    def __init__(self, bench: Bench) -> None:
        self.ours, self.good, self.bad = bench.namespace("a"), bench.namespace("g"), bench.namespace("b")
        bench.link(self.ours, "ag", ["10.1.0.1/24"], self.good, "ga", ["10.1.0.2/24"])
        bench.link(self.ours, "ab", ["10.9.0.1/16"], self.bad, "ba", [f"10.9.1.{n}/16" for n in range(1, 61)])
        self.bird = Bird(bench, self.good, BIRD)
        self.speaker = Speaker(bench, self.ours, configure([]))
        self._changes = 0
        wait_for("the good session", lambda: self.bird.is_established("ours"))

    def hostile(self, number: int = 1) -> RawPeer:
        """A connection from one of the hostile addresses."""
        return RawPeer(self.bad, f"10.9.1.{number}", "10.9.0.1", HOSTILE_AS)

    def try_hostile(self, number: int) -> RawPeer | None:
        """An established session, None when the speaker does not want one now."""
        peer = self.hostile(number)
        try:
            peer.establish()
        except (AssertionError, OSError):
            peer.close()
            return None
        return peer

    def assert_unharmed(self) -> None:
        """A change reaches the good peer, whose session is the first one, and memory is bounded."""
        self._changes += 1
        prefix = f"198.18.{self._changes}.0/24"
        self.originate("probe", [prefix])
        wait_for("a change reaches the good peer", lambda: "unicast" in self.bird.ask(f"show route {prefix}"))
        peer = self.speaker.peer("good")
        assert (peer["sessionState"], peer["flaps"]) == ("established", 0)
        assert self.memory_kb() < MEMORY_KB

    def originate(self, owner: str, prefixes: list[str]) -> None:
        routes = [{"prefixes": prefixes}]
        self.speaker.ask(request="setRoutes", instance="default", owner=owner, routes=routes, replace=True)

    def memory_kb(self) -> int:
        assert self.speaker.process is not None
        status = Path(f"/proc/{self.speaker.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def descriptors(self) -> int:
        assert self.speaker.process is not None
        return len(list(Path(f"/proc/{self.speaker.process.pid}/fd").iterdir()))


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Bench() as bench:
        yield Stage(bench)


def announcement(prefixes: bytes, asns: list[int], address: str) -> bytes:
    """An UPDATE with an AS_PATH of any length."""
    path = b""
    for start in range(0, len(asns), 255):
        part = asns[start : start + 255]
        path += bytes((2, len(part))) + b"".join(asn.to_bytes(4, "big") for asn in part)
    hop = attribute(0x40, 3, socket.inet_aton(address))
    return update(attribute(0x40, 1, b"\0") + attribute(0x50, 2, path) + hop, prefixes)


def test_a_peer_that_does_not_read(stage: Stage) -> None:
    peer = stage.hostile()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.establish()
    prefixes = [f"{10 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(20 << 16, (20 << 16) + 60_000)]
    stage.originate("many", prefixes)
    wait_for("all routes at the good peer", lambda: stage.bird.imported("ours") >= len(prefixes))
    # Everything changes again and again meanwhile: what is queued for the slow one must not grow with it.
    for _ in range(3):
        stage.originate("many", [])
        stage.originate("many", prefixes)
    wait_for("all routes again", lambda: stage.bird.imported("ours") >= len(prefixes))
    stage.assert_unharmed()

    # It reads at last, and the state it ends with is the right one.
    table: set[bytes] = set()
    for _ in range(2000):
        peer.poll(0.5 if len(table) < len(prefixes) else 0)
        for kind, body in peer.received:
            if kind is Kind.UPDATE:
                apply(table, body)
        peer.received.clear()
        peer.send(KEEPALIVE)
        if len(table) > len(prefixes):
            break
    assert len(table) == len(prefixes) + 1
    peer.close()


def apply(table: set[bytes], body: bytes) -> None:
    """An IPv4 UPDATE onto a set of prefixes."""
    removed = int.from_bytes(body[:2], "big")
    length = int.from_bytes(body[2 + removed : 4 + removed], "big")
    for data, change in ((body[2 : 2 + removed], table.discard), (body[4 + removed + length :], table.add)):
        position = 0
        while position < len(data):
            stop = position + 1 + (data[position] + 7) // 8
            change(data[position:stop])
            position = stop


def test_garbage(stage: Stage) -> None:
    numbers = random.Random(7)
    starts = [
        lambda: numbers.randbytes(numbers.randrange(1, 3000)),
        lambda: MARKER + numbers.randbytes(200),
        lambda: MARKER + b"\xff\xff\x02",
        lambda: MARKER + b"\x00\x13\x04" * 50,
        lambda: MARKER + (HEADER + 40).to_bytes(2, "big") + b"\x01" + numbers.randbytes(40),
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: b"",
    ]
    for round_number in range(140):
        peer = stage.hostile(1 + round_number % 50)
        with suppress(OSError):
            peer.send(starts[round_number % len(starts)]())
        peer.close()
    for number in range(1, 6):
        peer = wait_for("it is served again", lambda each=number: stage.try_hostile(each))
        with suppress(OSError):
            peer.send(numbers.randbytes(100_000))
        wait_for("it is thrown out", lambda each=peer: each.poll(0.1) or each.closed)
        assert peer.notification is not None
        assert peer.notification.code == Code.HEADER
        peer.close()
    stage.assert_unharmed()


def test_huge_as_paths_are_carried_where_they_fit_and_hurt_nobody_where_not(stage: Stage) -> None:
    """With extended messages a path has up to 16000 numbers; BIRD has messages of 4096 octets."""
    peer = stage.hostile()
    peer.establish(Capabilities(families=(Family.IPV4,), extended_message=True))
    peer.send(announcement(nlri("192.0.2.0/24"), [HOSTILE_AS, *range(70000, 70900)], peer.address))
    peer.send(announcement(nlri("192.0.3.0/24"), [HOSTILE_AS, *range(70000, 86000)], peer.address))
    peer.send(announcement(nlri("192.0.4.0/24"), [HOSTILE_AS], peer.address))
    wait_for("the short path", lambda: "unicast" in stage.bird.ask("show route 192.0.4.0/24"))
    assert "unicast" in stage.bird.ask("show route 192.0.2.0/24")
    assert "unicast" not in stage.bird.ask("show route 192.0.3.0/24")
    assert stage.speaker.route("192.0.3.0/24")
    # A path that grows out of a message takes the earlier, shorter one away with it.
    peer.send(announcement(nlri("192.0.2.0/24"), [HOSTILE_AS, *range(70000, 86000)], peer.address))
    wait_for("it is withdrawn", lambda: "unicast" not in stage.bird.ask("show route 192.0.2.0/24"))
    stage.assert_unharmed()
    peer.close()


def test_a_flood_of_huge_attributes_is_not_remembered(stage: Stage) -> None:
    """Each message is as long as may be and replaces the one before: only the last one's path is anybody's."""
    peer = stage.hostile()
    peer.establish(Capabilities(families=(Family.IPV4,), extended_message=True))
    base = stage.memory_kb()
    count = 600
    for number in range(count):
        path = [HOSTILE_AS, 100_000 + number, *range(200_000, 216_000)]
        peer.send(announcement(nlri("192.0.2.0/24"), path, peer.address))
    peer.send(announcement(nlri("192.0.3.0/24"), [HOSTILE_AS], peer.address))
    wait_for("all is read", lambda: stage.speaker.route("192.0.3.0/24"), 60)
    assert stage.memory_kb() < base + 200_000
    stage.assert_unharmed()
    peer.close()


def test_a_flood_past_the_prefix_limit(stage: Stage) -> None:
    peer = stage.hostile()
    peer.establish()
    count = 0
    with suppress(OSError):
        for block in range(200):
            prefixes = b"".join(b"\x20" + (0x14000000 + block * 800 + n).to_bytes(4, "big") for n in range(800))
            peer.send(announcement(prefixes, [HOSTILE_AS, 70000 + block], peer.address))
            count += 800
    assert count > LIMIT
    wait_for("it is thrown out", lambda: peer.poll(0.1) or peer.closed)
    if peer.notification is not None:  # a reset connection may swallow it
        assert (peer.notification.code, peer.notification.subcode) == (Code.CEASE, Cease.MAX_PREFIXES)
    wait_for("its routes are gone", lambda: not stage.speaker.route("20.0.0.0/32"))
    wait_for("and at the good peer", lambda: stage.bird.imported("ours") == 0)
    stage.assert_unharmed()
    peer.close()


def test_a_storm_of_connections(stage: Stage) -> None:
    before = stage.descriptors()
    held: list[RawPeer] = []
    for wave in range(4):
        for number in range(1, 61):
            with suppress(OSError):
                peer = stage.hostile(number)
                held.append(peer)
                if (number + wave) % 3:
                    peer.open(CAPABILITIES, hold_s=0)
        stage.assert_unharmed()
    # One session an address at most, and no more dynamic peers than configured: the others were closed again.
    for peer in held:
        peer.poll()
    assert sum(not peer.closed for peer in held) <= 110
    assert stage.descriptors() < before + 150
    close_all(held)
    wait_for("all is given back", lambda: stage.descriptors() <= before + 5)
    stage.assert_unharmed()


def test_a_flood_of_changes_with_ever_new_attributes(stage: Stage) -> None:
    """Nothing can be shared or cached: every message brings an attribute set never seen before, then takes it back."""
    peer = stage.hostile()
    peer.establish()
    base = stage.memory_kb()
    number = 0
    for _ in range(40):
        batch = []
        for _ in range(500):
            number += 1
            batch.append(announcement(nlri(f"192.0.{number & 255}.0/24"), [HOSTILE_AS, 100_000 + number], peer.address))
        peer.send(*batch)
        peer.poll()
        peer.received.clear()
    stage.assert_unharmed()
    peer.send(KEEPALIVE)
    wait_for(
        "the last one counts",
        lambda: stage.speaker.route("192.0.32.0/24").get("asPath", "").endswith(str(100_000 + number)),
    )
    assert number & 255 == 32
    assert stage.memory_kb() < base + 100_000
    peer.close()
