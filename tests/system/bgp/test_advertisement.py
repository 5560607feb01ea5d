"""Router advertisements between two of our own and towards FRR, each process in its namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.bench import PYTHON, Bench, run, wait_for
from peers.frr import Frr

FRR_ZEBRA = """
interface ra
 no ipv6 nd suppress-ra
 ipv6 nd ra-interval 1
exit
"""
FRR_BGPD = """
router bgp 65002
 neighbor ra interface remote-as external
"""
ADVERTISE = """
import asyncio, sys
from stentor.bgp.advertisement import Advertiser
loop = asyncio.new_event_loop()
Advertiser(loop, sys.argv[1], lambda address: print(address, flush=True))
loop.run_forever()
"""
FORGE = """
import socket, struct
forged = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
link = socket.if_nametoindex("ra")
forged.setsockopt(41, socket.IPV6_MULTICAST_IF, link)
advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0)
for hops, data in ((254, advertisement), (255, advertisement[:8]), (64, advertisement)):
    forged.setsockopt(41, socket.IPV6_MULTICAST_HOPS, hops)
    forged.sendto(data, ("ff02::1", 0, 0, link))
"""


class Stage:
    """Two namespaces with a link that has link-local addresses only."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ours, self.theirs = bench.namespace("a"), bench.namespace("r")
        bench.link(self.ours, "ar", [], self.theirs, "ra", [])

    def advertise(self, space: str, device: str) -> None:
        self.bench.start(space, [PYTHON, "-c", ADVERTISE, device], device)

    def learned(self, device: str) -> list[str]:
        return self.bench.log(device).split()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Bench() as bench:
        yield Stage(bench)


def test_frr_and_we_learn_each_other(stage: Stage) -> None:
    frr = Frr(stage.bench, stage.theirs, {"zebra": FRR_ZEBRA, "bgpd": FRR_BGPD})
    stage.advertise(stage.ours, "ar")
    ours, theirs = stage.bench.link_local(stage.ours, "ar"), stage.bench.link_local(stage.theirs, "ra")
    wait_for("we learn FRR's address", lambda: stage.learned("ar") == [theirs])
    wait_for("FRR learns ours", lambda: ours in frr.ask("show bgp neighbors ra"))


def test_two_of_ours_learn_each_other_and_nobody_takes_them_for_a_default_router(stage: Stage) -> None:
    run("ip", "netns", "exec", stage.theirs, "sysctl", "-qw", "net.ipv6.conf.ra.accept_ra=2")
    stage.advertise(stage.ours, "ar")
    stage.advertise(stage.theirs, "ra")
    ours, theirs = stage.bench.link_local(stage.ours, "ar"), stage.bench.link_local(stage.theirs, "ra")
    wait_for("the left learns the right", lambda: stage.learned("ar") == [theirs])
    wait_for("the right learns the left", lambda: stage.learned("ra") == [ours])
    assert "default" not in run("ip", "-n", stage.theirs, "-6", "route")


def test_forged_advertisements_are_ignored(stage: Stage) -> None:
    """A hop limit below 255 has crossed a router; too short messages say nothing."""
    forger = stage.bench.link_local(stage.theirs, "ra")
    stage.advertise(stage.ours, "ar")
    wait_for("it listens", lambda: "ff02::2" in run("ip", "-n", stage.ours, "-6", "maddress", "show", "dev", "ar"))
    run("ip", "netns", "exec", stage.theirs, PYTHON, "-c", FORGE)
    # Another neighbour's honest advertisement arrives after the forged ones: whatever was accepted came before it.
    run("ip", "-n", stage.theirs, "address", "add", "fe80::77/64", "dev", "ra", "nodad")
    run("ip", "-n", stage.theirs, "address", "del", f"{forger}/64", "dev", "ra")
    stage.advertise(stage.theirs, "ra")
    wait_for("the honest one is learned", lambda: "fe80::77" in stage.learned("ar"))
    assert stage.learned("ar") == ["fe80::77"]


def test_an_interface_that_comes_later_is_taken(stage: Stage) -> None:
    run("ip", "-n", stage.ours, "link", "del", "ar")
    stage.advertise(stage.ours, "ar")
    stage.bench.link(stage.ours, "ar", [], stage.theirs, "ra", [])
    stage.advertise(stage.theirs, "ra")
    theirs = stage.bench.link_local(stage.theirs, "ra")
    wait_for("the neighbour", lambda: stage.learned("ar") == [theirs])
