"""Write the interoperability table of docs/bgp.md from the features that tests/interop/bgp/test_bgp_matrix.py checks."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "bgp.md"
BEGIN, END = "<!-- begin: tools/bgp_matrix.py -->\n", "<!-- end -->"


def render() -> str:
    """The table as Markdown."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "interop" / "bgp")]
    from test_bgp_matrix import ALL, FEATURES

    lines = ["| feature | " + " | ".join(ALL) + " |", "|---" * (len(ALL) + 1) + "|"]
    for feature in FEATURES:
        marks = ("✓" if peer in feature.peers else "–" for peer in ALL)
        lines.append(f"| {feature.name} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def replace(page: str) -> str:
    """The page with the current table."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + render() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(replace(PAGE.read_text()))
