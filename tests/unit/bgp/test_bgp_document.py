"""What the documentation shows must be true: the generated table is fresh, the examples are valid."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from stentor.bgp.compile import compile_policies
from stentor.bgp.config import load, parse

ROOT = Path(__file__).parents[3]


def test_the_interoperability_table_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("bgp_matrix", ROOT / "tools" / "bgp_matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "bgp.md").read_text()
    assert module.replace(page) == page


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "bgp").glob("*.yaml")), ids=lambda file: file.name)
def test_examples_are_valid(file: Path) -> None:
    compile_policies(load(str(file)).policies)


def test_yaml_in_the_documentation_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "bgp.md").read_text(), re.DOTALL)
    assert blocks
    assert all(parse(block).instances for block in blocks)
