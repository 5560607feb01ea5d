"""From the creation of a pod to its first packet, with the operator up and away. `pod_start.py COUNT` for a smaller one.

The pod's command sends one datagram to a socket outside the cluster; its label set is known before. A pod that is not let out
yet tries again every 5 ms, so that the figure is when the first packet passed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measure import save

from stentor.api.meta import ObjectMeta
from stentor.api.pod import PODS, Container, Pod, PodSpec
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.lab.place import Place
from stentor.sys.namespace import visit_network

STENTOR = Path(sys.executable).parent / "stentor"
SINK, PORT = "172.18.0.50", 5300
_COMMAND = f'while :; do echo "$HOSTNAME" > /dev/udp/{SINK}/{PORT}; sleep 0.005; done'
TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "bench-start"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["172.18.0.0/24", "fd00:18::/64"]}],
        "clusters": [
            {
                "name": "default",
                "nodes": [
                    {
                        "name": f"node-{n}",
                        "networks": [{"name": "lan", "addresses": [f"172.18.0.1{n}", f"fd00:18::1{n}"]}],
                    }
                    for n in (1, 2)
                ],
            }
        ],
        "hosts": [{"name": "sink", "networks": [{"name": "lan", "addresses": [SINK]}], "run": [["sleep", "100000"]]}],
    },
}


def pod(name: str) -> Pod:
    container = Container(name="main", image="nicolaka/netshoot", command=("bash", "-c", _COMMAND))
    spec = PodSpec(node_name="node-2", containers=(container,), termination_grace_period_seconds=0)
    return Pod(metadata=ObjectMeta(name=name, namespace="default", labels={"app": "starter"}), spec=spec)


async def first_packets_ms(client: Client, sink: socket.socket, prefix: str, count: int) -> list[float]:
    loop = asyncio.get_running_loop()
    found = []
    for number in range(count):
        name = f"{prefix}-{number}"
        began = time.perf_counter()
        await client.create(PODS, pod(name))
        async with asyncio.timeout(60):
            while (await loop.sock_recv(sink, 200)).decode().strip() != name:
                pass
        found.append((time.perf_counter() - began) * 1e3)
        await client.delete(PODS, name, "default", grace_period_s=0)
    return found


def main(count: int = 100) -> None:
    """Prints Markdown, saves JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-start-") as home:
        labs = Path(home) / "labs"
        environment = {**os.environ, "STENTOR_LAB_HOME": str(labs)}

        def lab(*arguments: str) -> None:
            subprocess.run([STENTOR, "lab", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)

        topology = Path(home) / "topology.yaml"
        topology.write_text(yaml.safe_dump(TOPOLOGY))

        async def run() -> dict[str, list[float]]:
            group = Place("bench-start", labs).cgroup / "machines/sink"
            pid = next(pid for path in group.rglob("cgroup.procs") for pid in path.read_text().split())
            network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with visit_network(network):
                sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sink.bind((SINK, PORT))
            sink.setblocking(False)
            async with Client(load(labs / "bench-start" / "kubeconfig")) as client:
                await first_packets_ms(client, sink, "warm", 3)
                up = await first_packets_ms(client, sink, "up", count)
                lab("stop", "node-1/operator")
                away = await first_packets_ms(client, sink, "away", count)
            sink.close()
            os.close(network)
            return {"operator up": up, "operator away": away}

        try:
            lab("up", str(topology))
            found = asyncio.run(run())
        finally:
            lab("down", "--all")
    save("pod_start", found)
    print("### Pod creation to its first packet outside the cluster\n")
    print("| operator | p50 ms | p99 ms |\n|---|---|---|")
    for name, samples in found.items():
        ordered = sorted(samples)
        print(
            f"| {name.removeprefix('operator ')} | {ordered[len(ordered) // 2]:.1f} | {ordered[int(len(ordered) * 0.99)]:.1f} |"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
