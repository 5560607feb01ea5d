"""Agents that die and come back: nothing is interrupted, what was damaged meanwhile is repaired, what is alive stays."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cluster import Cluster, manifest
from agents.cni import Runtime
from agents.place import Place, exchange_tcp, ping, pod, processes
from labs.lab import Lab, eventually
from stentor.datapath.maps import ADDRESS, ENDPOINT, IPCACHE_ENTRY
from stentor.net.address import Addr
from stentor.sys.bpf import Map


class Pings:
    """An echo every 5 ms until the end; what was lost."""

    def __init__(self, source: Place, target: str) -> None:
        enter = ["nsenter", f"--net=/proc/{source.pid}/ns/net"]
        argv = [*enter, "ping", "-n", "-q", "-i", "0.005", target]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, int]:
        """(sent, lost)."""
        self._process.send_signal(signal.SIGINT)
        shown = self._process.communicate(timeout=20)[0]
        found = re.search(r"(\d+) packets transmitted, (\d+) received", shown)
        assert found, shown
        return int(found[1]), int(found[1]) - int(found[2])


class Stream:
    """One TCP connection that echoes all the time."""

    def __init__(self, client: Place, server: Place, target: str, port: int) -> None:
        family = 6 if ":" in target else 4
        self._listener = server.socket(family, socket.SOCK_STREAM)
        self._listener.bind((target, port))
        self._listener.listen()
        self._client = client.socket(family, socket.SOCK_STREAM)
        self._end = threading.Event()
        self.rounds = 0
        self.fault: Exception | None = None
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._talk)]
        for thread in self._threads:
            thread.start()
        self._target = (target, port)

    def _serve(self) -> None:
        accepted, _ = self._listener.accept()
        with accepted:
            while data := accepted.recv(65536):
                accepted.sendall(data)

    def _talk(self) -> None:
        try:
            self._client.connect(self._listener.getsockname()[:2])
            while not self._end.is_set():
                self._client.sendall(b"x" * 4096)
                left = 4096
                while left:
                    data = self._client.recv(left)
                    assert data, "the connection ended"
                    left -= len(data)
                self.rounds += 1
        except (OSError, AssertionError) as e:
            self.fault = e
        finally:
            self._client.close()

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(15)
        self._listener.close()
        assert self.fault is None, self.fault


@pytest.fixture
def load(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Pings and streams of both families across nodes; the returned check ends them: nothing was lost."""
    a, b, c = (cluster.places[name] for name in "abc")
    pings = [Pings(a, c.addresses[4]), Pings(c, a.addresses[6]), Pings(a, b.addresses[4])]
    streams = [Stream(a, c, c.addresses[4], 7001), Stream(c, a, a.addresses[6], 7002)]
    eventually(lambda: all(stream.rounds > 10 or stream.fault for stream in streams))
    ended = False

    def check() -> None:
        nonlocal ended
        ended = True
        rounds = [stream.rounds for stream in streams]
        eventually(lambda: all(s.rounds > r + 10 or s.fault for s, r in zip(streams, rounds, strict=True)))
        for stream in streams:
            stream.end()
        counts = [each.end() for each in pings]
        assert all(sent > 100 for sent, _ in counts), counts
        assert [lost for _, lost in counts] == [0, 0, 0], counts

    yield check
    if not ended:
        check()


def agent_status(lab: Lab, node: str) -> dict[str, Any]:
    shown = lab.stentor("status", "--node", node, "-o", "json", check=False).stdout
    agents: dict[str, Any] = json.loads(shown)["agents"] if shown.startswith("{") else {}
    return agents.get(node, {})


def healthy(lab: Lab, node: str, before: int) -> bool:
    """Another agent than `before` serves, without problems, and has compared everything."""
    pids = processes(lab, rf"machines/{node}/components/agent")
    status = agent_status(lab, node) if pids and pids[0] != before else {}
    return bool(status) and not status["problems"] and all(each["settled"] for each in status["reconcilers"])


def agent_pid(lab: Lab, node: str) -> int:
    return processes(lab, rf"machines/{node}/components/agent")[0]


def pinned(lab: Lab, node: str, name: str) -> Map:
    """A map of a node, as its runner sees the node's bpffs."""
    pid = processes(lab, rf"machines/{node}/components/runner")[0]
    return Map.open(Path(f"/proc/{pid}/root/sys/fs/bpf/stentor/maps/{name}"))


def test_killed_under_load_nobody_notices(cluster: Cluster, load: Callable[[], None]) -> None:
    for node in ("node-1", "node-2"):
        before = agent_pid(cluster.lab, node)
        cluster.lab.run("kill", f"{node}/agent")
        eventually(lambda node=node, before=before: healthy(cluster.lab, node, before), 60)
    load()
    # Its successors serve: pods known before are ready, and a new one gets a network.
    cluster.lab.kubectl("apply", "-f", "-", input=manifest("later", "node-1"))
    later = pod(cluster.lab, "later")
    assert exchange_tcp(cluster.places["c"], later, later.addresses[4], 7100) == cluster.places["c"].addresses[4]
    later.close()
    cluster.lab.kubectl("delete", "pod", "later", "--wait=false")


def test_deleted_devices_are_made_anew(cluster: Cluster) -> None:
    """By the next agent: programs know them by their indexes."""
    before = agent_pid(cluster.lab, "node-2")
    for name in ("cilium_vxlan", "cilium_host"):
        cluster.lab.exec("node-2", "ip", "link", "delete", name)
    eventually(lambda: healthy(cluster.lab, "node-2", before), 60)
    a, c, node = cluster.places["a"], cluster.places["c"], cluster.places["node-2"]
    for family, port in ((4, 7200), (6, 7201)):
        assert exchange_tcp(a, c, c.addresses[family], port) == a.addresses[family]
        exchange_tcp(node, a, a.addresses[family], port)


class Watch:
    """Looks at rows of a map all the time: none of them may ever be away."""

    def __init__(self, found: Map, keys: list[bytes]) -> None:
        self._map, self._keys = found, keys
        self._end = threading.Event()
        self.missing: list[bytes] = []
        self.looks = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.0005):
            self.missing += [key for key in self._keys if self._map.get(key) is None]
            self.looks += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        assert self.looks > 100
        assert self.missing == []


def key_of(ip: str) -> bytes:
    return ADDRESS.pack(Addr.parse(ip))


def test_damage_done_while_it_was_away_is_repaired(cluster: Cluster) -> None:
    lab, (a, b, c) = cluster.lab, (cluster.places[name] for name in "abc")
    runtime = Runtime(lab, "node-1")
    endpoints, ipcache = pinned(lab, "node-1", "endpoints"), pinned(lab, "node-1", "ipcache")
    lab.run("stop", "node-1/agent")
    watch = Watch(endpoints, [key_of(ip) for place in (a, b) for ip in place.addresses.values()])
    try:
        ifindex, identity, _, number, mac, flags = ENDPOINT.unpack(endpoints.get(key_of(b.addresses[4])) or b"")
        endpoints[key_of(b.addresses[4])] = ENDPOINT.pack(ifindex, identity, 0, number, mac, flags)
        endpoints[key_of("10.99.99.99")] = ENDPOINT.pack(ifindex, 4711, 4711, 9999, mac, flags)
        right = ipcache.get(key_of(c.addresses[4]))
        _, row_flags, key, _ = IPCACHE_ENTRY.unpack(right or b"")
        ipcache[key_of(c.addresses[4])] = IPCACHE_ENTRY.pack(4711, row_flags, key, Addr.parse("172.18.0.99"))
        del ipcache[key_of(c.addresses[6])]
        routes = runtime.run("ip", "route", "show", "proto", "202")
        runtime.run("ip", "route", "del", b.addresses[4])
        runtime.run("ip", "route", "add", "10.99.0.0/24", "dev", "cilium_host", "proto", "202")
        # All of it does harm.
        assert not ping(a, b.addresses[4])
        assert not ping(a, c.addresses[4])
    finally:
        lab.run("start", "node-1/agent")
    eventually(lambda: healthy(lab, "node-1", 0), 60)
    watch.end()
    assert ping(a, b.addresses[4])
    assert ping(a, c.addresses[4])
    assert ping(a, c.addresses[6])
    assert ping(cluster.places["node-1"], b.addresses[4])
    assert ipcache.get(key_of(c.addresses[4])) == right
    assert endpoints.get(key_of("10.99.99.99")) is None
    assert sorted(runtime.run("ip", "route", "show", "proto", "202").split("\n")) == sorted(routes.split("\n"))


@pytest.mark.slow
def test_damage_done_while_it_is_there_is_repaired(cluster: Cluster) -> None:
    """By the periodic comparison, a minute apart."""
    lab, (a, b) = cluster.lab, (cluster.places[name] for name in "ab")
    runtime = Runtime(lab, "node-1")
    runtime.run("ip", "route", "del", b.addresses[4])
    eventually(lambda: b.addresses[4] in runtime.run("ip", "route", "show", "proto", "202"), 90)
    assert ping(cluster.places["node-1"], b.addresses[4])
    assert ping(a, b.addresses[4])


def test_without_an_api_server_the_last_known_state_stays(cluster: Cluster, load: Callable[[], None]) -> None:
    lab = cluster.lab
    runtime = Runtime(lab, "node-2")
    lab.run("stop", "node-1/apiserver")
    try:
        before = agent_pid(lab, "node-2")
        os.kill(before, signal.SIGKILL)
        ask = ["stentor", "status", "--local", "-o", "json"]

        def restored() -> bool:
            pids = processes(lab, r"machines/node-2/components/agent")
            if not pids or pids[0] == before:
                return False
            done = lab.exec("node-2", *ask, check=False)
            status = json.loads(done.stdout)["agents"] if done.stdout.startswith("{") else {}
            return bool(status) and runtime.call("STATUS", "x").status == 0

        eventually(restored, 60)
        assert ping(cluster.places["a"], cluster.places["c"].addresses[4])
        report = json.loads(lab.exec("node-2", *ask, check=False).stdout)
        assert any("the Kubernetes API is not watched" in error for error in report["errors"]), report["errors"]
    finally:
        lab.run("start", "node-1/apiserver")
    eventually(lambda: healthy(lab, "node-2", 0), 60)
    load()


def test_a_deleted_node_object_comes_back(cluster: Cluster) -> None:
    lab, a, c = cluster.lab, cluster.places["a"], cluster.places["c"]
    before = lab.objects("ciliumnode", "node-2")
    lab.kubectl("delete", "ciliumnode", "node-2")

    def back() -> bool:
        found = lab.objects("ciliumnodes")["items"]
        node = next((each for each in found if each["metadata"]["name"] == "node-2"), None)
        return node is not None and node["spec"].get("ipam") == before["spec"]["ipam"]

    eventually(back)
    assert lab.objects("ciliumnode", "node-2")["metadata"]["uid"] != before["metadata"]["uid"]
    eventually(lambda: ping(a, c.addresses[4]) and ping(c, a.addresses[6]))
