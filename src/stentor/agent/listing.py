"""Rows of the kernel's maps as people read them: the content of `/v1/bpf/MAP`, with upstream's columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from stentor.datapath import announcement, connection, metric, row, service_flow
from stentor.datapath.maps import LB_KEY, LB_SERVICE
from stentor.datapath.service_set import read_sets
from stentor.datapath.verdict import drop_text
from stentor.net.address import Addr
from stentor.sys.bpf import Map
from stentor.tables.ipcache import IPCacheFlag
from stentor.tables.policy import Form
from stentor.tables.service import EntryFlag

_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
Row = tuple[str | int, ...]


class Listing(msgspec.Struct, frozen=True):
    """A table for people and scripts: every row has as many values as there are columns."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def _protocol(number: int) -> str:
    return _PROTOCOLS.get(number, str(number) if number else "ANY")


def _end(addr: Addr, port: int) -> str:
    return f"{addr}:{port}" if addr.family == 4 else f"[{addr}]:{port}"


def _endpoints(maps: Mapping[str, Map]) -> Iterator[Row]:
    for key, value in maps["endpoints"].items():
        addr, entry = row.ENDPOINTS.decode("endpoints", key, value)
        text = f"id={entry.endpoint_id} sec_id={entry.identity} policy={entry.policy_id} flags=0x{entry.flags:04X} "
        yield f"{addr}:0", text + f"ifindex={entry.ifindex} mac={entry.mac.hex(':').upper()}"


def _ipcache(maps: Mapping[str, Map]) -> Iterator[Row]:
    for name in row.IPCACHE.maps:
        for key, value in maps[name].items():
            prefix, entry = row.IPCACHE.decode(name, key, value)
            flags = [flag.name.lower().replace("_", "") for flag in IPCacheFlag if flag & entry.flags and flag.name]
            if entry.tunnel is not None:
                flags.insert(0, "hastunnel")
            tunnel = entry.tunnel if entry.tunnel is not None else "0.0.0.0"
            words = f"identity={entry.identity} encryptkey={entry.encrypt_key} tunnelendpoint={tunnel}"
            yield str(prefix), f"{words} flags={','.join(flags) or '<none>'}"


def _nodes(maps: Mapping[str, Map]) -> Iterator[Row]:
    for key, value in maps["nodes"].items():
        addr, node = row.NODES.decode("nodes", key, value)
        yield str(addr), node.identity, node.node_id


def _peers(maps: Mapping[str, Map]) -> Iterator[Row]:
    for key, value in maps["peers"].items():
        _, peer = row.PEERS.decode("peers", key, value)
        forms = ",".join(form.name.lower() for form in Form if form & peer.forms and form.name)
        yield peer.policy_id, peer.direction.name.capitalize(), peer.identity or "ANY", peer.class_id, forms


def _classes(maps: Mapping[str, Map]) -> Iterator[Row]:
    for name in row.RULES.maps:
        for key, value in maps[name].items():
            _, rule = row.RULES.decode(name, key, value)
            port = (
                f"{rule.port}/{rule.port_bits}"
                if 0 < rule.port_bits < 16
                else str(rule.port)
                if rule.port_bits
                else "ANY"
            )
            yield (
                rule.class_id,
                rule.action.name.capitalize(),
                f"{port}/{_protocol(rule.protocol)}",
                rule.proxy,
                rule.auth,
            )


def _connections(maps: Mapping[str, Map]) -> Iterator[Row]:
    for each in connection.connections(maps):
        client, server = _end(each.client, each.client_port), _end(each.server, each.server_port)
        flags = "|".join(flag.name for flag in connection.Flag if flag & each.flags and flag.name) or "0"
        yield _protocol(each.protocol), client, server, f"{each.expires_s:.0f}s", each.client_identity, flags


def _translations(maps: Mapping[str, Map]) -> Iterator[Row]:
    for each in connection.translations(maps):
        source, destination = _end(each.source, each.source_port), _end(each.destination, each.destination_port)
        what = "XLATE_SRC" if each.side is connection.Side.OUT else "XLATE_DST"
        yield (
            _protocol(each.protocol),
            each.side.name,
            source,
            destination,
            f"{what} {_end(each.to, each.to_port)}",
            f"{each.expires_s:.0f}s",
        )


def _metrics(maps: Mapping[str, Map]) -> Iterator[Row]:
    for each in metric.forwarded(maps):
        yield "Success", each.direction.name, each.packets, each.bytes, 0
    for drop in metric.dropped(maps):
        yield drop_text(drop.reason), drop.direction.name, drop.packets, drop.bytes, drop.endpoint


def _uplinks(maps: Mapping[str, Map]) -> Iterator[Row]:
    for key, value in maps["uplinks"].items():
        _, uplink = row.UPLINKS.decode("uplinks", key, value)
        yield uplink.ifindex, str(uplink.ipv4 or ""), str(uplink.ipv6 or "")


def _exclusions(maps: Mapping[str, Map]) -> Iterator[Row]:
    for key, value in maps["masquerade_exclusions"].items():
        prefix, _ = row.EXCLUSIONS.decode("masquerade_exclusions", key, value)
        yield (str(prefix),)


def _services(maps: Mapping[str, Map]) -> Iterator[Row]:
    sets = read_sets(maps["lb_slots"].items())
    for key, value in maps["lb_services"].items():
        addr, port, protocol = LB_KEY.unpack(key)
        number, flags, internal, _, external, _, _ = LB_SERVICE.unpack(value)
        at = f"{_end(addr, port)}/{_protocol(protocol)}"
        words = "|".join(flag.name for flag in EntryFlag if flag & flags and flag.name) or "-"
        yield f"{at} (0)", f"0.0.0.0:0 ({number}) (0) [{words}]"
        for scope, chosen in (("internal", internal), ("external", external)):
            if scope == "internal" or chosen != internal:
                for slot, backend in enumerate(sets.get(chosen, ()), 1):
                    yield f"{at} ({slot})", f"{backend}/{_protocol(protocol)} ({number}) ({slot}) [{scope}]"


def _service_flows(maps: Mapping[str, Map]) -> Iterator[Row]:
    for each in service_flow.flows(maps):
        source, destination = _end(each.source, each.source_port), _end(each.destination, each.destination_port)
        to = _end(each.to, each.to_port)
        yield _protocol(each.protocol), each.side.name, source, destination, to, f"{each.expires_s:.0f}s"


def _responders(maps: Mapping[str, Map]) -> Iterator[Row]:
    for each in announcement.responders(maps):
        yield str(each.addr), each.ifindex, each.mac.hex(":"), f"{each.left_s:.1f}s", each.responses


_LISTINGS: Final[dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Map]], Iterator[Row]]]]] = {
    "endpoint": (("IP ADDRESS", "LOCAL ENDPOINT INFO"), _endpoints),
    "ipcache": (("IP PREFIX/ADDRESS", "IDENTITY"), _ipcache),
    "node": (("IP ADDRESS", "IDENTITY", "NODE ID"), _nodes),
    "policy": (("POLICY", "DIRECTION", "IDENTITY", "CLASS", "FORMS"), _peers),
    "class": (("CLASS", "ACTION", "PORT/PROTO", "PROXY", "AUTH"), _classes),
    "ct": (("PROTOCOL", "SOURCE", "DESTINATION", "EXPIRES", "IDENTITY", "FLAGS"), _connections),
    "nat": (("PROTOCOL", "SIDE", "SOURCE", "DESTINATION", "TRANSLATION", "EXPIRES"), _translations),
    "metrics": (("REASON", "DIRECTION", "PACKETS", "BYTES", "ENDPOINT"), _metrics),
    "uplink": (("IFINDEX", "IPv4", "IPv6"), _uplinks),
    "lb": (("SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"), _services),
    "lb-flow": (("PROTOCOL", "SIDE", "SOURCE", "DESTINATION", "TRANSLATION", "EXPIRES"), _service_flows),
    "l2-responder": (("IP ADDRESS", "IFINDEX", "MAC", "EXPIRES", "RESPONSES SENT"), _responders),
    "ipmasq": (("IP PREFIX/ADDRESS",), _exclusions),
}


def names() -> tuple[str, ...]:
    """Maps that can be listed."""
    return tuple(_LISTINGS)


def listing(name: str, maps: Mapping[str, Map]) -> Listing:
    """KeyError for a map that nobody knows."""
    columns, rows = _LISTINGS[name]
    return Listing(columns, tuple(sorted(rows(maps), key=lambda each: tuple(map(str, each)))))
