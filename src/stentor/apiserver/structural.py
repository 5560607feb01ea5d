"""Walks a document beside its schema: pruning of unknown fields, and defaults.

Both change the document in place. Source: structural schemas of apiextensions.k8s.io/v1 (pruning, defaulting,
nullable); built-in types follow the same rules, but a null there is the same as nothing, as in Go.
"""

from __future__ import annotations

from typing import Any

from stentor.apiserver.schema import MISSING, Schema, copy_json

_EMBEDDED = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Schema, *, nulls: bool, path: str = "") -> list[str]:
    """Remove what `schema` does not know, and nulls if `nulls`; the paths of unknown fields, as `spec.ports[0].x`."""
    if isinstance(value, dict):
        return _prune_members(value, schema, nulls, path)
    if isinstance(value, list) and schema.items is not None:
        unknown: list[str] = []
        items = schema.items
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                unknown += prune(item, items, nulls=nulls, path=f"{path}[{index}]")
        return unknown
    return []


def _prune_members(value: dict[str, Any], schema: Schema, nulls: bool, path: str) -> list[str]:
    unknown: list[str] = []
    dropped: list[str] = []
    for key, member in value.items():
        child = schema.child(key)
        if child is None:
            if not (schema.preserve or schema.additional is True or (schema.embedded and key in _EMBEDDED)):
                unknown.append(f"{path}.{key}" if path else key)
                dropped.append(key)
        elif member is None:
            if nulls and not child.preserve:
                dropped.append(key)
        elif isinstance(member, dict | list):
            unknown += prune(member, child, nulls=nulls, path=f"{path}.{key}" if path else key)
    for key in dropped:
        del value[key]
    return unknown


def set_defaults(value: Any, schema: Schema) -> None:
    """Fill in every missing member whose schema has a default, also below the filled ones."""
    if isinstance(value, list):
        items = schema.items
        if items is not None:
            for item in value:
                if isinstance(item, dict | list):
                    set_defaults(item, items)
        return
    for key, default in schema.defaults:
        present = value.get(key, MISSING)
        if present is MISSING or (present is None and not _is_nullable(schema, key)):
            value[key] = copy_json(default)
    for key, member in value.items():
        if isinstance(member, dict | list):
            child = schema.child(key)
            if child is not None:
                set_defaults(member, child)


def _is_nullable(schema: Schema, key: str) -> bool:
    child = schema.child(key)
    return child is not None and child.nullable
