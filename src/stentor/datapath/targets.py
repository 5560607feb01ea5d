"""Reconcilers' targets: desired tables into the kernel's maps.

targets.endpoints(datapath.maps)  Addr → tables.endpoint.EndpointEntry
targets.ipcache(…)                Prefix → tables.ipcache.IPCacheEntry
targets.nodes(…)                  Addr → tables.node.NodeAddress
targets.peers(…)                  PeerKey → tables.policy.PolicyPeer
targets.rules(…)                  RuleKey → tables.policy.PolicyRule (classes and ranges)
targets.uplinks(…)                ifindex → tables.masquerade.Uplink
targets.exclusions(…)             Prefix → tables.masquerade.Exclusion
targets.announcements(…)          AnnouncementKey → tables.announcement.Announcement
"""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

from stentor.datapath import row as rows
from stentor.datapath.errors import MapFull
from stentor.datapath.row import Codec
from stentor.net.address import Addr, Prefix
from stentor.sys.bpf import Map
from stentor.tables.announcement import Announcement, AnnouncementKey
from stentor.tables.endpoint import EndpointEntry
from stentor.tables.ipcache import IPCacheEntry
from stentor.tables.masquerade import Exclusion, Uplink
from stentor.tables.node import NodeAddress
from stentor.tables.policy import PeerKey, PolicyPeer, PolicyRule, RuleKey

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_SLICE: Final = 512
"""Rows between two turns of the event loop: encoding them takes 1-2 ms."""

_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})


class MapTarget(Generic[K, R]):
    """One table's rows in their maps. A row written before is given back as it was written while its bytes are unchanged:
    tables know more about a row than the datapath needs."""

    def __init__(self, maps: Mapping[str, Map], codec: Codec[K, R]) -> None:
        self._maps = {name: maps[name] for name in codec.maps}
        self._codec = codec
        self._written: dict[K, tuple[bytes, R]] = {}

    async def apply(self, upserts: Sequence[tuple[K, R]], deletes: Sequence[K]) -> Mapping[K, Exception]:
        """Upserts first. Returns what the kernel refused: MapFull, or OSError."""
        failed: dict[K, Exception] = {}
        for part in _slices(upserts):
            failed |= self._write(part)
            if part is not upserts:
                await asyncio.sleep(0)
        for keys in _slices(deletes):
            failed |= self._remove(keys)
            if keys is not deletes:
                await asyncio.sleep(0)
        return failed

    def _write(self, part: Sequence[tuple[K, R]]) -> dict[K, Exception]:
        batches: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        places: dict[tuple[str, bytes], K] = {}
        for key, row in part:
            name, raw = self._codec.place(key)
            value = batches[name][raw] = self._codec.encode(row)
            places[name, raw] = key
            self._written[key] = value, row
        failed = {
            places[name, raw]: self._explain(name, error)
            for name, batch in batches.items()
            for raw, error in self._maps[name].update_batch(batch).items()
        }
        for key in failed:
            self._written.pop(key, None)
        return failed

    def _explain(self, name: str, error: OSError) -> Exception:
        return MapFull(name, self._maps[name].spec.max_entries) if error.errno in _FULL else error

    def _remove(self, keys: Sequence[K]) -> dict[K, Exception]:
        batches: dict[str, dict[bytes, K]] = defaultdict(dict)
        for key in keys:
            name, raw = self._codec.place(key)
            batches[name][raw] = key
            self._written.pop(key, None)
        return {
            batch[raw]: error
            for name, batch in batches.items()
            for raw, error in self._maps[name].delete_batch(batch).items()
        }

    async def dump(self) -> Mapping[K, R]:
        """All rows in the kernel."""
        found: dict[K, R] = {}
        for name, each in self._maps.items():
            items = each.items()
            while part := list(islice(items, _SLICE)):
                found.update(self._read(name, raw, value) for raw, value in part)
                await asyncio.sleep(0)
        return found

    def _read(self, name: str, raw: bytes, value: bytes) -> tuple[K, R]:
        key, row = self._codec.decode(name, raw, value)
        written = self._written.get(key)
        return key, written[1] if written and written[0] == self._codec.written(value) else row


def _slices(items: Sequence[R]) -> Iterator[Sequence[R]]:
    """Parts between which the event loop may turn; a single one is `items` itself."""
    if len(items) <= _SLICE:
        return iter((items,) if items else ())
    return (items[at : at + _SLICE] for at in range(0, len(items), _SLICE))


def endpoints(maps: Mapping[str, Map]) -> MapTarget[Addr, EndpointEntry]:
    return MapTarget(maps, rows.ENDPOINTS)


def ipcache(maps: Mapping[str, Map]) -> MapTarget[Prefix, IPCacheEntry]:
    return MapTarget(maps, rows.IPCACHE)


def nodes(maps: Mapping[str, Map]) -> MapTarget[Addr, NodeAddress]:
    return MapTarget(maps, rows.NODES)


def peers(maps: Mapping[str, Map]) -> MapTarget[PeerKey, PolicyPeer]:
    return MapTarget(maps, rows.PEERS)


def rules(maps: Mapping[str, Map]) -> MapTarget[RuleKey, PolicyRule]:
    return MapTarget(maps, rows.RULES)


def uplinks(maps: Mapping[str, Map]) -> MapTarget[int, Uplink]:
    return MapTarget(maps, rows.UPLINKS)


def exclusions(maps: Mapping[str, Map]) -> MapTarget[Prefix, Exclusion]:
    return MapTarget(maps, rows.EXCLUSIONS)


def announcements(maps: Mapping[str, Map]) -> MapTarget[AnnouncementKey, Announcement]:
    return MapTarget(maps, rows.ANNOUNCEMENTS)
