"""What the API requires is always written: such a field has no default, or its struct writes defaults too."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

import stentor.api
from stentor.api.core import CUSTOM_RESOURCE_DEFINITIONS
from stentor.api.meta import Kind
from stentor.api.pod import POD_SUMMARIES
from stentor.apiserver.schema import Schema, load_definitions

READ_ONLY = (POD_SUMMARIES, CUSTOM_RESOURCE_DEFINITIONS)
"""Views of objects that others write."""


def built_in_kinds() -> list[Kind[Any]]:
    modules = [
        importlib.import_module(f"stentor.api.{each.name}") for each in pkgutil.iter_modules(stentor.api.__path__)
    ]
    kinds = [value for module in modules for value in vars(module).values() if isinstance(value, Kind)]
    known = [each for each in kinds if load_definitions().find(each.group, each.version, each.kind)]
    return [each for each in dict.fromkeys(known) if each not in READ_ONLY]


def omitted(kind: inspect.Type, schema: Schema | None, path: str) -> Iterator[str]:
    """Paths of required fields that are left out when they have their default."""
    if schema is None:
        return
    match kind:
        case inspect.Metadata():
            yield from omitted(kind.type, schema, path)
        case inspect.UnionType():
            for each in kind.types:
                yield from omitted(each, schema, path)
        case inspect.VarTupleType():
            yield from omitted(kind.item_type, schema.items, f"{path}[]")
        case inspect.StructType():
            for field in kind.fields:
                below = f"{path}.{field.encode_name}"
                may_be_omitted = not field.required and kind.cls.__struct_config__.omit_defaults
                if field.encode_name in schema.required and may_be_omitted:
                    yield below
                yield from omitted(field.type, schema.child(field.encode_name), below)


@pytest.mark.parametrize("kind", built_in_kinds(), ids=str)
def test_required_fields_are_written(kind: Kind[Any]) -> None:
    schema = load_definitions().find(kind.group, kind.version, kind.kind)
    assert list(omitted(inspect.type_info(kind.type), schema, kind.kind)) == []


def test_a_required_field_with_a_default_is_found() -> None:
    class Slice(msgspec.Struct, omit_defaults=True, rename="camel"):
        address_type: str = "IPv4"

    schema = load_definitions().find("discovery.k8s.io", "v1", "EndpointSlice")
    assert list(omitted(inspect.type_info(Slice), schema, "Slice")) == ["Slice.addressType"]
