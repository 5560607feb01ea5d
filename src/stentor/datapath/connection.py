"""Connections and translations that the programs track: listing them, and removing those that have expired.

The programs never remove an entry, they only treat an expired one as absent; removing is done here, from user space. One pass
reads every entry in batches (3M a second).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import Final

import msgspec

from stentor.datapath.clock import is_over, left_s, now_ticks
from stentor.datapath.maps import CT_ENTRY, CT_KEY, NAT_ENTRY, NAT_KEY
from stentor.net.address import Addr
from stentor.sys.bpf import Map

_TCP: Final = 6


class Flag(IntFlag):
    """`CT_…` of bpf/maps/conntrack.h."""

    A_IS_CLIENT = 1
    REPLIED = 2
    CLIENT_CLOSED = 4
    SERVER_CLOSED = 8
    VIA_OVERLAY = 16
    BALANCED = 32


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One tracked connection, from its client's point of view. Ports in host order; an ICMP echo's id is the client's port."""

    client: Addr
    client_port: int
    server: Addr
    server_port: int
    protocol: int
    expires_s: float
    client_identity: int
    flags: Flag


class Side(IntEnum):
    """`NAT_…` of bpf/maps/nat.h: how a packet meets the uplink."""

    OUT = 1
    IN = 2


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a masqueraded connection: the packet's ends, and what replaces its source (OUT) or destination (IN)."""

    side: Side
    protocol: int
    source: Addr
    source_port: int
    destination: Addr
    destination_port: int
    to: Addr
    to_port: int
    expires_s: float


class Collected(msgspec.Struct, frozen=True):
    """What one pass found and removed."""

    alive: int
    deleted: int
    translations_alive: int
    translations_deleted: int
    duration_s: float


def connections(maps: Mapping[str, Map]) -> Iterator[Connection]:
    """Every tracked connection, expired ones too."""
    now = now_ticks()
    for name in ("conntrack_tcp", "conntrack_any"):
        for key, value in maps[name].items():
            a, b, a_port, b_port, protocol = CT_KEY.unpack(key)
            expires, identity, flags, _devices = CT_ENTRY.unpack(value)
            client, server = ((a, a_port), (b, b_port)) if flags & Flag.A_IS_CLIENT else ((b, b_port), (a, a_port))
            yield Connection(
                client=client[0],
                client_port=client[1],
                server=server[0],
                server_port=server[1],
                protocol=protocol,
                expires_s=left_s(expires, now),
                client_identity=identity,
                flags=Flag(flags),
            )


def translations(maps: Mapping[str, Map]) -> Iterator[Translation]:
    """Every translation, both directions of each."""
    now = now_ticks()
    for key, value in maps["nat"].items():
        source, destination, source_port, destination_port, protocol, side = NAT_KEY.unpack(key)
        to, to_port, expires = NAT_ENTRY.unpack(value)
        yield Translation(
            side=Side(side),
            protocol=protocol,
            source=source,
            source_port=source_port,
            destination=destination,
            destination_port=destination_port,
            to=to,
            to_port=to_port,
            expires_s=left_s(expires, now),
        )


def collect(maps: Mapping[str, Map]) -> Collected:
    """Remove expired connections, and translations whose connection is gone. Blocking: run it in an executor."""
    start, now = time.monotonic(), now_ticks()
    alive: set[bytes] = set()
    deleted = 0
    for name in ("conntrack_tcp", "conntrack_any"):
        dead = []
        for key, value in maps[name].items():
            expires = int.from_bytes(value[:4], "little")
            if is_over(expires, now):
                dead.append(key)
            else:
                alive.add(key)
        maps[name].delete_batch(dead)
        deleted += len(dead)
    kept, removed = _collect_translations(maps["nat"], alive, now)
    return Collected(len(alive), deleted, kept, removed, time.monotonic() - start)


def _collect_translations(nat: Map, alive: set[bytes], now: int) -> tuple[int, int]:
    """A translation lives as long as its connection, or until its own time is over: the node's own have no connection."""
    rows = dict(nat.items())
    keep: set[bytes] = set()
    for key, value in rows.items():
        source, destination, source_port, destination_port, protocol, side = NAT_KEY.unpack(key)
        to, to_port, expires = NAT_ENTRY.unpack(value)
        if side == Side.OUT:
            other = NAT_KEY.pack(destination, to, destination_port, to_port, protocol, Side.IN)
            pod, remote = (source, source_port), (destination, destination_port)
        else:
            other = NAT_KEY.pack(to, source, to_port, source_port, protocol, Side.OUT)
            pod, remote = (to, to_port), (source, source_port)
        if not is_over(expires, now) or connection_key(pod, remote, protocol) in alive:
            keep |= {key, other}
    dead = [key for key in rows if key not in keep]
    nat.delete_batch(dead)
    return len(rows) - len(dead), len(dead)


def connection_key(x: tuple[Addr, int], y: tuple[Addr, int], protocol: int) -> bytes:
    """The conntrack key of two ends (address, port); `is_before` of bpf/lib/conntrack.h."""
    a, b = (x, y) if _order(x) < _order(y) else (y, x)
    return CT_KEY.pack(a[0], b[0], a[1], b[1], protocol)


def _order(end: tuple[Addr, int]) -> tuple[int, ...]:
    """The second half, then the first, as the programs' little-endian CPU reads them, then the port likewise."""
    raw = end[0].packed16
    halves = int.from_bytes(raw[8:], "little"), int.from_bytes(raw[:8], "little")
    return (*halves, int.from_bytes(end[1].to_bytes(2, "big"), "little"))
