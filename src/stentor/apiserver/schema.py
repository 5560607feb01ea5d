"""OpenAPI v3 schemas as a walkable tree: one form for built-in types and custom resources.

Everything that walks documents beside their schema (pruning, defaults, validation, strategic merge, managed fields)
walks these nodes. Nodes of the built-in types are made when first visited: a definition that nobody uses costs nothing.
"""

from __future__ import annotations

import functools
import gzip
from importlib import resources
from typing import Any, Final

import msgspec

MISSING: Final = object()
"""Default of a schema that has none (None is a value)."""

_COMBINING: Final = frozenset(("allOf", "anyOf", "oneOf", "not"))
_CONSTRAINING: Final = frozenset(
    (
        "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties", "maximum",
        "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "uniqueItems",
    )
)  # fmt: skip

Raw = dict[str, Any]
_PREFIX = "#/components/schemas/"


class Schema:
    """One node. `raw` holds the keywords as published; the attributes are those that hot paths read."""

    __slots__ = (
        "_children", "_definitions", "_items", "additional", "atomic", "combined", "constrained", "default", "defaults",
        "embedded", "int_or_string", "keys", "list_type", "merge_key", "nullable", "preserve", "properties", "raw",
        "required", "strategies", "type",
    )  # fmt: skip

    def __init__(self, raw: Raw, definitions: Definitions | None) -> None:
        self.raw = raw
        self._definitions = definitions
        self._children: dict[str, Schema] = {}
        self._items: Schema | None = None
        self.type: str = raw.get("type", "")
        self.properties: Raw | None = raw.get("properties")
        self.additional: Schema | bool | None = self._additional(raw)
        self.required: tuple[str, ...] = self._required(raw)
        self.list_type: str = raw.get("x-kubernetes-list-type", "atomic")
        self.keys: tuple[str, ...] = tuple(raw.get("x-kubernetes-list-map-keys", ()))
        self.atomic: bool = raw.get("x-kubernetes-map-type") == "atomic"
        self.strategies: frozenset[str] = frozenset(raw.get("x-kubernetes-patch-strategy", "").split(",")) - {""}
        self.merge_key: str = raw.get("x-kubernetes-patch-merge-key", "")
        self.int_or_string: bool = raw.get("x-kubernetes-int-or-string", False) or raw.get("format") == "int-or-string"
        self.preserve: bool = raw.get("x-kubernetes-preserve-unknown-fields", False)
        self.embedded: bool = raw.get("x-kubernetes-embedded-resource", False)
        self.nullable: bool = raw.get("nullable", False)
        self.combined = not _COMBINING.isdisjoint(raw)
        """Whether allOf, anyOf, oneOf or not say more."""
        self.constrained = not _CONSTRAINING.isdisjoint(raw)
        """Whether values have to be looked at beyond their type."""
        self.default: Any = raw.get("default", MISSING)
        self.defaults: tuple[tuple[str, Any], ...] = tuple(
            (key, member["default"]) for key, member in (self.properties or {}).items() if "default" in member
        )

    def _additional(self, raw: Raw) -> Schema | bool | None:
        value = raw.get("additionalProperties")
        return self._node(value) if isinstance(value, dict) else value

    def _required(self, raw: Raw) -> tuple[str, ...]:
        """Go writes lists that are required and empty as null: for its own types only rules can demand them."""
        names = raw.get("required", ())
        if self._definitions is None or not self._definitions.lenient:
            return tuple(names)
        return tuple(n for n in names if raw["properties"].get(n, {}).get("type") != "array")

    def _node(self, raw: Raw) -> Schema:
        return self._definitions.node(raw) if self._definitions else Schema(raw, None)

    def child(self, key: str) -> Schema | None:
        """Schema of member `key`; None when the schema does not know it."""
        node = self._children.get(key)
        if node is not None:
            return node
        if self.properties is not None and key in self.properties:
            node = self._children[key] = self._node(self.properties[key])
            return node
        return self.additional if isinstance(self.additional, Schema) else None

    def declares(self, key: str) -> bool:
        return self.properties is not None and key in self.properties

    @property
    def items(self) -> Schema | None:
        if self._items is None and isinstance(self.raw.get("items"), dict):
            self._items = self._node(self.raw["items"])
        return self._items


class Definitions:
    """Named schemas that refer to each other."""

    def __init__(self, raw: dict[str, Raw], *, lenient: bool = False) -> None:
        """`lenient`: nodes do not require lists, see `Schema.required`."""
        self.raw = raw
        self.lenient = lenient
        self._schemas: dict[str, Schema] = {}
        self._by_kind = {
            (gvk["group"], gvk["version"], gvk["kind"]): name
            for name, definition in raw.items()
            for gvk in definition.get("x-kubernetes-group-version-kind", ())
        }

    def name_of(self, group: str, version: str, kind: str) -> str:
        """Name of the definition of a kind; KeyError when there is none."""
        return self._by_kind[group, version, kind]

    def find(self, group: str, version: str, kind: str) -> Schema | None:
        name = self._by_kind.get((group, version, kind))
        return self.schema(name) if name else None

    def schema(self, name: str) -> Schema:
        """The node of definition `name`; KeyError when there is none."""
        if name not in self._schemas:
            self._schemas[name] = Schema(self.raw[name], self)
        return self._schemas[name]

    def node(self, raw: Raw) -> Schema:
        """The node of an inline schema; what stands beside a reference overrides what it refers to."""
        reference = reference_of(raw)
        if reference is None:
            return Schema(raw, self)
        rest = {k: v for k, v in raw.items() if k not in ("$ref", "allOf", "description")}
        return Schema({**self.raw[reference], **rest}, self) if rest else self.schema(reference)


def reference_of(raw: Raw) -> str | None:
    """Name of the definition that `raw` refers to, also as `allOf` of one, which OpenAPI v3 needs beside siblings."""
    target = raw.get("$ref")
    if target is None and len(raw.get("allOf", ())) == 1:
        target = raw["allOf"][0].get("$ref")
    return target.removeprefix(_PREFIX) if isinstance(target, str) else None


def read_data(name: str) -> Any:
    """Content of a generated file of this package (gzip'd JSON)."""
    path = resources.files("stentor.apiserver") / "data" / name
    return msgspec.json.decode(gzip.decompress(path.read_bytes()))


@functools.cache
def load_definitions() -> Definitions:
    """Kubernetes' own types with the static defaults of `default.STATIC`; about 15 ms at the first call."""
    from stentor.apiserver.default import STATIC

    raw: dict[str, Raw] = read_data("schemas.json.gz")["definitions"]
    for name, members in STATIC.items():
        properties = raw[name]["properties"]
        for member, value in members.items():
            properties[member] = {**properties[member], "default": value}
    return Definitions(raw, lenient=True)


def copy_json(value: Any) -> Any:
    """A deep copy of a JSON value, several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {k: copy_json(v) if isinstance(v, dict | list) else v for k, v in value.items()}
    if isinstance(value, list):
        return [copy_json(v) if isinstance(v, dict | list) else v for v in value]
    return value
