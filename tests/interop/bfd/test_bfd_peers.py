"""The BFD process against BIRD and FRR: up over every kind of path, down in both directions, kept across clients.

States are read from the neighbour itself wherever it is the one that has to notice.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.bench import PYTHON, Bench, kill, run, stop, wait_for
from peers.bfd import Sessions
from peers.bird import Bird
from peers.frr import Frr
from stentor.bgp.bfd.message import Endpoint, Request
from stentor.bgp.bfd.packet import Diagnostic, State
from stentor.bgp.bfd.session import Settings

# Slow enough for a machine that is busy with other tests; benchmarks/bfd_detection.py measures 50 ms × 3.
SETTINGS = Settings(200_000, 200_000, 5)
BIRD = """
router id 10.0.2.2;
protocol device {{}}
protocol bfd {{
  interface "ra" {{ min rx interval 200 ms; min tx interval 200 ms; multiplier 5; }};
  multihop {{ min rx interval 200 ms; min tx interval 200 ms; multiplier 5; }};
  {neighbors}
}}
"""
FRR = """
bfd
 profile test
  transmit-interval 200
  receive-interval 200
  detect-multiplier 5
 exit
 {peers}
exit
"""


class Stage:
    """``ours`` ── ``theirs``, dual stack, with our process serving on the left."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ours, self.theirs = bench.namespace("a"), bench.namespace("r")
        bench.link(self.ours, "ar", ["10.0.2.1/24", "fd02::1/64"], self.theirs, "ra", ["10.0.2.2/24", "fd02::2/64"])
        self.path = bench.directory / "bfd.sock"
        self.sessions = Sessions(str(self.path), "test")
        self.process = self.serve()

    def serve(self, *options: str) -> subprocess.Popen[bytes]:
        command = [PYTHON, "-m", "stentor.bgp.bfd.command", "--socket", str(self.path), *options]
        process = self.bench.start(self.ours, command, "bfd")
        wait_for("the control socket", self.sessions.reach)
        return process

    def endpoints(self) -> dict[str, Endpoint]:
        """Every way to reach the neighbour on this link, by kind."""
        return {
            "ipv4": Endpoint("10.0.2.2", "10.0.2.1", "ar"),
            "ipv6": Endpoint("fd02::2", "fd02::1", "ar"),
            "link-local": Endpoint(
                self.bench.link_local(self.theirs, "ra"), self.bench.link_local(self.ours, "ar"), "ar"
            ),
        }


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Bench() as bench:
        yield Stage(bench)


def want(stage: Stage, *endpoints: Endpoint, settings: Settings = SETTINGS) -> None:
    stage.sessions.want(*(Request(endpoint, settings) for endpoint in endpoints))


def is_up(stage: Stage, *endpoints: Endpoint) -> None:
    for endpoint in endpoints:
        wait_for(f"{endpoint} is up", lambda each=endpoint: stage.sessions.status(each).is_up)


def start_bird(stage: Stage) -> Bird:
    ends = [each.local for each in stage.endpoints().values()]
    return Bird(stage.bench, stage.theirs, BIRD.format(neighbors="\n".join(f'neighbor {e} dev "ra";' for e in ends)))


def start_frr(stage: Stage) -> Frr:
    peers = "\n ".join(
        f"peer {each.local} local-address {each.peer} interface ra\n  profile test\n exit"
        for each in stage.endpoints().values()
    )
    return Frr(stage.bench, stage.theirs, {"zebra": "", "bfdd": FRR.format(peers=peers)})


def test_bird_up_and_down_both_ways(stage: Stage) -> None:
    bird = start_bird(stage)
    endpoints = stage.endpoints()
    want(stage, *endpoints.values())
    is_up(stage, *endpoints.values())
    for kind, endpoint in endpoints.items():
        wait_for(f"BIRD sees {kind} up", lambda each=endpoint: bird.bfd_state(each.local) == "Up")
        wait_for("the pace is agreed", lambda each=endpoint: stage.sessions.status(each).detection_time_us == 1_000_000)

    kill(stage.process)
    for kind, endpoint in endpoints.items():
        wait_for(f"BIRD sees {kind} down", lambda each=endpoint: bird.bfd_state(each.local) == "Down")

    stage.process = stage.serve()
    want(stage, *endpoints.values())
    is_up(stage, *endpoints.values())
    kill(bird.process)
    for kind, endpoint in endpoints.items():
        wait_for(f"we see {kind} down", lambda each=endpoint: not stage.sessions.status(each).is_up)
        assert stage.sessions.status(endpoint).diagnostic == Diagnostic.DETECTION_EXPIRED


def test_frr_up_and_down_both_ways(stage: Stage) -> None:
    frr = start_frr(stage)
    endpoints = stage.endpoints()
    want(stage, *endpoints.values())
    is_up(stage, *endpoints.values())
    for kind, endpoint in endpoints.items():
        wait_for(f"FRR sees {kind} up", lambda each=endpoint: frr.bfd_state(each.local) == "up")

    kill(stage.process)
    for kind, endpoint in endpoints.items():
        wait_for(f"FRR sees {kind} down", lambda each=endpoint: frr.bfd_state(each.local) == "down")

    stage.process = stage.serve()
    want(stage, *endpoints.values())
    is_up(stage, *endpoints.values())
    kill(frr.processes["bfdd"])
    for kind, endpoint in endpoints.items():
        wait_for(f"we see {kind} down", lambda each=endpoint: not stage.sessions.status(each).is_up)


def test_a_removed_session_is_admin_down_for_the_neighbour(stage: Stage) -> None:
    frr = start_frr(stage)
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    is_up(stage, endpoint)
    want(stage)

    def neighbor_says() -> str:
        found = [each for each in frr.json("show bfd peers") if each["peer"] == endpoint.local]
        return str(found[0]["remote-diagnostic"])

    wait_for("FRR sees us down", lambda: frr.bfd_state(endpoint.local) == "down")
    assert neighbor_says() == "administratively down"


def test_the_neighbours_shutdown_is_no_failure(stage: Stage) -> None:
    frr = start_frr(stage)
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    is_up(stage, endpoint)
    frr.ask("conf t", "bfd", f"peer {endpoint.local} local-address {endpoint.peer} interface ra", "shutdown")
    status = wait_for("down", lambda: (s := stage.sessions.status(endpoint)).is_up is False and s)
    assert status.is_disabled_by_neighbor


def test_sessions_outlive_their_client_and_end_after_the_grace(stage: Stage) -> None:
    stop(stage.process)
    stage.process = stage.serve("--grace", "1")
    bird = start_bird(stage)
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    is_up(stage, endpoint)
    number = stage.sessions.status(endpoint).discriminator
    stage.sessions.leave()
    want(stage, endpoint)
    assert stage.sessions.status(endpoint).discriminator == number
    assert stage.sessions.status(endpoint).flaps == 0
    stage.sessions.leave()
    wait_for("BIRD sees it end", lambda: bird.bfd_state(endpoint.local) == "Down")


def test_settings_change_without_a_flap(stage: Stage) -> None:
    bird = start_bird(stage)
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    is_up(stage, endpoint)
    want(stage, endpoint, settings=Settings(300_000, 400_000, 4))
    wait_for("the new intervals", lambda: stage.sessions.status(endpoint).detection_time_us == 2_000_000)
    wait_for("BIRD's", lambda: "1.200" in bird.ask("show bfd sessions"))
    assert stage.sessions.status(endpoint).flaps == 0


def test_only_ttl_255_counts_on_a_single_hop(stage: Stage) -> None:
    """The neighbour's packets arrive with TTL 254: as if a router were between, or an attacker."""
    rules = "table inet low { chain out { type filter hook output priority 0; udp dport 3784 ip ttl set 254; }; }"
    run("ip", "netns", "exec", stage.theirs, "nft", rules)
    start_bird(stage)
    endpoints = stage.endpoints()
    want(stage, *endpoints.values())
    is_up(stage, endpoints["ipv6"])
    status = stage.sessions.status(endpoints["ipv4"])
    assert (status.state, status.received) == (State.DOWN, 0)


def test_multihop_across_a_router() -> None:
    with Bench() as bench:
        ours, router, theirs = (bench.namespace(name) for name in "amr")
        bench.link(ours, "am", ["10.0.1.1/24", "fd01::1/64"], router, "ma", ["10.0.1.2/24", "fd01::2/64"])
        bench.link(router, "mr", ["10.0.2.1/24", "fd02::1/64"], theirs, "rm", ["10.0.2.2/24", "fd02::2/64"])
        for space, gateways in ((ours, ("10.0.1.2", "fd01::2")), (theirs, ("10.0.2.1", "fd02::1"))):
            for gateway in gateways:
                run("ip", "-n", space, "route", "add", "default", "via", gateway)
        path = bench.directory / "bfd.sock"
        bench.start(ours, [PYTHON, "-m", "stentor.bgp.bfd.command", "--socket", str(path)], "bfd")
        sessions = Sessions(str(path), "test")
        wait_for("the control socket", sessions.reach)
        pairs = (("10.0.2.2", "10.0.1.1"), ("fd02::2", "fd01::1"))
        lines = "\n".join(f"neighbor {local} local {peer} multihop on;" for peer, local in pairs)
        bird = Bird(bench, theirs, BIRD.format(neighbors=lines))
        endpoints = [Endpoint(peer, local, multihop=True) for peer, local in pairs]
        sessions.want(*(Request(endpoint, SETTINGS, least_hops=63) for endpoint in endpoints))
        for endpoint in endpoints:
            wait_for(f"{endpoint} is up", lambda each=endpoint: sessions.status(each).is_up)
        run("ip", "-n", router, "link", "set", "dev", "mr", "down")
        for endpoint in endpoints:
            wait_for(f"{endpoint} is down", lambda each=endpoint: not sessions.status(each).is_up)
            wait_for("BIRD sees it down", lambda each=endpoint: bird.bfd_state(each.local) == "Down")

        # BIRD sends multihop packets with TTL 64, one router is between: a session that asks for 64 must not come up.
        run("ip", "-n", router, "link", "set", "dev", "mr", "up")
        run("ip", "-n", router, "address", "replace", "fd02::1/64", "dev", "mr", "nodad")
        sessions.want(Request(endpoints[0], SETTINGS, least_hops=64), Request(endpoints[1], SETTINGS, least_hops=63))
        wait_for("the other one is up", lambda: sessions.status(endpoints[1]).is_up)
        assert not sessions.status(endpoints[0]).is_up


def test_a_second_process_is_refused_and_the_command_lists(stage: Stage) -> None:
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    command = [PYTHON, "-m", "stentor.bgp.bfd.command", "--socket", str(stage.path)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "another process serves" in second.stderr
    assert "10.0.2.2%ar" in run(*command, "--list")


def test_bad_requests_name_the_field_and_hurt_no_other(stage: Stage) -> None:
    good = stage.endpoints()["ipv4"]
    stage.sessions.want(
        Request(Endpoint("10.0.2.300")),
        Request(Endpoint("fe80::1")),
        Request(Endpoint("10.0.2.9", "fd02::1")),
        Request(Endpoint("10.0.2.8"), Settings(multiplier=0)),
        Request(Endpoint("10.0.2.7", interface="nowhere")),
        Request(good),
    )
    statuses = {status.endpoint.peer: status.error for status in stage.sessions.statuses()}
    assert statuses["10.0.2.300"].startswith("peer:")
    assert statuses["fe80::1"].startswith("interface:")
    assert statuses["10.0.2.9"].startswith("local:")
    assert statuses["10.0.2.8"].startswith("multiplier:")
    assert statuses["10.0.2.7"] == "no interface with this name"
    assert statuses["10.0.2.2"] == ""


def test_an_interface_that_comes_later_is_taken(stage: Stage) -> None:
    """The session survives that its device goes and comes again under another index."""
    start_bird(stage)
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    is_up(stage, endpoint)
    run("ip", "-n", stage.ours, "link", "del", "ar")
    wait_for("down", lambda: not stage.sessions.status(endpoint).is_up)
    stage.bench.link(stage.ours, "ar", ["10.0.2.1/24"], stage.theirs, "ra", ["10.0.2.2/24"])
    is_up(stage, endpoint)


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"type":"want"}\n', b"\xff\n", b'{"type":"show"}x\n'])
def test_a_client_that_talks_nonsense_is_cut_off_alone(stage: Stage, line: bytes) -> None:
    endpoint = stage.endpoints()["ipv4"]
    want(stage, endpoint)
    assert stage.sessions.babble(line) == b""
    assert stage.sessions.status(endpoint).endpoint == endpoint


def test_the_control_socket_is_private_and_gone_after_the_end(stage: Stage) -> None:
    assert Path(stage.path).stat().st_mode & 0o777 == 0o600
    stop(stage.process)
    assert stage.process.returncode == 0
    assert not Path(stage.path).exists()
