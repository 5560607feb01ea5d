"""What CNI costs: stentor-cni, programs attached and policy in force, against the reference bridge + host-local plugins.

In a lab of one node whose runner is stopped, so that this program is the only runtime: pods exist on the API server, the
agent knows their labels, and ADD and DEL are called as a runtime calls them, from the plugin's exec to its exit. Each
round attaches one pod by each rival, and then a batch at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from measure import interleave, save, table

ROUNDS = 20
BATCH = 16
BATCH_ROUNDS = 10
ROOT = Path(__file__).parents[1]
BIN = ROOT / "src/stentor/bin"
STENTOR = Path(sys.executable).parent / "stentor"
KUBECTL = Path(sys.executable).parent / "kubectl"
REFERENCE = Path("/usr/lib/cni")
OURS, THEIRS = "stentor-cni", "bridge + host-local"
TOPOLOGY = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "bench-cni"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["172.18.0.0/24", "fd00:18::/64"]}],
        "clusters": [
            {
                "name": "default",
                "nodes": [
                    {"name": "node-1", "networks": [{"name": "lan", "addresses": ["172.18.0.11", "fd00:18::11"]}]}
                ],
            }
        ],
    },
}


# ---- outside: the lab


def main() -> None:
    """Prints Markdown, saves JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-cni-") as home, lab(Path(home)) as inside:
        samples = json.loads(inside("--inside"))
    save("cni", samples)
    for title, unit, key in (
        ("CNI ADD, plugin exec to exit", "ms", "add"),
        ("CNI DEL, plugin exec to exit", "ms", "del"),
        (f"Pods attached a second, {BATCH} at once", "pods/s", "rate"),
    ):
        print(table(title, unit, samples[key], OURS))


@contextlib.contextmanager
def lab(home: Path) -> Iterator[Callable[[str], str]]:
    """A lab of one node with pods that nobody starts; yields a way to run this file in the node."""
    environment = {**os.environ, "STENTOR_LAB_HOME": str(home / "labs")}

    def stentor(*words: str) -> str:
        return subprocess.run(
            [str(STENTOR), *words], env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    topology = home / "topology.json"
    topology.write_text(json.dumps(TOPOLOGY))
    try:
        stentor("lab", "up", str(topology))
        kubeconfig = stentor("lab", "kubeconfig").strip()
        stentor("lab", "stop", "node-1/runner")
        pods = "\n---\n".join(json.dumps(pod(number)) for number in range(BATCH))
        kubectl = [str(KUBECTL), "--kubeconfig", kubeconfig]
        subprocess.run([*kubectl, "create", "-f", "-"], input=pods, text=True, check=True, stdout=subprocess.DEVNULL)
        yield lambda flag: stentor("lab", "exec", "node-1", "--", sys.executable, __file__, flag)
    finally:
        stentor("lab", "down", "--all")


def pod(number: int) -> dict[str, Any]:
    meta = {"name": f"pod-{number}", "namespace": "default", "labels": {"app": "bench"}}
    spec = {"nodeName": "node-1", "containers": [{"name": "main", "image": "pause"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


# ---- inside: the node


class Rival:
    """One network configuration."""

    def __init__(self, program: Path, config: dict[str, Any]) -> None:
        self._program = program
        self._config = config
        self._timings: dict[str, list[float]] = {"ADD": [], "DEL": []}

    def add_and_delete(self) -> float:
        """Milliseconds of ADD; DEL's are kept."""
        with sandbox() as netns:
            attachment = Attached(self, netns, 0)
            attachment.add()
            self._timings["DEL"].append(attachment.delete())
            return attachment.add_ms

    def batch_rate(self) -> float:
        """Pods a second when a batch arrives at once."""
        with contextlib.ExitStack() as stack:
            attached = [Attached(self, stack.enter_context(sandbox()), number) for number in range(BATCH)]
            with concurrent.futures.ThreadPoolExecutor(BATCH) as pool:
                began = time.perf_counter()
                list(pool.map(Attached.add, attached))
                took_s = time.perf_counter() - began
                list(pool.map(Attached.delete, attached))
            return BATCH / took_s

    @property
    def delete_ms(self) -> list[float]:
        return self._timings["DEL"]

    def call(self, command: str, netns: str, container: str, name: str, previous: Any) -> tuple[float, Any]:
        """Milliseconds from the plugin's exec to its exit, and its answer."""
        config = self._config if previous is None else {**self._config, "prevResult": previous}
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._program.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}",
        }
        return spawn(self._program, environment, json.dumps(config).encode())


class Attached:
    """One attachment and what it took."""

    def __init__(self, rival: Rival, netns: str, number: int) -> None:
        self._rival = rival
        self._netns = netns
        self._pod = f"pod-{number}"
        self._container = uuid.uuid4().hex
        self._result: Any = None
        self.add_ms = 0.0

    def add(self) -> None:
        self.add_ms, self._result = self._rival.call("ADD", self._netns, self._container, self._pod, None)
        if len(self._result["ips"]) != 2:
            raise RuntimeError(f"not attached to both families: {self._result}")

    def delete(self) -> float:
        return self._rival.call("DEL", self._netns, self._container, self._pod, self._result)[0]


def spawn(program: Path, environment: Mapping[str, str], stdin: bytes) -> tuple[float, Any]:
    files = [os.memfd_create(name) for name in ("in", "out")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(files)]
        began = time.perf_counter()
        pid = os.posix_spawn(str(program), [str(program)], environment, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        took_ms = (time.perf_counter() - began) * 1e3
        output = os.pread(files[1], os.fstat(files[1]).st_size, 0)
        if status:
            raise RuntimeError(f"{program.name} {environment['CNI_COMMAND']}: {output.decode()}")
        return took_ms, json.loads(output or b"{}")
    finally:
        for fd in files:
            os.close(fd)


@contextlib.contextmanager
def sandbox() -> Iterator[str]:
    """A network namespace with a path, as runtimes pin them."""
    path = f"/run/netns/bench-{uuid.uuid4().hex[:12]}"
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run([str(BIN / "podrun"), "sandbox", "-N", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
        os.unlink(path)


def measure() -> None:
    """In the node's namespaces; the samples go to standard output."""
    conflist = json.loads(Path("/etc/cni/net.d/05-cilium.conflist").read_text())
    ours = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": "1.0.0"}
    ranges = [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/112"}]]
    theirs = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipam": {"type": "host-local", "dataDir": "/run/bench-ipam", "ranges": ranges},
    }
    rivals = {OURS: Rival(BIN / "stentor-cni", ours), THEIRS: Rival(REFERENCE / "bridge", theirs)}
    for rival in rivals.values():
        rival.add_and_delete()  # the bridge is made, the agent has met the labels
        rival.delete_ms.clear()
    add = interleave({name: rival.add_and_delete for name, rival in rivals.items()}, ROUNDS)
    deleted = {name: list(rival.delete_ms) for name, rival in rivals.items()}
    rate = interleave({name: rival.batch_rate for name, rival in rivals.items()}, BATCH_ROUNDS)
    print(json.dumps({"add": add, "del": deleted, "rate": rate}))


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["--inside"] else main()
