"""kill -9 during writes: what was acknowledged is there afterwards, and watchers go on."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
from pathlib import Path

import aiohttp
import pytest

from apiservers.process import Server, make_server

WRITERS = 8


async def write(server: Server, prefix: str, acknowledged: dict[str, str]) -> None:
    """Create and update until the server is gone; `acknowledged` holds the last state of each that was answered."""
    numbers = itertools.count()

    async def writer(session: aiohttp.ClientSession, own: int) -> None:
        while True:
            name = f"{prefix}-{own}-{next(numbers)}"
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "1"}}
            async with session.post(f"{server.url}/api/v1/namespaces/default/configmaps", json=body) as answer:
                assert answer.status == 201
                await answer.read()
            acknowledged[name] = "1"
            body["data"] = {"v": "2"}
            async with session.put(f"{server.url}/api/v1/namespaces/default/configmaps/{name}", json=body) as answer:
                assert answer.status == 200
                await answer.read()
            acknowledged[name] = "2"

    connector = aiohttp.TCPConnector(ssl=server.context())
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        results = await asyncio.gather(*(writer(session, n) for n in range(WRITERS)), return_exceptions=True)
    assert all(isinstance(r, aiohttp.ClientError | ConnectionError) for r in results), results


async def kill_after(server: Server, acknowledged: dict[str, str], count: int) -> None:
    while len(acknowledged) < count:
        await asyncio.sleep(0.005)
    await asyncio.to_thread(server.stop, signal.SIGKILL)


@pytest.mark.parametrize("flags", [(), ("--durable",)], ids=["normal", "durable"])
async def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, flags: tuple[str, ...]) -> None:
    server = make_server(tmp_path / "server", *flags)
    acknowledged: dict[str, str] = {}
    before = server.request("GET", "/api/v1/namespaces/default/configmaps")[1]["metadata"]["resourceVersion"]
    try:
        for round_ in range(3):
            count = len(acknowledged) + random.randint(50, 200)
            await asyncio.gather(
                write(server, f"round-{round_}", acknowledged), kill_after(server, acknowledged, count)
            )
            server.start()
            items = server.request("GET", "/api/v1/namespaces/default/configmaps")[1]["items"]
            values = {i["metadata"]["name"]: i.get("data", {}).get("v") for i in items}
            lost = {n: v for n, v in acknowledged.items() if values.get(n, "0") < v}
            assert not lost, f"round {round_}: {lost}"
        query = f"watch=1&resourceVersion={before}&timeoutSeconds=1"
        _, events = server.request("GET", f"/api/v1/namespaces/default/configmaps?{query}")
        assert set(acknowledged) <= {line.split('"name":"')[1].split('"')[0] for line in events.splitlines()}
    finally:
        server.stop(signal.SIGKILL)


def test_sigterm_ends_cleanly_with_open_watches(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    watching = subprocess.Popen(server.command("get", "namespaces", "-w"), stdout=subprocess.PIPE)
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith(b"NAME")
        assert server.stop() == 0
    finally:
        watching.kill()
        watching.wait()
    server.start()
    assert "default" in server.kubectl("get", "namespaces")
    assert server.stop(signal.SIGINT) == 0
