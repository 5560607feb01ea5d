"""BFD at 50 ms × 3 beside a table that never rests: 500k routes announced and withdrawn, again and again, through the speaker.

A source announces them, our speaker passes them on to BIRD. A flap on either side fails. BIRD's BFD is a process of its own
with real-time priority, as ours is: on a machine of two cores its own table work would starve it, and that is not what is
measured here.

    benchmarks/bfd_soak.py [MINUTES [ROUTES]]
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure import save

from peers.bench import Bench, run, wait_for
from peers.bird import Bird
from peers.pair import CONFIGURATION, FAST
from peers.raw import RawPeer, attribute, update
from peers.speaker import Speaker
from stentor.bgp.bfd.client import fetch
from stentor.bgp.wire import KEEPALIVE

SOURCE_AS = 65009
ROUTER = """
router id 10.0.2.2;
protocol device {}
protocol direct { ipv4; }
protocol bgp ours {
  local 10.0.2.2 as 65002; neighbor 10.0.2.1 as 65001; connect delay time 1; connect retry time 1;
  ipv4 { import all; export none; };
}
"""
DETECTOR = """
router id 10.0.2.2;
protocol device {}
protocol bfd {
  interface "ra" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };
  neighbor 10.0.2.1 dev "ra";
}
"""
ROOM = 800
STEP, PAUSE_S = 25, 0.1  # 200000 changes a second at most


def configuration() -> dict[str, object]:
    wanted = copy.deepcopy(CONFIGURATION)
    instance = wanted["instances"][0]
    del instance["kernel"]
    instance["peers"].append(
        {"name": "source", "peerAddress": "10.9.0.2", "peerASN": SOURCE_AS, "transport": {"passive": True}}
    )
    for peer in instance["peers"]:
        peer["families"] = [{"afi": "ipv4", "export": "accept"}]
    instance["peers"][0]["bfd"] = FAST.ours()
    return wanted


def messages(count: int) -> tuple[list[bytes], list[bytes]]:
    """All routes announced, and all withdrawn."""
    hop, path = attribute(0x40, 3, bytes((10, 9, 0, 2))), attribute(0x40, 2, b"\2\1" + SOURCE_AS.to_bytes(4, "big"))
    fields = [
        b"".join(b"\x20" + (0x32000000 + n).to_bytes(4, "big") for n in range(start, min(start + ROOM, count)))
        for start in range(0, count, ROOM)
    ]
    return [update(attribute(0x40, 1, b"\0") + path + hop, each) for each in fields], [
        update(b"", b"", each) for each in fields
    ]


class Source:
    """The raw peer, with a thread that reads and keeps the session alive."""

    def __init__(self, space: str) -> None:
        self.peer = RawPeer(space, "10.9.0.2", "10.9.0.1", SOURCE_AS)
        self.peer.establish()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._attend)
        self._thread.start()

    def send(self, batch: list[bytes]) -> None:
        """In steps, so that the machine is busy but not without a free moment for the others on it."""
        for start in range(0, len(batch), STEP):
            with self._lock:
                self.peer.send(*batch[start : start + STEP])
            time.sleep(PAUSE_S)

    def _attend(self) -> None:
        while not self._ended.wait(1):
            self.peer.poll()
            self.peer.received.clear()
            with self._lock:
                self.peer.send(KEEPALIVE)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.peer.close()


def soak(minutes: float, count: int) -> dict[str, float]:
    """Churn for so long; rounds of announcing and withdrawing everything, and flaps seen by either side."""
    announce, withdraw = messages(count)
    with Bench() as bench:
        ours, theirs, third = (bench.namespace(name) for name in "ars")
        bench.link(ours, "ar", ["10.0.2.1/24"], theirs, "ra", ["10.0.2.2/24"])
        bench.link(ours, "as", ["10.9.0.1/24"], third, "sa", ["10.9.0.2/24"])
        run("ip", "-n", theirs, "route", "add", "10.9.0.0/24", "via", "10.0.2.1")
        router = Bird(bench, theirs, ROUTER)
        bird = Bird(bench, theirs, DETECTOR, "detector", ("chrt", "-f", "50"))
        bfd = bench.start_bfd(ours, "speaker.bfd.sock")
        speaker = Speaker(bench, ours, configuration())
        wait_for("the session", lambda: speaker.is_established("router"))
        wait_for("BFD", lambda: bird.bfd_state("10.0.2.1") == "Up")
        since = up_since(bird)
        source = Source(third)
        rounds, end = 0, time.monotonic() + minutes * 60
        try:
            while time.monotonic() < end:
                source.send(announce)
                wait_for("all announced", lambda: router.imported("ours") >= count, 120)
                source.send(withdraw)
                wait_for("all withdrawn", lambda: router.imported("ours") < 10, 120)
                rounds += 1
        finally:
            source.close()
        (status,) = fetch(speaker.bfd_socket)
        return {
            "minutes": minutes,
            "routes": count,
            "rounds": rounds,
            "changes_per_second": round(2 * count * rounds / (minutes * 60)),
            "flaps": status.flaps + (up_since(bird) != since),
            "bgp_flaps": speaker.peer("router")["flaps"],
            "packets": status.sent + status.received,
            "bfd_cpu_percent": round(cpu_s(bfd.pid) / (minutes * 60) * 100, 2),
        }


def up_since(bird: Bird) -> str:
    """When BIRD's BFD session last changed."""
    return next(line.split()[3] for line in bird.ask("show bfd sessions").splitlines() if "10.0.2.1" in line)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main(minutes: float = 10, count: int = 500_000) -> int:
    result = soak(minutes, count)
    print("### BFD 50 ms × 3 while routes churn\n\n| | |\n|---|---|")
    for name, value in result.items():
        print(f"| {name.replace('_', ' ')} | {value:g} |")
    save("bfd_soak", result)
    return 1 if result["flaps"] or result["bgp_flaps"] else 0


if __name__ == "__main__":
    sys.exit(main(*(kind(word) for kind, word in zip((float, int), sys.argv[1:], strict=False))))
