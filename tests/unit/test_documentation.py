"""The documentation and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from stentor.cli.bgp import bgp
from stentor.cli.lab import lab
from stentor.cli.main import cli
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


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*(p.name for p in ROOT.glob("*.md")), *map(str, (ROOT / "docs").rglob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    source = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", source.read_text()):
        if "://" not in target:
            place = source.parent / target if target else source
            assert place.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(place), f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("group", [cli, bgp, lab], ids=lambda group: group.name)
def test_every_command_is_documented(group: click.Group) -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("cli.md", "bgp.md", "lab.md"))
    within = "" if group is cli else f"{group.name} "
    names = group.list_commands(click.Context(group))
    assert [
        name for name in names if not re.search(rf"[`|]({within}|stentor {within})([a-z-]+\\?\|)*{name}\b", pages)
    ] == []


def test_every_runtime_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert block is not None
    names = re.findall(r'"([A-Za-z0-9-]+)', block[1])
    page = (ROOT / "docs/dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []


def test_code_refers_to_pages_that_exist() -> None:
    files = [path for name in ("src", "bpf", "cni", "tools", "benchmarks") for path in (ROOT / name).rglob("*.[pch]*")]
    text = {path: path.read_text() for path in files if path.suffix in (".py", ".c", ".h")}
    named = {(path.name, page) for path, words in text.items() for page in re.findall(r"docs/[a-z0-9/-]+\.md", words)}
    assert named
    assert {(name, page) for name, page in named if not (ROOT / page).exists()} == set()
