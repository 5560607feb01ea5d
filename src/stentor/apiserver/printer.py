"""Server-side printing: the Table form of objects, which `kubectl get` shows (columns of pkg/printers/internalversion)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from stentor.apiserver.column import COLUMNS, PLAIN, Cell, age_of
from stentor.apiserver.resource import Column, Resource
from stentor.apiserver.store import Entry

Object = dict[str, Any]
Cells = Callable[[Object], list[Any]]


class Head(msgspec.Struct, frozen=True):
    """Definition of a table's column (meta/v1 TableColumnDefinition)."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


class Printer:
    """Makes tables of one resource."""

    def __init__(self, resource: Resource, include: str) -> None:
        """`include`: Metadata, Object or None, what each row carries beside its cells."""
        self._include = include
        self._api_version = resource.api_version
        self._heads, self._cells = _custom(resource.columns) if resource.columns is not None else _builtin(resource)

    def table(self, entries: Iterable[Entry], meta: Object, *, header: bool = True) -> Object:
        rows = [self._row(entry) for entry in entries]
        definitions = self._heads if header else None
        return {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "columnDefinitions": definitions,
            "rows": rows,
        }

    def _row(self, entry: Entry) -> Object:
        document = entry.decode()
        row: Object = {"cells": self._cells(document)}
        if self._include == "Object":
            row["object"] = {**document, "apiVersion": self._api_version}
        elif self._include != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": document["metadata"],
            }
        return row


_NAME: Final = Head("Name", "string", "name", "Name must be unique within a namespace.")


def _builtin(resource: Resource) -> tuple[list[Head], Cells]:
    columns: tuple[Cell, ...] = COLUMNS.get(f"{resource.group}/{resource.plural}", PLAIN)
    heads = [Head(c.name, c.type, c.format, c.description or c.name, int(c.wide)) for c in columns]
    return heads, lambda document: [c.show(document) for c in columns]


def _custom(columns: Iterable[Column]) -> tuple[list[Head], Cells]:
    columns = tuple(columns)
    heads = [Head(c.name, c.type, c.format, c.description or c.path, c.priority) for c in columns]

    def show(document: Object) -> list[Any]:
        return [document["metadata"]["name"], *(_custom_cell(document, c) for c in columns)]

    return [_NAME, *heads], show


def _custom_cell(document: Object, column: Column) -> Any:
    found = find_path(document, column.path)
    if not found:
        return None
    if column.type == "date":
        return age_of(found[0]) if isinstance(found[0], str) else None
    if column.type == "string":
        return ",".join(_text(v) for v in found)
    wanted: dict[str, type | tuple[type, ...]] = {"integer": int, "number": (int, float), "boolean": bool}
    return found[0] if isinstance(found[0], wanted.get(column.type, object)) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]*)\]")
_FILTER: Final = re.compile(r"""\?\(\s*@\.(.+?)\s*==\s*(?:"([^"]*)"|'([^']*)'|(\S+?))\s*\)""")


def find_path(document: Any, path: str) -> list[Any]:
    """Values at a simple JSONPath: `.a.b`, `[0]`, `[*]`, `[?(@.type=="Ready")]`, `['a.b']`, and escaped dots."""
    found = [document]
    for step in _STEP.finditer(path.replace("\\.", "\0")):
        name, bracket = step[1], step[2]
        found = [v for item in found for v in _descend(item, name.replace("\0", ".") if name else None, bracket)]
    return [v for v in found if v is not None]


def _descend(item: Any, name: str | None, bracket: str | None) -> list[Any]:
    if name is not None:
        return [item[name]] if isinstance(item, dict) and name in item else []
    bracket = (bracket or "").replace("\0", ".")
    if bracket[:1] in ("'", '"'):
        return _descend(item, bracket.strip("'\""), None)
    if isinstance(item, dict) and bracket == "*":
        return list(item.values())
    if not isinstance(item, list):
        return []
    if bracket == "*":
        return item
    if match := _FILTER.fullmatch(bracket):
        wanted = match[2] or match[3] or match[4] or ""
        return [v for v in item if [_text(x) for x in find_path(v, "." + match[1])] == [wanted]]
    try:
        return [item[int(bracket)]]
    except (ValueError, IndexError):
        return []
