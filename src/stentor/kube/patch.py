"""The forms of PATCH: each body with the media type that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stentor.api.meta import JsonObject, Kind, Resource
from stentor.kube import raw


class Patch(msgspec.Struct, frozen=True):
    """A body ready to send; `parameters` go into the query."""

    media_type: str
    body: bytes
    parameters: dict[str, str] = {}


def merge(document: Mapping[str, Any] | msgspec.Struct, *, manager: str = "") -> Patch:
    """JSON merge patch (RFC 7386): None removes a field, lists are replaced. `manager` comes to own what it sets."""
    parameters = {"fieldManager": manager} if manager else {}
    return Patch("application/merge-patch+json", raw.encode_document(document), parameters)


def json(operations: Sequence[JsonObject]) -> Patch:
    """JSON patch (RFC 6902): operations with op, path, value, applied in order or not at all."""
    return Patch("application/json-patch+json", raw.encode_document(operations))


def strategic(document: Mapping[str, Any]) -> Patch:
    """Strategic merge patch, for built-in kinds: lists with merge keys (conditions by type) are merged."""
    return Patch("application/strategic-merge-patch+json", raw.encode_document(document))


def apply(kind: Kind[Any], obj: Resource, *, manager: str, force: bool = True) -> Patch:
    """Server-side apply: `manager` comes to own exactly the fields set in `obj`; the object is created when missing."""
    parameters = {"fieldManager": manager, "force": "true" if force else "false"}
    return Patch("application/apply-patch+yaml", raw.encode(kind, obj), parameters)


def apply_document(document: JsonObject, *, manager: str, force: bool = True) -> Patch:
    """Server-side apply of an object that has no struct, such as a CRD; it carries its apiVersion and kind itself."""
    parameters = {"fieldManager": manager, "force": "true" if force else "false"}
    return Patch("application/apply-patch+yaml", raw.encode_document(document), parameters)
