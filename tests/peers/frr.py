"""FRR (zebra, bgpd, bfdd, staticd) in a namespace, asked through vtysh."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.bench import Bench, run, wait_for

_DAEMONS = Path("/usr/lib/frr")


class Frr:
    """FRR daemons by name with their configurations, e.g. ``{"zebra": "", "bgpd": "router bgp 65002…"}``."""

    def __init__(self, bench: Bench, space: str, configurations: Mapping[str, str], name: str = "frr") -> None:
        self._space = space
        self._path = f"{bench.tag}-{name}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for parent in ("/etc/frr", "/var/run/frr"):
            directory = Path(parent) / self._path
            directory.mkdir(parents=True)
            shutil.chown(directory, "frr", "frr")
            bench.at_exit(lambda directory=directory: shutil.rmtree(directory, ignore_errors=True))  # type: ignore[misc]
        (Path("/etc/frr") / self._path / "vtysh.conf").touch()
        for daemon in sorted(configurations, key=lambda each: each != "zebra"):
            file = Path("/etc/frr") / self._path / f"{daemon}.conf"
            file.write_text(configurations[daemon])
            shutil.chown(file, "frr", "frr")
            command = [str(_DAEMONS / daemon), "-N", self._path, "-f", str(file), "-A", "127.0.0.1"]
            self.processes[daemon] = bench.start(space, command, f"{name}-{daemon}")
            socket = Path("/var/run/frr") / self._path / f"{daemon}.vty"
            wait_for(f"{daemon} answers", socket.exists)

    def ask(self, *commands: str) -> str:
        """Commands of one vtysh; its output."""
        flags = [word for command in commands for word in ("-c", command)]
        return run("ip", "netns", "exec", self._space, "vtysh", "-N", self._path, *flags)

    def json(self, command: str) -> Any:
        """A command's JSON; an empty mapping when there is none yet."""
        try:
            return json.loads(self.ask(f"{command} json") or "{}")
        except json.JSONDecodeError:
            return {}

    def is_established(self, neighbor: str) -> bool:
        peers = self.json(f"show bgp neighbors {neighbor}")
        return any(each.get("bgpState") == "Established" for each in peers.values() if isinstance(each, dict))

    def bfd_state(self, neighbor: str) -> str:
        """``up``, ``down``, ``init``, ``shutdown``; empty when there is no session."""
        found = [each for each in self.json("show bfd peers") if each["peer"] == neighbor]
        return str(found[0]["status"]) if found else ""
