"""The demo: two clusters and a leaf-spine fabric of namespaces, real traffic, faults, and a summary of what was proved.

Does everything as a newcomer would, through `stentor` and `kubectl`; removes the labs at the end, whatever happened.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from leaf_spine import Fabric
from stage import Failed, Stage, section

NAME = f"demo-{os.getpid()}"
CLUSTERS = ("cluster-a", "cluster-b")


def pods(demo: Stage, cluster: str, app: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = demo.json(cluster, "get", "pods", "-l", f"app={app}")["items"]
    return items


def http(demo: Stage, cluster: str, client: str, url: str) -> str:
    return demo.kubectl(cluster, "exec", client, "--", "curl", "-s", "-g", "--max-time", "3", url)


def url_of(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def traffic(demo: Stage, cluster: str) -> None:
    """Pod to pod on the same and on another node, to hosts and to the outside, both families."""
    client = pods(demo, cluster, "client")[0]
    name, node = client["metadata"]["name"], client["spec"]["nodeName"]
    for server in pods(demo, cluster, "echo"):
        where = "same node" if server["spec"]["nodeName"] == node else "other node"
        for address in (each["ip"] for each in server["status"]["podIPs"]):
            pod = server["metadata"]["name"]
            demo.check(
                f"{cluster}: HTTP pod to pod, {where}, {address}",
                lambda a=address, p=pod: json.loads(http(demo, cluster, name, url_of(a, 3000)))["pod"] == p,  # type: ignore[misc]
            )
    nodes = demo.json(cluster, "get", "nodes")["items"]
    inside = {each["address"] for each in nodes_addresses(nodes, node)}
    for address in ("192.0.2.10", "2001:db8:2::10"):
        demo.check(
            f"{cluster}: pod to the outside {address} comes from the node's address (masqueraded)",
            lambda a=address: http(demo, cluster, name, url_of(a, 80)) in inside,  # type: ignore[misc]
        )
    for address in (each["address"] for each in nodes_addresses(nodes)):
        demo.check(
            f"{cluster}: ping pod to node {address}",
            lambda a=address: (
                " 0% packet loss" in demo.kubectl(cluster, "exec", name, "--", "ping", "-c2", "-i0.1", "-W2", a)
            ),  # type: ignore[misc]
        )


def nodes_addresses(nodes: Sequence[dict[str, Any]], only: str = "") -> Iterator[dict[str, str]]:
    for node in nodes:
        if only in ("", node["metadata"]["name"]):
            yield from (each for each in node["status"]["addresses"] if each["type"] == "InternalIP")


def survives_agent(demo: Stage, cluster: str) -> None:
    """kill -9 of an agent under traffic: the datapath goes on, the new agent adopts it."""
    client = pods(demo, cluster, "client")[0]
    node = client["spec"]["nodeName"]
    target = next(p for p in pods(demo, cluster, "echo") if p["spec"]["nodeName"] != node)["status"]["podIP"]
    command = ["kubectl", "--context", cluster, "exec", client["metadata"]["name"], "--"]
    ping = subprocess.Popen(
        [*command, "ping", "-q", "-i", "0.01", "-w", "3", target], env=demo.env, stdout=subprocess.PIPE, text=True
    )
    demo.run("stentor", "lab", "kill", "--name", NAME, f"{node}/agent")
    summary = ping.communicate(timeout=30)[0]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", summary)
    sent, received = (int(counts[1]), int(counts[2])) if counts else (1, 0)
    demo.check(
        f"{cluster}: agent of {node} killed under traffic: {sent} pings sent, {received} answered",
        lambda: sent == received,
    )
    demo.check(
        f"{cluster}: its successor adopted the datapath and is healthy",
        lambda: bool(demo.run("stentor", "--context", cluster, "status", "--wait")),
    )


def two_clusters(demo: Stage) -> None:
    """Traffic between pods, nodes and the outside, and an agent that dies."""
    with section("Manifests, applied by kubectl"):
        for cluster in CLUSTERS:
            demo.show("kubectl", "--context", cluster, "apply", "-f", "examples/demo/web.yaml")
        for cluster in CLUSTERS:
            for workload in ("daemonset/echo", "deployment/client"):
                demo.kubectl(cluster, "rollout", "status", workload, "--timeout=60s")
        demo.show("kubectl", "--context", CLUSTERS[0], "get", "pods", "-o", "wide")
    with section("Traffic through the datapath"):
        for cluster in CLUSTERS:
            traffic(demo, cluster)
    with section("An agent dies under traffic"):
        survives_agent(demo, CLUSTERS[0])
    with section("What the agents say"):
        demo.show("stentor", "--context", CLUSTERS[0], "status")
        demo.show("stentor", "--context", CLUSTERS[0], "endpoint", "list")
        demo.show("stentor", "--context", CLUSTERS[0], "bpf", "metrics", "list")


def main() -> int:
    proved: list[tuple[bool, str]] = []
    demo, began = Stage(NAME, proved), time.monotonic()
    fabric = None
    try:
        with section("Two clusters of two nodes, a router, a server outside"):
            demo.show("stentor", "lab", "up", "examples/demo/topology.yaml", "--name", NAME)
        demo.use_lab()
        fabric = Fabric(Stage(f"{NAME}-bgp", proved))
        two_clusters(demo)
        fabric.play()
    except (Failed, subprocess.TimeoutExpired) as error:
        proved.append((False, str(error)))
        print(f"\nFAIL  {error}")
    finally:
        demo.down()
        if fabric is not None:
            fabric.close()
    good = sum(1 for ok, _ in proved if ok)
    print(f"\n{good} of {len(proved)} proofs hold, in {time.monotonic() - began:.1f} s")
    for ok, what in proved:
        if not ok or "(aim: " in what:
            print(f"  {'ok  ' if ok else 'FAIL'}  {what}")
    return 0 if good == len(proved) and good else 1


if __name__ == "__main__":
    sys.exit(main())
