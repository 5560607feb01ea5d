"""From the API to the kernel's map: a service's EndpointSlice changes, and its row in a running agent's map follows.

A lab of one node with COUNT services; each change replaces the endpoint of one of them. Beside it, when the API server answers
the PATCH, and when another watch hears of it. `service_event.py [COUNT] [CHANGES]`.
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

import msgspec
from lab import shape
from measure import save, summarise

from stentor.api.core import ENDPOINT_SLICES, SERVICES, EndpointSlice, Service
from stentor.api.meta import ObjectKey
from stentor.datapath.maps import LB_KEY
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.kube.reflector import Reflector
from stentor.lab.place import Place
from stentor.net.address import Addr
from stentor.sys.bpf import Map
from stentor.tables.service import Protocol

STENTOR = Path(sys.executable).parent / "stentor"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
_PARALLEL = 32


def service(number: int) -> Service:
    raw = {"metadata": {"name": f"s-{number}", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}
    return msgspec.convert(raw, Service)


def endpoints(address: str) -> list[dict[str, object]]:
    return [{"addresses": [address], "conditions": {"ready": True}}]


def slice_of(number: int) -> bytes:
    labels = {"kubernetes.io/service-name": f"s-{number}"}
    return msgspec.json.encode(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"s-{number}", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}],
            "endpoints": endpoints("10.250.0.1"),
        }
    )


class Bench:
    """A lab whose one agent is watched."""

    def __init__(self, home: Path) -> None:
        self.home = home / "labs"
        self.environment = {**os.environ, "STENTOR_LAB_HOME": str(self.home)}

    def lab(self, *arguments: str) -> None:
        subprocess.run([STENTOR, "lab", *arguments], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def map(self) -> Map:
        """The only node's services, by the pin."""
        group = Place("bench", self.home).cgroup / "machines/c1-1/components/runner/cgroup.procs"
        return Map.open(Path(f"/proc/{group.read_text().split()[0]}/root/sys/fs/bpf/stentor/maps/lb_services"))


async def create(client: Client, count: int) -> list[bytes]:
    """The services' keys in the map."""
    slots = asyncio.Semaphore(_PARALLEL)

    async def one(number: int) -> bytes:
        async with slots:
            made = await client.create(SERVICES, service(number))
            await client.request("POST", SLICES, body=slice_of(number))
        return LB_KEY.pack(Addr.parse(made.spec.cluster_ip), 80, Protocol.TCP)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


class Latencies(msgspec.Struct):
    """From the moment before the PATCH is sent, in ms."""

    row: list[float] = []
    answer: list[float] = []
    event: list[float] = []


async def measure(client: Client, rows: Map, keys: list[bytes], changes: int) -> Latencies:
    """Until the row names another set of backends."""
    found, began = Latencies(), 0.0

    def heard(upserts: Sequence[EndpointSlice], gone: Sequence[ObjectKey]) -> None:
        if began:
            found.event.append((time.perf_counter() - began) * 1e3)

    def answered(_: object) -> None:
        found.answer.append((time.perf_counter() - began) * 1e3)

    reflector = Reflector(client, ENDPOINT_SLICES, heard)
    watch = asyncio.ensure_future(reflector.run())
    await reflector.synced.wait()
    await asyncio.sleep(2)  # what the services' creation left to do
    for number in range(changes):
        which = number * 7919 % len(keys)
        before = rows.get(keys[which])
        change = patch.merge({"endpoints": endpoints(f"10.251.{number >> 8}.{number & 255}")})
        began = time.perf_counter()
        sent = asyncio.ensure_future(client.patch(ENDPOINT_SLICES, f"s-{which}", change, "default"))
        sent.add_done_callback(answered)
        while rows.get(keys[which]) == before:
            await asyncio.sleep(0)
        found.row.append((time.perf_counter() - began) * 1e3)
        await sent
        await asyncio.sleep(0.01)
    watch.cancel()
    return found


async def run(bench: Bench, count: int, changes: int) -> Latencies:
    rows = bench.map()
    async with Client(load(bench.home / "bench" / "kubeconfig")) as client:
        keys = await create(client, count)
        while any(rows.get(key) is None for key in keys):
            await asyncio.sleep(0.01)
        return await measure(client, rows, keys, changes)


def main(count: int = 1_000, changes: int = 300) -> None:
    """Prints Markdown, saves JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-service-") as home:
        bench = Bench(Path(home))
        topology = Path(home) / "topology.yaml"
        topology.write_bytes(msgspec.json.encode(shape(1, 1)))
        try:
            bench.lab("up", str(topology))
            found = asyncio.run(run(bench, count, changes))
        finally:
            bench.lab("down", "--all")
    save(f"service-event-{count}", msgspec.to_builtins(found))
    print(f"### One EndpointSlice of {count:,} services changes, ms from before its PATCH is sent\n")
    for name, samples in (
        ("row changed", found.row),
        ("answer", found.answer),
        ("event at another watch", found.event),
    ):
        print(f"- {name}: median {summarise(samples)}, p99 {sorted(samples)[int(len(samples) * 0.99)]:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
