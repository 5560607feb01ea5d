"""A test bench: network namespaces, links and processes that all end with it, however the test ends.

with Bench() as bench:
    a, b = bench.namespace("a"), bench.namespace("b")
    bench.link(a, "to-b", ["10.0.0.1/24"], b, "to-a", ["10.0.0.2/24"])
    bench.start(a, ["bird", …])
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
PYTHON = sys.executable


def run(*command: str, timeout_s: float = 30) -> str:
    """A command's output; CalledProcessError with it when the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_for(what: str, probe: Callable[[], T], deadline_s: float = 30, step_s: float = 0.02) -> T:
    """Ask ``probe`` until it answers something true; AssertionError with its last answer otherwise."""
    end = time.monotonic() + deadline_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s; last answer {answer!r}")
        time.sleep(step_s)


class Bench:
    """Namespaces named ``st<pid>-<random>-NAME``, a directory, and processes by namespace."""

    def __init__(self) -> None:
        self.tag = f"st{os.getpid()}-{secrets.token_hex(2)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._last: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for process in reversed(self._processes):
            stop(process)
        for action in reversed(self._last):
            action()
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def at_exit(self, action: Callable[[], None]) -> None:
        """Something else to undo, after the processes ended and before the namespaces go."""
        self._last.append(action)

    def namespace(self, name: str) -> str:
        """A fresh namespace without duplicate address detection, loopback up; its whole name."""
        whole = f"{self.tag}-{name}"
        run("ip", "netns", "add", whole)
        self._namespaces.append(whole)
        run("ip", "-n", whole, "link", "set", "lo", "up")
        settings = [f"net.ipv6.conf.{scope}.accept_dad=0" for scope in ("all", "default")]
        forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
        run("ip", "netns", "exec", whole, "sysctl", "-qw", *settings, *forwarding)
        return whole

    def link(
        self, a: str, a_name: str, a_addresses: Sequence[str], b: str, b_name: str, b_addresses: Sequence[str]
    ) -> None:
        """A veth pair between two namespaces, up, with these addresses."""
        run("ip", "-n", a, "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", b)
        for space, device, addresses in ((a, a_name, a_addresses), (b, b_name, b_addresses)):
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                run("ip", "-n", space, "address", "add", address, "dev", device, *nodad)
            run("ip", "-n", space, "link", "set", "dev", device, "up")

    def start(
        self, space: str, command: Sequence[str], name: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process in a namespace; what it prints goes to ``directory/NAME.log``."""
        with (self.directory / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
            )
        self._processes.append(process)
        return process

    def start_bfd(self, space: str, socket: str, *options: str) -> subprocess.Popen[bytes]:
        """Our BFD process with its control socket in the directory, as soon as it answers."""
        path = self.directory / socket
        command = [PYTHON, "-m", "stentor.bgp.bfd.command", "--socket", str(path), *options]
        process = self.start(space, command, "bfd")
        wait_for("the control socket", path.exists)
        return process

    def log(self, name: str) -> str:
        """What a process printed so far."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def link_local(self, space: str, device: str) -> str:
        """The link-local address of a device; it appears some moments after the link is up."""

        def look() -> str:
            words = run("ip", "-n", space, "-6", "-o", "address", "show", "dev", device, "scope", "link").split()
            return words[words.index("inet6") + 1].partition("/")[0] if "inet6" in words else ""

        return wait_for(f"{device} has a link-local address", look)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, gently at first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def stop_server(path: str) -> None:
    """End whoever serves a unix socket, if somebody does: a process that a process of ours started and left behind."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    os.kill(struct.unpack("=iII", credentials)[0], signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait until it is gone."""
    process.kill()
    process.wait(5)
