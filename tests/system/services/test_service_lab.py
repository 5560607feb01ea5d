"""Services and cluster DNS end to end: manifests by kubectl, agents, real pods, a host outside the cluster; both families."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from balancing.cluster import NODES, OBJECTS, TOPOLOGY, WEB, apply, cluster_ips, fetch, url
from labs.lab import Lab, LabFactory, eventually, remove


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(TOPOLOGY)
    try:
        apply(made, OBJECTS)
        ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.80"}]}}}
        made.kubectl("patch", "service", "balancer", "--subresource=status", "--type=merge", "-p", json.dumps(ingress))
        eventually(lambda: all(fetch(made, "client-1", ip) <= WEB for ip in cluster_ips(made, "cluster")))
        yield made
    finally:
        remove(made)


everywhere = pytest.mark.parametrize("where", ["client-1", "client-2", "node-1", "node-2"])


@everywhere
def test_cluster_addresses_reach_every_backend(lab: Lab, where: str) -> None:
    for ip in cluster_ips(lab, "cluster"):
        assert fetch(lab, where, ip, times=24) == WEB


@pytest.mark.parametrize("where", ["client-1", "node-2", "outside"])
@pytest.mark.parametrize("node", NODES)
def test_node_ports_are_served_by_every_node_to_everybody(lab: Lab, where: str, node: str) -> None:
    for ip in NODES[node]:
        assert fetch(lab, where, ip, 30080, times=24) == WEB


def test_the_host_reaches_node_ports_by_loopback(lab: Lab) -> None:
    assert fetch(lab, "node-1", "127.0.0.1", 30080) <= WEB


def test_external_addresses_from_inside_and_outside(lab: Lab) -> None:
    for ip in ("192.0.2.50", "2001:db8:7::50"):
        for where in ("client-1", "outside"):
            assert fetch(lab, where, ip, times=24) == WEB


def test_a_load_balancers_address_with_local_policy_keeps_to_the_node(lab: Lab) -> None:
    assert fetch(lab, "outside", "192.0.2.80", times=8) == {"web-1"}
    assert fetch(lab, "client-2", "192.0.2.80", times=24) == WEB


def test_cluster_addresses_are_not_for_the_outside(lab: Lab) -> None:
    assert fetch(lab, "outside", cluster_ips(lab, "cluster")[0]) == {""}


def test_internal_policy_keeps_to_the_node(lab: Lab) -> None:
    ip = cluster_ips(lab, "internal")[0]
    assert fetch(lab, "client-1", ip, times=6) == {"web-1"}
    assert fetch(lab, "client-2", ip, times=6) == {"web-2"}


def test_affinity(lab: Lab) -> None:
    for ip in cluster_ips(lab, "sticky"):
        answering = fetch(lab, "client-1", ip, times=8)
        assert len(answering) == 1
        assert answering <= WEB


def test_nobody_behind_a_service_is_told_at_once(lab: Lab) -> None:
    done = lab.kubectl(
        "exec", "client-1", "--", "curl", "-s", "-m", "10", url(cluster_ips(lab, "nobody")[0]), check=False
    )
    assert "exit code 7" in done.stderr  # could not connect, as opposed to 28: timed out


def dig(lab: Lab, *words: str) -> list[str]:
    return lab.kubectl("exec", "client-1", "--", "dig", "+short", *words).stdout.split()


def test_machines_of_the_lab_have_names(lab: Lab) -> None:
    for name, (v4, v6) in NODES.items():
        assert [dig(lab, name), dig(lab, name, "AAAA")] == [[v4], [v6]]
        assert dig(lab, "-x", v6) == [f"{name}."]
    assert lab.kubectl("exec", "client-1", "--", "getent", "hosts", "outside").stdout.split()[1:] == ["outside"]


def test_names(lab: Lab) -> None:
    v4, v6 = cluster_ips(lab, "cluster")
    pods = {name: [ip["ip"] for ip in lab.objects("pod", name)["status"]["podIPs"]] for name in WEB}
    assert dig(lab, "cluster.default.svc.cluster.local") == [v4]
    assert dig(lab, "+tcp", "cluster.default.svc.cluster.local", "AAAA") == [v6]
    assert dig(lab, "-x", v4) == ["cluster.default.svc.cluster.local."]
    assert dig(lab, "_http._tcp.cluster.default.svc.cluster.local", "SRV") == [
        "0", "100", "80", "cluster.default.svc.cluster.local.",
    ]  # fmt: skip
    assert sorted(dig(lab, "headless.default.svc.cluster.local")) == sorted(ips[0] for ips in pods.values())
    assert dig(lab, "alias.default.svc.cluster.local") == ["cluster.default.svc.cluster.local.", v4]
    assert dig(lab, "none.default.svc.cluster.local") == []
    assert dig(lab, "-x", v6) == ["cluster.default.svc.cluster.local."]
    assert dig(lab, "10-1-2-3.default.pod.cluster.local") == ["10.1.2.3"]
    targets = dig(lab, "_http._tcp.headless.default.svc.cluster.local", "SRV")[3::4]
    assert sorted(dig(lab, *targets)) == sorted(ips[0] for ips in pods.values())
    assert dig(lab, "+search", "cluster") == [v4]
    whole = lab.kubectl("exec", "client-1", "--", "dig", "+bufsize=1232", "none.default.svc.cluster.local").stdout
    assert "status: NXDOMAIN" in whole
    assert "SOA" in whole
    assert "EDNS: version: 0" in whole


def test_search_lists_lead_to_services(lab: Lab) -> None:
    for name in ("cluster", "cluster.default", "cluster.default.svc", "headless"):
        port = 3000 if name == "headless" else 80
        assert fetch(lab, "client-1", name, port) <= WEB


def test_the_command_line(lab: Lab) -> None:
    rows = json.loads(lab.stentor("service", "list", "--node", "node-1", "-o", "json").stdout)
    found = {(row["type"], row["frontend"]) for row in rows}
    assert ("NodePort", "0.0.0.0:30080/TCP") in found
    assert ("NodePort", "[::]:30080/TCP") in found
    assert ("LoadBalancer", "192.0.2.80:80/TCP") in found
    table = lab.stentor("service", "get", "default/cluster", "--node", "node-1").stdout.splitlines()
    assert table[0].split() == ["ID", "Frontend", "Service", "Type", "Backend"]
    assert "(active)" in table[1]
    assert "192.0.2.80:80/TCP" in lab.stentor("bpf", "lb", "list", "--node", "node-1").stdout
    missing = lab.stentor("service", "get", "nothing", check=False)
    assert missing.returncode
    assert "no service nothing" in missing.stderr


def test_what_load_balancers_ask(lab: Lab) -> None:
    answer = json.loads(lab.exec("outside", "curl", "-s", "-m", "3", url("172.18.0.11", 32100)).stdout)
    assert answer["service"] == {"namespace": "default", "name": "balancer"}
    assert answer["localEndpoints"] == 1
    status = lab.exec(
        "outside", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url('172.18.0.12', 10256)}healthz"
    )
    assert status.stdout == "200"


def test_an_agent_that_restarts_changes_nothing(lab: Lab) -> None:
    v4, _ = cluster_ips(lab, "cluster")
    before = lab.stentor("service", "list", "--node", "node-2", "-o", "json").stdout
    lab.run("kill", "node-2/agent")
    assert fetch(lab, "client-2", v4, times=24) == WEB
    lab.run("start", "node-2/agent", check=False)

    def is_back() -> bool:
        return lab.stentor("service", "list", "--node", "node-2", "-o", "json", check=False).stdout == before

    eventually(is_back)
    assert fetch(lab, "client-2", v4, times=24) == WEB
