"""Applies manifest files through the API, as `kubectl apply --server-side` does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, NotFound, Retryable

_MANAGER = "stentor-lab"
_PATIENCE_S = 15.0
_POLL_S = 0.05


class ManifestError(Exception):
    """A document cannot be applied; the text names file, object and the server's reason."""


class _ResourceType(msgspec.Struct, frozen=True):
    name: str
    kind: str
    namespaced: bool


class _ResourceTypes(msgspec.Struct, frozen=True):
    resources: tuple[_ResourceType, ...] = ()


def read(file: Path) -> list[Any]:
    """The objects of a YAML file, those of lists one by one. ManifestError when it is none."""
    try:
        documents = [d for d in yaml.safe_load_all(file.read_text(encoding="utf-8")) if d is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ManifestError(f"{file}: {e}") from e
    return [item for document in documents for item in _items(document)]


async def apply(client: Client, documents: Sequence[Any], source: str) -> None:
    """Applies objects in order. ManifestError, which names `source`, for the first that is refused."""
    for document in documents:
        if not (isinstance(document, dict) and isinstance(document.get("metadata"), dict)):
            raise ManifestError(f"{source}: not a Kubernetes object: {str(document)[:80]}")
        try:
            await _apply_patiently(client, document)
        except (ApiError, KeyError) as e:
            what = f"{document.get('kind', '?')} {document['metadata'].get('name', '?')}"
            reason = f"has no {e}" if isinstance(e, KeyError) else e.message
            raise ManifestError(f"{source}: {what}: {reason}") from e


def _items(document: Any) -> list[Any]:
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
        return list(document["items"] or ())
    return [document]


async def _apply_patiently(client: Client, document: dict[str, Any]) -> None:
    """Waits a while for what comes into being by an earlier document: a namespace, a CRD's kind."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE_S
    while True:
        try:
            path = await _path(client, document)
            change = patch.apply_document(document, manager=_MANAGER)
            await client.request("PATCH", path, query=change.parameters, body=change.body, media_type=change.media_type)
            return
        except (NotFound, Retryable):
            if loop.time() > end:
                raise
        await asyncio.sleep(_POLL_S)


async def _path(client: Client, document: dict[str, Any]) -> str:
    """The object's URL path, by discovery of its group and version."""
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    types = msgspec.json.decode(await client.request("GET", root), type=_ResourceTypes).resources
    found = next((t for t in types if t.kind == kind and "/" not in t.name), None)
    if found is None:
        raise NotFound(f"the server knows no kind {kind} in {version}")
    scope = f"/namespaces/{metadata.get('namespace', 'default')}" if found.namespaced else ""
    return f"{root}{scope}/{found.name}/{metadata['name']}"
