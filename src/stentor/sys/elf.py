"""Reads the BPF object files that clang writes: sections, symbols, relocations. Pure: bytes in, values out.

Little-endian ELF64 with a symbol table, and no more than the objects of ``bpf/`` need: no CO-RE.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

BPF_MACHINE: Final = 247
SYMBOL_TABLE, NOBITS, RELOCATIONS = 2, 8, 9
EXECUTABLE: Final = 4


class Section(msgspec.Struct, frozen=True):
    """One section; ``data`` is empty where the file has no bytes for it (NOBITS)."""

    name: str
    type: int
    flags: int
    info: int
    link: int
    data: bytes


class Symbol(msgspec.Struct, frozen=True):
    """``section`` is an index into the sections, ``value`` an offset into that one."""

    name: str
    section: int
    value: int
    size: int


class Elf(msgspec.Struct, frozen=True):
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    def number(self, name: str) -> int | None:
        """The index of the section of this name."""
        return next((i for i, section in enumerate(self.sections) if section.name == name), None)

    def data(self, name: str) -> bytes:
        """The bytes of the section of this name; empty when there is none."""
        number = self.number(name)
        return b"" if number is None else self.sections[number].data

    def symbols_of(self, section: int | None) -> Iterator[Symbol]:
        """The sized symbols that live in a section."""
        return (symbol for symbol in self.symbols if symbol.section == section and symbol.size)

    def relocations(self, target: int) -> Iterator[tuple[int, Symbol]]:
        """(offset, symbol) of every relocation of section number ``target``."""
        for section in self.sections:
            if section.type == RELOCATIONS and section.info == target:
                for offset, word in struct.iter_unpack("<QQ", section.data):
                    yield offset, self.symbols[word >> 32]


def read_elf(raw: bytes) -> Elf:
    """Parse an object file; ValueError when it is something else or cut short."""
    if raw[:6] != b"\x7fELF\2\1" or int.from_bytes(raw[18:20], "little") != BPF_MACHINE:
        raise ValueError("not a little-endian BPF object")
    try:
        return _parse(raw)
    except (struct.error, IndexError, ValueError, StopIteration) as e:
        raise ValueError(f"damaged BPF object: {e}") from e


def _parse(raw: bytes) -> Elf:
    (table,) = struct.unpack_from("<Q", raw, 40)
    size, count, names = struct.unpack_from("<3H", raw, 58)
    heads = [struct.unpack_from("<IIQQQQII", raw, table + i * size) for i in range(count)]
    name_table = heads[names]

    def text(head: tuple[int, ...], offset: int) -> str:
        start = head[4] + offset
        return raw[start : raw.index(b"\0", start)].decode()

    sections = tuple(
        Section(text(name_table, h[0]), h[1], h[2], h[7], h[6], b"" if h[1] == NOBITS else raw[h[4] : h[4] + h[5]])
        for h in heads
    )
    symtab = next(section for section in sections if section.type == SYMBOL_TABLE)
    symbols = tuple(
        Symbol(text(heads[symtab.link], name), section, value, length)
        for name, _info, _other, section, value, length in struct.iter_unpack("<IBBHQQ", symtab.data)
    )
    return Elf(sections, symbols)
