"""Labs for system tests: brought up under a unique name, always taken down, and nothing of them may stay behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labs.lab import STENTOR, Lab, LabFactory, remove, run

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of this test process's own: parallel runs never see each other's labs."""
    return tmp_path_factory.mktemp("labs") / "home"


@pytest.fixture(scope="session")
def lab_environment(lab_home: Path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "STENTOR_LAB_HOME")}
    return {**environment, "STENTOR_LAB_HOME": str(lab_home)}


@pytest.fixture(scope="session")
def leash() -> Iterator[int]:
    """A pipe whose end tells every guard that this test process has gone, however it went."""
    read_end, write_end = os.pipe()
    yield read_end
    os.close(read_end)
    os.close(write_end)


@pytest.fixture(scope="session")
def lab_maker(lab_environment: dict[str, str], leash: int, tmp_path_factory: pytest.TempPathFactory) -> LabFactory:
    """Brings up a lab without taking it down: for fixtures of a wider scope, which call `remove`."""

    def make(topology: str | dict[str, Any] | None = None, *options: str, name: str = "") -> Lab:
        name = name or f"test-{os.getpid()}-{next(_numbers)}"
        arguments = [str(STENTOR), "lab", "up", "--name", name, "--die-with-fd", str(leash), *options]
        if topology is not None:
            file = tmp_path_factory.mktemp("topology") / f"{name}.yaml"
            file.write_text(topology if isinstance(topology, str) else yaml.safe_dump(topology))
            arguments.append(str(file))
        run(arguments, lab_environment, check=True, pass_fds=(leash,))
        return Lab(name, lab_environment)

    return make


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


@pytest.fixture(autouse=True, scope="session")
def _no_lab_left(lab_home: Path) -> Iterator[None]:
    """At the end of a run no lab of this process may be there."""
    yield
    assert list(lab_home.glob("*")) == []
