"""What a node tells its neighbours when it begins to answer for an address: frames, so that nobody waits for an old entry to
time out. ARP announcements (RFC 5227 2.3; as request and as reply, since hosts differ in what they heed) and unsolicited
neighbour advertisements (RFC 4861 7.2.6)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from stentor.net.address import Addr

REPEATS_S: Final = (0.0, 0.2, 1.0, 2.0)
"""When a node says it, after it began: frames get lost, and switches need a moment after a link came up."""

ALL_NODES: Final = Addr.parse("ff02::1")
_SOLICITED_NODE: Final = int(Addr.parse("ff02::1:ff00:0"))
_BROADCAST: Final = b"\xff" * 6
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4 = 1, 0x0800
_ICMPV6, _HOP_LIMIT = 58, 255
_ADVERTISEMENT, _OVERRIDE, _TARGET_MAC = 136, 0x20000000, 2


def announcements(addr: Addr, mac: bytes) -> Iterator[bytes]:
    """Frames that say: this address is here."""
    if addr.family == 4:
        for operation in (1, 2):
            target = _BROADCAST if operation == 2 else bytes(6)
            body = _ARP.pack(_ETHERNET, _IPV4, 6, 4, operation, mac, addr.packed, target, addr.packed)
            yield (_BROADCAST + mac + b"\x08\x06" + body).ljust(60, b"\0")
    else:
        yield _advertisement(addr, mac)


def solicited_group(addr: Addr) -> Addr:
    """The multicast group in which neighbours ask for an IPv6 address (RFC 4291 2.7.1)."""
    return Addr(_SOLICITED_NODE | int(addr) & 0xFFFFFF)


def _advertisement(addr: Addr, mac: bytes) -> bytes:
    message = struct.pack("!BBHI16sBB6s", _ADVERTISEMENT, 0, 0, _OVERRIDE, addr.packed, _TARGET_MAC, 1, mac)
    ends = addr.packed + ALL_NODES.packed
    total = _checksum(ends + struct.pack("!IxxxB", len(message), _ICMPV6) + message)
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    group_mac = b"\x33\x33" + ALL_NODES.packed[12:]
    return (
        group_mac
        + mac
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT)
        + ends
        + message
    )


def _checksum(data: bytes) -> int:
    """RFC 1071; of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
