"""VXLAN around packets for the node of `bench`: plain, and every way not to be."""

from __future__ import annotations

from dataclasses import replace

from datapaths.bench import OWN
from datapaths.packet import Wrapping

NODE, NODE_V6 = "192.0.2.2", "2001:db8::2"  # of the sender
PLAIN = Wrapping(NODE, OWN, 301)
FLAWS: dict[str, Wrapping] = {
    "to another address": replace(PLAIN, dst="192.0.2.3"),
    "from no node": replace(PLAIN, src="192.0.2.77"),
    "from this node": replace(PLAIN, src=OWN),
    "not to our MAC": replace(PLAIN, mac=b"\2\0\0\0\0\7" * 2),
    "first fragment": replace(PLAIN, place=0x2000),
    "later fragment": replace(PLAIN, place=185),
    "IP options": replace(PLAIN, options=b"\1\1\1\0"),
    "IP length short": replace(PLAIN, ip_length=60),
    "IP length long": replace(PLAIN, ip_length=999),
    "IP checksum wrong": replace(PLAIN, ip_checksum=0x1234),
    "UDP length short": replace(PLAIN, udp_length=40),
    "UDP length long": replace(PLAIN, udp_length=999),
    "UDP checksum given": replace(PLAIN, udp_checksum=0x1234),
    "no VNI flag": replace(PLAIN, flags=0),
    "unknown flag": replace(PLAIN, flags=0x88000000),
    "reserved byte": replace(PLAIN, reserved=1),
    "over IPv6": Wrapping(NODE_V6, "2001:db8::1", 301),
}
