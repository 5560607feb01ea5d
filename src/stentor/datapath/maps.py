"""Every map of the datapath and the layout of its rows: the one place that knows the bytes of `bpf/maps/*.h`."""

from __future__ import annotations

from typing import Final

import msgspec

from stentor.datapath.layout import ADDR, BE16, BE32, MAC, U8, U16, U32, U64, Kind, Layout, pad

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
    protect_node_ports=U8,
    host_sockets_only=U8,
    node_port_min=U16,
    node_port_max=U16,
    host_netns=U64,
    maglev_size=U32,
    l2_announcements=U8,
    reject_no_backend=U8,
    pad2=pad(2),
    overlay_source=BE32,
    pad3=pad(4),
)

ADDRESS: Final = Layout("addr", w=ADDR)
NUMBER: Final = Layout("", value=U32)
LONG_NUMBER: Final = Layout("", value=U64)
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
CT_ENTRY: Final = Layout("ct_entry", expires=U32, client_identity=U32, flags=U32, devices=U32)
FRAGMENT_KEY: Final = Layout("fragment_key", src=ADDR, dst=ADDR, id=BE32, proto=U8, pad=pad(3))
FRAGMENT: Final = Layout("fragment", sport=BE16, dport=BE16, icmp_type=U8, proto=U8, pad=pad(2))
NAT_KEY: Final = Layout("nat_key", src=ADDR, dst=ADDR, sport=BE16, dport=BE16, proto=U8, side=U8, pad=pad(2))
NAT_ENTRY: Final = Layout("nat_entry", addr=ADDR, port=BE16, pad=pad(2), expires=U32)
UPLINK: Final = Layout("uplink", v4=ADDR, v6=ADDR)
LB_KEY: Final = Layout("lb_key", addr=ADDR, port=BE16, proto=U8, pad=pad(1))
LB_SERVICE: Final = Layout(
    "lb_service",
    id=U32,
    flags=U32,
    internal_set=U32,
    internal_count=U32,
    external_set=U32,
    external_count=U32,
    affinity_s=U32,
)
LB_SLOT_KEY: Final = Layout("lb_slot_key", set=U32, slot=U32)
LB_BACKEND: Final = Layout("lb_backend", addr=ADDR, port=BE16, terminating=U8, pad=pad(1))
LB_MEMBER_KEY: Final = Layout("lb_member_key", set=U32, addr=ADDR, port=BE16, pad=pad(2))
LB_SOURCE_KEY: Final = Layout("lb_source_key", prefixlen=U32, service=U32, addr=ADDR)
LB_MAGLEV_KEY: Final = Layout("lb_maglev_key", set=U32, part=U32)
LB_MAGLEV_PART: Final = Layout("lb_maglev_part", slots=Kind("128s"))
LB_CLIENT_KEY: Final = Layout("lb_client_key", client=ADDR, service=U32)
LB_CLIENT: Final = Layout("lb_client", addr=ADDR, port=BE16, pad=pad(2), used=U32)
LB_FLOW: Final = Layout("lb_flow", addr=ADDR, port=BE16, closed=U16, expires=U32)
LB_ORIGIN_KEY: Final = Layout("lb_origin_key", socket=U64, addr=ADDR, port=BE16, pad=pad(6))
L2_KEY: Final = Layout("l2_key", addr=ADDR, ifindex=U32)
L2_RESPONDER: Final = Layout("l2_responder", lease=U64, mac=MAC, pad=pad(2), responses=U64)
L2_LEASE: Final = Layout("l2_lease", until=U64)
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
    "endpoints": MapLayout(ADDRESS, ENDPOINT, "lxcMapMax"),
    "ipcache": MapLayout(ADDRESS, IPCACHE_ENTRY, "ipcacheMax"),
    "ipcache_prefixes": MapLayout(PREFIX, IPCACHE_ENTRY, "ipcacheMax"),
    "nodes": MapLayout(ADDRESS, NODE, "nodeMapMax"),
    "peers": MapLayout(PEER_KEY, PEER),
    "classes": MapLayout(CLASS_KEY, RULE),
    "class_ranges": MapLayout(CLASS_RANGE_KEY, RULE),
    "conntrack_tcp": MapLayout(CT_KEY, CT_ENTRY, "ctTcpMax"),
    "conntrack_any": MapLayout(CT_KEY, CT_ENTRY, "ctAnyMax"),
    "fragments": MapLayout(FRAGMENT_KEY, FRAGMENT, "fragMapMax"),
    "nat": MapLayout(NAT_KEY, NAT_ENTRY, "natMax"),
    "uplinks": MapLayout(NUMBER, UPLINK),
    "masquerade_exclusions": MapLayout(PREFIX, NUMBER),
    "lb_services": MapLayout(LB_KEY, LB_SERVICE, "lbMapMax"),
    "lb_slots": MapLayout(LB_SLOT_KEY, LB_BACKEND, "lbMapMax"),
    "lb_members": MapLayout(LB_MEMBER_KEY, NUMBER, "lbMapMax"),
    "lb_sources": MapLayout(LB_SOURCE_KEY, NUMBER, "lbMapMax"),
    "lb_maglev": MapLayout(LB_MAGLEV_KEY, LB_MAGLEV_PART),
    "lb_clients": MapLayout(LB_CLIENT_KEY, LB_CLIENT, "lbMapMax"),
    "lb_origins": MapLayout(LB_ORIGIN_KEY, LB_KEY, "ctAnyMax"),
    "lb_flows": MapLayout(NAT_KEY, LB_FLOW, "natMax"),
    "l2_responder": MapLayout(L2_KEY, L2_RESPONDER),
    "l2_leases": MapLayout(LONG_NUMBER, L2_LEASE),
    "forwarded": MapLayout(NUMBER, COUNT),
    "drops": MapLayout(DROP_KEY, COUNT),
}
