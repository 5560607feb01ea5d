"""What the load-balancing maps hold: one reading of all five, by the set or the service that a row belongs to.

Of sets that the reader knows there is a digest only; rows of others are kept. Takes turns with the event loop.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from itertools import islice
from typing import Final

from stentor.datapath.maps import MAPS
from stentor.sys.bpf import Map

SET_MAPS: Final = ("lb_slots", "lb_members", "lb_maglev")
_SLICE: Final = 2048


def _owner(name: str, field: str) -> struct.Struct:
    """Reads the number of a row's set or service."""
    at = next(at for found, at, _ in MAPS[name].key.offsets() if found == field)
    return struct.Struct(f"={at}xI")


_SET: Final = {name: _owner(name, "set") for name in SET_MAPS}
_SERVICE: Final = _owner("lb_sources", "service")

Rows = dict[bytes, bytes]


class Census:
    """`digests` and `tables` are by set: of its rows in `lb_slots` and `lb_members`, and of those in `lb_maglev` together with
    how many there are. `unknown` are rows of other sets, by map and set; `sources` the keys of `lb_sources` by service."""

    def __init__(self) -> None:
        self.services: Rows = {}
        self.sources: defaultdict[int, set[bytes]] = defaultdict(set)
        self.digests: defaultdict[int, int] = defaultdict(int)
        self.tables: defaultdict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self.unknown: dict[str, defaultdict[int, Rows]] = {name: defaultdict(dict) for name in SET_MAPS}

    @property
    def sets(self) -> set[int]:
        """Numbers of all sets that have rows."""
        return self.digests.keys() | self.tables.keys()


async def take(maps: Mapping[str, Map], known: Container[int]) -> Census:
    """Nobody may write meanwhile."""
    census = Census()
    for name in SET_MAPS:
        numbers, unknown = _SET[name], census.unknown[name]
        async for rows in _slices(maps[name]):
            for key, value in rows:
                (number,) = numbers.unpack_from(key)
                if name == "lb_maglev":
                    before, count = census.tables[number]
                    census.tables[number] = before + hash(key + value), count + 1
                else:
                    census.digests[number] += hash(key + value)
                if number not in known:
                    unknown[number][key] = value
    async for rows in _slices(maps["lb_sources"]):
        for key, _ in rows:
            census.sources[_SERVICE.unpack_from(key)[0]].add(key)
    async for rows in _slices(maps["lb_services"]):
        census.services.update(rows)
    return census


async def _slices(found: Map) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
    items = found.items()
    while rows := list(islice(items, _SLICE)):
        yield rows
        await asyncio.sleep(0)
