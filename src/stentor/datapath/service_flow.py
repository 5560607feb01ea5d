"""Flows of packets to services: listing them, and removing those that have expired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum

import msgspec

from stentor.datapath.clock import is_over, left_s, now_ticks
from stentor.datapath.maps import LB_FLOW, NAT_KEY
from stentor.net.address import Addr
from stentor.sys.bpf import Map


class Side(IntEnum):
    """`enum lb_side` of bpf/lib/balance.h."""

    TO_BACKEND = 1
    FROM_BACKEND = 2


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """One direction: the packet's ends, and what replaces its destination (TO_BACKEND) or source (FROM_BACKEND)."""

    side: Side
    protocol: int
    source: Addr
    source_port: int
    destination: Addr
    destination_port: int
    to: Addr
    to_port: int
    expires_s: float


def flows(maps: Mapping[str, Map]) -> Iterator[Flow]:
    """Every flow, both directions of each."""
    now = now_ticks()
    for key, value in maps["lb_flows"].items():
        source, destination, source_port, destination_port, protocol, side = NAT_KEY.unpack(key)
        to, to_port, _, expires = LB_FLOW.unpack(value)
        yield Flow(
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


def collect(maps: Mapping[str, Map]) -> int:
    """Remove expired flows; how many. Blocking: run it in an executor."""
    found, now = maps["lb_flows"], now_ticks()
    dead = [key for key, value in found.items() if is_over(LB_FLOW.unpack(value)[3], now)]
    found.delete_batch(dead)
    return len(dead)
