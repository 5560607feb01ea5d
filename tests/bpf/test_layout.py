"""Layouts and codes of user space against what the objects say."""

from __future__ import annotations

import re

import pytest

from stentor.datapath.layout import Layout
from stentor.datapath.maps import CONFIG, EVENT, MAPS
from stentor.datapath.object import SOURCES, Object, read_objects
from stentor.datapath.verdict import TEXTS, Drop
from stentor.sys.btf import STRUCT

OBJECTS = read_objects()
DEFINITIONS = {(found, name): found.definitions[name] for found in OBJECTS.values() for name in found.definitions}


def fields_of(found: Object, type_id: int) -> list[tuple[str, int, int]]:
    """Of a struct, nested ones flattened as the codec has them."""
    fields = []
    for name, member, bits in found.btf.resolve(type_id).members:
        inner = found.btf.resolve(member)
        if inner.kind == STRUCT and inner.name != "addr":
            fields += [(field, bits // 8 + at, size) for field, at, size in fields_of(found, member)]
        else:
            fields.append((found.btf.text(name), bits // 8, found.btf.size_of(member)))
    return fields


def comparable(layout: Layout) -> list[tuple[str, int, int]]:
    return list(layout.offsets())


@pytest.mark.parametrize("name", MAPS)
def test_rows_have_the_fields_that_the_objects_have(name: str) -> None:
    seen = 0
    for (found, map_name), definition in DEFINITIONS.items():
        if map_name != name:
            continue
        seen += 1
        for layout, type_id in ((MAPS[name].key, definition.key_type), (MAPS[name].value, definition.value_type)):
            assert layout.size == found.btf.size_of(type_id)
            if layout.struct_name:
                assert found.btf.resolve(type_id).name == layout.struct_name
                assert comparable(layout) == fields_of(found, type_id)
    assert seen


@pytest.mark.parametrize("name", OBJECTS)
def test_configuration_has_the_fields_that_the_objects_have(name: str) -> None:
    fields = OBJECTS[name].btf.struct_fields(CONFIG.struct_name)
    assert [(field.name, field.offset, field.size) for field in fields] == comparable(CONFIG)


def test_events_have_the_size_that_the_objects_assert() -> None:
    header = (SOURCES / "maps" / "metrics.h").read_text()
    assert f"ASSERT_SIZE(struct event, {EVENT.size})" in header


def test_every_map_has_a_layout_and_is_the_same_in_all_objects() -> None:
    assert {name for _, name in DEFINITIONS} - {"events"} == set(MAPS)
    specs: dict[str, set[object]] = {}
    for found, name in DEFINITIONS:
        specs.setdefault(name, set()).add(found.map_spec(name))
    assert {name: len(kinds) for name, kinds in specs.items() if len(kinds) != 1} == {}


def test_drop_codes_are_the_ones_of_the_programs() -> None:
    header = (SOURCES / "lib" / "verdict.h").read_text()
    codes = {name: int(code) for name, code in re.findall(r"DROP_(\w+) = -(\d+)", header)}
    assert codes == {drop.name: drop.value for drop in Drop}
    assert set(codes.values()) <= set(TEXTS)
