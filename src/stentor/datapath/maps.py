"""Every map of the datapath and the layout of its rows: the one place that knows the bytes of `bpf/maps/*.h`."""

from __future__ import annotations

from typing import Final

import msgspec

from stentor.datapath.layout import ADDR, BE16, BE32, MAC, U8, U16, U32, U64, Layout, pad

CONFIG: Final = Layout(
    "config",
    overlay_ifindex=U32,
    world_ipv4=U32,
    world_ipv6=U32,
    cluster_id_shift=U32,
    ct_tcp=U32,
    ct_tcp_syn=U32,
    ct_tcp_fin=U32,
    ct_any=U32,
    snat_port_min=U16,
    snat_port_max=U16,
    tunnel_port=BE16,
    masquerade_ipv4=U8,
    masquerade_ipv6=U8,
    coarse_clock=U8,
    test=U8,
    pad=pad(2),
)

ADDRESS: Final = Layout("addr", w=ADDR)
NUMBER: Final = Layout("", value=U32)
PREFIX: Final = Layout("prefix_key", prefixlen=U32, addr=ADDR)
ENDPOINT: Final = Layout("endpoint", ifindex=U32, identity=U32, policy=U32, id=U16, mac=MAC, flags=U32)
IPCACHE_ENTRY: Final = Layout("ipcache_entry", identity=U32, flags=U16, encrypt_key=U8, pad=pad(1), tunnel=ADDR)
NODE: Final = Layout("node", identity=U32, id=U16, pad=pad(2))
PEER_KEY: Final = Layout("peer_key", policy=U32, identity=U32)
PEER: Final = Layout("peer", class_id=U32, forms=U32)
CLASS_KEY: Final = Layout("class_key", class_id=U32, protocol=U8, pad=pad(1), port=BE16)
CLASS_RANGE_KEY: Final = Layout("class_range_key", prefixlen=U32, class_id=U32, protocol=U8, pad=pad(1), port=BE16)
RULE: Final = Layout("rule", action=U8, auth=U8, proxy=U16)
CT_KEY: Final = Layout("ct_key", a=ADDR, b=ADDR, a_port=BE16, b_port=BE16, proto=U8, pad=pad(3))
CT_ENTRY: Final = Layout("ct_entry", expires=U32, client_identity=U32, flags=U32, pad=pad(4))
FRAGMENT_KEY: Final = Layout("fragment_key", src=ADDR, dst=ADDR, id=BE32, proto=U8, pad=pad(3))
FRAGMENT: Final = Layout("fragment", sport=BE16, dport=BE16, icmp_type=U8, pad=pad(3))
NAT_KEY: Final = Layout("nat_key", src=ADDR, dst=ADDR, sport=BE16, dport=BE16, proto=U8, side=U8, pad=pad(2))
NAT_ENTRY: Final = Layout("nat_entry", addr=ADDR, port=BE16, pad=pad(2), expires=U32)
UPLINK: Final = Layout("uplink", v4=ADDR, v6=ADDR)
COUNT: Final = Layout("count", packets=U64, bytes=U64)
DROP_KEY: Final = Layout("drop_key", endpoint=U16, reason=U8, direction=U8)
EVENT: Final = Layout(
    "event",
    time_ns=U64,
    ifindex=U32,
    length=U32,
    src_identity=U32,
    dst_identity=U32,
    src=ADDR,
    dst=ADDR,
    sport=BE16,
    dport=BE16,
    endpoint=U16,
    proto=U8,
    icmp_type=U8,
    kind=U8,
    reason=U8,
    direction=U8,
    pad=pad(5),
)


class MapLayout(msgspec.Struct, frozen=True):
    """One map: the layouts of its key and value, and the configuration value that sizes it (None: fixed)."""

    key: Layout
    value: Layout
    limit: str | None = None


# Names as in bpf/maps/*.h, which are the names of the pins. Limits are upstream's values where it has one.
MAPS: Final[dict[str, MapLayout]] = {
    "endpoints": MapLayout(ADDRESS, ENDPOINT),
    "ipcache": MapLayout(ADDRESS, IPCACHE_ENTRY, "ipcacheMax"),
    "ipcache_prefixes": MapLayout(PREFIX, IPCACHE_ENTRY, "ipcacheMax"),
    "nodes": MapLayout(ADDRESS, NODE, "nodeMapMax"),
    "peers": MapLayout(PEER_KEY, PEER, "peersMax"),
    "classes": MapLayout(CLASS_KEY, RULE, "classesMax"),
    "class_ranges": MapLayout(CLASS_RANGE_KEY, RULE, "classesMax"),
    "conntrack_tcp": MapLayout(CT_KEY, CT_ENTRY, "ctTcpMax"),
    "conntrack_any": MapLayout(CT_KEY, CT_ENTRY, "ctAnyMax"),
    "fragments": MapLayout(FRAGMENT_KEY, FRAGMENT),
    "nat": MapLayout(NAT_KEY, NAT_ENTRY, "natMax"),
    "uplinks": MapLayout(NUMBER, UPLINK),
    "masquerade_exclusions": MapLayout(PREFIX, NUMBER),
    "forwarded": MapLayout(NUMBER, COUNT),
    "drops": MapLayout(DROP_KEY, COUNT),
}
