"""Questions for an address and their answers, as frames: ARP (RFC 826) and neighbour discovery (RFC 4861)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from datapaths.packet import ICMP6, fold

BROADCAST = b"\xff" * 6
ASKER_MAC = bytes.fromhex("020000000b0b")
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_MAC, TARGET_MAC, NONCE = 1, 2, 14


def arp(
    sender: str,
    target: str,
    *,
    operation: int = 1,
    destination: bytes = BROADCAST,
    mac: bytes = ASKER_MAC,
    head: bytes = bytes.fromhex("0001080006 04".replace(" ", "")),
) -> bytes:
    """An ARP frame, padded to what Ethernet asks for."""
    ends = mac + ipaddress.IPv4Address(sender).packed + bytes(6) + ipaddress.IPv4Address(target).packed
    return (destination + mac + b"\x08\x06" + head + operation.to_bytes(2, "big") + ends).ljust(60, b"\0")


def group_of(target: str) -> str:
    """The solicited-node group of an address."""
    return str(
        ipaddress.IPv6Address(
            int(ipaddress.IPv6Address("ff02::1:ff00:0")) | int(ipaddress.IPv6Address(target)) & 0xFFFFFF
        )
    )


def multicast_mac(group: str) -> bytes:
    return b"\x33\x33" + ipaddress.IPv6Address(group).packed[12:]


def option(kind: int, content: bytes) -> bytes:
    """An option, its length in eights."""
    return bytes([kind, (len(content) + 2) // 8]) + content


def solicitation(
    source: str,
    target: str,
    *,
    to: str | None = None,
    options: bytes = option(SOURCE_MAC, ASKER_MAC),
    code: int = 0,
    hops: int = 255,
    spoil_sum: bool = False,
    padding: int = 0,
    destination: bytes | None = None,
) -> bytes:
    """A neighbour solicitation; `to` is the IPv6 destination, by default the target's group."""
    group = to or group_of(target)
    src, dst = ipaddress.IPv6Address(source).packed, ipaddress.IPv6Address(group).packed
    message = struct.pack("!BBHI", SOLICITATION, code, 0, 0) + ipaddress.IPv6Address(target).packed + options
    pseudo = src + dst + struct.pack("!IxxxB", len(message), ICMP6)
    total = fold(pseudo + message) ^ (0x0100 if spoil_sum else 0)
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), ICMP6, hops) + src + dst
    mac = destination or multicast_mac(group)
    return mac + ASKER_MAC + b"\x86\xdd" + head + message + bytes(padding)


@dataclass(frozen=True)
class Advertisement:
    """What a frame with a neighbour advertisement says. `flags` are its first byte: router, solicited, override."""

    eth_dst: bytes
    eth_src: bytes
    src: str
    dst: str
    hops: int
    flags: int
    target: str
    mac: bytes
    is_intact: bool


def read_advertisement(data: bytes) -> Advertisement:
    """ValueError for anything else; nothing may follow the one option."""
    length, proto, hops = struct.unpack("!HBB", data[18:22])
    message = data[54:]
    if data[12:14] != b"\x86\xdd" or proto != ICMP6 or length != len(message) or len(message) != 32:
        raise ValueError(data.hex())
    if message[:2] != bytes([ADVERTISEMENT, 0]) or message[24:26] != bytes([TARGET_MAC, 1]):
        raise ValueError(data.hex())
    pseudo = data[22:54] + struct.pack("!IxxxB", length, ICMP6)
    src, dst, target = (str(ipaddress.IPv6Address(part)) for part in (data[22:38], data[38:54], message[8:24]))
    return Advertisement(
        data[:6], data[6:12], src, dst, hops, message[4], target, message[26:32], fold(pseudo + message) == 0
    )
