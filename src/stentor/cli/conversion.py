"""Where `stentor bgp convert` reads from and how it writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from stentor.api.core import Node
from stentor.api.peering import PEERING_POLICIES, CiliumBGPPeeringPolicy
from stentor.bgp.resource.conversion import Conversion, convert
from stentor.cli.output import emit
from stentor.cli.relay import AgentError, Cluster, run

_NAMES = (PEERING_POLICIES.kind, "Node")


class _Plain(yaml.SafeDumper):
    """Writes equal parts out instead of `&id001` and `*id001`."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def of_files(files: Sequence[str]) -> Conversion:
    """Policies and nodes among the objects of files; ClickException names the object and field that is wrong."""
    objects = [found for file in files for found in _objects(file)]
    policies = [_decode(each, CiliumBGPPeeringPolicy) for each in objects if each.get("kind") == _NAMES[0]]
    nodes = [_decode(each, Node) for each in objects if each.get("kind") == _NAMES[1]]
    if not policies:
        raise click.ClickException(f"{', '.join(files)}: no {PEERING_POLICIES.kind}")
    return convert(policies, nodes)


def of_cluster(options: dict[str, str | None]) -> Conversion:
    """Policies and nodes of the cluster."""
    return run(_of_cluster(options))


async def _of_cluster(options: dict[str, str | None]) -> Conversion:
    from stentor.api.core import NODES
    from stentor.kube.errors import ApiError

    async with Cluster(options["kubeconfig"], options["context"]) as cluster:
        try:
            policies = await cluster.client.list(PEERING_POLICIES)
            nodes = await cluster.client.list(NODES)
        except ApiError as e:
            raise AgentError(f"{cluster.client.connection.server}: {e.message}") from e
    if not policies.items:
        raise click.ClickException(f"the cluster has no {PEERING_POLICIES.kind}")
    return convert(policies.items, nodes.items)


def write(made: Conversion, output: str) -> None:
    """Documents to standard output, losses to standard error."""
    documents = list(made.documents())
    if output == "json":
        emit({"apiVersion": "v1", "kind": "List", "items": documents}, "json")
    else:
        click.echo(yaml.dump_all(documents, Dumper=_Plain, sort_keys=False), nl=False)
    for loss in made.losses:
        click.echo(f"Not converted: {loss}", err=True)


def _objects(file: str) -> Iterator[dict[str, Any]]:
    """Every object of a file, members of lists one by one."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    except OSError as e:
        raise click.ClickException(f"{file}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise click.ClickException(f"{file}: not YAML: {e}") from e
    yield from _members(documents, file)


def _members(documents: Iterable[Any], file: str) -> Iterator[dict[str, Any]]:
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise click.ClickException(f"{file}: a document is no object")
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            yield from _members(document["items"], file)
        else:
            yield document


def _decode(document: dict[str, Any], kind: type[Any]) -> Any:
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$.")
        field = where.rstrip("`")
        raise click.ClickException(f"{document['kind']} {name}: {field}: {text}" if field else f"{name}: {text}") from e
