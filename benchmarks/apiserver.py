"""The API server: start, creates a second over HTTPS (memory, ConfigMaps and Pods), a list of 10,000 pods, events to watchers.

The client runs in this process and takes a core of its own. `apiserver.py PODS` uses fewer pods.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from measure import save, summarise

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from apiservers.memory import config_map, pod
from apiservers.process import Server

CONCURRENT = 16
ROUNDS = 10
WATCHERS = 10


async def create(session: aiohttp.ClientSession, path: str, documents: list[dict[str, Any]]) -> float:
    """Creates a second."""
    left = iter(documents)

    async def worker() -> None:
        for document in left:
            async with session.post(path, json=document) as answer:
                assert answer.status == 201, await answer.text()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    return len(documents) / (time.perf_counter() - began)


async def listing(session: aiohttp.ClientSession, path: str) -> float:
    """Milliseconds until the last byte."""
    began = time.perf_counter()
    async with session.get(path) as answer:
        async for _ in answer.content.iter_any():
            pass
    return (time.perf_counter() - began) * 1000


async def watching(session: aiohttp.ClientSession, changes: int) -> float:
    """Events a second that arrive at all watchers while statuses are patched."""
    async with session.get("/api/v1/pods?limit=1") as answer:
        revision = (await answer.json())["metadata"]["resourceVersion"]

    async def watcher() -> int:
        seen = 0
        async with session.get(f"/api/v1/pods?watch=1&resourceVersion={revision}") as answer:
            async for chunk in answer.content.iter_any():
                seen += chunk.count(b"\n")
                if seen >= changes:
                    return seen
        return seen

    numbers = itertools.count()

    async def writer() -> None:
        while (number := next(numbers)) < changes:
            patch = json.dumps({"status": {"message": f"{time.time()}"}})
            media = {"Content-Type": "application/merge-patch+json"}
            path = f"/api/v1/namespaces/default/pods/p-{number % 100}/status"
            async with session.patch(path, data=patch, headers=media) as answer:
                assert answer.status == 200, await answer.text()

    began = time.perf_counter()
    counts = await asyncio.gather(*(watcher() for _ in range(WATCHERS)), *(writer() for _ in range(CONCURRENT)))
    return sum(c or 0 for c in counts) / (time.perf_counter() - began)


def start(server: Server) -> float:
    """Milliseconds from the process's start, interpreter and imports included, until it serves."""
    server.stop()
    began = time.perf_counter()
    server.start()
    return (time.perf_counter() - began) * 1000


async def main(pods: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory)).start()
        try:
            samples = await measure(server, pods)
        finally:
            server.stop()
    for name, values in samples.items():
        print(f"{name:45} {summarise(values)}")
    save("apiserver", samples)


async def measure(server: Server, pods: int) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {"start (ms)": [start(server) for _ in range(ROUNDS)]}
    connector = aiohttp.TCPConnector(ssl=server.context(), limit=0)
    async with aiohttp.ClientSession(server.url, connector=connector, read_bufsize=1 << 22) as session:
        makers: dict[str, Callable[[str], dict[str, Any]]] = {"configmaps": config_map, "pods": pod}
        for round_ in range(ROUNDS):
            for plural, make in makers.items():
                count = pods // ROUNDS
                documents = [make(f"p-{round_ * count + n}") for n in range(count)]
                rate = await create(session, f"/api/v1/namespaces/default/{plural}", documents)
                out.setdefault(f"create {plural} (1/s)", []).append(rate)
        for _ in range(ROUNDS):
            out.setdefault(f"list {pods} pods (ms)", []).append(await listing(session, "/api/v1/pods"))
            selected = "/api/v1/pods?fieldSelector=spec.nodeName=none"
            out.setdefault("list the pods of a node (ms)", []).append(await listing(session, selected))
            out.setdefault(f"events to {WATCHERS} watchers (1/s)", []).append(await watching(session, 300))
    return out


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
