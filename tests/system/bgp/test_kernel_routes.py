"""Routes in the kernel of a namespace, read back with ``ip``."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from peers.bench import Bench, run, wait_for
from stentor.bgp.fib import PROTOCOL, Hop
from stentor.bgp.kernel import KernelRoutes
from stentor.bgp.nlri import parse_address, parse_prefix
from stentor.sys.namespace import visit_network

TABLE, METRIC = 254, 200


class Stage:
    """A namespace with two links, and a kernel table's owner in it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.space = bench.namespace("k")
        self.other = bench.namespace("o")
        for number in (1, 2):
            ends = [f"10.0.{number}.1/24", f"fd0{number}::1/64"], [f"10.0.{number}.2/24", f"fd0{number}::2/64"]
            bench.link(self.space, f"k{number}", ends[0], self.other, f"o{number}", ends[1])
        self.errors: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.routes = self.begin()

    def begin(self) -> KernelRoutes:
        fd = os.open(f"/run/netns/{self.space}", os.O_RDONLY)
        try:
            with visit_network(fd):
                return KernelRoutes(self.loop, TABLE, METRIC, self.errors.append)
        finally:
            os.close(fd)

    def set(self, prefix: str, *hops: str) -> None:
        """Hops as ``ADDRESS`` or ``ADDRESS%INTERFACE``."""
        parts = [hop.partition("%") for hop in hops]
        self.routes.set(*parse_prefix(prefix), tuple(Hop(parse_address(a), i) for a, _, i in parts))

    def found(self) -> dict[str, list[str]]:
        """The kernel's routes of ours: prefix to sorted gateways."""
        routes: dict[str, list[str]] = {}
        for family in ("-4", "-6"):
            text = run("ip", "-n", self.space, "-j", family, "route", "show", "proto", str(PROTOCOL))
            for route in json.loads(text or "[]"):
                hops = [gateway(hop) for hop in route.get("nexthops", [route])]
                assert route["metric"] == METRIC
                routes.setdefault(route["dst"], []).extend(hops)
        return {prefix: sorted(hops) for prefix, hops in routes.items()}

    def shows(self, expected: dict[str, list[str]]) -> None:
        wait_for(f"routes are {expected}", lambda: self.found() == expected)

    def error(self) -> str:
        """The next error."""

        def look() -> bool:
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            return bool(self.errors)

        wait_for("an error", look)
        return self.errors.pop(0)


def gateway(hop: dict[str, Any]) -> str:
    return str(hop.get("gateway") or hop["via"]["host"])


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Bench() as bench:
        stage = Stage(bench)
        yield stage
        stage.routes.close()
        stage.loop.close()


def test_adds_replaces_and_removes_both_families(stage: Stage) -> None:
    stage.set("192.0.2.0/24", "10.0.1.2")
    stage.set("2001:db8::/32", "fd01::2")
    stage.set("0.0.0.0/0", "10.0.1.2")
    stage.shows({"192.0.2.0/24": ["10.0.1.2"], "2001:db8::/32": ["fd01::2"], "default": ["10.0.1.2"]})
    stage.set("192.0.2.0/24", "10.0.2.2")
    stage.set("2001:db8::/32")
    stage.set("0.0.0.0/0")
    stage.shows({"192.0.2.0/24": ["10.0.2.2"]})


def test_equal_cost_paths_come_and_go(stage: Stage) -> None:
    both4, both6 = ("10.0.1.2", "10.0.2.2"), ("fd01::2", "fd02::2")
    for count in (2, 1, 2, 0, 2):
        stage.set("192.0.2.0/24", *both4[:count])
        stage.set("2001:db8::/32", *both6[:count])
        expected = {"192.0.2.0/24": list(both4[:count]), "2001:db8::/32": list(both6[:count])}
        stage.shows({prefix: hops for prefix, hops in expected.items() if hops})


def test_ipv4_over_ipv6_next_hops(stage: Stage) -> None:
    """RFC 8950: global and link-local gateways, one and several."""
    neighbours = [stage.bench.link_local(stage.other, f"o{number}") for number in (1, 2)]
    stage.set("192.0.2.0/24", "fd01::2")
    stage.set("198.51.100.0/24", f"{neighbours[0]}%k1")
    stage.set("203.0.113.0/24", f"{neighbours[0]}%k1", f"{neighbours[1]}%k2")
    stage.set("2001:db8::/32", f"{neighbours[0]}%k1", f"{neighbours[1]}%k2")
    stage.shows(
        {
            "192.0.2.0/24": ["fd01::2"],
            "198.51.100.0/24": [neighbours[0]],
            "203.0.113.0/24": sorted(neighbours),
            "2001:db8::/32": sorted(neighbours),
        }
    )


def test_a_restart_adopts_and_sweeps_only_what_is_not_wanted_any_more(stage: Stage) -> None:
    stage.set("192.0.2.0/24", "10.0.1.2")
    stage.set("198.51.100.0/24", "10.0.1.2")
    stage.set("2001:db8::/32", "fd01::2")
    run("ip", "-n", stage.space, "route", "add", "203.0.113.0/24", "via", "10.0.1.2")
    before = {"192.0.2.0/24": ["10.0.1.2"], "198.51.100.0/24": ["10.0.1.2"], "2001:db8::/32": ["fd01::2"]}
    stage.shows(before)
    stage.routes.close()
    stage.routes = stage.begin()
    stage.set("192.0.2.0/24", "10.0.2.2")
    stage.shows({**before, "192.0.2.0/24": ["10.0.2.2"]})
    stage.routes.sweep()
    stage.shows({"192.0.2.0/24": ["10.0.2.2"]})
    assert "203.0.113.0/24" in run("ip", "-n", stage.space, "route")
    stage.routes.close(remove=True)
    assert stage.found() == {}
    stage.routes = stage.begin()


def test_brings_back_what_the_kernel_dropped_with_a_link(stage: Stage) -> None:
    expected = {"192.0.2.0/24": ["10.0.1.2"], "2001:db8::/32": ["fd01::2", "fd02::2"]}
    stage.set("192.0.2.0/24", "10.0.1.2")
    stage.set("2001:db8::/32", "fd01::2", "fd02::2")
    stage.shows(expected)
    run("ip", "-n", stage.space, "link", "set", "dev", "k1", "down")
    wait_for("gone", lambda: "192.0.2.0/24" not in stage.found())
    run("ip", "-n", stage.space, "link", "set", "dev", "k1", "up")
    run("ip", "-n", stage.space, "address", "replace", "fd01::1/64", "dev", "k1", "nodad")
    stage.shows(expected)
    assert "dead" not in run("ip", "-n", stage.space, "-6", "route")


def test_never_touches_the_route_of_another(stage: Stage) -> None:
    run("ip", "-n", stage.space, "route", "add", "192.0.2.0/24", "via", "10.0.1.2", "metric", str(METRIC))
    stage.set("192.0.2.0/24", "10.0.2.2")
    stage.set("198.51.100.0/24", "10.0.2.2")
    assert stage.error() == "192.0.2.0/24 via 10.0.2.2: File exists"
    stage.shows({"198.51.100.0/24": ["10.0.2.2"]})
    stage.set("192.0.2.0/24")
    stage.set("198.51.100.0/24")
    stage.shows({})
    assert "192.0.2.0/24 via 10.0.1.2" in run("ip", "-n", stage.space, "route")


def test_an_unreachable_next_hop_is_reported_and_tried_again_when_a_link_comes(stage: Stage) -> None:
    stage.set("192.0.2.0/24", "10.0.9.2")
    stage.set("198.51.100.0/24", "fe80::1%nowhere")
    errors = {stage.error(), stage.error()}
    assert errors == {"192.0.2.0/24 via 10.0.9.2: Network is unreachable", "198.51.100.0/24: no interface 'nowhere'"}
    run("ip", "-n", stage.space, "address", "add", "10.0.9.1/24", "dev", "k2")
    stage.shows({"192.0.2.0/24": ["10.0.9.2"]})


def test_the_latest_of_many_changes_counts(stage: Stage) -> None:
    for number in range(2000):
        stage.set(f"198.18.{number >> 8}.{number & 255}/32", "10.0.1.2")
    for number in range(2000):
        stage.set(f"198.18.{number >> 8}.{number & 255}/32", *(["10.0.2.2"] if number % 2 else []))
    stage.shows({f"198.18.{number >> 8}.{number & 255}": ["10.0.2.2"] for number in range(1, 2000, 2)})
