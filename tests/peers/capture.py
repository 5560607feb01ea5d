"""Captures for tshark: TCP conversations written by hand, and what the dissector complains about."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from peers.bench import run

COMPLAINTS = "_ws.malformed or (bgp and _ws.expert.severity >= 0x600000) or tcp.analysis.flags"  # warnings and errors
_MAX_SEGMENT = 1400


def write(path: Path, conversations: Iterable[tuple[list[bytes], list[bytes]]]) -> int:
    """A pcap with one TCP connection for each conversation: what the left (port 179) said, what the right said.

    Both begin with their OPENs, which tell the dissector how to read the rest. Returns the number of messages.
    """
    packets: list[bytes] = []
    count = 0
    for number, (left, right) in enumerate(conversations):
        sequence = [1000, 2000]
        order = [(0, left[0]), (1, right[0]), *((0, each) for each in left[1:]), *((1, each) for each in right[1:])]
        for side, message in order:
            count += 1
            for start in range(0, len(message), _MAX_SEGMENT):
                part = message[start : start + _MAX_SEGMENT]
                packets.append(_packet(number, side, sequence, part))
                sequence[side] += len(part)
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, 101)
    body = b"".join(
        struct.pack("=IIII", 1 + n // 1000, n % 1000 * 1000, len(each), len(each)) + each
        for n, each in enumerate(packets)
    )
    path.write_bytes(head + body)
    return count


def _packet(number: int, side: int, sequence: list[int], data: bytes) -> bytes:
    """Raw IPv4 (LINKTYPE_RAW) with TCP; checksums 0, which tshark does not verify by default."""
    ports = (179, 20000 + number)
    addresses = (socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.2"))
    tcp = struct.pack(
        "!HHIIBBHHH", ports[side], ports[1 - side], sequence[side], sequence[1 - side], 0x50, 0x18, 65535, 0, 0
    )
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0)
    return head + addresses[side] + addresses[1 - side] + tcp + data


def complaints(path: Path, as_octets: int = 4) -> str:
    """tshark's full dissection of the packets it finds fault with; empty when there are none.

    It would guess the size of AS numbers from the octets of a path: ``as_octets`` tells it what the OPENs agreed on.
    """
    return _tshark(path, "-o", f"bgp.asn_len:{as_octets}", "-Y", COMPLAINTS, "-V")


def kinds(path: Path) -> list[int]:
    """The type of every BGP message that tshark found, in order."""
    text = _tshark(path, "-Y", "bgp", "-T", "fields", "-e", "bgp.type")
    return [int(word) for line in text.split() for word in line.split(",")]


def _tshark(path: Path, *options: str) -> str:
    return run("tshark", "-n", "-r", str(path), *options, timeout_s=60)
