"""The speaker and its agent die, restart and stop, with BIRD and FRR as peers: sessions, routes, and packets on their way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fabric.cluster import (
    NODES,
    TOR_1,
    TOR_2,
    Moment,
    apply,
    bird_communities,
    bird_paths,
    bird_since,
    frr_paths,
    give,
    mirror,
    pod_cidrs,
    topology,
    up_since,
)
from labs.lab import STENTOR, Lab, LabFactory, eventually, remove

VIP = "198.18.7.1"
RESTART = {"gracefulRestart": {"enabled": True, "restartTimeSeconds": 60}, "connectRetryTimeSeconds": 1}
POLICY = {
    "apiVersion": "cilium.io/v2alpha1",
    "kind": "CiliumBGPPeeringPolicy",
    "metadata": {"name": "test"},
    "spec": {
        "virtualRouters": [
            {
                "localASN": 65100,
                "exportPodCIDR": True,
                "serviceSelector": {},
                "neighbors": [
                    {"peerAddress": f"{TOR_1[4]}/32", "peerASN": 6500, **RESTART},
                    {"peerAddress": f"{TOR_2[4]}/32", "peerASN": 6600, **RESTART},
                ],
            }
        ]
    },
}


def service(policy: str) -> dict[str, Any]:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": "web"}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": spec | {"ports": [{"port": 80, "targetPort": 8080}]},
    }


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(topology())
    try:
        apply(made, POLICY, service("Local"), mirror("web-1", "node-1"), mirror("web-2", "node-2"))
        made.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        give(made, "web", VIP)
        eventually(lambda: bird_paths(made, f"{VIP}/32").keys() == NODES.keys())
        eventually(lambda: frr_paths(made, f"{VIP}/32") == {addresses[4] for addresses in NODES.values()})
        yield made
    finally:
        remove(made)


def pod_ip(lab: Lab, name: str) -> str:
    return str(lab.objects("pod", name)["status"]["podIP"])


@contextmanager
def pings(lab: Lab, host: str) -> Iterator[list[int]]:
    """A hundred echoes a second from the client while the block runs; the list holds the numbers of the lost, afterwards."""
    ping = f"ping -D -i 0.01 -W 1 {host} & p=$!; trap 'kill -INT $p' TERM; wait $p; wait $p"
    command = [str(STENTOR), "lab", "exec", "--name", lab.name, "client", "--", "sh", "-c", f"exec 2>&1; {ping}"]
    lost: list[int] = []
    with tempfile.TemporaryFile() as output:

        def answered() -> set[int]:
            text = os.pread(output.fileno(), 1 << 24, 0)  # ping writes where this descriptor stands: it must not move
            return {int(number) for number in re.findall(rb"icmp_seq=(\d+) ttl", text)}

        process = subprocess.Popen(command, env=lab.environment, stdout=output)
        try:
            eventually(answered)
            yield lost
            # Answers overtake each other on a busy machine: a second's worth of later ones says what will not come.
            last = max(answered())
            eventually(lambda: max(answered()) > last + 100, 60)
            lost += sorted(set(range(1, last + 1)) - answered())
        finally:
            process.terminate()
            process.wait(30)


def spoke(lab: Lab) -> list[Moment | None]:
    """Since when BIRD's sessions are up."""
    return [bird_since(lab, node) for node in NODES]


def test_a_killed_agent_leaves_sessions_routes_and_packets_alone(lab: Lab) -> None:
    before = eventually(lambda: (since := spoke(lab)) and all(since) and since)
    with pings(lab, pod_ip(lab, "web-1")) as lost:
        lab.run("kill", "node-1/agent")
        eventually(lambda: "running" in peers(lab, "node-1")["speaker"])
        assert set(bird_paths(lab, f"{VIP}/32")) == set(NODES)
    assert lost == []
    assert spoke(lab) == before


def peers(lab: Lab, node: str) -> dict[str, Any]:
    """What a node's agent says of its peers."""
    url = "http://agent/v1/bgp/peers"
    done = lab.exec(node, "curl", "-s", "--unix-socket", "/run/stentor/agent.sock", url, check=False)
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"speaker": "", "peers": []}
    return answer


def test_what_changed_while_the_agent_was_away_is_told_once_it_is_back(lab: Lab) -> None:
    lab.run("stop", "node-1/agent")
    give(lab, "web", "198.18.7.2")
    eventually(lambda: set(bird_paths(lab, "198.18.7.2/32")) == {"node-2"})
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == {"node-1"})
    lab.run("start", "node-1/agent")
    eventually(lambda: set(bird_paths(lab, "198.18.7.2/32")) == set(NODES))
    eventually(lambda: not bird_paths(lab, f"{VIP}/32"))
    give(lab, "web", VIP)
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))


def test_an_agent_that_starts_without_the_api_leaves_everything_as_it_is(lab: Lab) -> None:
    before = eventually(lambda: (since := spoke(lab)) and all(since) and since)
    lab.run("stop", "node-1/apiserver")
    lab.run("kill", "node-2/agent")
    eventually(lambda: peers(lab, "node-2")["speaker"] == "not asked yet")
    assert set(bird_paths(lab, f"{VIP}/32")) == set(NODES)
    lab.run("start", "node-1/apiserver")
    eventually(lambda: peers(lab, "node-2")["speaker"] == "running")
    assert set(bird_paths(lab, f"{VIP}/32")) == set(NODES)
    assert spoke(lab) == before


def test_a_killed_speaker_comes_back_with_all_its_routes_and_loses_no_packet(lab: Lab) -> None:
    before = eventually(lambda: (since := spoke(lab)) and all(since) and since)
    with pings(lab, pod_ip(lab, "web-1")) as lost:
        lab.run("kill", "node-1/bgp")
        eventually(lambda: (since := bird_since(lab, "node-1")) is not None and since != before[0])
        eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))
        eventually(lambda: frr_paths(lab, pod_cidrs(lab, "node-1")[0]) == {NODES["node-1"][4]})
    assert lost == []
    assert bird_since(lab, "node-2") == before[1]


def test_a_local_service_is_withdrawn_when_its_last_endpoint_here_goes(lab: Lab) -> None:
    lab.kubectl("delete", "pod", "web-1", "--wait=false")
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == {"node-2"})
    apply(lab, mirror("web-1", "node-1"))
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))


def test_a_cordoned_node_asks_to_be_avoided(lab: Lab) -> None:
    lab.kubectl("cordon", "node-1")
    eventually(lambda: bird_communities(lab, f"{VIP}/32", "node-1") == {"65535:0"})
    assert bird_communities(lab, f"{VIP}/32", "node-2") == set()
    lab.kubectl("uncordon", "node-1")
    eventually(lambda: bird_communities(lab, f"{VIP}/32", "node-1") == set())


def test_an_excluded_node_advertises_pods_and_no_services(lab: Lab) -> None:
    label = "node.kubernetes.io/exclude-from-external-load-balancers"
    lab.kubectl("label", "node", "node-1", f"{label}=")
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == {"node-2"})
    assert set(bird_paths(lab, pod_cidrs(lab, "node-1")[0])) == {"node-1"}
    lab.kubectl("label", "node", "node-1", f"{label}-")
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))


def test_a_node_out_of_service_advertises_nothing(lab: Lab) -> None:
    taint, before = "node.kubernetes.io/out-of-service=nodeshutdown:NoSchedule", up_since(lab, "node-1")
    lab.kubectl("taint", "node", "node-1", taint)
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == {"node-2"})
    eventually(lambda: not bird_paths(lab, pod_cidrs(lab, "node-1")[0]))
    lab.kubectl("taint", "node", "node-1", f"{taint}-")
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))
    assert bird_since(lab, "node-1") == before


def test_a_stopped_speaker_withdraws_although_peers_would_keep_its_routes(lab: Lab) -> None:
    with pings(lab, pod_ip(lab, "web-1")):
        lab.run("stop", "node-2/bgp")
        # Much sooner than after the 60 s for which the peers would keep them.
        eventually(lambda: bird_paths(lab, f"{VIP}/32").keys() == {"node-1"}, 20)
        eventually(lambda: frr_paths(lab, pod_cidrs(lab, "node-2")[0]) == set(), 20)
    lab.run("start", "node-2/bgp")
    eventually(lambda: set(bird_paths(lab, f"{VIP}/32")) == set(NODES))


def test_a_machine_that_is_switched_off_in_order_leaves_no_routes_behind(lab: Lab) -> None:
    lab.run("stop", "node-2")
    # Not after 60 s of packets into nothing, as after a power failure with graceful restart.
    eventually(lambda: bird_paths(lab, f"{VIP}/32").keys() == {"node-1"}, 20)
    eventually(lambda: frr_paths(lab, f"{VIP}/32") == {NODES["node-1"][4]}, 20)
    lab.run("start", "node-2")
    eventually(lambda: set(bird_paths(lab, pod_cidrs(lab, "node-2")[0])) == {"node-2"}, 60)
