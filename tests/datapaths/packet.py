"""Packets as values, and the bytes they are: Ethernet, both families, TCP, UDP, SCTP, ICMP with errors, fragments."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from dataclasses import dataclass, field, replace

ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
MACS = bytes(6) + bytes.fromhex("020000000001")  # to the loopback device of a test run


@dataclass(frozen=True)
class Packet:
    """One packet. `port`s are TCP's, UDP's and SCTP's; an ICMP echo has `sport` as its id; an error has `quoted`."""

    src: str
    dst: str
    proto: int = TCP
    sport: int = 40000
    dport: int = 80
    flags: int = ACK
    type: int = 0
    quoted: Packet | None = None
    fragment: str = ""  # "", first, later
    id: int = 7
    options: int = 0  # IPv6 destination options headers
    inner_options: int = 0  # the same behind the fragment header: part of what is cut up
    ttl: int = 64
    ecn: int = 0  # 0 not understood, 1 and 2 understood, 3 congestion experienced
    payload: bytes = field(default=b"payload!", repr=False)

    @property
    def family(self) -> int:
        return ipaddress.ip_address(self.src).version

    @property
    def is_icmp(self) -> bool:
        return self.proto in (ICMP, ICMP6)

    def turned(self) -> Packet:
        """The answer of the other end."""
        if self.is_icmp:
            request, reply = ECHO[self.family]
            return replace(self, src=self.dst, dst=self.src, type=reply if self.type == request else request)
        flags = SYN | ACK if self.flags == SYN else self.flags
        return replace(self, src=self.dst, dst=self.src, sport=self.dport, dport=self.sport, flags=flags)


def ping(src: str, dst: str, number: int = 77) -> Packet:
    family = ipaddress.ip_address(src).version
    return Packet(src, dst, ICMP if family == 4 else ICMP6, sport=number, type=ECHO[family][0])


def unreachable(src: str, dst: str, quoted: Packet) -> Packet:
    """An ICMP error from `src` to `dst` about a packet."""
    v4 = ipaddress.ip_address(src).version == 4
    return Packet(src, dst, ICMP if v4 else ICMP6, type=3 if v4 else 1, quoted=quoted)


def fold(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of some bytes."""
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo(p: Packet, length: int) -> bytes:
    src, dst = (ipaddress.ip_address(a).packed for a in (p.src, p.dst))
    return (
        src
        + dst
        + (struct.pack("!BBH", 0, p.proto, length) if p.family == 4 else struct.pack("!IxxxB", length, p.proto))
    )


def l4(p: Packet) -> bytes:
    if p.is_icmp:
        body = ip(p.quoted)[: 64 if p.family == 4 else 96] if p.quoted else p.payload
        head = struct.pack("!BBHHH", p.type, 0, 0, 0 if p.quoted else p.sport, 0)
        return checksummed(p, head + body, 2, p.proto == ICMP6)
    if p.proto == TCP:
        head = struct.pack("!HHIIBBHHH", p.sport, p.dport, 1, 1, 0x50, p.flags, 65535, 0, 0)
        return checksummed(p, head + p.payload, 16, True)
    if p.proto == UDP:
        return checksummed(p, struct.pack("!HHHH", p.sport, p.dport, 8 + len(p.payload), 0) + p.payload, 6, True)
    return struct.pack("!HHII", p.sport, p.dport, 0, 0) + p.payload


def checksummed(p: Packet, data: bytes, at: int, with_pseudo: bool) -> bytes:
    total = fold((pseudo(p, len(data)) if with_pseudo else b"") + data)
    return data[:at] + struct.pack("!H", total) + data[at + 2 :]


def ip(p: Packet) -> bytes:
    src, dst = (ipaddress.ip_address(a).packed for a in (p.src, p.dst))
    body = p.payload * 2 if p.fragment == "later" else l4(p)
    if p.family == 4:
        place = {"": 0x4000, "first": 0x2000, "later": 185}[p.fragment]
        head = struct.pack("!BBHHHBBH", 0x45, p.ecn, 20 + len(body), p.id, place, p.ttl, p.proto, 0) + src + dst
        return head[:10] + struct.pack("!H", fold(head)) + head[12:] + body
    chain = [60] * p.options + [44] * bool(p.fragment) + [60] * p.inner_options + [p.proto]
    if p.fragment == "later":
        chain = chain[: p.options + 2]
    headers = b""
    for kind, following in itertools.pairwise(chain):
        if kind == 60:
            headers += struct.pack("!BB6x", following, 0)
        else:
            headers += struct.pack("!BBHI", following, 0, 1 if p.fragment == "first" else 1480, p.id)
    return (
        struct.pack("!IHBB", 6 << 28 | p.ecn << 20, len(headers) + len(body), chain[0], p.ttl)
        + src
        + dst
        + headers
        + body
    )


def frame(p: Packet) -> bytes:
    return MACS + struct.pack("!H", 0x0800 if p.family == 4 else 0x86DD) + ip(p)


def tagged(data: bytes, number: int = 5) -> bytes:
    """The same frame in a virtual LAN."""
    return data[:12] + b"\x81\0" + number.to_bytes(2, "big") + data[12:]


def in_frame(p: Packet) -> bytes:
    """A frame as it travels in a wrapping: its MAC addresses are nobody's."""
    return bytes(12) + frame(p)[12:]


@dataclass(frozen=True)
class Wrapping:
    """What VXLAN puts around a frame. A field that is None is what the others make of it."""

    src: str
    dst: str
    vni: int
    ecn: int = 0
    mac: bytes = bytes(12)  # outer ones; under PROG_TEST_RUN these mean "to this node"
    place: int = 0  # flags and offset of an IPv4 fragment
    options: bytes = b""
    port: int = 8472
    ip_length: int | None = None
    ip_checksum: int | None = None
    udp_length: int | None = None
    udp_checksum: int = 0
    flags: int = 0x08000000
    reserved: int = 0
    ttl: int = 64
    source_port: int = 40000
    id: int = 0


def wrap(w: Wrapping, inner: bytes, trailer: bytes = b"") -> bytes:
    """A frame with its own MAC addresses inside a VXLAN frame over IPv4 or IPv6."""
    body = struct.pack("!II", w.flags, w.vni << 8 | w.reserved) + inner
    length = 8 + len(body) if w.udp_length is None else w.udp_length
    body = struct.pack("!HHHH", w.source_port, w.port, length, w.udp_checksum) + body
    src, dst = (ipaddress.ip_address(a).packed for a in (w.src, w.dst))
    if len(src) == 16:
        head = struct.pack("!IHBB", 6 << 28 | w.ecn << 20, len(body), UDP, w.ttl) + src + dst
        return w.mac + b"\x86\xdd" + head + body + trailer
    size = 20 + len(w.options)
    total = size + len(body) if w.ip_length is None else w.ip_length
    head = (
        struct.pack("!BBHHHBBH", 0x40 | size // 4, w.ecn, total, w.id, w.place, w.ttl, UDP, 0) + src + dst + w.options
    )
    checksum = fold(head) if w.ip_checksum is None else w.ip_checksum
    return w.mac + b"\x08\x00" + head[:10] + struct.pack("!H", checksum) + head[12:] + body + trailer


def unwrap(data: bytes) -> tuple[Wrapping, bytes]:
    """The other way round, for IPv4: `wrap` of the result is the frame again, else it was not what it seems."""
    ecn, id_, place, ttl = data[15], int.from_bytes(data[18:20], "big"), int.from_bytes(data[20:22], "big"), data[22]
    src, dst = (str(ipaddress.ip_address(data[at : at + 4])) for at in (26, 30))
    source_port, port, _, checksum = struct.unpack("!HHHH", data[34:42])
    flags, vni = struct.unpack("!II", data[42:50])
    wrapping = Wrapping(src, dst, vni >> 8, ecn=ecn, mac=data[:12], place=place, port=port, udp_checksum=checksum, flags=flags,
                        reserved=vni & 0xFF, ttl=ttl, source_port=source_port, id=id_)  # fmt: skip
    return wrapping, data[50:]


def contents(data: bytes) -> bytes:
    """The frame that is in a VXLAN frame, or the frame itself if it is none."""
    is_wrapped = data[12:14] == b"\x08\x00" and data[23] == UDP and data[36:38] == (8472).to_bytes(2, "big")
    return unwrap(data)[1] if is_wrapped else data


@dataclass(frozen=True)
class Ends:
    """What `read` finds: addresses and ports, of a quoted packet as well, and whether all checksums are right."""

    src: str
    dst: str
    sport: int
    dport: int
    quoted: Ends | None
    is_intact: bool


def read(data: bytes) -> Ends:
    """The ends of a frame without extension headers or fragments."""
    return _read_ip(data[14:], whole=True)


def _read_ip(data: bytes, *, whole: bool) -> Ends:
    v4 = data[0] >> 4 == 4
    if v4:
        proto, src, dst, body = data[9], data[12:16], data[16:20], data[20 : int.from_bytes(data[2:4], "big")]
        intact = fold(data[:20]) == 0
    else:
        proto, src, dst, body = data[6], data[8:24], data[24:40], data[40 : 40 + int.from_bytes(data[4:6], "big")]
        intact = True
    p = Packet(str(ipaddress.ip_address(src)), str(ipaddress.ip_address(dst)), proto)
    if whole and proto != SCTP:
        intact &= fold((b"" if proto == ICMP else pseudo(p, len(body))) + body) == 0
    if not p.is_icmp:
        sport, dport = struct.unpack("!HH", body[:4])
        return Ends(p.src, p.dst, sport, dport, None, intact)
    if body[0] in (3, 11, 12) if v4 else body[0] < 128:
        quoted = _read_ip(body[8:], whole=False)
        return Ends(p.src, p.dst, 0, 0, quoted, intact and quoted.is_intact)
    number = int.from_bytes(body[4:6], "big")
    return Ends(p.src, p.dst, number, 0, None, intact)
