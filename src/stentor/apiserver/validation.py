"""Validates a document against its schema with the words of Kubernetes' apiserver.

Messages follow kube-openapi's validator and apimachinery's field errors, because clients and their tests read them.
Patterns are RE2 there and `re` here: the end anchor and character classes are made to mean the same.
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import re
from collections.abc import Callable, Sized
from datetime import datetime
from typing import Any

from stentor.apiserver.errors import Cause, duplicate, invalid, required, unsupported, wrong_type
from stentor.apiserver.schema import Schema

Causes = list[Cause]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
}


def validate(value: Any, schema: Schema, path: str = "") -> Causes:
    """What is wrong with `value`; empty when nothing is."""
    if value is None:
        return [] if schema.nullable or not schema.type else [wrong_type(path, None, schema.type)]
    if schema.int_or_string:
        if _TYPES["integer"](value) or isinstance(value, str):
            return _combine(value, schema, path)
        return [wrong_type(path, value, "integer,string")]
    if schema.type and not _TYPES[schema.type](value):
        return [wrong_type(path, value, schema.type)]
    causes: Causes = []
    if isinstance(value, dict):
        causes = _object(value, schema, path)
    elif isinstance(value, list):
        causes = _array(value, schema, path)
    if schema.constrained:
        causes += _constraints(value, schema, path)
    return causes + _combine(value, schema, path) if schema.combined else causes


def _constraints(value: Any, schema: Schema, path: str) -> Causes:
    """What keywords say about a value of the right type."""
    if isinstance(value, dict):
        causes = _size(value, schema, path, "Properties", "properties")
    elif isinstance(value, list):
        causes = _size(value, schema, path, "Items", "items")
        if schema.raw.get("uniqueItems") and any(v in value[:i] for i, v in enumerate(value)):
            causes.append(duplicate(path, value))
    elif isinstance(value, str):
        causes = _string(value, schema, path)
    else:
        causes = [] if isinstance(value, bool) else _number(value, schema, path)
    if "enum" in schema.raw and value not in schema.raw["enum"]:
        causes.append(unsupported(path, value, [str(v) for v in schema.raw["enum"]]))
    return causes


def _size(value: Sized, schema: Schema, path: str, suffix: str, what: str) -> Causes:
    low, high = schema.raw.get(f"min{suffix}", 0), schema.raw.get(f"max{suffix}")
    causes: Causes = []
    if len(value) < low:
        causes.append(invalid(path, len(value), f"{path} in body should have at least {low} {what}"))
    if high is not None and len(value) > high:
        text = f"Too many: {len(value)}: must have at most {high} items"
        causes.append(Cause("FieldValueTooMany", path, text))
    return causes


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _object(value: dict[str, Any], schema: Schema, path: str) -> Causes:
    causes = [required(_join(path, key)) for key in schema.required if key not in value]
    for key, member in value.items():
        child = schema.child(key)
        if child is not None:
            found = validate(member, child, f"{path}.{key}" if path else key)
            if found:
                causes += found
    return causes


def _array(value: list[Any], schema: Schema, path: str) -> Causes:
    causes: Causes = []
    items = schema.items
    if items is not None:
        for index, item in enumerate(value):
            causes += validate(item, items, f"{path}[{index}]")
    return causes + _unique(value, schema, path)


def _unique(value: list[Any], schema: Schema, path: str) -> Causes:
    """Duplicates in lists of type set or map.

    Kubernetes enforces keys on writes for custom resources only: a node has two addresses of type InternalIP. Patch
    strategies mark the schemas of built-in types.
    """
    if schema.list_type == "atomic" or "x-kubernetes-patch-strategy" in schema.raw:
        return []
    causes: Causes = []
    seen: list[Any] = []
    for index, item in enumerate(value):
        key = item
        if schema.list_type == "map":
            if not isinstance(item, dict):
                continue
            key = {k: item[k] for k in schema.keys if k in item}
        if key in seen:
            causes.append(duplicate(f"{path}[{index}]", key))
        seen.append(key)
    return causes


def _string(value: str, schema: Schema, path: str) -> Causes:
    raw = schema.raw
    causes: Causes = []
    if "minLength" in raw and len(value) < raw["minLength"]:
        causes.append(invalid(path, value, f"{path} in body should be at least {raw['minLength']} chars long"))
    if "maxLength" in raw and len(value) > raw["maxLength"]:
        causes.append(Cause("FieldValueTooLong", path, f"Too long: may not be more than {raw['maxLength']} bytes"))
    if "pattern" in raw and not compile_pattern(raw["pattern"]).search(value):
        causes.append(invalid(path, value, f"{path} in body should match '{raw['pattern']}'"))
    check = _FORMATS.get(raw.get("format", ""))
    if check is not None and not _accepts(check, value):
        causes.append(invalid(path, value, f'{path} in body must be of type {raw["format"]}: "{value}"'))
    return causes


def _number(value: float, schema: Schema, path: str) -> Causes:
    raw = schema.raw
    causes: Causes = []
    for keyword, exclusive, fails, words in _BOUNDS:
        if keyword not in raw:
            continue
        strict = bool(raw.get(exclusive))
        if fails(value, raw[keyword], strict):
            shown = words if strict else f"{words} or equal to"
            causes.append(invalid(path, value, f"{path} in body should be {shown} {raw[keyword]}"))
    if "multipleOf" in raw and value % raw["multipleOf"]:
        causes.append(invalid(path, value, f"{path} in body should be a multiple of {raw['multipleOf']}"))
    bits = {"int32": 31, "int64": 63}.get(raw.get("format", ""))
    if bits and not -(1 << bits) <= value < 1 << bits:
        causes.append(invalid(path, value, f'{path} in body must be of type {raw["format"]}: "{value}"'))
    return causes


_BOUNDS: tuple[tuple[str, str, Callable[[float, float, bool], bool], str], ...] = (
    ("minimum", "exclusiveMinimum", lambda v, b, strict: v <= b if strict else v < b, "greater than"),
    ("maximum", "exclusiveMaximum", lambda v, b, strict: v >= b if strict else v > b, "less than"),
)


def _combine(value: Any, schema: Schema, path: str) -> Causes:
    raw = schema.raw
    causes: Causes = []
    for part in _nodes(schema, "allOf"):
        causes += validate(value, part, path)
    if "anyOf" in raw and not any(not validate(value, s, path) for s in _nodes(schema, "anyOf")):
        causes.append(invalid(path, value, f'"{path}" must validate at least one schema (anyOf)'))
    if "oneOf" in raw:
        valid = sum(not validate(value, s, path) for s in _nodes(schema, "oneOf"))
        if valid != 1:
            found = "Found none valid" if not valid else f"Found {valid} valid alternatives"
            causes.append(invalid(path, value, f'"{path}" must validate one and only one schema (oneOf). {found}'))
    if isinstance(raw.get("not"), dict) and not validate(value, Schema(raw["not"], None), path):
        causes.append(invalid(path, value, f'"{path}" must not validate the schema (not)'))
    return causes


def _nodes(schema: Schema, keyword: str) -> list[Schema]:
    return [Schema(raw, None) for raw in schema.raw.get(keyword, ()) if "$ref" not in raw]


@functools.lru_cache(4096)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """An RE2 pattern for `search`. Raises re.error when it is none."""
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern.replace(r"\z", r"\Z"), re.ASCII)


def _accepts(check: Callable[[str], object], value: str) -> bool:
    try:
        return check(value) is not False
    except (ValueError, binascii.Error):
        return False


_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.I)
_DURATION = re.compile(
    r"[-+]?(0|(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|\d+ \w+"
)
_MAC = re.compile(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}", re.I)

# Formats that Kubernetes honours; every other one is a comment.
_FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": lambda v: datetime.fromisoformat(v),
    "date": lambda v: datetime.strptime(v, "%Y-%m-%d"),
    "duration": lambda v: _DURATION.fullmatch(v) is not None,
    "ipv4": lambda v: ipaddress.IPv4Address(v),
    "ipv6": lambda v: ipaddress.IPv6Address(v),
    "ip": lambda v: ipaddress.ip_address(v),
    "cidr": lambda v: ipaddress.ip_interface(v) if "/" in v else False,
    "mac": lambda v: _MAC.fullmatch(v) is not None,
    "uuid": lambda v: _UUID.fullmatch(v) is not None,
    "byte": lambda v: base64.b64decode(v, validate=True),
    "email": lambda v: re.fullmatch(r"[^@\s]+@[^@\s]+", v) is not None,
    "hostname": lambda v: (
        re.fullmatch(r"(?=.{1,255}$)([a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.?)+", v) is not None
    ),
}
