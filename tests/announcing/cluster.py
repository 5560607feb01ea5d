"""A control plane with the pods, two nodes that may announce, and a host outside on the same link."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from labs.lab import STENTOR, Lab

TESTS = Path(__file__).parents[1]
EDGES = ("edge-1", "edge-2")
VIPS = {"web": ("192.0.2.100", "2001:db8::100"), "near": ("192.0.2.101", "2001:db8::101")}
LEASES = {"leaseDuration": "3s", "leaseRenewDeadline": "1s", "leaseRetryPeriod": "200ms"}
IMAGE = "registry.k8s.io/gateway-api/conformance/echo-basic:v1"


def machine(name: str, last: int, **rest: Any) -> dict[str, Any]:
    addresses = [f"192.0.2.{last}", f"2001:db8::{last}"]
    return {"name": name, "networks": [{"name": "lan", "addresses": addresses}], **rest}


TOPOLOGY: dict[str, Any] = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "announcing"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["192.0.2.0/24", "2001:db8::/64"]}],
        "clusters": [
            {
                "name": "default",
                "values": {"l2announcements": {"enabled": True, **LEASES}},
                "nodes": [
                    machine("control", 11),
                    *(machine(name, 12 + n, labels={"edge": "yes"}) for n, name in enumerate(EDGES)),
                ],
            }
        ],
        "hosts": [machine("outside", 200)],
    },
}


def pod(name: str, node: str, app: str) -> dict[str, Any]:
    container = {
        "name": "echo",
        "image": IMAGE,
        "env": [{"name": "POD_NAME", "value": name}, {"name": "NAMESPACE", "value": "default"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 3000}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": 3000}],
            **spec,
        },
    }


def pool() -> dict[str, Any]:
    """Each service gets its own addresses, by annotation."""
    blocks = [{"cidr": "192.0.2.96/28"}, {"cidr": "2001:db8::100/120"}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumLoadBalancerIPPool",
        "metadata": {"name": "vips"},
        "spec": {"blocks": blocks},
    }


def policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumL2AnnouncementPolicy",
        "metadata": {"name": "edges"},
        "spec": {"loadBalancerIPs": True, "nodeSelector": {"matchLabels": {"edge": "yes"}}, **spec},
    }


def apply(lab: Lab, *documents: dict[str, Any]) -> None:
    lab.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))


def with_addresses(document: dict[str, Any]) -> dict[str, Any]:
    wanted = ",".join(VIPS[document["metadata"]["name"]])
    metadata = {**document["metadata"], "annotations": {"lbipam.cilium.io/ips": wanted}}
    return {**document, "metadata": metadata}


def mac_of(lab: Lab, node: str) -> str:
    return lab.exec(node, "cat", "/sys/class/net/eth0/address").stdout.strip()


def answering_pod(lab: Lab, address: str) -> str:
    """Whose echo answers at an address, asked from outside; empty for none."""
    host = f"[{address}]" if ":" in address else address
    done = lab.exec("outside", "curl", "-s", "-m", "2", f"http://{host}/", check=False)
    return str(json.loads(done.stdout)["pod"]) if done.stdout else ""


class Question(msgspec.Struct, frozen=True):
    """When an address was asked for (Unix time), and the MAC addresses of the answers."""

    time: float
    address: str
    macs: tuple[str, ...]


class Asking:
    """Asks from outside as long as its `with` block lasts; `questions` are there after it."""

    def __init__(self, lab: Lab, *addresses: str) -> None:
        self.questions: list[Question] = []
        command = [str(STENTOR), "lab", "exec", "--name", lab.name, "outside", "--", "env", f"PYTHONPATH={TESTS}"]
        self._command = [*command, sys.executable, "-m", "announcing.asker", "eth0", *addresses]
        self._environment = lab.environment

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"asking\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            printed, _ = self._process.communicate(timeout=30)
        finally:
            self._process.kill()
        self.questions = [msgspec.json.decode(line, type=Question) for line in printed.splitlines()]

    def answering(self) -> set[str]:
        """Every MAC address that answered."""
        return {mac for question in self.questions for mac in question.macs}
