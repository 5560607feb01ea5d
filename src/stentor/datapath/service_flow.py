"""Flows of packets to services: listing them, and removing those that have expired."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

import msgspec

from stentor.datapath.config import TICK_SHIFT
from stentor.datapath.maps import LB_FLOW, NAT_KEY
from stentor.net.address import Addr
from stentor.sys.bpf import Map

_GRACE_TICKS: Final = 2
"""An entry goes only when it has been expired for a while: the programs may be renewing it right now."""


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


def _left(expires: int) -> int:
    """Ticks left, negative when past; the clock wraps."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> TICK_SHIFT
    return (expires - now + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def flows(maps: Mapping[str, Map]) -> Iterator[Flow]:
    """Every flow, both directions of each."""
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
            expires_s=_left(expires) * (1 << TICK_SHIFT) / 1e9,
        )


def collect(maps: Mapping[str, Map]) -> int:
    """Remove expired flows; how many. Blocking: run it in an executor."""
    found = maps["lb_flows"]
    dead = [key for key, value in found.items() if _left(LB_FLOW.unpack(value)[3]) < -_GRACE_TICKS]
    found.delete_batch(dead)
    return len(dead)
