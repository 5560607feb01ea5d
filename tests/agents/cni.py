"""Calls of the real plugin on a node of a lab, and namespaces to call it for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from agents.place import processes
from labs.lab import Lab

PLUGIN = Path(__file__).parents[2] / "src/stentor/bin/stentor-cni"
CONFIG = {"cniVersion": "1.1.0", "name": "cilium", "type": "stentor-cni"}


class Answer(NamedTuple):
    """Exit status and decoded output, {} for none."""

    status: int
    document: dict[str, Any]


class Runtime:
    """A container runtime's part on one node: calls the plugin inside the node's namespaces, as the runner does."""

    def __init__(self, lab: Lab, node: str) -> None:
        self.lab = lab
        self.node = node
        self.pid = processes(lab, rf"machines/{node}/components/runner")[0]
        self.root = Path(f"/proc/{self.pid}/root")
        self._enter = ["nsenter", "-t", str(self.pid), "-m", "-r", "-n", "-p"]
        self._made: list[str] = []

    def run(self, *argv: str, check: bool = True) -> str:
        return subprocess.run([*self._enter, *argv], capture_output=True, text=True, timeout=60, check=check).stdout

    def make_networks(self, *names: str) -> None:
        """Named network namespaces, in the node's /run/netns."""
        self._made += names
        self.run("sh", "-c", "".join(f"ip netns add {name}\n" for name in names))

    def open_network(self, name: str) -> int:
        return os.open(self.root / "run/netns" / name, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Remove every namespace that was made."""
        if self._made:
            self.run("sh", "-c", "".join(f"ip netns del {name} 2>/dev/null\n" for name in self._made), check=False)
            self._made.clear()

    def call(self, command: str, name: str, *, pod: str = "", config: object = CONFIG, **changes: str) -> Answer:
        """One call for the namespace `name`; `config` may be bytes that are no JSON."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"cid-{name}",
            "CNI_NETNS": f"/run/netns/{name}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod or name}",
        } | changes
        body = config if isinstance(config, bytes) else json.dumps(config).encode()
        done = subprocess.run(
            [*self._enter, str(PLUGIN)],
            input=body,
            env={key: value for key, value in variables.items() if value},
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {})
