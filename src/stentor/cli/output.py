"""How the command line prints: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="Form."
)


def emit(value: Any, output: str) -> None:
    """A document as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(value, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False), nl=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their content, three spaces apart; a cell may have several lines."""
    cells = [[str(cell).split("\n") for cell in row] for row in ([*columns], *rows)]
    widths = [max((len(line) for row in cells for line in row[i]), default=0) for i in range(len(columns))]
    lines = []
    for row in cells:
        height = max((len(cell) for cell in row), default=1)
        for at in range(height):
            parts = (cell[at] if at < len(cell) else "" for cell in row)
            lines.append("   ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines)


def emit_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], output: str) -> None:
    """A table, or a list of objects whose keys are the columns."""
    if output == "table":
        click.echo(table(columns, rows))
    else:
        emit([dict(zip(columns, row, strict=True)) for row in rows], output)
