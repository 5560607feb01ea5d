"""Asks a link who has some addresses, again and again, and notes every answer with the question that it belongs to.

    python -m announcing.asker DEVICE ADDRESS…

Prints a line when it begins, runs until its standard input ends, then prints one JSON object a question. Each question comes
from another sender's address, which is in its answers.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from datapaths.neighbour import ASKER_MAC, SOURCE_MAC, arp, option, read_advertisement, solicitation

PAUSE_S = 0.02
ALL_PROTOCOLS = 3
MOST = 1 << 15
_BLOCK = secrets.randbits(17)
FIRST = {4: _BLOCK * MOST, 6: int(ipaddress.IPv6Address("2001:db8:ffff::")) + _BLOCK * MOST}
"""Of the questions' senders, which nobody has: others that ask at the same time have other ones."""


def question(number: int, address: str, mac: bytes) -> bytes:
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        return arp(str(ipaddress.IPv4Address(FIRST[4] + number)), address, mac=mac)
    frame = solicitation(str(ipaddress.IPv6Address(FIRST[6] + number)), address, options=option(SOURCE_MAC, mac))
    return frame.replace(ASKER_MAC, mac)


def answer(frame: bytes) -> tuple[int, str, str] | None:
    """(question, address, MAC) of an answer to one of ours."""
    if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
        number = int.from_bytes(frame[38:42], "big") - FIRST[4]
        return number, str(ipaddress.IPv4Address(frame[28:32])), frame[22:28].hex(":")
    try:
        said = read_advertisement(frame)
    except (ValueError, IndexError):
        return None
    return int(ipaddress.IPv6Address(said.dst)) - FIRST[6], said.target, said.mac.hex(":")


def answers(sock: socket.socket, until: float) -> Iterator[tuple[int, str, str]]:
    while (left := until - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            found = answer(sock.recv(2048))
            if found is not None and 0 <= found[0] < MOST:
                yield found


def main(device: str, addresses: list[str]) -> None:
    mac = bytes.fromhex(Path(f"/sys/class/net/{device}/address").read_text().strip().replace(":", ""))
    asked: list[dict[str, object]] = []
    given: dict[tuple[int, str], list[str]] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as sock:
        sock.bind((device, ALL_PROTOCOLS))
        print("asking", flush=True)
        while len(asked) < MOST and not select.select([sys.stdin], [], [], 0)[0]:
            for address in addresses:
                number = len(asked)
                asked.append({"time": time.time(), "address": address})
                sock.send(question(number, address, mac))
            for number, address, source in answers(sock, time.monotonic() + PAUSE_S):
                given.setdefault((number, address), []).append(source)
    for number, each in enumerate(asked):
        print(json.dumps(each | {"macs": given.get((number, str(each["address"])), [])}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
