"""Frames that announce an address, read back by another decoder."""

from __future__ import annotations

import pytest

from datapaths.neighbour import group_of, multicast_mac, read_advertisement
from stentor.l2.neighbour import announcements, solicited_group
from stentor.net.address import Addr

MAC = bytes.fromhex("02000000000a")


def test_arp() -> None:
    addr = Addr.parse("192.0.2.100")
    frames = list(announcements(addr, MAC))
    head = b"\xff" * 6 + MAC + bytes.fromhex("080600010800060400")
    assert [frame[: len(head)] for frame in frames] == [head, head]
    request, reply = frames
    assert (request[21], request[22:32], request[38:42]) == (1, MAC + addr.packed, addr.packed)
    assert (reply[21], reply[22:32], reply[38:42]) == (2, MAC + addr.packed, addr.packed)
    assert {len(frame) for frame in frames} == {60}


def test_neighbour_discovery() -> None:
    vip = "2001:db8::100"
    (frame,) = announcements(Addr.parse(vip), MAC)
    said = read_advertisement(frame)
    assert (said.eth_dst, said.eth_src, said.mac) == (multicast_mac("ff02::1"), MAC, MAC)
    assert (said.src, said.dst, said.target, said.flags, said.hops) == (vip, "ff02::1", vip, 0x20, 255)
    assert said.is_intact


@pytest.mark.parametrize("text", ["2001:db8::1", "fe80::ff:fe12:3456", "fd00::ffff:ffff"])
def test_groups(text: str) -> None:
    assert str(solicited_group(Addr.parse(text))) == group_of(text)
