"""CustomResourceDefinitions out of the types: structural schemas, columns, names as upstream's.

`msgspec` gives a JSON schema of each struct; here it becomes structural (no references, no alternatives with null), which
is what Kubernetes accepts.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from stentor.api.cilium import CILIUM_ENDPOINTS, CILIUM_IDENTITIES, CILIUM_NODES
from stentor.api.meta import JsonObject, Kind

_KIND_TEXT: Final = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint "
    "the client submits requests to. Cannot be updated. In CamelCase."
)
_VERSION_TEXT: Final = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas "
    "to the latest internal value, and may reject unrecognized values."
)
_DROPPED: Final = frozenset({"title", "default", "$ref"})


class PrinterColumn(NamedTuple):
    """A column of `kubectl get`; priority 1 shows only with `-o wide`."""

    name: str
    type: str
    path: str
    description: str = ""
    priority: int = 0


class Definition(NamedTuple):
    """What a CRD says beyond the schema."""

    kind: Kind[Any]
    short_names: tuple[str, ...]
    columns: tuple[PrinterColumn, ...] = ()
    has_status: bool = False
    required: tuple[str, ...] = ()
    categories: tuple[str, ...] = ("cilium",)


_AGE: Final = PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time duration since creation")

DEFINITIONS: Final = (
    Definition(
        CILIUM_NODES,
        ("cn", "ciliumn"),
        (
            PrinterColumn(
                "CiliumInternalIP",
                "string",
                '.spec.addresses[?(@.type=="CiliumInternalIP")].ip',
                "Cilium internal IP for this node",
            ),
            PrinterColumn("InternalIP", "string", '.spec.addresses[?(@.type=="InternalIP")].ip', "IP of the node"),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time duration since creation of Ciliumnode"),
        ),
        has_status=True,
        required=("spec",),
    ),
    Definition(
        CILIUM_ENDPOINTS,
        ("cep", "ciliumep"),
        (
            PrinterColumn("Security Identity", "integer", ".status.identity.id", "Security Identity"),
            PrinterColumn(
                "Ingress Enforcement",
                "string",
                ".status.policy.ingress.state",
                "Ingress enforcement in the endpoint",
                1,
            ),
            PrinterColumn(
                "Egress Enforcement", "string", ".status.policy.egress.state", "Egress enforcement in the endpoint", 1
            ),
            PrinterColumn("Endpoint State", "string", ".status.state", "Endpoint current state"),
            PrinterColumn("IPv4", "string", ".status.networking.addressing[0].ipv4", "Endpoint IPv4 address"),
            PrinterColumn("IPv6", "string", ".status.networking.addressing[0].ipv6", "Endpoint IPv6 address"),
        ),
    ),
    Definition(
        CILIUM_IDENTITIES,
        ("ciliumid",),
        (
            PrinterColumn(
                "Namespace", "string", r".metadata.labels.io\.kubernetes\.pod\.namespace", "The namespace of the entity"
            ),
            _AGE,
        ),
        required=("security-labels",),
    ),
)


def documents() -> list[JsonObject]:
    """Every CRD in JSON form, in the order in which they should be created."""
    return [document(definition) for definition in DEFINITIONS]


def document(definition: Definition) -> JsonObject:
    """One CRD (apiextensions.k8s.io/v1)."""
    kind = definition.kind
    version: JsonObject = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(definition)},
        "subresources": {"status": {}} if definition.has_status else {},
        "additionalPrinterColumns": [_column(column) for column in definition.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}", "labels": {"app.kubernetes.io/part-of": "cilium"}},
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
            "versions": [version],
        },
    }


def schema(type_: type[msgspec.Struct]) -> JsonObject:
    """Structural schema of a struct."""
    root = msgspec.json.schema(type_)
    return _structural(root, root.get("$defs", {}))


def _root(definition: Definition) -> JsonObject:
    root = schema(definition.kind.type)
    properties = {name: value for name, value in root["properties"].items() if name != "metadata"}
    head = {
        "apiVersion": {"type": "string", "description": _VERSION_TEXT},
        "kind": {"type": "string", "description": _KIND_TEXT},
        "metadata": {"type": "object"},
    }
    required = ["metadata", *definition.required]
    return {"type": "object", "description": root["description"], "required": required, "properties": head | properties}


def _structural(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """Inline references and drop what a structural schema must not have; a node's own text wins over its type's."""
    merged = dict(node)
    if "$ref" in node:
        merged = definitions[node["$ref"].rpartition("/")[2]] | {k: v for k, v in node.items() if k != "$ref"}
    for form in ("anyOf", "allOf"):
        options = [option for option in merged.pop(form, ()) if option.get("type") != "null"]
        if len(options) == 1:
            merged = _structural(options[0], definitions) | merged
    result: JsonObject = {key: value for key, value in merged.items() if key not in _DROPPED and key != "$defs"}
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
