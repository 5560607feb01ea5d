"""The leaf-spine lab of examples/bgp-lab: what docs/bgp-lab.md shows, without its clock. BIRD and FRR are the routers."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labs.lab import STENTOR, Lab, LabFactory, eventually, remove

FOLDER = Path(__file__).parents[3] / "examples" / "bgp-lab"
EVERYWHERE, LOCAL = ("203.0.113.1", "2001:db8:113::1"), ("203.0.113.2", "2001:db8:113::2")
NODES = {"node-1": "172.20.1.11", "node-2": "172.20.1.12", "node-3": "172.20.1.13"}
TORS = {"tor-1": "172.20.1.1", "tor-2": "172.20.1.2"}
OUTSIDE = ("192.0.2.0/24", "2001:db8:2::/64")
PATIENCE_S = 90.0


class Fabric:
    """The lab with its manifests applied."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def ways(self, machine: str, address: str) -> set[str]:
        """Gateways of a machine's route to an address, none without one."""
        return self.routes(machine).get(address, set())

    def routes(self, machine: str) -> dict[str, set[str]]:
        """Gateways of all routes, by destination."""
        output = self.lab.exec(machine, "sh", "-c", "ip -j route show; ip -j -6 route show").stdout
        found = [route for line in output.splitlines() if line.startswith("[") for route in json.loads(line)]
        return {
            each["dst"]: {hop["gateway"] for hop in each.get("nexthops", [each]) if "gateway" in hop} for each in found
        }

    def has_all_routes(self) -> bool:
        """Two ways from the spine to each service, three from each router, two out of each node."""
        services = (*EVERYWHERE, *LOCAL)
        spine = self.routes("spine")
        return (
            all(len(spine.get(address, ())) == len(TORS) for address in services)
            and all(len(ways.get(each, ())) == len(NODES) for ways in map(self.routes, TORS) for each in services)
            and all(len(ways.get(each, ())) == len(TORS) for ways in map(self.routes, NODES) for each in OUTSIDE)
        )

    def probe(self, address: str, seconds: float = 1.0) -> subprocess.Popen[str]:
        """Asks a service from outside; a slow answer is an answer."""
        options = ["--seconds", str(seconds), "--limit", "20", "--json"]
        command = [str(STENTOR), "lab", "exec", "--name", self.lab.name, "client", "--"]
        command += ["python3", "-", address, *options]
        with (FOLDER / "probe.py").open() as script:
            return subprocess.Popen(command, env=self.lab.environment, stdin=script, stdout=subprocess.PIPE, text=True)

    def answers(self, address: str) -> Counter[str]:
        """Who answered connections from outside; none may fail."""
        return answered(self.probe(address))

    def pod_of(self, node: str) -> str:
        items = self.lab.objects("pods", "-l", "app=web")["items"]
        return str(next(each["metadata"]["name"] for each in items if each["spec"]["nodeName"] == node))

    def peers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.lab.stentor("bgp", "peers", "-o", "json").stdout)
        return found


def answered(probe: subprocess.Popen[str]) -> Counter[str]:
    output, _ = probe.communicate(timeout=100)
    results = [json.loads(line) for line in output.splitlines()]
    assert results
    assert [each["error"] for each in results if each["error"]] == []
    return Counter(each["by"] for each in results)


def at_leisure(file: str) -> str:
    """A file of the example where BFD gives up after 1.5 s instead of 150 ms: tests share the machine with others."""
    text = (FOLDER / file).read_text()
    text = re.sub(r"(interval|transmit-interval|receive-interval|IntervalMilliseconds:) 50\b", r"\1 300", text)
    return re.sub(r"(multiplier|detectMultiplier:) 3\b", r"\1 5", text)


@pytest.fixture(scope="module")
def fabric(lab_maker: LabFactory) -> Iterator[Fabric]:
    lab = lab_maker(at_leisure("topology.yaml"))
    try:
        for file in ("web.yaml", "bgp.yaml"):
            lab.kubectl("apply", "-f", "-", input=at_leisure(file))
        lab.kubectl("rollout", "status", "daemonset/web", "--timeout=90s")
        yield Fabric(lab)
    finally:
        remove(lab)


@pytest.fixture(autouse=True)
def _settled(fabric: Fabric) -> None:
    eventually(fabric.has_all_routes, PATIENCE_S)


def test_every_node_has_a_session_with_bfd_to_each_router(fabric: Fabric) -> None:
    def state() -> list[tuple[str, str, str, str]]:
        return [(each["node"], each["name"], each["sessionState"], each["bfdState"].lower()) for each in fabric.peers()]

    wanted = [(node, tor, "established", "up") for node in NODES for tor in TORS]
    eventually(lambda: sorted(state()) == wanted, PATIENCE_S)
    heads, row = fabric.lab.stentor("bgp", "peers").stdout.splitlines()[:2]
    columns = [
        "Node",
        "Local AS",
        "Peer AS",
        "Peer Address",
        "Session State",
        "Uptime",
        "Family",
        "Received",
        "Advertised",
    ]
    assert [head.strip() for head in heads.split("   ") if head.strip()] == columns
    assert row.split()[:5] == ["node-1", "65100", "65001", TORS["tor-1"], "established"]


def test_the_command_line_tells_the_same_as_the_routers(fabric: Fabric) -> None:
    stentor = fabric.lab.stentor
    told = json.loads(
        stentor("bgp", "routes", "advertised", "ipv4", "unicast", "peer", TORS["tor-1"], "-o", "json").stdout
    )
    prefixes = {each["prefix"] for each in told}
    assert {f"{EVERYWHERE[0]}/32", f"{LOCAL[0]}/32"} <= prefixes
    assert len([each for each in prefixes if each.startswith("10.20.")]) == len(NODES)
    (node,) = {each["node"] for each in json.loads(stentor("bgp", "routes", "--node", "node-2", "-o", "json").stdout)}
    assert node == "node-2"
    policies = yaml.safe_load(stentor("bgp", "route-policies", "-o", "yaml").stdout)
    assert {(each["node"], each["vrouter"]) for each in policies} == {(name, 65100) for name in NODES}


@pytest.mark.parametrize("address", [*EVERYWHERE, *LOCAL])
def test_an_outside_host_reaches_every_pod_of_a_service(fabric: Fabric, address: str) -> None:
    assert len(fabric.answers(address)) == len(NODES)


def test_both_routers_carry_connections(fabric: Fabric) -> None:
    def carried() -> list[int]:
        links = [json.loads(fabric.lab.exec(tor, "ip", "-s", "-j", "link", "show", "eth1").stdout) for tor in TORS]
        return [int(link[0]["stats64"]["rx"]["packets"]) for link in links]

    before = carried()
    fabric.answers(EVERYWHERE[0])
    # A hundred connections of some packets each: chance gives no router less than a tenth of them.
    assert min(after - earlier for earlier, after in zip(before, carried(), strict=True)) > 40


def test_an_outside_host_reaches_pods_by_their_own_addresses(fabric: Fabric) -> None:
    for pod in fabric.lab.objects("pods", "-l", "app=web")["items"]:
        for address in (each["ip"] for each in pod["status"]["podIPs"]):
            url = f"http://[{address}]:3000/" if ":" in address else f"http://{address}:3000/"
            answer = fabric.lab.exec("client", "curl", "-s", "-g", "--max-time", "20", url).stdout
            assert json.loads(answer)["pod"] == pod["metadata"]["name"]


def test_a_pod_that_becomes_unready_takes_its_nodes_route_along(fabric: Fabric) -> None:
    pod = fabric.pod_of("node-3")
    fabric.lab.kubectl("exec", pod, "--", "touch", "/tmp/unready")
    try:
        for tor in TORS:
            eventually(lambda t=tor: fabric.ways(t, LOCAL[0]) == {NODES["node-1"], NODES["node-2"]}, PATIENCE_S)  # type: ignore[misc]
            assert fabric.ways(tor, EVERYWHERE[0]) == set(NODES.values())
        why = fabric.lab.stentor("bgp", "why", f"{LOCAL[0]}/32", "--node", "node-3").stdout
        assert "no ready endpoint on this node" in why
        assert pod not in fabric.answers(LOCAL[0])
    finally:
        fabric.lab.kubectl("exec", pod, "--", "rm", "/tmp/unready")
    for tor in TORS:
        eventually(lambda t=tor: NODES["node-3"] in fabric.ways(t, LOCAL[0]), PATIENCE_S)  # type: ignore[misc]


def test_a_service_that_no_advertisement_selects_is_explained(fabric: Fabric) -> None:
    fabric.lab.kubectl("label", "service", "web", "expose-")
    try:
        eventually(lambda: not fabric.ways("tor-1", EVERYWHERE[0]), PATIENCE_S)
        why = fabric.lab.stentor("bgp", "why", f"{EVERYWHERE[0]}/32", "--node", "node-1").stdout
        assert "no selector of fabric[1] matches it" in why
    finally:
        fabric.lab.kubectl("label", "service", "web", "expose=fabric")


def test_killed_speaker_and_agent_lose_nothing(fabric: Fabric) -> None:
    """Neither router takes a route away meanwhile."""
    before = {each["establishedTime"] for each in fabric.peers() if each["node"] == "node-1"}
    command = [str(STENTOR), "lab", "exec", "--name", fabric.lab.name]
    monitors = [
        subprocess.Popen(
            [*command, tor, "--", "ip", "-o", "monitor", "route"],
            env=fabric.lab.environment, stdout=subprocess.PIPE, text=True,
        )
        for tor in TORS
    ]  # fmt: skip
    try:
        probes = [fabric.probe(address, 4) for address in (EVERYWHERE[0], LOCAL[0])]
        for part in ("bgp", "agent"):
            fabric.lab.run("kill", f"node-1/{part}")

        def is_back() -> bool:
            own = [each for each in fabric.peers() if each["node"] == "node-1"]
            return len(own) == 2 and all(
                each["sessionState"] == "established" and each["establishedTime"] not in before for each in own
            )

        eventually(is_back, PATIENCE_S)
        for probe in probes:
            assert len(answered(probe)) == len(NODES)
    finally:
        for monitor in monitors:
            monitor.terminate()
    for monitor in monitors:
        lines = monitor.communicate(timeout=20)[0].splitlines()
        assert [line for line in lines if LOCAL[0] in line and NODES["node-1"] not in line] == []


def test_traffic_leaves_a_dead_node(fabric: Fabric) -> None:
    dead = fabric.pod_of("node-3")
    fabric.lab.run("kill", "node-3")
    try:
        for tor in TORS:
            eventually(lambda t=tor: NODES["node-3"] not in fabric.ways(t, LOCAL[0]), PATIENCE_S)  # type: ignore[misc]
        found = fabric.answers(LOCAL[0])
        assert len(found) == 2
        assert dead not in found
    finally:
        fabric.lab.run("start", "node-3")


@pytest.mark.parametrize("tor", sorted(TORS))
def test_traffic_leaves_a_dead_router(fabric: Fabric, tor: str) -> None:
    fabric.lab.run("kill", tor)
    try:
        eventually(lambda: len(fabric.ways("spine", EVERYWHERE[0])) == 1, PATIENCE_S)
        for node in NODES:
            eventually(lambda n=node: TORS[tor] not in fabric.ways(n, OUTSIDE[0]), PATIENCE_S)  # type: ignore[misc]
        assert len(fabric.answers(EVERYWHERE[0])) == len(NODES)
    finally:
        fabric.lab.run("start", tor)
