"""What the programs are told when they are loaded."""

from __future__ import annotations

import platform
from typing import Final

import msgspec

from stentor.datapath.maps import CONFIG
from stentor.net.address import Addr
from stentor.net.identity import Reserved

TICK_SHIFT: Final = 30
"""Lifetimes count ticks of 2**30 ns (1.07 s) of CLOCK_MONOTONIC."""


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int(minor)


def ticks_of(seconds: float) -> int:
    """At least that many seconds in ticks."""
    return -(-int(seconds * 1_000_000_000) >> TICK_SHIFT)


class DatapathConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of the loaded programs; another configuration means other programs, swapped in without losing a packet.

    Timeouts in seconds (upstream's `bpf-ct-timeout-*`); ports in host order, inclusive; `coarse_clock` needs Linux 5.11.
    `overlay_source`, an IPv4 address of this node that other nodes know, lets programs wrap and unwrap VXLAN themselves.
    `host_netns` is the cookie of the node's network namespace (SO_NETNS_COOKIE).
    `test` is for PROG_TEST_RUN only: tunnel keys and redirect targets travel in the context.
    """

    overlay_ifindex: int
    dual_stack: bool = True
    cluster_id_shift: int = 16
    ct_tcp_s: int = 8000
    ct_tcp_syn_s: int = 60
    ct_tcp_fin_s: int = 10
    ct_any_s: int = 60
    snat_port_min: int = 32768
    snat_port_max: int = 65535
    tunnel_port: int = 8472
    masquerade_ipv4: bool = True
    masquerade_ipv6: bool = True
    coarse_clock: bool = msgspec.field(default_factory=lambda: kernel_version() >= (5, 11))
    test: bool = False
    protect_node_ports: bool = True
    host_sockets_only: bool = False
    node_port_min: int = 30000
    node_port_max: int = 32767
    host_netns: int = 0
    maglev_size: int = 16381
    l2_announcements: bool = False
    reject_no_backend: bool = True
    overlay_source: Addr | None = None

    def __post_init__(self) -> None:
        if not 0 < self.snat_port_min <= self.snat_port_max <= 65535:
            raise ValueError(f"snat ports {self.snat_port_min}-{self.snat_port_max} are no range of ports")

    def pack(self) -> bytes:
        """struct config of bpf/lib/config.h."""
        world = (Reserved.WORLD_IPV4, Reserved.WORLD_IPV6) if self.dual_stack else (Reserved.WORLD, Reserved.WORLD)
        timeouts = (self.ct_tcp_s, self.ct_tcp_syn_s, self.ct_tcp_fin_s, self.ct_any_s)
        return CONFIG.pack(
            self.overlay_ifindex,
            *map(int, world),
            self.cluster_id_shift,
            *map(ticks_of, timeouts),
            self.snat_port_min,
            self.snat_port_max,
            self.tunnel_port,
            self.masquerade_ipv4,
            self.masquerade_ipv6,
            self.coarse_clock,
            self.test,
            self.protect_node_ports,
            self.host_sockets_only,
            self.node_port_min,
            self.node_port_max,
            self.host_netns,
            self.maglev_size,
            self.l2_announcements,
            self.reject_no_backend,
            int.from_bytes(self.overlay_source.packed) if self.overlay_source else 0,
        )
