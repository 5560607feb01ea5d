"""More services than the map has room for: said as a condition and a metric, and those that are in it work on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from balancing.cluster import SLEEP, TOPOLOGY, WEB, apply, cluster_ips, fetch, pod, service
from labs.lab import Lab, LabFactory, eventually, remove

ROOM = 24


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    topology = json.loads(json.dumps(TOPOLOGY))
    topology["spec"]["clusters"][0]["values"] = {"bpf": {"lbMapMax": ROOM}}
    made = lab_maker(topology)
    try:
        pods = [pod("web-1", "node-1"), pod("web-2", "node-2"), pod("client-1", "node-1", "nicolaka/netshoot", **SLEEP)]
        apply(made, [*pods, service("cluster")])
        yield made
    finally:
        remove(made)


def problems(lab: Lab) -> list[str]:
    report = json.loads(lab.stentor("status", "--node", "node-1", "-o", "json", check=False).stdout)
    return list(report["agents"]["node-1"]["problems"])


def pressure(lab: Lab) -> float:
    lines = lab.stentor("metrics", "list", "--node", "node-1").stdout.splitlines()
    (found,) = (line for line in lines if "cilium_bpf_map_pressure" in line and "lb_services" in line)
    return float(found.split()[-1])


def test_what_finds_no_room_is_named_and_what_is_there_works_on(lab: Lab) -> None:
    def works() -> bool:
        return fetch(lab, "client-1", "cluster", times=24) == WEB  # by name: the DNS service is in the map as well

    eventually(works)
    assert not problems(lab)
    more = [service(f"more-{number}", ipFamilyPolicy="SingleStack") for number in range(2 * ROOM)]
    lab.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, more)))
    problem = eventually(lambda: problems(lab))[0]
    assert "services: " in problem
    assert "rows could not be written" in problem
    assert f"map lb_services is full ({ROOM} rows)" in problem
    assert pressure(lab) > 1
    assert works()
    rows = lab.stentor("bpf", "lb", "list", "--node", "node-1").stdout
    assert rows.count("0.0.0.0:0 (") == ROOM  # one a service
    assert cluster_ips(lab, "cluster")[0] in rows
    lab.kubectl("delete", "service", *(each["metadata"]["name"] for each in more), "--wait=false")
    eventually(lambda: not problems(lab))
    assert pressure(lab) < 1
    assert works()
