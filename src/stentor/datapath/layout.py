"""Layouts of C structs as tables of fields, and the bytes they make.

A field is a name and a kind; kinds say how a Python value becomes bytes. `tests/bpf/test_layout.py` compares every layout of
`maps.py` with the objects' BTF: names, offsets and sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from stentor.net.address import Addr


class Kind(msgspec.Struct, frozen=True):
    """`format` is struct's; `encode` and `decode` translate where a plain number does not do."""

    format: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


U8: Final = Kind("B")
U16: Final = Kind("H")
U32: Final = Kind("I")
U64: Final = Kind("Q")
BE16: Final = Kind("2s", lambda n: n.to_bytes(2, "big"), lambda raw: int.from_bytes(raw, "big"))
BE32: Final = Kind("4s", lambda n: n.to_bytes(4, "big"), lambda raw: int.from_bytes(raw, "big"))
ADDR: Final = Kind("16s", lambda addr: addr.packed16, Addr.from_bytes16)
MAC: Final = Kind("6s")


def pad(length: int) -> Kind:
    """Bytes that are zero and have no value."""
    return Kind(f"{length}x")


class Layout:
    """A C struct: `pack(*values)` in the order of the fields, padding left out."""

    def __init__(self, struct_name: str, **fields: Kind) -> None:
        self.struct_name, self.kinds = struct_name, fields
        self._struct = struct.Struct("=" + "".join(kind.format for kind in fields.values()))
        valued = [kind for kind in fields.values() if not kind.format.endswith("x")]
        self.names = tuple(name for name, kind in fields.items() if not kind.format.endswith("x"))
        self._encoders = tuple((i, kind.encode) for i, kind in enumerate(valued) if kind.encode)
        self._decoders = tuple((i, kind.decode) for i, kind in enumerate(valued) if kind.decode)

    @property
    def size(self) -> int:
        return self._struct.size

    def offsets(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, size) of every field, padding included."""
        at = 0
        for name, kind in self.kinds.items():
            size = struct.calcsize("=" + kind.format)
            yield name, at, size
            at += size

    def pack(self, *values: Any) -> bytes:
        if self._encoders:
            changed = list(values)
            for i, encode in self._encoders:
                changed[i] = encode(changed[i])
            return self._struct.pack(*changed)
        return self._struct.pack(*values)

    def unpack(self, raw: bytes) -> tuple[Any, ...]:
        values = self._struct.unpack(raw)
        if self._decoders:
            changed = list(values)
            for i, decode in self._decoders:
                changed[i] = decode(changed[i])
            return tuple(changed)
        return values
