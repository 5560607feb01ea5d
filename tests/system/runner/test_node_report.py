"""Several write conditions of one Node: none gets lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apiservers.process import make_server
from stentor.agent.publish import report_network_ready
from stentor.api.core import NODES
from stentor.kube.client import Client
from stentor.kube.config import find
from stentor.lab.runner.cni import Invoker
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.network import NetworkWatch
from stentor.lab.runner.node import NodeReporter


class Interrupted(Client):
    """Between this client's next reading and its writing the agent writes, once."""

    has_waited = False

    async def get(self, *arguments: Any, **options: Any) -> Any:
        found = await super().get(*arguments, **options)
        if not self.has_waited:
            self.has_waited = True
            await report_network_ready(self, "n")
        return found


async def test_a_condition_of_the_agent_survives_the_runners_report(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    place = tmp_path / "none"
    machine = Machine(
        node_name="n", addresses=("192.0.2.7",), run_dir=place, state_dir=place, cgroup=place, bin_dir=place
    )
    try:
        async with Interrupted(find(str(server.pki / "admin.kubeconfig"), None)) as client:
            await NodeReporter(client, machine, NetworkWatch(place, Invoker([]))).register()
            kinds = {each.type for each in (await client.get(NODES, "n")).status.conditions}
    finally:
        server.stop()
    assert {"Ready", "NetworkUnavailable"} <= kinds
