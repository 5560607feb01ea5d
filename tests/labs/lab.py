"""A lab as a test sees it: what a user would type, and a look for what a lab left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stentor.lab.place import Place
from stentor.sys import cgroup

STENTOR = Path(sys.executable).parent / "stentor"
KUBECTL = Path(sys.executable).parent / "kubectl"


class Lab:
    """A running lab; `kubectl` and `exec` are what a user would type."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.environment = environment
        self.place = Place(name, Path(environment["STENTOR_LAB_HOME"]))

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """`stentor lab VERB --name NAME …`; a failure shows what was printed."""
        verb, *rest = arguments
        return run([str(STENTOR), "lab", verb, "--name", self.name, *rest], self.environment, check, **options)

    def exec(self, machine: str, *argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("exec", machine, "--", *argv, check=check, **options)

    def kubectl(
        self, *arguments: str, cluster: str = "", check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        context = ["--context", cluster] if cluster else []
        return run([str(KUBECTL), *context, *arguments], self.kube_environment, check, **options)

    def stentor(
        self, *arguments: str, cluster: str = "", check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Any other command of ours, against the lab's cluster."""
        where = ["--kubeconfig", str(self.place.kubeconfig), *(("--context", cluster) if cluster else ())]
        return run([str(STENTOR), *where, *arguments], self.environment, check, **options)

    @property
    def kube_environment(self) -> dict[str, str]:
        return {**self.environment, "KUBECONFIG": str(self.place.kubeconfig)}

    def objects(self, *arguments: str, cluster: str = "") -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json", cluster=cluster).stdout)

    def status(self) -> Any:
        return json.loads(self.run("status", "-o", "json", check=False).stdout)


LabFactory = Callable[..., Lab]


def remove(lab: Lab) -> None:
    """Takes a lab down and checks that nothing of it is left."""
    lab.run("down", check=True)
    assert leftovers(lab.place) == []


def leftovers(place: Place) -> list[str]:
    """What is left of a lab: its directory, cgroups, processes, mounts."""
    left = [str(place.directory)] if place.directory.exists() else []
    left += [str(path) for path in cgroup.root().glob(f"{place.cgroup.name}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if place.cgroup.name in (process / "cgroup").read_text():
                left.append(f"process {process.name} {(process / 'comm').read_text().strip()}")
        except OSError:
            continue  # ended meanwhile
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place.directory) in line]
    return left


def eventually(check: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """Calls `check` until it neither raises AssertionError nor returns something false; its result."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            result = check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        else:
            if result or result is None:
                return result
            assert time.monotonic() < end, f"still {result!r} after {deadline_s} s"
        time.sleep(0.05)


def run(
    argv: Sequence[str], environment: dict[str, str], check: bool, timeout: float = 110.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done
