"""What the other end of a veth needs for native XDP. A driver hands frames that a program sends back (XDP_TX) only to an end
that has a program itself, and such frames carry no word of checksums that were left to the device."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from typing import Final

from stentor.sys.bpf import XDP_NATIVE, AttachType, ProgramSpec, ProgramType, create_link, load_program

_SIOCETHTOOL: Final = 0x8946
_SET_TX_CHECKSUMS: Final = 0x17  # linux/ethtool.h
_XDP_PASS: Final = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit


def face_xdp(device: str) -> int:
    """Make a device of the caller's network namespace a fit opposite; it is one until the returned descriptor is closed."""
    _leave_no_checksums(device)
    program = load_program(ProgramSpec("pass", ProgramType.XDP, _XDP_PASS, b"Dual BSD/GPL\0"), 0, bytearray())
    try:
        return create_link(program, socket.if_nametoindex(device), AttachType.XDP, XDP_NATIVE)
    finally:
        os.close(program)


def _leave_no_checksums(device: str) -> None:
    setting = array.array("I", (_SET_TX_CHECKSUMS, 0))
    request = struct.pack("16sQ16x", device.encode(), setting.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, _SIOCETHTOOL, request)
