"""A program and the functions that it calls, put together as the kernel takes them. Pure."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from stentor.sys.btf import InfoRecords
from stentor.sys.elf import EXECUTABLE, Elf, Symbol

CALL: Final = 0x85
INSTRUCTION: Final = 8
"""Bytes."""


class Linked(msgspec.Struct, frozen=True):
    """``code`` begins with the program. ``functions`` are (where in ``code``, symbol), ``data`` the relocations that are left:
    (where in ``code``, what is meant)."""

    code: bytes
    functions: tuple[tuple[int, Symbol], ...]
    data: tuple[tuple[int, Symbol], ...]

    def records(self, elf: Elf, sections: InfoRecords) -> bytes:
        """Records about instructions (`stentor.sys.btf.info`), of those that are here and numbered as here."""
        found = bytearray()
        for base, function in self.functions:
            for at, *rest in sections.get(elf.sections[function.section].name, ()):
                if function.value <= at < function.value + function.size:
                    here = (base + at - function.value) // INSTRUCTION
                    found += struct.pack(f"<{len(rest) + 1}I", here, *rest)
        return bytes(found)


def link(elf: Elf, name: str) -> Linked:
    """Link one program; StopIteration when there is none of this name."""
    program = next(s for s in elf.symbols if s.name == name and elf.sections[s.section].flags & EXECUTABLE)
    waiting, starts = [program], {(program.section, program.value): 0}
    code, functions, data, calls = bytearray(), [], [], []
    for function in waiting:  # grows meanwhile
        base = len(code)
        starts[function.section, function.value] = base
        functions.append((base, function))
        code += elf.sections[function.section].data[function.value : function.value + function.size]
        for offset, symbol in elf.relocations(function.section):
            at = base + offset - function.value
            if not base <= at < len(code):
                continue
            if code[at] != CALL:
                data.append((at, symbol))
                continue
            callee = _callee(elf, symbol, struct.unpack_from("<i", code, at + 4)[0])
            calls.append((at, (callee.section, callee.value)))
            if callee not in waiting:
                waiting.append(callee)
    for at, target in calls:
        struct.pack_into("<i", code, at + 4, (starts[target] - at) // INSTRUCTION - 1)
    return Linked(bytes(code), tuple(functions), tuple(data))


def _callee(elf: Elf, symbol: Symbol, immediate: int) -> Symbol:
    """The symbol is the function's or the section's; the rest of the way is in the call."""
    target = symbol.value + (immediate + 1) * INSTRUCTION
    return next(s for s in elf.symbols_of(symbol.section) if s.value == target)
