"""CustomResourceDefinitions out of the types: structural schemas, columns, names as upstream's.

`msgspec` gives a JSON schema of each struct; here it becomes structural (no references, no alternatives with null), which
is what Kubernetes accepts.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Final

import msgspec

from stentor.api.definition import DEFINITIONS, Definition, PrinterColumn
from stentor.api.field import DEFAULT
from stentor.api.meta import JsonObject

_KIND_TEXT: Final = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint "
    "the client submits requests to. Cannot be updated. In CamelCase."
)
_VERSION_TEXT: Final = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas "
    "to the latest internal value, and may reject unrecognized values."
)
_DROPPED: Final = frozenset({"title", "default", "$ref", "$defs"})


def documents() -> list[JsonObject]:
    """Every CRD in JSON form, in the order in which they should be created."""
    return [document(definition) for definition in DEFINITIONS]


def document(definition: Definition) -> JsonObject:
    """One CRD (apiextensions.k8s.io/v1)."""
    kind = definition.kind
    root = _root(definition)
    versions = [_version(definition, kind.version, root)]
    versions += [
        _version(definition, older.name, _extended(root, older.fields)) | {"deprecated": True}
        for older in definition.older
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.name, "labels": {"app.kubernetes.io/part-of": "cilium"}},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": list(definition.short_names),
                "categories": list(definition.categories),
            },
            "versions": versions,
        },
    }


def _version(definition: Definition, name: str, root: JsonObject) -> JsonObject:
    return {
        "name": name,
        "served": True,
        "storage": name == definition.kind.version,
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}} if definition.has_status else {},
        "additionalPrinterColumns": [_column(column) for column in definition.columns],
    }


def _extended(root: JsonObject, fields: Iterable[tuple[str, JsonObject]]) -> JsonObject:
    """A copy of a schema with more fields; KeyError when there is no object to put one into."""
    result = deepcopy(root)
    for path, schema in fields:
        *above, name = path.split(".")
        node = result
        for step in above:
            node = node["properties"][step.removesuffix("[]")]
            node = node["items"] if step.endswith("[]") else node
        node["properties"][name] = schema
    return result


def schema(type_: type[msgspec.Struct]) -> JsonObject:
    """Structural schema of a struct."""
    root = msgspec.json.schema(type_)
    return deepcopy(_structural(root, root.get("$defs", {})))


def _root(definition: Definition) -> JsonObject:
    root = schema(definition.kind.type)
    properties = {name: value for name, value in root["properties"].items() if name != "metadata"}
    head = {
        "apiVersion": {"type": "string", "description": _VERSION_TEXT},
        "kind": {"type": "string", "description": _KIND_TEXT},
        "metadata": {"type": "object"},
    }
    required = ["metadata", *root.get("required", ())]
    return {"type": "object", "description": root["description"], "required": required, "properties": head | properties}


def _structural(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """Inline references and drop what a structural schema must not have; a node's own text wins over its type's."""
    merged = dict(node)
    if "$ref" in node:
        merged = definitions[node["$ref"].rpartition("/")[2]] | {k: v for k, v in node.items() if k != "$ref"}
    result: JsonObject = {key: value for key, value in merged.items() if key not in _DROPPED}
    if DEFAULT in result:
        result["default"] = result.pop(DEFAULT)
    for form in ("anyOf", "allOf"):
        options = [option for option in result.pop(form, ()) if option.get("type") != "null"]
        if len(options) == 1:
            return _structural(options[0], definitions) | result
    if "enum" in result:
        result.setdefault("type", "string")
    if "properties" in result:
        result["properties"] = {name: _structural(value, definitions) for name, value in result["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _structural(result[key], definitions)
    if not result.get("required"):
        result.pop("required", None)
    return result


def _column(column: PrinterColumn) -> JsonObject:
    result: JsonObject = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        result["description"] = column.description
    if column.priority:
        result["priority"] = column.priority
    return result
