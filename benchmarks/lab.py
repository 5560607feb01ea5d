"""How long a lab takes to start and to go, and what an agent costs: one cluster of two nodes, two clusters of three.

Unshared memory is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup; map memory is what the kernel charges for the BPF
maps that an agent holds (memlock of fdinfo).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from measure import interleave, save, summarise

from stentor.lab.place import Place

STENTOR = Path(sys.executable).parent / "stentor"
SHAPES = {"1 cluster × 2 nodes": (1, 2), "2 clusters × 3 nodes": (2, 3)}
ROUNDS = 10


class Bench:
    """Labs of the benchmark, below a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "STENTOR_LAB_HOME": str(home / "labs")}
        self.down_s: dict[str, list[float]] = {name: [] for name in SHAPES}
        self.agent_kib: dict[str, list[float]] = {name: [] for name in SHAPES}
        self.map_kib: dict[str, list[float]] = {name: [] for name in SHAPES}

    def round(self, name: str) -> float:
        """Brings the shape up, looks, takes it down; seconds until ready, as a user waits."""
        clusters, nodes = SHAPES[name]
        topology = self.home / "topology.yaml"
        topology.write_text(yaml.safe_dump(shape(clusters, nodes)))
        began = time.monotonic()
        self.run("up", str(topology))
        up_s = time.monotonic() - began
        for pid in self.agents():
            self.agent_kib[name].append(unshared_kib(pid))
            self.map_kib[name].append(maps_kib(pid))
        began = time.monotonic()
        self.run("down", "--all")
        self.down_s[name].append(time.monotonic() - began)
        return up_s

    def agents(self) -> list[int]:
        """Their process ids as the host counts them: the only processes of their cgroups."""
        groups = Place("bench", self.home / "labs").cgroup.glob("machines/*/components/agent/cgroup.procs")
        return [int(pid) for group in groups for pid in group.read_text().split()]

    def run(self, *arguments: str) -> str:
        done = subprocess.run([STENTOR, "lab", *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"lab {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


def shape(clusters: int, nodes: int) -> dict[str, object]:
    def cluster(number: int) -> dict[str, object]:
        machines = [{"name": f"c{number}-{n}", "networks": [{"name": "lan"}]} for n in range(1, nodes + 1)]
        pools = {
            "clusterPoolIPv4PodCIDRList": [f"10.{number}.0.0/16"],
            "clusterPoolIPv6PodCIDRList": [f"fd00:{number}::/104"],
        }
        return {"name": f"c{number}", "id": number, "values": {"ipam": {"operator": pools}}, "nodes": machines}

    spec = {
        "networks": [{"name": "lan", "cidrs": ["172.18.0.0/24", "fd00:18::/64"]}],
        "clusters": [cluster(number) for number in range(1, clusters + 1)],
    }
    metadata = {"name": "bench"}
    return {"apiVersion": "lab.stentor.io/v1", "kind": "Topology", "metadata": metadata, "spec": spec}


def unshared_kib(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return float(sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", rollup, re.MULTILINE)))


def maps_kib(pid: int) -> float:
    total = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        text = entry.read_text()
        if "map_id:" in text:
            total += int(re.search(r"^memlock:\s+(\d+)$", text, re.MULTILINE)[1])  # type: ignore[index]
    return total / 1024


def report(title: str, unit: str, samples: Mapping[str, Sequence[float]]) -> str:
    rows = [f"| {name} | {summarise(values)} |" for name, values in samples.items()]
    return "\n".join([f"### {title}", "", f"| | {unit} |", "|---|---|", *rows]) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="stentor-bench-") as directory:
        bench = Bench(Path(directory))
        try:
            up_s = interleave({name: lambda name=name: bench.round(name) for name in SHAPES}, rounds=ROUNDS)
        finally:
            bench.run("down", "--all")
    print(report("Lab: `stentor lab up` to ready", "s", up_s))
    print(report("Lab: `stentor lab down`", "s", bench.down_s))
    mib = {name: [kib / 1024 for kib in values] for name, values in bench.agent_kib.items()}
    print(report("Lab: unshared memory of an idle agent", "MiB", mib))
    maps = {name: [kib / 1024 for kib in values] for name, values in bench.map_kib.items()}
    print(report("Lab: memory of an agent's BPF maps", "MiB", maps))
    save("lab", {"up_s": up_s, "down_s": bench.down_s, "agent_mib": mib, "map_mib": maps})


if __name__ == "__main__":
    main()
