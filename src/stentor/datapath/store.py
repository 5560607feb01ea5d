"""The pinned maps: made, taken over from a predecessor, or moved into a larger one.

A small pinned map, `layouts`, remembers a digest of every map's row layout, so that rows of an equal size but another meaning
are not taken for ours.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from typing import Final

from stentor.datapath.errors import MapLayoutChanged, MapTooSmall
from stentor.datapath.maps import MAPS
from stentor.datapath.names import Pins
from stentor.sys.bpf import Map, MapSpec, MapType, pin

_LAYOUTS: Final = "layouts"
_NAME_BYTES, _DIGEST_BYTES = 32, 8
# Losing rows of these costs nothing but a look at the first packets of a connection: the kernel evicts them by itself.
_EVICTING: Final = frozenset({MapType.LRU_HASH})


class Store:
    """All maps of a node, by name. `moved` holds the predecessors of maps that were replaced, until `settle`."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self.maps: dict[str, Map] = {}
        self._moved: dict[str, Map] = {}
        spec = MapSpec(MapType.HASH, _NAME_BYTES, _DIGEST_BYTES, 256)
        self._layouts = _open_or_none(pins, _LAYOUTS) or self._create(_LAYOUTS, spec)

    def open(self, wanted: Mapping[str, MapSpec]) -> None:
        """Make or take over every map. MapLayoutChanged or MapTooSmall, before anything is changed, when one cannot be
        taken over."""
        found = {name: existing for name in wanted if (existing := _open_or_none(self._pins, name)) is not None}
        for name, existing in found.items():
            self._check(name, existing, wanted[name])
        for name, spec in wanted.items():
            old = found.get(name)
            if old is None:
                self.maps[name] = self._create(name, spec)
            elif old.spec == spec:
                self.maps[name] = old
            else:
                self.maps[name] = self._move(name, old, spec)

    def settle(self) -> None:
        """After the programs use the new maps: rows that the old programs made meanwhile come along."""
        for name, old in self._moved.items():
            present = {key for key, _ in self.maps[name].items()}
            self.maps[name].update_batch({key: value for key, value in old.items() if key not in present})
            old.close()
        self._moved.clear()

    def _create(self, name: str, spec: MapSpec) -> Map:
        made = Map.create(spec, name)
        pin(made.fd, self._pins.map(name))
        if name != _LAYOUTS:
            self._layouts[_key(name)] = layout_digest(name)
        return made

    def _check(self, name: str, old: Map, spec: MapSpec) -> None:
        for field in ("type", "key_size", "value_size"):
            was, now = getattr(old.spec, field), getattr(spec, field)
            if was != now:
                raise MapLayoutChanged(name, f"{field} was {was}, this version wants {now}")
        digest = self._layouts.get(_key(name))
        if digest not in (None, layout_digest(name)):
            raise MapLayoutChanged(name, "the rows have other fields")
        if spec.type in _EVICTING or spec.type == MapType.RINGBUF or spec.max_entries >= old.spec.max_entries:
            return
        rows = sum(1 for _ in old.items())
        if rows > spec.max_entries:
            raise MapTooSmall(name, rows, spec.max_entries, MAPS[name].limit if name in MAPS else None)

    def _move(self, name: str, old: Map, spec: MapSpec) -> Map:
        """Another capacity: a new map with the rows of the old one takes over its pin."""
        made = Map.create(spec, name)
        if spec.type != MapType.RINGBUF:
            made.update_batch(dict(old.items()))
            self._moved[name] = old
        path = self._pins.map(name)
        beside = path.with_name(f"{name}-new")
        beside.unlink(missing_ok=True)
        pin(made.fd, beside)
        os.rename(beside, path)
        return made

    def close(self) -> None:
        for each in (*self.maps.values(), *self._moved.values(), self._layouts):
            each.close()


def layout_digest(name: str) -> bytes:
    """Of the fields of a map's key and value: their names, offsets and sizes."""
    layout = MAPS.get(name)
    fields = "" if layout is None else repr([*layout.key.offsets(), "→", *layout.value.offsets()])
    return hashlib.sha256(fields.encode()).digest()[:_DIGEST_BYTES]


def _key(name: str) -> bytes:
    return name.encode().ljust(_NAME_BYTES, b"\0")


def _open_or_none(pins: Pins, name: str) -> Map | None:
    try:
        return Map.open(pins.map(name))
    except OSError as e:
        if e.errno == errno.ENOENT:
            return None
        raise
