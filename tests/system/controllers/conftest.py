"""A node with the workload controllers, and a second node that never runs anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodes.machine import Machine, node


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with node(tmp_path_factory.mktemp("node"), controllers=True) as made:
        yield made
