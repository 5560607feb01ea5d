"""Sets of field paths as FieldsV1 trees (structured-merge-diff pkg/fieldpath), and what a document's fields are.

A tree is what JSON shows: keys `f:NAME`, `k:{...}`, `v:VALUE`; an empty node is a member, a node with children is one
only if it holds `.` too. Trees are values: no function here changes its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from stentor.apiserver.schema import Schema

Tree = dict[str, Any]

SELF: Final = "."
# Struct fields that Go always has, so they are never added as a whole.
_ALWAYS = frozenset(("f:metadata", "f:spec", "f:status", "f:template", "f:strategy", "f:updateStrategy", "f:selector"))
_encode_key = msgspec.json.Encoder(order="sorted").encode


def is_member(node: Tree) -> bool:
    return not node or SELF in node


def union(a: Tree, b: Tree) -> Tree:
    """Paths of either; `a` and `b` are the children of the same node."""
    out = dict(a)
    for key, node in b.items():
        mine = out.get(key)
        if mine is None or key == SELF:
            out[key] = node
        elif mine != node:
            children = union({k: v for k, v in mine.items() if k != SELF}, {k: v for k, v in node.items() if k != SELF})
            out[key] = {SELF: {}, **children} if (is_member(mine) or is_member(node)) and children else children
    return out


def difference(a: Tree, b: Tree) -> Tree:
    """Paths of `a` that are not in `b`."""
    out: Tree = {}
    for key, node in a.items():
        other = b.get(key)
        if key == SELF:
            continue
        if other is None:
            out[key] = node
            continue
        children = difference(node, other)
        if is_member(node) and not is_member(other):
            out[key] = {SELF: {}, **children} if children else {}
        elif children:
            out[key] = children
    return out


def intersection(a: Tree, b: Tree) -> Tree:
    """Paths in both."""
    out: Tree = {}
    for key, node in a.items():
        other = b.get(key)
        if other is None or key == SELF:
            continue
        children = intersection(node, other)
        if is_member(node) and is_member(other):
            out[key] = {SELF: {}, **children} if children else {}
        elif children:
            out[key] = children
    return out


def with_parents(tree: Tree) -> Tree:
    """`tree` where named fields with children are members too (EnsureNamedFieldsAreMembers)."""
    out: Tree = {}
    for key, node in tree.items():
        if key == SELF or not node:
            out[key] = node
        else:
            children = with_parents(node)
            out[key] = {SELF: {}, **children} if key.startswith("f:") else children
    return out


def paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Every member as Kubernetes prints it: `.spec.containers[name="a"].image`."""
    for key, node in tree.items():
        if key == SELF:
            continue
        path = prefix + _show(key)
        if is_member(node):
            yield path
        yield from paths(node, path)


def _show(key: str) -> str:
    if key.startswith("f:"):
        return "." + key[2:]
    if key.startswith("k:"):
        pairs = msgspec.json.decode(key[2:])
        return "[" + ",".join(f"{k}={msgspec.json.encode(v).decode()}" for k, v in sorted(pairs.items())) + "]"
    return f"[={key[2:]}]"


def item_key(item: Any, schema: Schema) -> str | None:
    """Path element of a list item: `k:…` or `v:…`; None when the item lacks all keys."""
    if schema.list_type == "set":
        return "v:" + msgspec.json.encode(item).decode()
    if not isinstance(item, dict):
        return None
    pairs = {}
    items = schema.items
    for key in schema.keys:
        value = item.get(key)
        if value is None and items is not None:
            value = next((d for k, d in items.defaults if k == key), None)
        if value is not None:
            pairs[key] = value
    return "k:" + _encode_key(pairs).decode() if pairs else None


def is_associative(schema: Schema | None) -> bool:
    return schema is not None and schema.list_type in ("map", "set")


def is_atomic(value: Any, schema: Schema | None) -> bool:
    """Whether `value` is owned as a whole."""
    if isinstance(value, dict):
        return schema is not None and schema.atomic
    if isinstance(value, list):
        return not is_associative(schema)
    return True


def owned(value: Any, schema: Schema | None) -> Tree:
    """All fields of `value` (ToFieldSet): the children of its node."""
    out: Tree = {}
    if isinstance(value, dict):
        for key, member in value.items():
            child = schema.child(key) if schema else None
            declared = schema is not None and schema.declares(key)
            _own(out, "f:" + key, member, child, always=not declared)
    elif isinstance(value, list) and schema is not None:
        for item in value:
            element = item_key(item, schema)
            if element is not None:
                _own(out, element, item, schema.items, always=True)
    return out


def _own(out: Tree, key: str, value: Any, schema: Schema | None, *, always: bool) -> None:
    if is_atomic(value, schema):
        out[key] = {}
        return
    children = owned(value, schema)
    if always or value == {}:
        out[key] = {SELF: {}, **children} if children else {}
    elif children:
        out[key] = children


def added(value: Any, schema: Schema | None) -> Tree:
    """All fields of a value that was not there before (Compare against nothing): containers are members too."""
    out: Tree = {}
    for key, member, child in _members(value, schema):
        children = {} if is_atomic(member, child) else added(member, child)
        out[key] = {SELF: {}, **children} if children and key not in _ALWAYS else children
    return out


def _members(value: Any, schema: Schema | None) -> Iterator[tuple[str, Any, Schema | None]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield "f:" + key, member, schema.child(key) if schema else None
    elif isinstance(value, list) and schema is not None:
        for item in value:
            element = item_key(item, schema)
            if element is not None:
                yield element, item, schema.items


def compare(old: Any, new: Any, schema: Schema | None) -> tuple[Tree, Tree]:
    """(added or modified, removed) fields from `old` to `new`, both dicts or both associative lists."""
    changed: Tree = {}
    removed: Tree = {}
    before = {k: m for k, m, _ in _members(old, schema)}
    after = {k: (m, c) for k, m, c in _members(new, schema)}
    for key, (value, child) in after.items():
        if key not in before:
            children = {} if is_atomic(value, child) else added(value, child)
            changed[key] = {SELF: {}, **children} if children and key not in _ALWAYS else children
        elif before[key] != value:
            _compare_member(changed, removed, key, before[key], value, child)
    for key, value, child in _members(old, schema):
        if key not in after:
            children = {} if is_atomic(value, child) else added(value, child)
            removed[key] = {SELF: {}, **children} if children else {}
    return changed, removed


def _compare_member(changed: Tree, removed: Tree, key: str, old: Any, new: Any, schema: Schema | None) -> None:
    if type(old) is not type(new) or is_atomic(new, schema):
        changed[key] = {}
        return
    sub_changed, sub_removed = compare(old, new, schema)
    if sub_changed:
        changed[key] = sub_changed
    if sub_removed:
        removed[key] = sub_removed


def remove(value: Any, tree: Tree, schema: Schema | None, *, hollow: bool = False) -> Any:
    """`value` without the members of `tree`. Containers that become empty vanish (None), or stay if `hollow`."""
    out: Any
    if isinstance(value, dict):
        out = {}
        for key, member in value.items():
            node = tree.get("f:" + key)
            child = schema.child(key) if schema else None
            kept = member if node is None else _remove_node(member, node, child, hollow=hollow)
            if kept is not None or node is None:
                out[key] = kept
    elif isinstance(value, list) and schema is not None and is_associative(schema):
        out = []
        for item in value:
            node = tree.get(item_key(item, schema) or "")
            kept = item if node is None else _remove_node(item, node, schema.items, hollow=hollow)
            if kept is not None or node is None:
                out.append(kept)
    else:
        return value
    return out if out or hollow else None


def _remove_node(value: Any, node: Tree, schema: Schema | None, *, hollow: bool) -> Any:
    return None if is_member(node) else remove(value, node, schema, hollow=hollow)
