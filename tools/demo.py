"""The demo: two clusters and a leaf-spine fabric of namespaces, real traffic, faults, and a summary of what was proved.

Does everything as a newcomer would, through `stentor` and `kubectl`; removes the labs at the end, whatever happened.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any, NamedTuple

from leaf_spine import Fabric
from stage import Failed, Stage, section, tell

NAME = f"demo-{os.getpid()}"
CLUSTERS = ("cluster-a", "cluster-b")
SERVICE = "echo.default.svc.cluster.local"


def pods(demo: Stage, cluster: str, app: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = demo.json(cluster, "get", "pods", "-l", f"app={app}")["items"]
    return items


class Question(NamedTuple):
    """What a client is asked to do, and whether its output is what it should be."""

    what: str
    command: str
    is_answered: Callable[[str], bool]


def curl(url: str, *options: str) -> str:
    return shlex.join(("curl", "-sS", "-g", "--max-time", "3", *options, url))


def url_of(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def answering_pod(answer: str) -> str:
    try:
        return str(json.loads(answer)["pod"])
    except (ValueError, KeyError):
        return ""


def questions(demo: Stage, cluster: str, node: str) -> Iterator[Question]:
    """From a client on a node to pods on the same and on another node, a service, hosts, the outside; both families."""
    servers = pods(demo, cluster, "echo")
    for server in servers:
        where = "same node" if server["spec"]["nodeName"] == node else "other node"
        for address in (each["ip"] for each in server["status"]["podIPs"]):
            what, pod = f"HTTP pod to pod, {where}, {address}", server["metadata"]["name"]
            yield Question(what, curl(url_of(address, 3000)), lambda answer, pod=pod: answering_pod(answer) == pod)  # type: ignore[misc]
    names = {each["metadata"]["name"] for each in servers}
    for address in demo.json(cluster, "get", "service", "echo")["spec"]["clusterIPs"]:
        family = "-6" if ":" in address else "-4"
        # Endpoints may still be on their way to this node, hence the retries.
        command = curl(f"http://{SERVICE}/", family, "--retry", "3", "--retry-all-errors", "-w", "\n%{remote_ip}")
        yield Question(
            f"HTTP to {SERVICE}, by cluster DNS at {address}, balanced to a pod",
            command,
            lambda answer, address=address: (  # type: ignore[misc]
                answering_pod(answer.rpartition("\n")[0]) in names and answer.rpartition("\n")[2] == address
            ),
        )
    nodes = demo.json(cluster, "get", "nodes")["items"]
    inside = {each["address"] for each in nodes_addresses(nodes, node)}
    for address in ("192.0.2.10", "2001:db8:2::10"):
        what = f"pod to the outside {address} comes from the node's address (masqueraded)"
        yield Question(what, curl(url_of(address, 80)), lambda answer: answer in inside)
    for address in (each["address"] for each in nodes_addresses(nodes)):
        command = f"ping -c2 -i0.1 -W2 {address}"
        yield Question(f"ping pod to node {address}", command, lambda answer: " 0% packet loss" in answer)


def traffic(demo: Stage, cluster: str) -> list[tuple[Question, str]]:
    """All questions of a cluster with their answers, asked by one `kubectl exec`."""
    client = pods(demo, cluster, "client")[0]
    asked = list(questions(demo, cluster, client["spec"]["nodeName"]))
    script = "".join(f"{each.command} 2>&1; printf '\\036'\n" for each in asked)
    answers = demo.kubectl(cluster, "exec", client["metadata"]["name"], "--", "sh", "-c", script).split("\x1e")
    return list(zip(asked, answers[:-1], strict=True))


def is_proved(question: Question, answer: str) -> bool:
    if not question.is_answered(answer):
        raise Failed(answer.rstrip() or "no answer")
    return True


def nodes_addresses(nodes: Sequence[dict[str, Any]], only: str = "") -> Iterator[dict[str, str]]:
    for node in nodes:
        if only in ("", node["metadata"]["name"]):
            yield from (each for each in node["status"]["addresses"] if each["type"] == "InternalIP")


def survives_agent(demo: Stage, cluster: str) -> None:
    """kill -9 of an agent under traffic: the datapath goes on, the new agent adopts it. The traffic lasts until it did."""
    client = pods(demo, cluster, "client")[0]
    node = client["spec"]["nodeName"]
    target = next(p for p in pods(demo, cluster, "echo") if p["spec"]["nodeName"] != node)["status"]["podIP"]
    command = ["kubectl", "--context", cluster, "exec", "-i", client["metadata"]["name"], "--", "sh", "-c"]
    script = f"ping -q -i 0.01 -w 60 {target} & echo begun; read end; kill -INT $!; wait $!"
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, script], env=demo.env, stdin=pipe, stdout=pipe, text=True) as ping:
        assert ping.stdout is not None
        ping.stdout.readline()
        demo.run("stentor", "lab", "kill", "--name", NAME, f"{node}/agent")
        healthy = demo.soon(demo.run, "stentor", "--context", cluster, "status", "--wait", "--wait-duration", "50s")
        wait([healthy])
        time.sleep(0.5)  # what it does once it is up
        summary = ping.communicate("end\n", timeout=30)[0]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", summary)
    sent, received = (int(counts[1]), int(counts[2])) if counts else (1, 0)
    demo.check(
        f"{cluster}: agent of {node} killed under traffic: {sent} pings sent, {received} answered",
        lambda: sent == received,
    )
    demo.check(f"{cluster}: its successor adopted the datapath and is healthy", lambda: bool(healthy.result()))


def two_clusters(demo: Stage) -> None:
    """Traffic between pods, nodes and the outside, and an agent that dies."""
    with section("Manifests, applied by kubectl"):
        demo.show_all(
            *(("kubectl", "--context", cluster, "apply", "-f", "examples/demo/web.yaml") for cluster in CLUSTERS)
        )
        ready = [
            demo.soon(demo.kubectl, cluster, "rollout", "status", workload, "--timeout=60s")
            for cluster in CLUSTERS
            for workload in ("daemonset/echo", "deployment/client")
        ]
        for each in ready:
            each.result()
        demo.show("kubectl", "--context", CLUSTERS[0], "get", "pods", "-o", "wide")
    with section("Traffic through the datapath"):
        for cluster, found in [(each, demo.soon(partial(traffic, demo), each)) for each in CLUSTERS]:
            for question, answer in found.result():
                demo.check(f"{cluster}: {question.what}", partial(is_proved, question, answer))
    with section("An agent dies under traffic"):
        survives_agent(demo, CLUSTERS[0])
    with section("What the agents say"):
        stentor = ("stentor", "--context", CLUSTERS[0])
        demo.show_all((*stentor, "status"), (*stentor, "endpoint", "list"), (*stentor, "bpf", "metrics", "list"))


def main() -> int:
    proved: list[tuple[bool, str]] = []
    demo, began = Stage(NAME, proved), time.monotonic()
    fabric = leaving = None
    try:
        fabric = Fabric(Stage(f"{NAME}-bgp", proved))
        with section("Two clusters of two nodes, a router, a server outside; a rack with BGP at the same time"):
            up = ("stentor", "lab", "up", "examples/demo/topology.yaml", "--name", NAME)
            tell(up, demo.run(*up, *demo.leash))
        demo.use_lab()
        two_clusters(demo)
        leaving = demo.soon(demo.down)
        fabric.play()
    except (Failed, subprocess.TimeoutExpired) as error:
        proved.append((False, str(error)))
        print(f"\nFAIL  {error}")
    except KeyboardInterrupt:
        proved.append((False, "interrupted"))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # also for what takes the labs down: that takes a second or two
        if fabric is not None:
            fabric.close()
        if leaving is not None:
            wait([leaving])
        demo.down()  # again: who interrupts the demo also interrupts what runs in the background
    good = sum(1 for ok, _ in proved if ok)
    print(f"\n{good} of {len(proved)} proofs hold, in {time.monotonic() - began:.1f} s")
    for ok, what in proved:
        if not ok or "(aim: " in what:
            print(f"  {'ok  ' if ok else 'FAIL'}  {what}")
    return 0 if good == len(proved) and good else 1


if __name__ == "__main__":
    sys.exit(main())
