"""What the programs counted, and the events of what they dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from stentor.datapath.maps import COUNT, DROP_KEY, EVENT, NUMBER
from stentor.datapath.verdict import Direction, drop_text
from stentor.net.address import Addr
from stentor.sys.bpf import Map
from stentor.sys.ring import RingBuffer


class Forwarded(msgspec.Struct, frozen=True):
    """Sums over all CPUs since the maps were made."""

    direction: Direction
    packets: int
    bytes: int


class Dropped(msgspec.Struct, frozen=True):
    """As `Forwarded`; endpoint 0 is none of this node's."""

    endpoint: int
    reason: int
    direction: Direction
    packets: int
    bytes: int


class DropEvent(msgspec.Struct, frozen=True):
    """One dropped packet. Ports in host order; `time_ns` is CLOCK_MONOTONIC."""

    time_ns: int
    ifindex: int
    length: int
    source_identity: int
    destination_identity: int
    source: Addr
    destination: Addr
    source_port: int
    destination_port: int
    endpoint: int
    protocol: int
    icmp_type: int
    kind: int
    reason: int
    direction: int

    @property
    def text(self) -> str:
        return drop_text(self.reason)


def _sum(row: bytes) -> tuple[int, int]:
    counts = [COUNT.unpack(row[at : at + COUNT.size]) for at in range(0, len(row), COUNT.size)]
    return sum(packets for packets, _ in counts), sum(size for _, size in counts)


def forwarded(maps: Mapping[str, Map]) -> Iterator[Forwarded]:
    """A row a direction."""
    for direction in Direction:
        row = maps["forwarded"].get(NUMBER.pack(direction))
        if row is not None:
            yield Forwarded(direction, *_sum(row))


def dropped(maps: Mapping[str, Map]) -> Iterator[Dropped]:
    """A row for each (endpoint, reason, direction) that ever was."""
    for key, row in maps["drops"].items():
        endpoint, reason, direction = DROP_KEY.unpack(key)
        yield Dropped(endpoint, reason, Direction(direction), *_sum(row))


class DropEvents:
    """The ring buffer of events. One reader a node; `fileno()` becomes readable when there is something."""

    MOST: Final = 4096

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._ring = RingBuffer(maps["events"])

    def fileno(self) -> int:
        return self._ring.fileno()

    def read(self) -> list[DropEvent]:
        """Events since the last call, oldest first."""
        return [DropEvent(*EVENT.unpack(raw)) for raw in self._ring.drain(self.MOST)]
