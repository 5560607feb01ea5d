"""What the parts of the demo share: commands as a newcomer types them, proofs, and how they are told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
BIN = Path(sys.prefix) / "bin"
LIMIT_MS = 3000
_T = TypeVar("_T")


class Failed(Exception):
    """A command of the demo did not do what it should."""


class Stage:
    """A lab and what was proved in it; `proved` is shared by all parts.

    What does not depend on each other runs at once (`soon`); only the main thread tells, so all is told in order.
    """

    def __init__(self, lab: str, proved: list[tuple[bool, str]]) -> None:
        self.lab = lab
        self.proved = proved
        self.env = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}")
        self._threads = ThreadPoolExecutor(8)  # they mostly wait for commands
        self._leash, self._held = os.pipe()

    @property
    def leash(self) -> tuple[str, str]:
        """Options of `lab up`: the lab goes with this process, however that ends."""
        return ("--die-with-fd", str(self._leash))

    def run(self, *command: str, timeout_s: float = 60) -> str:
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, pass_fds=(self._leash,)
        )
        if done.returncode:
            raise Failed(f"{' '.join(command)}\n{done.stdout}{done.stderr}".rstrip())
        return done.stdout

    def soon(self, work: Callable[..., _T], *arguments: str) -> Future[_T]:
        """Work in the background: commands, nothing that prints."""
        return self._threads.submit(work, *arguments)

    def start(self, *command: str, script: str = os.devnull) -> subprocess.Popen[str]:
        """A command that goes on, with a file as its input: machines of a lab need not see where it lies."""
        pipe = subprocess.PIPE
        with (ROOT / script).open() as file:
            return subprocess.Popen(
                command,
                env=self.env,
                stdin=file,
                stdout=pipe,
                stderr=pipe,
                text=True,
                cwd=ROOT,
                pass_fds=(self._leash,),
            )

    def use_lab(self) -> None:
        """kubectl and stentor mean the lab's clusters from now on."""
        self.env["KUBECONFIG"] = self.run("stentor", "lab", "kubeconfig", "--name", self.lab).strip()

    def exec(self, machine: str, *command: str) -> str:
        return self.run(*self.inside(machine, *command))

    def inside(self, machine: str, *command: str) -> tuple[str, ...]:
        return ("stentor", "lab", "exec", "--name", self.lab, machine, "--", *command)

    def kubectl(self, cluster: str, *words: str) -> str:
        return self.run("kubectl", "--context", cluster, *words)

    def json(self, cluster: str, *words: str) -> Any:
        return json.loads(self.kubectl(cluster, *words, "-o", "json"))

    def show(self, *command: str) -> None:
        """Run a command and let the reader see it with its output."""
        tell(command, self.run(*command))

    def show_all(self, *commands: Sequence[str]) -> None:
        """The same for commands that may run at once."""
        outputs = [self.soon(self.run, *command) for command in commands]
        for command, output in zip(commands, outputs, strict=True):
            tell(command, output.result())

    def check(self, what: str, proof: Callable[[], bool]) -> None:
        try:
            good = proof()
        except (Failed, subprocess.TimeoutExpired) as error:
            print(f"    {error}")
            good = False
        self.record(good, what)

    def measure(self, what: str, found_ms: float | None, aim_ms: float) -> None:
        """A time. A busy machine may miss the aim, which is told; only what is beyond the limit is a failure."""
        if found_ms is None:
            self.record(False, f"{what}: not seen")
            return
        missed = "" if found_ms <= aim_ms else ", missed this time"
        self.record(found_ms <= LIMIT_MS, f"{what}: {found_ms:.0f} ms (aim: {aim_ms:.0f} ms{missed})")

    def until(self, what: str, happened: Callable[[], bool], limit_s: float = 20) -> None:
        """Wait for something; Failed when it does not happen."""
        end = time.monotonic() + limit_s
        while not happened():
            if time.monotonic() > end:
                raise Failed(f"{what}: not within {limit_s:.0f} s")
            time.sleep(0.02)

    def down(self) -> None:
        command = ["stentor", "lab", "down", "--name", self.lab]
        subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, check=False)

    def record(self, good: bool, what: str) -> None:
        """One proof, told at once and counted at the end."""
        self.proved.append((good, what))
        print(f"  {'ok  ' if good else 'FAIL'}  {what}", flush=True)


def tell(command: Sequence[str], output: str) -> None:
    print("  $ " + " ".join(command))
    print("    " + output.rstrip().replace("\n", "\n    "), flush=True)


@contextlib.contextmanager
def section(title: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"\n{title}", flush=True)
    yield
    print(f"  ({time.monotonic() - began:.1f} s)")
