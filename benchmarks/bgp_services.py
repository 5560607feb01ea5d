"""How long a change of a LoadBalancer service takes to the tables of two routers, with a thousand services advertised already.

One node, two BIRD routers with the kernel as their table. A sample is the time from sending the PATCH of a service's status to
the moment when both routers' kernels have the route (announced) or have it no more (withdrawn): API server, watch, load
balancer's maps, BGP, and the routers' own work are all in it. The same for the last ready endpoint of a node, of a service with
`externalTrafficPolicy: Local`: from the PATCH of its EndpointSlice.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import yaml
from measure import save, summarise

from labs.lab import STENTOR, Lab, eventually, run
from stentor.api.core import ENDPOINT_SLICES, SERVICES
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.config import find

SERVICES_COUNT = 1000
ROUNDS = 100
ROUTERS = {"tor-1": ("172.22.0.5", 6500), "tor-2": ("172.22.0.6", 6600)}
_BIRD = """router id {address};
protocol device {{}}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; import none; }}; }}
protocol bgp node {{ local as {asn}; neighbor 172.22.0.11 as 65100; passive yes; ipv4 {{ import all; export none; }}; }}
"""
TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "bgp-services"},
    "spec": {
        "networks": [{"name": "fabric", "cidrs": ["172.22.0.0/24"]}],
        "clusters": [
            {
                "name": "c1",
                "values": {"bgpControlPlane": {"enabled": True}},
                "nodes": [{"name": "node-1", "networks": [{"name": "fabric", "addresses": ["172.22.0.11"]}]}],
            }
        ],
        "hosts": [
            {
                "name": name,
                "networks": [{"name": "fabric", "addresses": [address]}],
                "files": {"/etc/bird/bird.conf": _BIRD.format(address=address, asn=asn)},
                "run": [["bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird.ctl"]],
            }
            for name, (address, asn) in ROUTERS.items()
        ],
    },
}
POLICY = {
    "apiVersion": "cilium.io/v2alpha1",
    "kind": "CiliumBGPPeeringPolicy",
    "metadata": {"name": "all"},
    "spec": {
        "virtualRouters": [
            {
                "localASN": 65100,
                "serviceSelector": {},
                "neighbors": [{"peerAddress": f"{address}/32", "peerASN": asn} for address, asn in ROUTERS.values()],
            }
        ]
    },
}


def name(number: int) -> str:
    return f"service-{number}"


def address(number: int) -> str:
    return f"198.18.{number // 250}.{number % 250 + 1}"


class Routes:
    """A router's kernel table, followed by its own messages."""

    def __init__(self, lab: Lab, machine: str) -> None:
        command = [str(STENTOR), "lab", "exec", "--name", lab.name, machine, "--", "ip", "-o", "monitor", "route"]
        self._process = subprocess.Popen(command, env=lab.environment, stdout=subprocess.PIPE, text=True)
        self._seen: dict[tuple[str, bool], float] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.match(r"(Deleted )?(\d+\.\d+\.\d+\.\d+) ", line)
            if found:
                with self._news:
                    self._seen[found.group(2), not found.group(1)] = time.monotonic()
                    self._news.notify_all()

    def wait(self, prefix: str, is_there: bool, since: float) -> float:
        """When the table last changed to that, after `since`."""
        with self._news:
            done = self._news.wait_for(lambda: self._seen.get((prefix, is_there), 0.0) > since, 30)
            assert done, f"{prefix} does not {'come' if is_there else 'go'}"
            return self._seen[prefix, is_there]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def service(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [{"port": 80}]},
    }


async def give(client: Client, number: int, *addresses: str) -> None:
    status = {"status": {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}}}
    await client.patch(SERVICES, name(number), patch.merge(status), "default", subresource="status")


LOCAL, LOCAL_ADDRESS = "local", "198.18.255.1"
LOCAL_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": LOCAL, "namespace": "default"},
    "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]},
}


def local_slice(*, is_ready: bool) -> dict[str, Any]:
    endpoint = {"addresses": ["10.0.0.200"], "nodeName": "node-1", "conditions": {"ready": is_ready}}
    meta = {"name": LOCAL, "namespace": "default", "labels": {"kubernetes.io/service-name": LOCAL}}
    slice_of = {"addressType": "IPv4", "endpoints": [endpoint], "ports": [{"port": 80, "protocol": "TCP", "name": ""}]}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, **slice_of}


async def turn(client: Client, *, is_ready: bool) -> None:
    obj = patch.apply_document(local_slice(is_ready=is_ready), manager="bench")
    await client.patch(ENDPOINT_SLICES, LOCAL, obj, "default")


async def prepare(client: Client) -> None:
    slots = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with slots:
            obj = patch.apply_document(service(number), manager="bench")
            await client.patch(SERVICES, name(number), obj, "default")
            await give(client, number, address(number))

    await asyncio.gather(*(one(number) for number in range(SERVICES_COUNT)))
    await client.patch(SERVICES, LOCAL, patch.apply_document(LOCAL_SERVICE, manager="bench"), "default")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": LOCAL_ADDRESS}]}}}
    await client.patch(SERVICES, LOCAL, patch.merge(status), "default", subresource="status")


async def measure(client: Client, tables: list[Routes]) -> dict[str, list[float]]:
    """Milliseconds of each change."""
    samples: dict[str, list[float]] = {
        "announced": [],
        "withdrawn": [],
        "first ready endpoint": [],
        "last ready endpoint gone": [],
    }
    for round_number in range(ROUNDS):
        for kind, is_there in (("announced", True), ("withdrawn", False)):
            new = f"198.19.0.{round_number + 1}"
            began = time.monotonic()
            await give(client, round_number, address(round_number), *([new] if is_there else []))
            ends = [await asyncio.to_thread(table.wait, new, is_there, began) for table in tables]
            samples[kind].append((max(ends) - began) * 1000)
            await asyncio.sleep(0.02)
        for kind, is_there in (("first ready endpoint", True), ("last ready endpoint gone", False)):
            began = time.monotonic()
            await turn(client, is_ready=is_there)
            ends = [await asyncio.to_thread(table.wait, LOCAL_ADDRESS, is_there, began) for table in tables]
            samples[kind].append((max(ends) - began) * 1000)
            await asyncio.sleep(0.02)
    return samples


def count(lab: Lab, machine: str) -> int:
    text = lab.exec(machine, "birdc", "-s", "/run/bird.ctl", "show", "route", "count", check=False).stdout
    found = re.search(r"(\d+) of \d+ routes for \d+ networks in table master4", text)
    return int(found.group(1)) if found else 0


async def work(lab: Lab) -> dict[str, list[float]]:
    async with Client(find(str(lab.place.kubeconfig), None)) as client:
        began = time.monotonic()
        await prepare(client)
        eventually(lambda: all(count(lab, machine) >= SERVICES_COUNT for machine in ROUTERS), 120)
        print(f"{SERVICES_COUNT} services made and at both routers after {time.monotonic() - began:.1f} s")
        tables = [Routes(lab, machine) for machine in ROUTERS]
        await asyncio.sleep(1)
        try:
            return await measure(client, tables)
        finally:
            for table in tables:
                table.close()


def main() -> None:
    environment = {**os.environ, "STENTOR_LAB_HOME": tempfile.mkdtemp(prefix="bgp-services-")}
    lab = Lab(f"bgp-services-{os.getpid()}", environment)
    file = Path(environment["STENTOR_LAB_HOME"], "topology.yaml")
    file.write_text(yaml.safe_dump(TOPOLOGY))
    try:
        run([str(STENTOR), "lab", "up", "--name", lab.name, str(file)], environment, check=True)
        lab.kubectl("apply", "-f", "-", input=json.dumps(POLICY))
        samples = asyncio.run(work(lab))
    finally:
        lab.run("down", check=False)
    print(f"### A change of one of {SERVICES_COUNT} services × {len(ROUTERS)} routers, ms\n")
    print("| | median | worst |\n|---|---|---|")
    for what, values in samples.items():
        print(f"| {what} | {summarise(values).median:.1f} | {max(values):.1f} |")
    save("bgp_services", samples)


if __name__ == "__main__":
    main()
