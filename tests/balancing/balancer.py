"""Load-balancing maps and programs without an agent: what is under test is how they work together."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence

from stentor.datapath.config import DatapathConfig
from stentor.datapath.maps import IPCACHE_ENTRY
from stentor.datapath.object import Object, read_objects
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.sys.bpf import Map
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

MAGLEV_SIZE = 251
SEED = maglev.parse_seed(maglev.DEFAULT_SEED)


def lookup_table(backends: Sequence[Backend]) -> array.array[int]:
    return maglev.table(backends, MAGLEV_SIZE, SEED)


class Balancer:
    """Maps of one object, in no file system, and the target that fills them."""

    def __init__(self, object_name: str, most: int = 4096, sizes: Mapping[str, int] | None = None) -> None:
        self.object: Object = read_objects()[object_name]
        self.maps = {
            name: Map.create(self.object.map_spec(name, (sizes or {}).get(name, most)), name)
            for name in self.object.definitions
        }
        self.target = ServiceTarget(self.maps, lookup_table, MAGLEV_SIZE)

    def programs(self, config: DatapathConfig) -> dict[str, int]:
        loaded = self.object.load(config.pack(), self.maps)
        return {name: loaded.program(name) for name in self.object.programs}

    def set_identity(self, ip: str, identity: int, flags: int = 0) -> None:
        self.maps["ipcache"][Addr.parse(ip).packed16] = IPCACHE_ENTRY.pack(identity, flags, 0, Addr(0))

    async def put(self, *entries: LBEntry) -> None:
        assert await self.target.apply([(each.key, each) for each in entries], []) == {}

    async def drop(self, *keys: FrontendKey) -> None:
        assert await self.target.apply([], keys) == {}

    def rows(self) -> dict[str, int]:
        names = ("lb_services", "lb_slots", "lb_members", "lb_sources", "lb_maglev")
        return {name: sum(1 for _ in self.maps[name].items()) for name in names}


def key(at: str, protocol: Protocol = Protocol.TCP) -> FrontendKey:
    """From ``10.96.0.1:80`` or ``[fd00::1]:80``."""
    host, _, port = at.rpartition(":")
    return FrontendKey(Addr.parse(host.strip("[]")), int(port), protocol)


def backend(at: str, is_terminating: bool = False) -> Backend:
    found = key(at)
    return Backend(found.addr, found.port, is_terminating)


def entry(at: str, *backends: str, protocol: Protocol = Protocol.TCP, affinity_s: int = 0) -> LBEntry:
    return LBEntry(
        key=key(at, protocol),
        internal=tuple(backend(each) for each in backends),
        affinity_s=affinity_s,
        flags=EntryFlag.AFFINITY if affinity_s else EntryFlag.NONE,
    )
