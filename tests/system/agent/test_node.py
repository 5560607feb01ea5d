"""What the agent learns of its own node from a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiservers.process import Server, make_server
from stentor.agent.node import LocalNode
from stentor.agent.store import StateDirectory
from stentor.kube.client import Client
from stentor.kube.config import find

STATUS = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = make_server(tmp_path)
    try:
        yield running
    finally:
        running.stop()


async def test_a_node_that_needs_its_own_pod_cidrs_waits_for_them(server: Server, tmp_path: Path) -> None:
    server.kubectl(
        "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
    )
    server.kubectl("patch", "node", "n", "--subresource=status", "--type=merge", "-p", json.dumps(STATUS))
    async with Client(find(str(server.pki / "admin.kubeconfig"), None)) as client, asyncio.timeout(60):
        node = LocalNode(client, "n", StateDirectory(tmp_path / "state"), cluster="default", families=(4, 6))
        found = asyncio.create_task(node.discover(needs_prefixes=True))
        while not client.requests:
            await asyncio.sleep(0.01)
        spec = {"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24", "fd00:9::/120"]}}
        await asyncio.to_thread(server.kubectl, "patch", "node", "n", "--type=merge", "-p", json.dumps(spec))
        assert (await found).node_pod_cidrs == ("10.9.0.0/24", "fd00:9::/120")
