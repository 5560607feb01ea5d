"""The documentation and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stentor.datapath.maps import MAPS
from stentor.runtime.config import Values, paths

ROOT = Path(__file__).parents[2]


def leaves() -> list[str]:
    every = list(paths(Values))
    return [path for path in every if not any(other.startswith(path + ".") for other in every)]


def test_every_configuration_key_is_documented_and_exists() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    documented = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    assert documented == set(leaves())


def test_every_capacity_sizes_a_map() -> None:
    """Of those that do not, the documentation says that they are reserved."""
    wanted = {path for path in leaves() if path.startswith("bpf.") and path.endswith("Max")}
    sizes = {f"bpf.{layout.limit}" for layout in MAPS.values() if layout.limit is not None}
    page = (ROOT / "docs/configuration.md").read_text()
    assert wanted - sizes == {path for path in wanted if re.search(rf"^\| `{path}` .*\| reserved", page, re.MULTILINE)}
    assert sizes <= wanted


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    source = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", source.read_text()):
        if "://" not in target:
            assert (source.parent / target).exists(), f"{page} links to {target}"


def test_every_runtime_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert block is not None
    names = re.findall(r'"([A-Za-z0-9-]+)', block[1])
    page = (ROOT / "docs/dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []
