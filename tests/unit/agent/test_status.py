"""What the agent says is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from stentor.agent.life import Agent, Paths
from stentor.agent.metric import sample
from stentor.agent.status import status_of
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.runtime.config import Values
from stentor.runtime.sample import registry


@pytest.mark.parametrize("plural", ["services", "endpointslices", "ciliumnodes"])
async def test_whatever_watch_is_lost_is_named(tmp_path: Path, plural: str) -> None:
    agent = Agent(Values(), Client(Connection(server="https://192.0.2.1:6443")), "n", Paths(state=tmp_path))
    try:
        (source,) = (each for each in agent.watches if each.kind.plural == plural)
        source.fault, source.events = "forbidden", 7
        status = status_of(agent)
        assert f"the Kubernetes API is not watched ({plural}): forbidden" in status.problems
        assert status.kubernetes.state == "Warning"
        labels = {"scope": source.kind.kind, "action": "update", "status": "success"}
        assert registry(lambda: sample(agent)).get_sample_value("cilium_kubernetes_events_total", labels) == 7
    finally:
        agent.close()
