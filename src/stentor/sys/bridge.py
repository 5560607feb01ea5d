"""Bridges as plain Ethernet segments."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_SWITCHES = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


def bypass_netfilter() -> None:
    """Bridges of the calling thread's network namespace forward frames without a look at the packets in them.

    A kernel with br_netfilter has it the other way in every new namespace: it drops frames whose IP header is wrong,
    puts fragments together, and takes its time (Documentation/networking/ip-sysctl, /proc/sys/net/bridge).
    """
    for name in _SWITCHES:
        with suppress(FileNotFoundError):  # a kernel without br_netfilter
            Path("/proc/sys/net/bridge", name).write_text("0")
