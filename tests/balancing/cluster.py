"""What lab tests of services share: a topology, objects, and requests from pods, nodes and the host outside."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from labs.lab import Lab

NODES = {"node-1": ("172.18.0.11", "fd00:18::11"), "node-2": ("172.18.0.12", "fd00:18::12")}
TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "services"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["172.18.0.0/24", "fd00:18::/64"]}],
        "clusters": [
            {
                "name": "default",
                "values": {"kubeProxyReplacementHealthzBindAddr": "0.0.0.0:10256"},
                "nodes": [
                    {"name": name, "networks": [{"name": "lan", "addresses": list(addresses)}]}
                    for name, addresses in NODES.items()
                ],
            }
        ],
        "hosts": [{"name": "outside", "networks": [{"name": "lan", "addresses": ["172.18.0.99", "fd00:18::99"]}]}],
        "routes": [
            {"machine": "outside", "to": "192.0.2.0/24", "via": "172.18.0.11"},
            {"machine": "outside", "to": "2001:db8:7::/64", "via": "fd00:18::11"},
            {"machine": "outside", "to": "10.96.0.0/16", "via": "172.18.0.11"},
        ],
    },
}
ECHO = "registry.k8s.io/gateway-api/conformance/echo-basic:v1"


def pod(name: str, node: str, image: str = ECHO, **container: Any) -> dict[str, Any]:
    env = [{"name": "POD_NAME", "value": name}, {"name": "NAMESPACE", "value": "default"}]
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "env": env, **container}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name.rpartition("-")[0] or name}},
        "spec": spec,
    }


def service(name: str, app: str = "web", **spec: Any) -> dict[str, Any]:
    full = {
        "selector": {"app": app},
        "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"name": "http", "port": 80, "targetPort": 3000}],
        **spec,
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": full}


SLEEP = {"command": ["sleep", "infinity"]}
OBJECTS = [
    pod("web-1", "node-1"),
    pod("web-2", "node-2"),
    pod("client-1", "node-1", "nicolaka/netshoot", **SLEEP),
    pod("client-2", "node-2", "nicolaka/netshoot", **SLEEP),
    service("cluster"),
    service("node-port", type="NodePort", ports=[{"name": "http", "port": 80, "targetPort": 3000, "nodePort": 30080}]),
    service("headless", clusterIP="None"),
    service("sticky", sessionAffinity="ClientIP"),
    service("internal", internalTrafficPolicy="Local"),
    service("external-ips", externalIPs=["192.0.2.50", "2001:db8:7::50"]),
    service(
        "balancer",
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32100,
        loadBalancerSourceRanges=["172.18.0.0/24"],
    ),
    service("nobody", app="nobody"),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "alias", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "cluster.default.svc.cluster.local"},
    },
]


def apply(lab: Lab, objects: Sequence[dict[str, Any]]) -> None:
    """Applies objects and waits for the pods."""
    lab.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, objects)))
    lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")


def cluster_ips(lab: Lab, name: str) -> list[str]:
    return list(lab.objects("service", name)["spec"]["clusterIPs"])


def url(host: str, port: int = 80) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def fetch(lab: Lab, where: str, host: str, port: int = 80, times: int = 1) -> set[str]:
    """Which pods answer requests from a pod, a node or the host outside; "" stands for no answer."""
    loop = f"for i in $(seq {times}); do curl -s -m 3 {shlex.quote(url(host, port))} || echo null; done"
    command = ("sh", "-c", loop)
    if where.startswith("client"):
        output = lab.kubectl("exec", where, "--", *command).stdout
    else:
        output = lab.exec(where, *command).stdout
    return {answer["pod"] if answer else "" for answer in documents(output)}


SELF_PORT = 9000
_REACH_ITSELF = f"""
import socket, sys
server = socket.create_server(("::", {SELF_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
client = socket.create_connection((sys.argv[1], {SELF_PORT}), timeout=5)
answering, peer = server.accept()
answering.sendall(b"it is me")
print(client.recv(100).decode(), "at", peer[0].removeprefix("::ffff:"))
"""


def reach_itself(lab: Lab, pod: str, host: str) -> str:
    """The pod connects to SELF_PORT of `host`, a service that leads to itself; as what address it sees itself come."""
    said = lab.kubectl("exec", pod, "--", "python3", "-c", _REACH_ITSELF, host).stdout.split()
    assert said[:-1] == ["it", "is", "me", "at"]
    return said[-1]


def documents(text: str) -> Iterator[Any]:
    """JSON documents one after the other."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:].strip()


WEB = {"web-1", "web-2"}
