"""Our own speaker in a namespace, as the process that users start."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.bench import PYTHON, Bench, kill, stop_server, wait_for
from stentor.bgp.client import ask, stream
from stentor.bgp.errors import Unreachable


class Speaker:
    """``configuration`` is the file's content as plain data; YAML reads JSON."""

    def __init__(
        self, bench: Bench, space: str, configuration: Mapping[str, Any], name: str = "speaker", *, waits: bool = True
    ) -> None:
        self._bench = bench
        self._space = space
        self._name = name
        self.socket = str(bench.directory / f"{name}.sock")
        self.bfd_socket = str(bench.directory / f"{name}.bfd.sock")
        self.file = bench.directory / f"{name}.yaml"
        self.process: subprocess.Popen[bytes] | None = None
        bench.at_exit(lambda: stop_server(self.bfd_socket))
        self.file.write_text(json.dumps(configuration))
        self.start(waits=waits)

    def start(self, *, waits: bool = True) -> None:
        """Start it (again) with the current file."""
        state = Path(self._bench.directory) / f"{self._name}.state"
        command = [PYTHON, "-m", "stentor.bgp.command", str(self.file), "--socket", self.socket]
        command += ["--bfd-socket", self.bfd_socket, "--state-dir", str(state)]
        self.process = self._bench.start(self._space, command, self._name)
        if waits:
            wait_for(f"{self._name} answers", self._answers)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        kill(self.process)

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Another configuration, over the control socket."""
        self.ask(request="apply", config=configuration)

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request's answer."""
        return ask(self.socket, request)

    def peer(self, name: str) -> dict[str, Any]:
        """A peer's status; empty when there is none of this name or address."""
        peers: list[dict[str, Any]] = self.ask(request="peers")["peers"]
        return next((each for each in peers if name in (each["name"], each["peerAddress"])), {})

    def is_established(self, name: str) -> bool:
        return bool(self.peer(name).get("sessionState") == "established")

    def received(self, name: str, afi: str = "ipv4") -> int:
        """Routes that a peer sent."""
        counts = self.peer(name).get("routeCount", [])
        return sum(each["received"] for each in counts if each["afi"] == afi)

    def routes(self, kind: str = "available", **request: Any) -> list[dict[str, Any]]:
        """Routes of the kinds that the control socket knows."""
        answers = stream(self.socket, {"request": "routes", "kind": kind, **request})
        return [route for answer in answers for route in answer["routes"]]

    def route(self, prefix: str, **request: Any) -> dict[str, Any]:
        """The best route to a prefix, empty when there is none."""
        family = "ipv6" if ":" in prefix else "ipv4"
        found = self.routes(prefix=prefix, family=family, **request)
        return next((each for each in found if each["best"]), {})

    def log(self) -> str:
        return self._bench.log(self._name)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self._name} ended: {self.log()}")
        try:
            self.ask(request="peers")
        except Unreachable:
            return False
        return True
