"""Strategic merge patch (apimachinery pkg/util/strategicpatch), driven by x-kubernetes-patch-* in the schema.

Besides values a patch carries directives: `$patch: replace|delete`, `$retainKeys`, `$setElementOrder/FIELD`,
`$deleteFromPrimitiveList/FIELD`. Lists with patch strategy merge are merged by their merge key (or as sets of
scalars) and then ordered: what the patch names in its own order, what only the server has relative to it.
"""

from __future__ import annotations

from typing import Any

from stentor.apiserver.errors import BadRequest
from stentor.apiserver.schema import Schema, copy_json

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"

Object = dict[str, Any]


def strategic_merge(original: Object, patch: Object, schema: Schema | None) -> Object:
    """The merged copy. Raises BadRequest for malformed directives."""
    return _merge_map(copy_json(original), copy_json(patch), schema)


def _merge_map(original: Object, patch: Object, schema: Schema | None) -> Object:
    directive = patch.pop(_PATCH, None)
    if directive == "replace":
        return patch
    if directive == "delete":
        return {}
    if directive is not None:
        raise BadRequest(f"unknown patch type {directive!r} for a map")
    _retain_keys(original, patch)
    _merge_ordered(original, patch, schema)
    for key, value in patch.items():
        deletion = key.startswith(_DELETE)
        field = key.removeprefix(_DELETE) if deletion else key
        child = schema.child(field) if schema else None
        if deletion:
            if isinstance(original.get(field), list):
                original[field] = [v for v in original[field] if v not in _listed(key, value)]
        elif value is None:
            original.pop(key, None)
        elif key not in original:
            if not _is_directive(value):
                original[key] = _without_directives(value)
        else:
            original[key] = _merge_value(original[key], value, child)
    return original


def _retain_keys(original: Object, patch: Object) -> None:
    kept = patch.pop(_RETAIN, None)
    if kept is None:
        return
    if not isinstance(kept, list):
        raise BadRequest("invalid $retainKeys: expected a list")
    for key, value in patch.items():
        if value is not None and not key.startswith("$") and key not in kept:
            raise BadRequest(f"{key} is in the patch but not in $retainKeys")
    for key in [k for k in original if k not in kept]:
        del original[key]


def _merge_value(original: Any, value: Any, schema: Schema | None) -> Any:
    replaces = schema is not None and "replace" in schema.strategies
    if isinstance(original, dict) and isinstance(value, dict) and not replaces:
        return _merge_map(original, value, schema)
    if isinstance(original, list) and isinstance(value, list):
        return _merge_list(original, value, schema)
    return _without_directives(value)


def _merges(schema: Schema | None) -> bool:
    return schema is not None and "merge" in schema.strategies


def _merge_list(original: list[Any], patch: list[Any], schema: Schema | None) -> list[Any]:
    if schema is None or not _merges(schema):
        return [_without_directives(v) for v in patch]
    if not original and not patch:
        return original
    if not any(isinstance(v, dict | list) for v in (*original, *patch)):
        merged = list(dict.fromkeys((*original, *patch)))
        return _order(merged, patch, original, "")
    key = schema.merge_key
    if not key:
        raise BadRequest("cannot merge lists without merge key")
    original, patch, replaced = _special_elements(original, patch, key)
    if replaced:
        return patch
    merged = list(original)
    for item in patch:
        at = _find(merged, item, key)
        if at is None:
            merged.append(_without_directives(item))
        else:
            merged[at] = _merge_map(copy_json(merged[at]), copy_json(item), schema.items)
    return _order(merged, patch, original, key)


def _special_elements(original: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any], bool]:
    """Carry out `$patch` elements: (original, patch without them, whether the patch replaces the list)."""
    rest, replaced = [], False
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequest(f"a list merged by {key!r} holds objects only")
        directive = item.get(_PATCH)
        if directive == "delete":
            if key not in item:
                raise BadRequest(f"delete patch type with no merge key {key!r} defined")
            original = [o for o in original if not isinstance(o, dict) or o.get(key) != item[key]]
        elif directive == "replace":
            replaced = True
        elif directive is not None:
            raise BadRequest(f"unknown patch type {directive!r} in a list")
        else:
            rest.append(item)
    return original, rest, replaced


def _find(items: list[Any], wanted: Any, key: str) -> int | None:
    """Index of the item with the same merge key, or of the same scalar."""
    if not key:
        return items.index(wanted) if wanted in items else None
    if not isinstance(wanted, dict) or key not in wanted:
        raise BadRequest(f"map: {wanted} does not contain declared merge key: {key}")
    return next((i for i, v in enumerate(items) if isinstance(v, dict) and v.get(key) == wanted[key]), None)


def _order(merged: list[Any], patch_order: list[Any], server_order: list[Any], key: str) -> list[Any]:
    """Items that the patch names in its order, the others in the server's, merged by the server's order."""
    named = sorted(
        (v for v in merged if _find(patch_order, v, key) is not None), key=lambda v: _find(patch_order, v, key) or 0
    )
    others = sorted(
        (v for v in merged if _find(patch_order, v, key) is None), key=lambda v: _position(server_order, v, key)
    )
    out: list[Any] = []
    while named and others:
        left, right = _find(server_order, others[0], key), _find(server_order, named[0], key)
        first = others if left is not None and right is not None and left < right else named
        out.append(first.pop(0))
    return out + named + others


def _position(items: list[Any], wanted: Any, key: str) -> int:
    at = _find(items, wanted, key)
    return len(items) if at is None else at


def _merge_ordered(original: Object, patch: Object, schema: Schema | None) -> None:
    """Carry out the lists of `patch` that have an order directive, and take them out of it."""
    for directive in [k for k in patch if k.startswith(_ORDER)]:
        order = _listed(directive, patch.pop(directive))
        field = directive.removeprefix(_ORDER)
        server = original.get(field)
        if server is None and field not in patch:
            continue
        child = schema.child(field) if schema else None
        key = child.merge_key if child else ""
        deleted = patch.pop(_DELETE + field, None)
        added = patch.pop(field, None)
        current = server if isinstance(server, list) else []
        if isinstance(deleted, list):
            current = [v for v in current if v not in deleted]
        if isinstance(added, list):
            _check_order(added, order, key, field)
            current = (
                _merge_list(current, added, child) if current else [v for v in map(_without_directives, added) if v]
            )
        original[field] = _order(current, order, server if isinstance(server, list) else [], key)


def _check_order(items: list[Any], order: list[Any], key: str, field: str) -> None:
    """What the patch holds has to come in the order that it sets."""
    at = -1
    for item in items:
        if isinstance(item, dict) and item.get(_PATCH) is not None:
            continue
        found = _find(order, item, key)
        if found is None or found <= at:
            raise BadRequest(f"The order in patch list:\n{items}\n doesn't match {_ORDER}{field} list:\n{order}\n")
        at = found


def _listed(directive: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"{directive}: expected a list")
    return value


def _without_directives(value: Any) -> Any:
    """A value that the server did not have, without nulls, directives, and objects that are a directive."""
    if isinstance(value, dict):
        return {
            k: _without_directives(v)
            for k, v in value.items()
            if v is not None and k != _RETAIN and not k.startswith((_ORDER, _DELETE)) and not _is_directive(v)
        }
    if isinstance(value, list):
        return [_without_directives(v) for v in value if not _is_directive(v)]
    return value


def _is_directive(value: Any) -> bool:
    return isinstance(value, dict) and _PATCH in value
