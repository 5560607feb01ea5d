"""``stentor crd`` and ``stentor version``."""

from __future__ import annotations

import platform

import click

import stentor
from stentor.cli.output import OUTPUT, emit


@click.command()
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.argument("names", nargs=-1, metavar="[NAME]...")
def crd(output: str, names: tuple[str, ...]) -> None:
    """Print the CustomResourceDefinitions, all or those of NAME (plural, kind or short name).

    \b
    stentor crd | kubectl apply -f -
    """
    from stentor.api.crd import documents

    every, chosen, left = documents(), [], set(names)
    for document in every:
        spec = document["spec"]["names"]
        known = {document["metadata"]["name"], spec["plural"], spec["singular"], spec["kind"], *spec["shortNames"]}
        if not names or known & set(names):
            chosen.append(document)
            left -= known
    if left:
        kinds = ", ".join(sorted(document["spec"]["names"]["kind"] for document in every))
        raise click.ClickException(f"no definition named {', '.join(sorted(left))}; there are: {kinds}")
    if output == "json":
        emit({"apiVersion": "v1", "kind": "List", "items": chosen}, "json")
        return
    import yaml

    click.echo(yaml.safe_dump_all(chosen, sort_keys=False), nl=False)


@click.command()
@OUTPUT
def version(output: str) -> None:
    """Print the version of this program."""
    facts = {"version": stentor.__version__, "python": platform.python_version(), "kernel": platform.release()}
    if output == "table":
        click.echo(f"Client: {facts['version']} (Python {facts['python']}, Linux {facts['kernel']})")
    else:
        emit(facts, output)
