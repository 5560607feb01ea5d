"""From the API to the kernel's map: 10,000 endpoints of another node at an agent's start, and one change at a time.

A lab of two nodes; CiliumEndpoints of node-2 are written as another agent would write them, and rows are awaited in node-1's
pinned map. `ipcache.py COUNT CHANGES` runs a smaller one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import save, summarise

from stentor.api.cilium import (
    CILIUM_ENDPOINTS,
    AddressPair,
    CiliumEndpoint,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
)
from stentor.api.meta import ObjectMeta
from stentor.datapath.maps import ADDRESS, IPCACHE_ENTRY
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.lab.place import Place
from stentor.net.address import Addr
from stentor.sys.bpf import Map

STENTOR = Path(sys.executable).parent / "stentor"
NODE = "172.18.0.12"
_PARALLEL = 64
_FIRST_IDENTITY = 20000


def endpoint(number: int, identity: int) -> CiliumEndpoint:
    networking = EndpointNetworking(addressing=(AddressPair(ipv4=address(number)),), node=NODE)
    status = EndpointStatus(id=number + 1, identity=EndpointIdentity(id=identity), networking=networking, state="ready")
    return CiliumEndpoint(metadata=ObjectMeta(name=f"pod-{number}", namespace="default"), status=status)


def address(number: int) -> str:
    return f"10.200.{number >> 8}.{number & 255}"


def key(number: int) -> bytes:
    return ADDRESS.pack(Addr.parse(address(number)))


class Bench:
    """A lab with node-1's agent watched."""

    def __init__(self, home: Path) -> None:
        self.home = home / "labs"
        self.environment = {**os.environ, "STENTOR_LAB_HOME": str(self.home)}

    def lab(self, *arguments: str) -> None:
        subprocess.run([STENTOR, "lab", *arguments], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def map(self) -> Map:
        """node-1's ipcache, by its pin."""
        group = Place("default", self.home).cgroup / "machines/node-1/components/runner/cgroup.procs"
        return Map.open(Path(f"/proc/{group.read_text().split()[0]}/root/sys/fs/bpf/stentor/maps/ipcache"))


async def create(client: Client, count: int) -> None:
    slots = asyncio.Semaphore(_PARALLEL)

    async def one(number: int) -> None:
        async with slots:
            await client.create(CILIUM_ENDPOINTS, endpoint(number, _FIRST_IDENTITY + number))

    await asyncio.gather(*(one(number) for number in range(count)))


def await_rows(rows: Map, wanted: Sequence[int]) -> None:
    missing = list(wanted)
    while missing:
        missing = [number for number in missing if rows.get(key(number)) is None]
        time.sleep(0.001)


async def change_latencies_ms(client: Client, rows: Map, changes: int, count: int) -> list[float]:
    """From the moment before the PATCH is sent to the row in the map."""
    found = []
    for number in range(changes):
        which, identity = number % count, 40000 + number % 20000
        change = patch.merge({"status": {"identity": {"id": identity}}})
        began = time.perf_counter()
        sent = asyncio.ensure_future(client.patch(CILIUM_ENDPOINTS, f"pod-{which}", change, "default"))
        while IPCACHE_ENTRY.unpack(rows.get(key(which)) or bytes(IPCACHE_ENTRY.size))[0] != identity:
            await asyncio.sleep(0)
        found.append((time.perf_counter() - began) * 1e3)
        await sent
        await asyncio.sleep(0.01)
    return found


async def run(bench: Bench, count: int, changes: int) -> dict[str, object]:
    rows = bench.map()
    async with Client(load(bench.home / "default" / "kubeconfig")) as client:
        bench.lab("stop", "node-1/operator")  # these endpoints have no pods: they would be collected as garbage
        began = time.perf_counter()
        await create(client, count)
        written_s = time.perf_counter() - began
        await_rows(rows, range(count))
        live_s = time.perf_counter() - began
        bench.lab("stop", "node-1/agent")
        rows.delete_batch([key(number) for number in range(count)])
        began = time.perf_counter()
        bench.lab("start", "node-1/agent")
        await_rows(rows, range(count))
        start_s = time.perf_counter() - began
        latencies = await change_latencies_ms(client, rows, changes, count)
    return {"endpoints": count, "written_s": written_s, "live_s": live_s, "start_s": start_s, "change_ms": latencies}


def main(count: int = 10_000, changes: int = 300) -> None:
    """Prints Markdown, saves JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-ipcache-") as home:
        bench = Bench(Path(home))
        try:
            bench.lab("up")
            found = asyncio.run(run(bench, count, changes))
        finally:
            bench.lab("down", "--all")
    save("ipcache", found)
    latencies = sorted(found["change_ms"])  # type: ignore[call-overload]
    p99 = latencies[int(len(latencies) * 0.99)]
    print(f"### {count} endpoints from the API to the map\n")
    print("| what | result |\n|---|---|")
    print(f"| written to the API, {_PARALLEL} at once | {found['written_s']:.2f} s |")
    print(f"| until the last is in the map of a running agent | {found['live_s']:.2f} s |")
    print(f"| agent's start to the last row (list, nothing in the map) | {found['start_s']:.2f} s |")
    print(f"| one change, PATCH sent to row changed, median | {summarise(latencies)} ms |")
    print(f"| one change, p99 | {p99:.1f} ms |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
