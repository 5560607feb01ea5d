"""One set of loaded programs for all tests of this directory: loading takes a third of a second."""

from __future__ import annotations

import pytest

from datapaths.bench import Bench


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
