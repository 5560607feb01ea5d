"""BTF, the type information of BPF objects: struct layouts, map definitions, and what the kernel wants completed before load.

Pure. Source: the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final, TypeAlias

import msgspec

from stentor.sys.elf import Elf

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
VAR, DATASEC = 14, 15
# Kinds with data behind the 12 byte head: (bytes once, bytes a member).
_EXTRA: Final = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12),
                 17: (4, 0), 19: (0, 12)}  # fmt: skip
_TRANSPARENT: Final = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT})


class Type(msgspec.Struct, frozen=True):
    """One type record; ``size`` is bytes or a type id, by kind; ``members`` are the raw words behind the head."""

    name: str
    kind: int
    size: int
    members: tuple[tuple[int, ...], ...]
    at: int


class Field(msgspec.Struct, frozen=True):
    """A member of a struct: offset and size in bytes."""

    name: str
    offset: int
    size: int


class MapDefinition(msgspec.Struct, frozen=True):
    """A map as an object declares it (libbpf's ``.maps`` convention). Type ids are 0 where the map has no such type."""

    name: str
    numbers: Mapping[str, int]
    key_type: int
    value_type: int


class Btf:
    """The types of one ``.BTF`` section."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        head, types, length, strings = struct.unpack_from("<4I", blob, 4)
        self._strings = head + strings
        self._types_at, self._types_end = head + types, head + types + length

    def text(self, offset: int) -> str:
        start = self._strings + offset
        return self.blob[start : self.blob.index(b"\0", start)].decode()

    @cached_property
    def types(self) -> tuple[Type, ...]:
        """All types by id; id 0 is void."""
        return (Type("void", 0, 0, (), 0), *self._walk())

    def _walk(self) -> Iterator[Type]:
        at = self._types_at
        while at < self._types_end:
            name, word, size = struct.unpack_from("<III", self.blob, at)
            kind, count = word >> 24 & 31, word & 0xFFFF
            once, each = _EXTRA.get(kind, (0, 0))
            body = self.blob[at + 12 : at + 12 + once + each * count]
            members = tuple(struct.iter_unpack(f"<{(each or once) // 4}I", body)) if body else ()
            yield Type(self.text(name), kind, size, members, at)
            at += 12 + len(body)

    def resolve(self, type_id: int) -> Type:
        """The type behind typedefs and qualifiers."""
        found = self.types[type_id]
        while found.kind in _TRANSPARENT:
            found = self.types[found.size]
        return found

    def size_of(self, type_id: int) -> int:
        """Bytes of a value of this type."""
        found = self.resolve(type_id)
        if found.kind == PTR:
            return 8
        if found.kind == ARRAY:
            element, _index, count = found.members[0]
            return self.size_of(element) * count
        return found.size

    def struct_fields(self, name: str) -> tuple[Field, ...]:
        """The members of ``struct name``; KeyError when the object has no such struct."""
        for found in self.types:
            if found.kind == STRUCT and found.name == name:
                return tuple(Field(self.text(n), bits // 8, self.size_of(of)) for n, of, bits in found.members)
        raise KeyError(name)

    def maps(self) -> Iterator[MapDefinition]:
        """Every map of the ``.maps`` section."""
        section = next((t for t in self.types if t.kind == DATASEC and t.name == ".maps"), None)
        for variable_id, _offset, _size in section.members if section else ():
            yield self._map(self.types[variable_id])

    def _map(self, variable: Type) -> MapDefinition:
        numbers, of = {}, {"key": 0, "value": 0}
        for name, member_type, _bits in self.resolve(variable.size).members:
            pointer = self.resolve(member_type)
            if self.text(name) in of:
                of[self.text(name)] = pointer.size
            else:  # __uint(name, n): a pointer to an array of n
                numbers[self.text(name)] = self.resolve(pointer.size).members[0][2]
        return MapDefinition(variable.name, numbers, of["key"], of["value"])


def finish_btf(elf: Elf) -> bytes:
    """``.BTF`` as the kernel takes it: clang leaves data sections' sizes and offsets to the loader. Empty if there is none."""
    number = elf.number(".BTF")
    if number is None:
        return b""
    blob = bytearray(elf.sections[number].data)
    for offset, symbol in elf.relocations(number):
        struct.pack_into("<I", blob, offset, symbol.value)
    for found in Btf(bytes(blob)).types:
        if found.kind == DATASEC:
            rows = sorted(found.members, key=lambda row: row[1])
            blob[found.at + 12 : found.at + 12 + 12 * len(rows)] = b"".join(struct.pack("<3I", *row) for row in rows)
            struct.pack_into("<I", blob, found.at + 8, len(elf.data(found.name)))
    return bytes(blob)


InfoRecords: TypeAlias = Mapping[str, tuple[tuple[int, ...], ...]]


class InfoKind(msgspec.Struct, frozen=True):
    """A part of ``.BTF.ext``: where the header tells its place, and how long a record is in words of four bytes."""

    header: int
    words: int


FUNCTIONS: Final = InfoKind(8, 2)
LINES: Final = InfoKind(16, 4)


def info(elf: Elf, btf: Btf, kind: InfoKind) -> InfoRecords:
    """Records of ``.BTF.ext`` by section; each begins with where in its section it belongs, in bytes."""
    ext = elf.data(".BTF.ext")
    if not ext:
        return {}
    head, offset, size = struct.unpack_from("<I", ext, 4)[0], *struct.unpack_from("<II", ext, kind.header)
    at, end, found = head + offset + 4, head + offset + size, {}
    while at < end:
        name, count = struct.unpack_from("<II", ext, at)
        rows = 4 * kind.words * count
        found[btf.text(name)] = tuple(struct.iter_unpack(f"<{kind.words}I", ext[at + 8 : at + 8 + rows]))
        at += 8 + rows
    return found
