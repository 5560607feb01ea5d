"""Addresses and prefixes of both families as one 128-bit value.

IPv4 is mapped into IPv6 (``::ffff:a.b.c.d``, RFC 4291 §2.5.5.2), so that tables, maps and programs have one code path.
Values only: no resolution, no sockets.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_V4_BASE: Final = 0xFFFF << 32
_V4_BITS: Final = 96
_ALL: Final = (1 << 128) - 1


class Addr(int):
    """An address; the integer is its 128-bit form. Ordered and hashed as that integer."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Addr:
        """From ``10.0.0.1`` or ``fd00::1``; ValueError names the text that is no address."""
        ip = ipaddress.ip_address(text)
        return cls.of(ip)

    @classmethod
    def of(cls, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Addr:
        """From a standard library address."""
        return cls(_V4_BASE | int(ip)) if ip.version == 4 else cls(int(ip))

    @classmethod
    def from_bytes16(cls, raw: bytes) -> Addr:
        """From 16 bytes in network order, as BPF maps hold it."""
        if len(raw) != 16:
            raise ValueError(f"an address has 16 bytes, not {len(raw)}")
        return cls(int.from_bytes(raw, "big"))

    @property
    def is_ipv4(self) -> bool:
        return int(self) >> 32 == 0xFFFF

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if self.is_ipv4 else 6

    @property
    def packed16(self) -> bytes:
        """16 bytes in network order, IPv4 mapped."""
        return int(self).to_bytes(16, "big")

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes in network order."""
        return self.packed16[12:] if self.is_ipv4 else self.packed16

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.IPv4Address(int(self) & 0xFFFFFFFF) if self.is_ipv4 else ipaddress.IPv6Address(int(self))

    @property
    def host_prefix(self) -> Prefix:
        """The prefix of this address alone (/32 or /128)."""
        return Prefix(self, 128)

    def __str__(self) -> str:
        return str(self.ip)

    def __repr__(self) -> str:
        return f"Addr({str(self)!r})"


class Prefix(tuple[Addr, int]):
    """A network: its first address and its length in 128-bit terms (IPv4 /24 is 120). Host bits are zero.

    ``length`` is what people write (24), ``bits`` what longest-prefix maps hold (120).
    """

    __slots__ = ()

    def __new__(cls, addr: Addr, bits: int) -> Prefix:
        if not 0 <= bits <= 128:
            raise ValueError(f"{bits} is no prefix length of 128 bits")
        mask = _ALL ^ (_ALL >> bits)
        return super().__new__(cls, (Addr(int(addr) & mask), bits))

    @classmethod
    def parse(cls, text: str, *, strict: bool = False) -> Prefix:
        """From ``10.0.0.0/24``, ``fd00::/64`` or a bare address. Host bits are cleared, or refused when strict."""
        network = ipaddress.ip_network(text, strict=strict)
        extra = _V4_BITS if network.version == 4 else 0
        return cls(Addr.of(network.network_address), network.prefixlen + extra)

    @property
    def addr(self) -> Addr:
        return self[0]

    @property
    def bits(self) -> int:
        return self[1]

    @property
    def family(self) -> int:
        """4 or 6. Prefixes shorter than /96 that contain the mapped range are IPv6."""
        return 4 if self[1] >= _V4_BITS and self[0].is_ipv4 else 6

    @property
    def length(self) -> int:
        """Prefix length within the family: 0-32 or 0-128."""
        return self[1] - _V4_BITS if self.family == 4 else self[1]

    @property
    def is_host(self) -> bool:
        return self[1] == 128

    @property
    def size(self) -> int:
        """How many addresses it holds."""
        return 1 << (128 - self[1])

    @property
    def last(self) -> Addr:
        return Addr(int(self[0]) | (_ALL >> self[1]))

    def covers(self, item: Addr | Prefix) -> bool:
        """Whether an address, or all of another prefix, lies inside."""
        if isinstance(item, Prefix):
            return item.bits >= self.bits and self.covers(item.addr)
        rest = 128 - self.bits
        return int(item) >> rest == int(self.addr) >> rest

    def overlaps(self, other: Prefix) -> bool:
        return self.covers(other) or other.covers(self)

    def __str__(self) -> str:
        return f"{self[0]}/{self.length}"

    def __repr__(self) -> str:
        return f"Prefix({str(self)!r})"
