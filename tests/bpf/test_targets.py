"""Targets on real maps: what is written is there, what does not fit is named, what others wrote is found."""

from __future__ import annotations

import asyncio

import pytest

from stentor.datapath import targets
from stentor.datapath.errors import MapFull
from stentor.datapath.maps import MAPS
from stentor.net.address import Addr, Prefix
from stentor.sys.bpf import F_NO_PREALLOC, Map, MapSpec, MapType
from stentor.tables.ipcache import IPCacheEntry
from stentor.tables.node import NodeAddress
from stentor.tables.policy import Action, PolicyRule


@pytest.fixture
def maps() -> dict[str, Map]:
    """Of the tables used here, with room for 8 rows."""
    made = {}
    for name in ("ipcache", "ipcache_prefixes", "nodes", "classes", "class_ranges"):
        layout = MAPS[name]
        kind = MapType.LPM_TRIE if name in ("ipcache_prefixes", "class_ranges") else MapType.HASH
        made[name] = Map.create(MapSpec(kind, layout.key.size, layout.value.size, 8, F_NO_PREALLOC), name)
    return made


def node(n: int) -> NodeAddress:
    return NodeAddress(addr=Addr(n), node_id=n, identity=6)


def test_apply_and_dump(maps: dict[str, Map]) -> None:
    target = targets.ipcache(maps)
    known = {
        "10.0.0.1": (300, Addr.parse("192.0.2.1")),
        "10.0.0.0/8": (2, None),
        "fd00::1": (301, None),
        "::/0": (10, None),
    }
    rows = [IPCacheEntry(prefix=Prefix.parse(p), identity=i, tunnel=tunnel) for p, (i, tunnel) in known.items()]
    assert asyncio.run(target.apply([(row.prefix, row) for row in rows], [])) == {}
    assert asyncio.run(target.dump()) == {row.prefix: row for row in rows}
    unknown = Prefix.parse("10.9.9.9")
    assert asyncio.run(target.apply([], [rows[0].prefix, rows[1].prefix, unknown])) == {}
    assert asyncio.run(target.dump()) == {row.prefix: row for row in rows[2:]}


def test_what_does_not_fit_is_named_and_the_rest_is_written(maps: dict[str, Map]) -> None:
    target = targets.nodes(maps)
    rows = [(Addr(n), node(n)) for n in range(1, 13)]
    failed = asyncio.run(target.apply(rows, []))
    assert {type(error) for error in failed.values()} == {MapFull}
    assert len(failed) == 4
    assert asyncio.run(target.dump()) == {addr: row for addr, row in rows if addr not in failed}


def test_what_the_kernel_does_not_hold_comes_back_as_written(maps: dict[str, Map]) -> None:
    target = targets.ipcache(maps)
    row = IPCacheEntry(prefix=Prefix.parse("10.0.0.1"), identity=300, source="kube-apiserver")
    asyncio.run(target.apply([(row.prefix, row)], []))
    assert asyncio.run(target.dump()) == {row.prefix: row}
    maps["ipcache"][row.prefix.addr.packed16] = bytes(24)  # somebody else wrote
    assert asyncio.run(target.dump())[row.prefix].identity == 0


def test_rules_of_all_forms(maps: dict[str, Map]) -> None:
    target = targets.rules(maps)
    rows = [
        PolicyRule(class_id=1),
        PolicyRule(class_id=1, protocol=6),
        PolicyRule(class_id=1, protocol=6, port=80, port_bits=16),
        PolicyRule(class_id=1, protocol=17, port=8192, port_bits=3, action=Action.DENY),
    ]
    assert asyncio.run(target.apply([(row.key, row) for row in rows], [])) == {}
    assert asyncio.run(target.dump()) == {row.key: row for row in rows}
    assert [len(list(maps[name].items())) for name in ("classes", "class_ranges")] == [3, 1]


def test_thousands_of_rows(maps: dict[str, Map]) -> None:
    maps["nodes"] = Map.create(MapSpec(MapType.HASH, 16, 8, 20_000, F_NO_PREALLOC), "nodes")
    target = targets.nodes(maps)
    rows = {Addr(n): node(n % 60_000) for n in range(1, 10_001)}
    rows = {addr: NodeAddress(addr=addr, node_id=row.node_id, identity=6) for addr, row in rows.items()}
    assert asyncio.run(target.apply(list(rows.items()), [])) == {}
    assert asyncio.run(target.dump()) == rows
    assert asyncio.run(target.apply([], list(rows))) == {}
    assert asyncio.run(target.dump()) == {}
