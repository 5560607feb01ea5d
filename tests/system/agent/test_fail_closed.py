"""Nothing passes before its policy: pods start with a sender already running inside, and no packet of it arrives anywhere.

The pods have no identity (their objects do not exist), so their policy never comes: not one packet may pass, however the
start went. A control shows that the same sender is heard as soon as the pod has an identity.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from agents.cluster import Cluster
from agents.cni import Runtime
from agents.place import Place
from labs.lab import eventually
from stentor.sys.namespace import visit_network

_PORT = 33434
_ETH_P_ALL = 3
_BATCH = 50


class Sender:
    """Sends marked datagrams from a namespace to all targets, over and over, whether there is a route or not."""

    def __init__(self, network: int, mark: bytes, targets: list[str]) -> None:
        self._mark = mark
        with visit_network(network):
            self._sockets = {
                family: socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)
            }
        self._sockets[socket.AF_INET].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._targets = targets
        self._end = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            for target in self._targets:
                family = socket.AF_INET6 if ":" in target else socket.AF_INET
                with contextlib.suppress(OSError):
                    self._sockets[family].sendto(self._mark, (target, _PORT))
                    self.sent += 1

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()


class Capture:
    """Counts frames with a mark that places receive: as a packet socket of theirs sees it, overlay packets included."""

    def __init__(self, places: list[Place]) -> None:
        self._sockets: dict[str, socket.socket] = {}
        for place in places:
            with place.inside():
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                tap.bind(("eth0", _ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            tap.setblocking(False)
            self._sockets[place.name] = tap

    def heard(self, mark: bytes) -> dict[str, int]:
        """Frames with the mark since the last call, by place; places without any are left out."""
        found: dict[str, int] = {}
        for name, tap in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if mark in tap.recv(65536):
                        found[name] = found.get(name, 0) + 1
        return found

    def close(self) -> None:
        for tap in self._sockets.values():
            tap.close()


@pytest.fixture
def runtime(cluster: Cluster) -> Iterator[Runtime]:
    runtime = Runtime(cluster.lab, "node-1")
    yield runtime
    runtime.close()


@pytest.fixture
def capture(cluster: Cluster) -> Iterator[Capture]:
    # node-2's uplink sees what leaves node-1 towards it, encapsulated or not; `outside` what leaves the cluster.
    capture = Capture([cluster.places[name] for name in ("a", "c", "node-2", "outside")])
    yield capture
    capture.close()


def targets_of(cluster: Cluster) -> list[str]:
    places = (cluster.places[name] for name in ("a", "c", "node-1", "node-2", "outside"))
    return [ip for place in places for ip in place.addresses.values()] + ["255.255.255.255", "224.0.0.1"]


def start_one(runtime: Runtime, name: str, mark: bytes, targets: list[str]) -> int:
    """One pod with a sender that runs before, during and after its start; how often it sent."""
    network = runtime.open_network(name)
    sender = Sender(network, mark, targets)
    try:
        added = runtime.call("ADD", name)
        assert added.status == 0, added.document
        enough, end = sender.sent + 20, time.monotonic() + 30
        while sender.sent < enough:
            assert time.monotonic() < end, "the sender does not send"
            time.sleep(0.001)
    finally:
        sender.stop()
        os.close(network)
    assert runtime.call("DEL", name).status == 0
    return sender.sent


def start_many(cluster: Cluster, runtime: Runtime, capture: Capture, count: int) -> None:
    mark = b"early-" + secrets.token_hex(8).encode()
    targets = targets_of(cluster)
    listener = cluster.places["node-1"].socket(4, socket.SOCK_DGRAM)
    listener.bind((cluster.places["node-1"].addresses[4], _PORT))
    listener.setblocking(False)
    sent = 0
    for first in range(0, count, _BATCH):
        names = [f"e{number}" for number in range(first, min(first + _BATCH, count))]
        runtime.make_networks(*names)
        for name in names:
            sent += start_one(runtime, name, mark, targets)
            assert capture.heard(mark) == {}
        runtime.close()
    with listener, pytest.raises(BlockingIOError):
        listener.recv(100)
    assert sent > 20 * count


def test_nothing_passes_before_its_policy(cluster: Cluster, runtime: Runtime, capture: Capture) -> None:
    start_many(cluster, runtime, capture, 40)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_passes_before_its_policy_a_thousand_times(
    cluster: Cluster, runtime: Runtime, capture: Capture
) -> None:
    start_many(cluster, runtime, capture, 1000)


def test_the_capture_hears_what_is_allowed(cluster: Cluster, runtime: Runtime, capture: Capture) -> None:
    mark = b"allowed-" + secrets.token_hex(8).encode()
    network = os.open(f"/proc/{cluster.places['b'].pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    sender = Sender(network, mark, targets_of(cluster))
    heard: set[str] = set()
    try:
        eventually(lambda: heard.update(capture.heard(mark)) or heard >= {"a", "c", "node-2", "outside"})
    finally:
        sender.stop()
        os.close(network)
