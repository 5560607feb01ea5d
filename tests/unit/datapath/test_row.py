"""Rows to bytes and back, for every table that the kernel mirrors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.datapath import row as rows
from stentor.datapath.maps import MAPS
from stentor.datapath.row import Codec, Exclusion, Uplink
from stentor.net.address import Addr, Prefix
from stentor.tables.endpoint import EndpointEntry
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag
from stentor.tables.node import NodeAddress
from stentor.tables.policy import Action, Direction, Form, PolicyPeer, PolicyRule

u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
v4 = st.integers(0, 2**32 - 1).map(lambda n: Addr(0xFFFF << 32 | n))
addrs = v4 | st.integers(1, 2**128 - 1).map(Addr)
prefixes = st.builds(Prefix, addrs, st.integers(0, 128))

endpoints = st.builds(
    EndpointEntry,
    addr=addrs,
    endpoint_id=u16,
    ifindex=u32,
    identity=u32,
    policy_id=u32,
    mac=st.binary(min_size=6, max_size=6),
    flags=u32,
)
known = st.builds(
    IPCacheEntry,
    prefix=prefixes,
    identity=u32,
    tunnel=st.none() | addrs,
    encrypt_key=st.integers(0, 255),
    flags=st.sampled_from(list(IPCacheFlag)),
)
nodes = st.builds(NodeAddress, addr=addrs, node_id=u16, identity=u32)
peers = st.builds(
    PolicyPeer,
    policy_id=st.integers(1, 2**31 - 1),
    direction=st.sampled_from(Direction),
    identity=u32,
    class_id=u32,
    forms=st.sampled_from([Form.ANY, Form.EXACT | Form.RANGE, Form.PROTOCOL]),
)


@st.composite
def rules(draw: st.DrawFn) -> PolicyRule:
    protocol = draw(st.sampled_from((0, 1, 6, 17, 58, 132)))
    is_icmp = protocol in (1, 58)
    bits = draw(st.sampled_from((0, 16) if is_icmp else (0, 3, 15, 16))) if protocol else 0
    port = draw(st.integers(0, 255)) if is_icmp else draw(st.integers(1, 2**16 - 1)) >> (16 - bits) << (16 - bits)
    if bits == 16 and not is_icmp:
        port = port or 1
    return PolicyRule(
        class_id=draw(u32),
        protocol=protocol,
        port=port if bits else 0,
        port_bits=bits,
        action=draw(st.sampled_from(Action)),
        proxy=draw(u16),
        auth=draw(st.integers(0, 255)),
    )


uplinks = st.builds(Uplink, ifindex=u32, ipv4=st.none() | v4, ipv6=st.none() | addrs)
exclusions = st.builds(Exclusion, prefix=prefixes)

TABLES = {
    "endpoints": (rows.ENDPOINTS, endpoints, lambda row: row.addr),
    "ipcache": (rows.IPCACHE, known, lambda row: row.prefix),
    "nodes": (rows.NODES, nodes, lambda row: row.addr),
    "peers": (rows.PEERS, peers, lambda row: row.key),
    "rules": (rows.RULES, rules(), lambda row: row.key),
    "uplinks": (rows.UPLINKS, uplinks, lambda row: row.ifindex),
    "exclusions": (rows.EXCLUSIONS, exclusions, lambda row: row.prefix),
}


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
def test_decoding_is_the_inverse_of_encoding(table: str, data: st.DataObject) -> None:
    codec: Codec[Any, Any]
    codec, strategy, key_of = TABLES[table]
    row = data.draw(strategy)
    name, key = codec.place(key_of(row))
    value = codec.encode(row)
    assert name in codec.maps
    assert (len(key), len(value)) == (MAPS[name].key.size, MAPS[name].value.size)
    assert codec.decode(name, key, value) == (key_of(row), row)


def test_icmp_type_zero_is_not_the_wildcard() -> None:
    echo_reply = PolicyRule(class_id=1, protocol=1, port=0, port_bits=16)
    every_icmp = PolicyRule(class_id=1, protocol=1)
    assert rows.RULES.place(echo_reply.key) != rows.RULES.place(every_icmp.key)


def test_single_addresses_and_prefixes_live_apart() -> None:
    assert rows.IPCACHE.place(Prefix.parse("10.0.0.1/32"))[0] == "ipcache"
    assert rows.IPCACHE.place(Prefix.parse("10.0.0.0/24"))[0] == "ipcache_prefixes"
