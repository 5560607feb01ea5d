"""Judges whether a cluster is ready, and applies the topology's manifests; a task of `lab up`.

Ready: every node Ready, every CRD of this installation Established and in discovery, the `default` ServiceAccount in each
namespace, an operator that leads, cluster DNS that answers. Runs in the control plane's network and reports over standard
output.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from stentor.api.core import CUSTOM_RESOURCE_DEFINITIONS, ENDPOINT_SLICES, LEASES, NAMESPACES, NODES, SERVICE_ACCOUNTS
from stentor.api.definition import Definition, needed
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.kube.errors import ApiError, NotFound
from stentor.lab import dns, manifest, progress
from stentor.runtime.config import parse

_POLL_S = 0.02
_REMIND_S = 5.0
_LEASE = "cilium-operator-resource-lock"
_LEASE_NAMESPACE = "kube-system"


class _GroupVersion(msgspec.Struct, frozen=True):
    version: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    versions: tuple[_GroupVersion, ...] = ()


class _Groups(msgspec.Struct, frozen=True):
    groups: tuple[_Group, ...] = ()


def main(argv: list[str]) -> int:
    """0 when the cluster is ready and the manifests are applied; else the reason has been told."""
    parser = argparse.ArgumentParser(prog="lab-readiness")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--nodes", required=True)
    parser.add_argument("--dns", required=True, help="addresses of the Service kube-dns")
    parser.add_argument("--machines", required=True, help="addresses of the lab's machines by name, JSON")
    parser.add_argument("--values", required=True, help="values of the cluster, JSON")
    parser.add_argument("manifests", nargs="*", type=Path)
    arguments = parser.parse_args(argv)
    nodes = tuple(arguments.nodes.split(","))
    try:
        machines = msgspec.json.decode(arguments.machines, type=dict[str, list[str]])
        cluster_dns = dns.manifests(arguments.dns.split(","), machines)
        definitions = needed(parse(msgspec.json.decode(arguments.values)))
        wanted = _Wanted(nodes, definitions)
        asyncio.run(_judge(arguments.kubeconfig, arguments.cluster, wanted, cluster_dns, arguments.manifests))
    except manifest.ManifestError as e:
        progress.tell(sys.stdout.fileno(), progress.Kind.FAILED, str(e))
        return 1
    return 0


class _Wanted(msgspec.Struct, frozen=True):
    """What a ready cluster has."""

    nodes: tuple[str, ...]
    definitions: tuple[Definition, ...]


async def _judge(
    kubeconfig: Path, cluster: str, wanted: _Wanted, cluster_dns: list[dict[str, Any]], manifests: list[Path]
) -> None:
    async with Client(load(kubeconfig), timeout_s=5.0, user_agent="stentor-lab") as client:
        await _start_dns(cluster, client, cluster_dns)
        await _wait(cluster, client, wanted)
        _step(f"cluster {cluster}: {', '.join(wanted.nodes)} Ready, operator leads")
        for file in manifests:
            documents = manifest.read(file)
            await manifest.apply(client, documents, str(file))
            _step(f"cluster {cluster}: applied {len(documents)} objects of {file.name}")


async def _start_dns(cluster: str, client: Client, objects: list[dict[str, Any]]) -> None:
    """As soon as the API answers: its pod starts while nodes get ready."""
    while True:
        try:
            await manifest.apply(client, objects, "cluster DNS")
            return
        except ApiError as e:
            _step(f"cluster {cluster}: waiting for its API server: {e.message}")
        await asyncio.sleep(_POLL_S)


async def _wait(cluster: str, client: Client, wanted: _Wanted) -> None:
    """Until nothing is missing; says every few seconds what is."""
    loop = asyncio.get_running_loop()
    reminder = loop.time() + _REMIND_S
    while True:
        try:
            missing = await anext(_missing(client, wanted), "")
        except ApiError as e:
            missing = f"its API server: {e.message}"
        if not missing:
            return
        if loop.time() > reminder:
            _step(f"cluster {cluster}: waiting for {missing}")
            reminder += _REMIND_S
        await asyncio.sleep(_POLL_S)


async def _missing(client: Client, wanted: _Wanted) -> AsyncIterator[str]:
    """What is not there yet; nothing when the cluster is ready.

    What comes last and is cheap to ask for comes first: whoever waits asks little.
    """
    known = {node.metadata.name: node for node in (await client.list(NODES)).items}
    for name in wanted.nodes:
        conditions = known[name].status.conditions if name in known else ()
        condition = next((c for c in conditions if c.type == "Ready"), None)
        if condition is None:
            yield f"node {name} to register"
        elif condition.status != "True":
            yield f"node {name} to be Ready ({condition.reason}: {condition.message})"
    selector = f"kubernetes.io/service-name={dns.SERVICE}"
    slices = await client.list(ENDPOINT_SLICES, dns.NAMESPACE, label_selector=selector)
    if not any(endpoint.conditions.ready for each in slices.items for endpoint in each.endpoints or ()):
        yield "cluster DNS to answer"
    if not await _leader(client):
        yield "an operator to lead"
    present = {d.metadata.name: d for d in (await client.list(CUSTOM_RESOURCE_DEFINITIONS)).items}
    for definition in wanted.definitions:
        found = present.get(definition.name)
        if not (found and any(c.type == "Established" and c.status == "True" for c in found.status.conditions)):
            yield f"CRD {definition.name} to be Established"
    groups = msgspec.json.decode(await client.request("GET", "/apis"), type=_Groups).groups
    served = {(group.name, version.version) for group in groups for version in group.versions}
    for definition in wanted.definitions:
        for version in definition.versions:
            if (definition.kind.group, version) not in served:
                yield f"{definition.kind.group}/{version} in discovery"
    accounts = await client.list(SERVICE_ACCOUNTS, field_selector="metadata.name=default")
    having = {account.metadata.namespace for account in accounts.items}
    for namespace in (await client.list(NAMESPACES)).items:
        if namespace.metadata.name not in having and not namespace.is_terminating:
            yield f"ServiceAccount default in namespace {namespace.metadata.name}"


async def _leader(client: Client) -> str | None:
    try:
        return (await client.get(LEASES, _LEASE, _LEASE_NAMESPACE)).spec.holder_identity
    except NotFound:
        return None


def _step(text: str) -> None:
    progress.tell(sys.stdout.fileno(), progress.Kind.STEP, text)
