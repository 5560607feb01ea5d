"""Managed fields and server-side apply (structured-merge-diff pkg/merge, apiserver fieldmanager).

Who last set a field owns it. An update takes the fields that it changes from everybody; an apply takes what it names,
gives up what it no longer names (which then vanishes unless somebody else owns it), and conflicts when it changes what
another manager owns.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stentor.apiserver.errors import BadRequest, Conflict
from stentor.apiserver.fieldset import (
    Tree,
    compare,
    difference,
    intersection,
    is_associative,
    item_key,
    owned,
    paths,
    remove,
    union,
    with_parents,
)  # fmt: skip
from stentor.apiserver.schema import Schema

Object = dict[str, Any]

_UNOWNED_META = (
    "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion",
    "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip


class Writer(msgspec.Struct, frozen=True):
    """Who writes, through what."""

    manager: str
    operation: Literal["Apply", "Update"]
    api_version: str
    subresource: str = ""

    def is_entry(self, entry: Object) -> bool:
        return (
            entry.get("manager") == self.manager
            and entry.get("operation") == self.operation
            and entry.get("subresource", "") == self.subresource
            and (self.operation == "Apply" or entry.get("apiVersion") == self.api_version)
        )


def strip(document: Object, subresource: str, *, has_status: bool) -> Object:
    """The part of a document that a writer through `subresource` may own."""
    out = {k: v for k, v in document.items() if k not in ("apiVersion", "kind", "metadata")}
    meta = {k: v for k, v in document.get("metadata", {}).items() if k not in _UNOWNED_META}
    if meta:
        out["metadata"] = meta
    if subresource == "status":
        return {k: v for k, v in out.items() if k in ("status", "metadata")}
    if has_status:
        out.pop("status", None)
    return out


def track_update(
    old: Object | None, new: Object, schema: Schema, writer: Writer, now: str, *, has_status: bool
) -> None:
    """Set `new`'s managedFields after an update by `writer`; `old` None is a creation."""
    before = strip(old, writer.subresource, has_status=has_status) if old else {}
    after = strip(new, writer.subresource, has_status=has_status)
    # A client that sends owners edits them (kubectl does, when it moves from client-side to server-side apply).
    entries = (managed_fields(new) or managed_fields(old)) if old is not None else []
    if old is not None and new["metadata"].get("managedFields") == [{}]:  # how a client says: forget all owners
        new["metadata"].pop("managedFields")
        return
    if before == after:
        _set_entries(new, entries)
        return
    changed, removed = compare(before, after, schema)
    if not changed and not removed:
        _set_entries(new, entries)
        return
    out, mine = _take(entries, writer, union(changed, removed))
    fields = union(difference(mine, removed), changed)
    if fields:
        out.append(_entry(writer, fields, now))
    _set_entries(new, out)


def managed_fields(document: Object) -> list[Object]:
    return list(document["metadata"].get("managedFields") or ())


def _set_entries(document: Object, entries: list[Object]) -> None:
    if entries:
        document["metadata"]["managedFields"] = entries
    else:
        document["metadata"].pop("managedFields", None)


def _take(entries: list[Object], writer: Writer, taken: Tree) -> tuple[list[Object], Tree]:
    """(entries of the others without `taken`, the writer's own fields)."""
    out: list[Object] = []
    mine: Tree = {}
    for entry in entries:
        if writer.is_entry(entry):
            mine = entry.get("fieldsV1") or {}
            continue
        rest = difference(entry.get("fieldsV1") or {}, taken)
        if rest:
            out.append(entry if rest == entry.get("fieldsV1") else {**entry, "fieldsV1": rest})
    return out, mine


def _entry(writer: Writer, fields: Tree, now: str) -> Object:
    out: Object = {
        "manager": writer.manager,
        "operation": writer.operation,
        "apiVersion": writer.api_version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if writer.subresource:
        out["subresource"] = writer.subresource
    return out


def apply(
    live: Object | None, config: Object, schema: Schema, writer: Writer, now: str, *, force: bool, has_status: bool
) -> Object:
    """The object after `writer` applied `config`. Raises Conflict with one cause a field, BadRequest."""
    if config.get("metadata", {}).get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    wanted = strip(config, writer.subresource, has_status=has_status)
    mine = owned(wanted, schema)
    if live is None:
        created = {**config, "metadata": dict(config["metadata"])}
        _set_entries(created, [_entry(writer, mine, now)] if mine else [])
        return created
    entries = managed_fields(live)
    last = next((e.get("fieldsV1") or {} for e in entries if writer.is_entry(e)), {})
    others: Tree = {}
    for entry in entries:
        if not writer.is_entry(entry):
            others = union(others, entry.get("fieldsV1") or {})
    state = strip(live, writer.subresource, has_status=has_status)
    merged = merge(state, wanted, schema)
    dropped = difference(with_parents(last), with_parents(union(others, mine)))
    # Who owns a container as such goes on owning it when its last member goes, although it is then not stored.
    changed, removed = compare(state, remove(merged, dropped, schema, hollow=True), schema)
    merged = (remove(merged, dropped, schema) if dropped else merged) or {}
    if not force:
        _check_conflicts(entries, writer, changed)
    rest, _ = _take(entries, writer, union(changed, removed))
    out = _rebuild(live, merged, writer.subresource, has_status=has_status)
    keep = next((e for e in entries if writer.is_entry(e) and e.get("fieldsV1") == mine), None)
    unchanged = keep is not None and not changed and not removed
    own = keep if unchanged and keep is not None else _entry(writer, mine, now)
    _set_entries(out, [*rest, own] if mine else rest)
    if unchanged:
        _set_entries(out, entries)
    return out


def _rebuild(live: Object, merged: Object, subresource: str, *, has_status: bool) -> Object:
    """The whole object around the part that the writer may own."""
    out: Object = {k: live[k] for k in ("apiVersion", "kind") if k in live}
    fixed = {k: v for k, v in live["metadata"].items() if k in _UNOWNED_META}
    out["metadata"] = {**fixed, **(merged.get("metadata") or {})}
    if subresource == "status":
        out.update({k: v for k, v in live.items() if k not in ("apiVersion", "kind", "metadata", "status")})
    out.update({k: v for k, v in merged.items() if k != "metadata"})
    if has_status and subresource != "status" and "status" in live:
        out["status"] = live["status"]
    return out


def _check_conflicts(entries: list[Object], writer: Writer, changed: Tree) -> None:
    causes: list[Object] = []
    texts: list[str] = []
    for entry in entries:
        if writer.is_entry(entry):
            continue
        fields = list(paths(intersection(entry.get("fieldsV1") or {}, changed)))
        if not fields:
            continue
        who = _describe(entry)
        causes += [{"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": f} for f in fields]
        listed = f" {fields[0]}" if len(fields) == 1 else "".join(f"\n- {f}" for f in fields)
        texts.append(f"conflict{'s' if len(fields) > 1 else ''} with {who}:{listed}")
    if causes:
        plural = "s" if len(causes) > 1 else ""
        raise Conflict(f"Apply failed with {len(causes)} conflict{plural}: " + "\n".join(texts), {"causes": causes})


def _describe(entry: Object) -> str:
    who = f'"{entry.get("manager", "")}"'
    if entry.get("subresource"):
        who += f' with subresource "{entry["subresource"]}"'
    return f"{who} using {entry.get('apiVersion')}" if entry.get("operation") == "Update" else who


def merge(live: Any, config: Any, schema: Schema | None) -> Any:
    """`config` laid over `live` (typed Merge): maps by key, associative lists by item, the rest replaced."""
    if isinstance(live, dict) and isinstance(config, dict) and not (schema is not None and schema.atomic):
        out = dict(live)
        for key, value in config.items():
            out[key] = merge(live[key], value, schema.child(key) if schema else None) if key in live else value
        return out
    if isinstance(live, list) and isinstance(config, list) and schema is not None and is_associative(schema):
        return _merge_list(live, config, schema)
    return config


def _merge_list(live: list[Any], config: list[Any], schema: Schema) -> list[Any]:
    """Items in the order of `config`; what only `live` has keeps its place between its neighbours."""
    mine = [(item_key(i, schema), i) for i in live]
    theirs = {item_key(i, schema): i for i in config}
    known = dict(mine)
    order = list(theirs)
    shared = [k for k in order if k in known]
    out: list[Any] = []
    done: set[str | None] = set()
    at = 0
    for key, item in mine:
        if key not in theirs:
            out.append(item)
            continue
        if key in done or (shared and key != next((s for s in shared if s not in done), None)):
            continue
        while at < len(order) and key not in done:
            out.append(_merge_item(known, theirs, order[at], schema))
            done.add(order[at])
            at += 1
    out += [_merge_item(known, theirs, k, schema) for k in order[at:]]
    return out


def _merge_item(known: dict[str | None, Any], theirs: dict[str | None, Any], key: str | None, schema: Schema) -> Any:
    return merge(known[key], theirs[key], schema.items) if key in known else theirs[key]
