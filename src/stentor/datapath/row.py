"""Rows of the desired tables as bytes of the maps, and back. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from stentor.datapath.layout import Layout
from stentor.datapath.maps import (
    ADDRESS,
    CLASS_KEY,
    CLASS_RANGE_KEY,
    ENDPOINT,
    IPCACHE_ENTRY,
    L2_KEY,
    L2_RESPONDER,
    NODE,
    NUMBER,
    PEER,
    PEER_KEY,
    PREFIX,
    RULE,
    UPLINK,
)
from stentor.net.address import Addr, Prefix
from stentor.tables.announcement import Announcement, AnnouncementKey
from stentor.tables.endpoint import EndpointEntry
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag
from stentor.tables.masquerade import Exclusion, Uplink
from stentor.tables.node import NodeAddress
from stentor.tables.policy import Action, Direction, Form, PeerKey, PolicyPeer, PolicyRule, RuleKey

K = TypeVar("K")
R = TypeVar("R")

NO_ADDR: Final = Addr(0)
_HAS_TUNNEL: Final = 4  # IPCACHE_TUNNEL of bpf/maps/ipcache.h; the others are IPCacheFlag's
_ICMP: Final = frozenset({1, 58})
_ICMP_TYPE_PORT: Final = 256  # an ICMP type is looked up as a port; type 0 must not read as "any"
_RANGE_EXACT_BITS: Final = 48  # class, protocol and padding in front of the port


class Codec(msgspec.Struct, Generic[K, R], frozen=True):
    """How a table's rows live in one or more maps. `place` names the map of a key and its bytes there; `written` is what is
    left of a value without what the programs write into it."""

    maps: tuple[str, ...]
    place: Callable[[K], tuple[str, bytes]]
    encode: Callable[[R], bytes]
    decode: Callable[[str, bytes, bytes], tuple[K, R]]
    written: Callable[[bytes], bytes] = bytes


def _encode_endpoint(row: EndpointEntry) -> bytes:
    return ENDPOINT.pack(row.ifindex, row.identity, row.policy_id, row.endpoint_id, row.mac, row.flags)


def _decode_endpoint(_map: str, key: bytes, value: bytes) -> tuple[Addr, EndpointEntry]:
    addr = Addr.from_bytes16(key)
    ifindex, identity, policy, number, mac, flags = ENDPOINT.unpack(value)
    return addr, EndpointEntry(
        addr=addr, endpoint_id=number, ifindex=ifindex, identity=identity, policy_id=policy, mac=mac, flags=flags
    )


def _place_prefix(prefix: Prefix) -> tuple[str, bytes]:
    """Single addresses live in the hash, the rest in the trie."""
    if prefix.is_host:
        return "ipcache", prefix.addr.packed16
    return "ipcache_prefixes", PREFIX.pack(prefix.bits, prefix.addr)


def _encode_ipcache(row: IPCacheEntry) -> bytes:
    flags = int(row.flags) | (0 if row.tunnel is None else _HAS_TUNNEL)
    return IPCACHE_ENTRY.pack(row.identity, flags, row.encrypt_key, row.tunnel or NO_ADDR)


def _decode_ipcache(name: str, key: bytes, value: bytes) -> tuple[Prefix, IPCacheEntry]:
    if name == "ipcache":
        prefix = Addr.from_bytes16(key).host_prefix
    else:
        bits, addr = PREFIX.unpack(key)
        prefix = Prefix(addr, bits)
    identity, flags, encrypt_key, tunnel = IPCACHE_ENTRY.unpack(value)
    return prefix, IPCacheEntry(
        prefix=prefix,
        identity=identity,
        tunnel=tunnel if flags & _HAS_TUNNEL else None,
        encrypt_key=encrypt_key,
        flags=IPCacheFlag(flags & ~_HAS_TUNNEL),
    )


def _decode_node(_map: str, key: bytes, value: bytes) -> tuple[Addr, NodeAddress]:
    addr = Addr.from_bytes16(key)
    identity, node_id = NODE.unpack(value)
    return addr, NodeAddress(addr=addr, node_id=node_id, identity=identity)


def _place_peer(key: PeerKey) -> tuple[str, bytes]:
    return "peers", PEER_KEY.pack(key.policy_id << 1 | key.direction, key.identity)


def _decode_peer(_map: str, key: bytes, value: bytes) -> tuple[PeerKey, PolicyPeer]:
    policy, identity = PEER_KEY.unpack(key)
    class_id, forms = PEER.unpack(value)
    row = PolicyPeer(
        policy_id=policy >> 1,
        direction=Direction(policy & 1),
        identity=identity,
        class_id=class_id,
        forms=Form(forms),
    )
    return row.key, row


def _place_rule(key: RuleKey) -> tuple[str, bytes]:
    port = key.port + _ICMP_TYPE_PORT if key.protocol in _ICMP and key.port_bits else key.port
    if 0 < key.port_bits < 16:
        return "class_ranges", CLASS_RANGE_KEY.pack(_RANGE_EXACT_BITS + key.port_bits, key.class_id, key.protocol, port)
    return "classes", CLASS_KEY.pack(key.class_id, key.protocol, port)


def _decode_rule(name: str, key: bytes, value: bytes) -> tuple[RuleKey, PolicyRule]:
    if name == "class_ranges":
        bits, class_id, protocol, port = CLASS_RANGE_KEY.unpack(key)
        port_bits = bits - _RANGE_EXACT_BITS
    else:
        class_id, protocol, port = CLASS_KEY.unpack(key)
        port_bits = 16 if port else 0
    action, auth, proxy = RULE.unpack(value)
    row = PolicyRule(
        class_id=class_id,
        protocol=protocol,
        port=port - _ICMP_TYPE_PORT if protocol in _ICMP and port_bits else port,
        port_bits=port_bits,
        action=Action(action),
        proxy=proxy,
        auth=auth,
    )
    return row.key, row


def _decode_uplink(_map: str, key: bytes, value: bytes) -> tuple[int, Uplink]:
    (ifindex,) = NUMBER.unpack(key)
    v4, v6 = UPLINK.unpack(value)
    return ifindex, Uplink(ifindex=ifindex, ipv4=v4 or None, ipv6=v6 or None)


def _decode_exclusion(_map: str, key: bytes, _value: bytes) -> tuple[Prefix, Exclusion]:
    bits, addr = PREFIX.unpack(key)
    return Prefix(addr, bits), Exclusion(prefix=Prefix(addr, bits))


def lease_id(name: str) -> int:
    """The key of a lease in `l2_leases`. A successor of this process has to find the same one: what is in the kernel must never
    hang on another service's lease."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _decode_announcement(_map: str, key: bytes, value: bytes) -> tuple[AnnouncementKey, Announcement]:
    addr, ifindex = L2_KEY.unpack(key)
    lease, mac, _responses = L2_RESPONDER.unpack(value)
    row = Announcement(addr=addr, ifindex=ifindex, mac=mac, lease=f"{lease:#018x}")
    return row.key, row


def _without_responses(value: bytes) -> bytes:
    lease, mac, _responses = L2_RESPONDER.unpack(value)
    return L2_RESPONDER.pack(lease, mac, 0)


def _in_map(name: str, layout: Layout) -> Callable[[object], tuple[str, bytes]]:
    return lambda key: (name, layout.pack(key))


ENDPOINTS: Final[Codec[Addr, EndpointEntry]] = Codec(
    ("endpoints",), _in_map("endpoints", ADDRESS), _encode_endpoint, _decode_endpoint
)
IPCACHE: Final[Codec[Prefix, IPCacheEntry]] = Codec(
    ("ipcache", "ipcache_prefixes"), _place_prefix, _encode_ipcache, _decode_ipcache
)
NODES: Final[Codec[Addr, NodeAddress]] = Codec(
    ("nodes",), _in_map("nodes", ADDRESS), lambda row: NODE.pack(row.identity, row.node_id), _decode_node
)
PEERS: Final[Codec[PeerKey, PolicyPeer]] = Codec(
    ("peers",), _place_peer, lambda row: PEER.pack(row.class_id, int(row.forms)), _decode_peer
)
RULES: Final[Codec[RuleKey, PolicyRule]] = Codec(
    ("classes", "class_ranges"), _place_rule, lambda row: RULE.pack(row.action, row.auth, row.proxy), _decode_rule
)
UPLINKS: Final[Codec[int, Uplink]] = Codec(
    ("uplinks",),
    _in_map("uplinks", NUMBER),
    lambda row: UPLINK.pack(row.ipv4 or NO_ADDR, row.ipv6 or NO_ADDR),
    _decode_uplink,
)
EXCLUSIONS: Final[Codec[Prefix, Exclusion]] = Codec(
    ("masquerade_exclusions",),
    lambda prefix: ("masquerade_exclusions", PREFIX.pack(prefix.bits, prefix.addr)),
    lambda _row: NUMBER.pack(1),
    _decode_exclusion,
)
ANNOUNCEMENTS: Final[Codec[AnnouncementKey, Announcement]] = Codec(
    ("l2_responder",),
    lambda key: ("l2_responder", L2_KEY.pack(key.addr, key.ifindex)),
    lambda row: L2_RESPONDER.pack(lease_id(row.lease), row.mac, 0),
    _decode_announcement,
    _without_responses,
)
