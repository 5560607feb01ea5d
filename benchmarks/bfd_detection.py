"""What failures cost with BFD at 50 ms × 3, against BIRD and FRR, in real namespaces.

- bfd killed: until the neighbour has ended the BGP session (which our side sees at once), and until our route has left its
  kernel;
- the neighbour killed: until its route has left ours;
- bgp killed and started again: packets lost of 100 a second in both directions.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from measure import save, summarise

from peers.bench import Bench, kill, wait_for
from peers.pair import FAST, OUR_PREFIX, ROUTERS, THEIR_PREFIX, Pair
from peers.watch import RouteWatch

ROUNDS = 5


def session_down_ms(kind: str) -> float:
    with Bench() as bench:
        pair = Pair(bench, kind, FAST)
        began = time.monotonic()
        kill(pair.bfd)
        wait_for("the session ends", lambda: pair.speaker.peer("router")["flaps"], step_s=0.001)
        return (time.monotonic() - began) * 1000


def route_gone_ms(kind: str) -> float:
    with Bench() as bench:
        pair = Pair(bench, kind, FAST)
        watch = RouteWatch(pair.theirs)
        began = time.monotonic()
        kill(pair.bfd)
        return (watch.gone(OUR_PREFIX) - began) * 1000


def neighbour_killed_ms(kind: str) -> float:
    with Bench() as bench:
        pair = Pair(bench, kind, FAST)
        watch = RouteWatch(pair.ours)
        began = time.monotonic()
        pair.router.kill()
        return (watch.gone(THEIR_PREFIX) - began) * 1000


def packets_lost(kind: str) -> float:
    with Bench() as bench:
        pair = Pair(bench, kind, FAST)
        pings = pair.ping()
        pair.speaker.kill()
        wait_for("the neighbour notices", lambda: not pair.router.is_established())
        pair.speaker.start()
        pair.wait_up()
        return pair.lost(pings)


MEASURES = {
    "bfd killed: session down, ms": session_down_ms,
    "bfd killed: route gone at the neighbour, ms": route_gone_ms,
    "neighbour killed: route gone here, ms": neighbour_killed_ms,
    "bgp killed and restarted: packets lost": packets_lost,
}


def main() -> None:
    samples = {
        f"{what}, {kind}": [measure(kind) for _ in range(ROUNDS)]
        for what, measure in MEASURES.items()
        for kind in ROUTERS
    }
    print("### BFD 50 ms × 3\n\n| | median | worst |\n|---|---|---|")
    for what, values in samples.items():
        print(f"| {what} | {summarise(values).median:.0f} | {max(values):.0f} |")
    save("bfd_detection", samples)


if __name__ == "__main__":
    main()
