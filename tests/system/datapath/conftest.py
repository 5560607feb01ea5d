"""Worlds are dear (1.5 s), so tests of a module share one; they put back what they change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from datapaths.nodes import World, mounted_bpffs


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with mounted_bpffs() as bpffs:
        made = World(bpffs)
        try:
            yield made
        finally:
            made.close()
