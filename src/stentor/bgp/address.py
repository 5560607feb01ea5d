"""Addresses of this machine's interfaces, asked for at every session's start, without loading a netlink library."""

import array
import fcntl
import socket
import struct
from pathlib import Path

import msgspec

from stentor.bgp.nlri import Family, parse_address

_SIOCGIFCONF = 0x8912
_ENTRY = 40
_LINK_LOCAL = 0x20
_GLOBAL = 0x00


class Own(msgspec.Struct, frozen=True):
    """An address of ours; ``address`` is 4 or 16 octets."""

    interface: str
    address: bytes
    is_link_local: bool = False


def list_addresses() -> list[Own]:
    """All addresses of this network namespace."""
    return [*_list_ipv4(), *_list_ipv6()]


def _list_ipv4() -> list[Own]:
    size = 256 * _ENTRY
    buffer = array.array("B", bytes(size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iL", size, buffer.buffer_info()[0])
        filled = struct.unpack("iL", fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, request))[0]
    raw = buffer.tobytes()[:filled]
    return [
        Own(raw[i : i + 16].split(b"\0")[0].decode().partition(":")[0], raw[i + 20 : i + 24])
        for i in range(0, len(raw), _ENTRY)
    ]


def _list_ipv6() -> list[Own]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except FileNotFoundError:
        return []  # a kernel without IPv6
    found = []
    for line in lines:
        address, _, _, scope, _, interface = line.split()
        if int(scope, 16) in (_GLOBAL, _LINK_LOCAL):
            found.append(Own(interface, bytes.fromhex(address), int(scope, 16) == _LINK_LOCAL))
    return found


def find_next_hops(local: str, interface_index: int = 0) -> dict[Family, bytes]:
    """Our next hop of each family for a session whose local address is ``local``, from the same interface.

    IPv6 prefers a global address; a link without one is used by its link-local address alone. Families without are absent.
    """
    own = list_addresses()
    here = parse_address(local)
    names = {each.interface for each in own if each.address == here}
    if interface_index:
        names = {socket.if_indextoname(interface_index)}
    beside = [each for each in own if each.interface in names]
    found: dict[Family, bytes] = {}
    for each in sorted(beside, key=lambda each: each.is_link_local):
        found.setdefault(Family.IPV4 if len(each.address) == 4 else Family.IPV6, each.address)
    found[Family.IPV4 if len(here) == 4 else Family.IPV6] = here
    return found
