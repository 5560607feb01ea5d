"""``stentor service``: frontends and their backends, as nodes balance them."""

from __future__ import annotations

from typing import Any

import click

from stentor.cli.inspect import ask, where
from stentor.cli.output import OUTPUT, emit, emit_rows
from stentor.cli.relay import AgentError


@click.group()
def service() -> None:
    """Services as nodes balance them."""


def _backends(view: dict[str, Any]) -> str:
    lines = (f"{number} => {each['address']} ({each['state']})" for number, each in enumerate(view["backends"], 1))
    return "\n".join(lines)


def _show(views: list[tuple[str, dict[str, Any]]], output: str) -> None:
    if output != "table":
        emit([view | ({"node": node} if node else {}) for node, view in views], output)
        return
    many = len({node for node, _ in views}) > 1
    columns = (("NODE",) if many else ()) + ("ID", "Frontend", "Service Type", "Backend")
    rows = [
        ([node] if many else []) + [view["id"] or "-", view["frontend"], view["type"], _backends(view)]
        for node, view in views
    ]
    emit_rows(columns, rows, "table")


@service.command("list")
@where
@OUTPUT
@click.pass_context
def service_list(ctx: click.Context, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """List frontends. An ID of "-" marks one whose address and port another service has."""
    answers = ask(ctx, "/v1/services", nodes, local)
    _show([(node, view) for node, views in answers for view in views], output)


@service.command("get")
@click.argument("which")
@where
@OUTPUT
@click.pass_context
def service_get(ctx: click.Context, which: str, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """Show frontends by WHICH: an id, ADDRESS:PORT, or NAMESPACE/NAME."""
    answers = ask(ctx, "/v1/services", nodes, local)
    found = [
        (node, view)
        for node, views in answers
        for view in views
        if which in (str(view["id"]), view["frontend"], view["frontend"].rpartition("/")[0])
        or which == f"{view['namespace']}/{view['name']}"
    ]
    if not found:
        raise AgentError(f"no service {which}; `stentor service list` shows all")
    _show(found, output)
