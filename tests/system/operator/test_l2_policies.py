"""Conditions of CiliumL2AnnouncementPolicies: kubectl, a real API server, a real operator."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import yaml

from apiservers.operator import Operator
from apiservers.process import Server
from labs.lab import eventually

BAD = {
    "bad-interface-regex": ({"interfaces": ["^eth", "eth("]}, "spec.interfaces[1]"),
    "bad-node-selector": (
        {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "spec.nodeSelector.matchExpressions[0].values",
    ),
    "bad-service-selector": (
        {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
        "spec.serviceSelector.matchExpressions[0].values",
    ),
}


def apply(server: Server, name: str, **spec: Any) -> None:
    document = {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumL2AnnouncementPolicy",
        "metadata": {"name": name},
        "spec": {"loadBalancerIPs": True, **spec},
    }
    server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))


def conditions(server: Server, name: str) -> dict[str, tuple[str, str, str, int]]:
    found = json.loads(server.kubectl("get", "l2announcement", name, "-o", "json"))
    return {
        each["type"].removeprefix("io.cilium/"): (
            each["status"], each["reason"], each["message"], each["observedGeneration"],
        )
        for each in found.get("status", {}).get("conditions", ())
    }  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_said_until_it_is_right(cluster: Server, operator: Operator, kind: str) -> None:
    name = f"l2-{uuid.uuid4().hex[:8]}"
    spec, field = BAD[kind]
    apply(cluster, name, **spec)
    ((said, (status, reason, message, generation)),) = eventually(lambda: conditions(cluster, name).items())
    assert (said, status, reason, generation) == (kind, "True", "error", 1)
    assert message.startswith(field)
    apply(cluster, name, interfaces=["^eth"], nodeSelector=None, serviceSelector=None)
    eventually(lambda: conditions(cluster, name) == {kind: ("False", "error", "", 2)})
    cluster.kubectl("delete", "l2announcement", name)


def test_a_good_policy_has_no_conditions(cluster: Server, operator: Operator) -> None:
    good, bad = (f"l2-{uuid.uuid4().hex[:8]}" for _ in range(2))
    apply(cluster, good, interfaces=["^eth[0-9]+$"])
    apply(cluster, bad, interfaces=["["])
    eventually(lambda: conditions(cluster, bad))  # judged after the other one
    assert conditions(cluster, good) == {}
    cluster.kubectl("delete", "l2announcement", good, bad)
