"""BIRD 2 in a namespace, asked over its control socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from io import BufferedRWPair
from typing import cast

from peers.bench import Bench, wait_for

_LAST_LINE = re.compile(r"^\d{4} ")


class Bird:
    """A BIRD with this configuration; ``process`` is the daemon. ``prefix`` is a command that runs it (``chrt …``)."""

    def __init__(
        self, bench: Bench, space: str, configuration: str, name: str = "bird", prefix: Sequence[str] = ()
    ) -> None:
        self._file = bench.directory / f"{name}.conf"
        self._control = bench.directory / f"{name}.ctl"
        self._file.write_text(configuration)
        self._stream: BufferedRWPair | None = None
        command = [*prefix, "bird", "-f", "-c", str(self._file), "-s", str(self._control)]
        self.process = bench.start(space, command, name)
        wait_for(f"{name} answers", self._connect)

    def ask(self, command: str) -> str:
        """A birdc command's answer."""
        assert self._stream is not None
        self._stream.write(command.encode() + b"\n")
        self._stream.flush()
        return self._read()

    def configure(self, configuration: str) -> str:
        """Replace the configuration."""
        self._file.write_text(configuration)
        return self.ask("configure")

    def is_established(self, protocol: str) -> bool:
        return "Established" in self.ask(f"show protocols {protocol}")

    def imported(self, protocol: str, channel: str = "ipv4") -> int:
        """Routes imported by a channel; costs the same at any table size."""
        found = re.search(
            rf"Channel {channel}\n(?:.*\n)*?\s+Routes:\s+(\d+) imported", self.ask(f"show protocols all {protocol}")
        )
        return int(found.group(1)) if found else 0

    def bfd_state(self, neighbor: str) -> str:
        """``Up``, ``Down``, ``Init``, ``AdminDown``; empty when there is no session."""
        for line in self.ask("show bfd sessions").splitlines():
            words = line.removeprefix("1020-").split()
            if words and words[0] == neighbor:
                return words[2]
        return ""

    def _connect(self) -> bool:
        assert self.process.poll() is None, "bird ended"
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._control))
        except OSError:
            connection.close()
            return False
        self._stream = cast(BufferedRWPair, connection.makefile("rwb"))
        self._read()
        return True

    def _read(self) -> str:
        assert self._stream is not None
        lines = []
        while True:
            line = self._stream.readline().decode()
            assert line, "bird closed its control socket"
            lines.append(line.rstrip("\n"))
            if _LAST_LINE.match(line):
                return "\n".join(lines)
