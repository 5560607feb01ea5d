"""Metrics carry upstream's names and labels (docs: "Monitoring & Metrics")."""

from __future__ import annotations

from pathlib import Path

import pytest

from stentor.agent.life import Agent, Paths
from stentor.agent.metric import sample
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.runtime.config import Values
from stentor.runtime.sample import registry


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cilium_k8s_client_api_calls_total", {"host": "192.0.2.1:6443", "method": "GET", "return_code": "200"}),
        ("cilium_kubernetes_events_total", {"scope": "CiliumNode", "action": "update", "status": "success"}),
        ("cilium_agent_bootstrap_seconds", {"scope": "overall", "outcome": "success"}),
        ("cilium_endpoint_state", {"endpoint_state": "ready"}),
        ("cilium_identity", {"type": "cluster_local"}),
        ("cilium_policy_endpoint_enforcement_status", {"enforcement": "none"}),
    ],
)
async def test_upstreams_labels(tmp_path: Path, name: str, labels: dict[str, str]) -> None:
    client = Client(Connection(server="https://192.0.2.1:6443"))
    client.requests["GET", "200"] = 1
    agent = Agent(Values(), client, "n", Paths(state=tmp_path))
    try:
        assert registry(lambda: sample(agent)).get_sample_value(name, labels) is not None
    finally:
        agent.close()
