"""One lab for the agent's tests: two nodes, a machine outside the cluster."""

from __future__ import annotations

from typing import NamedTuple

from agents.place import Place
from labs.lab import Lab

NODES = {"node-1": {4: "172.18.0.11", 6: "fd00:18::11"}, "node-2": {4: "172.18.0.12", 6: "fd00:18::12"}}
OUTSIDE = {4: "172.18.0.50", 6: "fd00:18::50"}

TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "agent"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["172.18.0.0/24", "fd00:18::/64"]}],
        "clusters": [
            {
                "name": "c1",
                "nodes": [
                    {"name": name, "networks": [{"name": "lan", "addresses": list(addresses.values())}]}
                    for name, addresses in NODES.items()
                ],
            }
        ],
        "hosts": [
            {
                "name": "outside",
                "networks": [{"name": "lan", "addresses": list(OUTSIDE.values())}],
                "run": [["sleep", "100000"]],
            }
        ],
    },
}

_POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: nicolaka/netshoot, command: [sleep, "100000"]}}]
---
"""


def manifest(name: str, node: str) -> str:
    return _POD.format(name=name, node=node)


class Cluster(NamedTuple):
    """A lab and the places in it."""

    lab: Lab
    places: dict[str, Place]
