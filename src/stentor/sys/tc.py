"""Traffic control messages for BPF programs on devices without TCX links: clsact, and one direct-action filter a direction.

Messages for `netlink.Route`. A filter that exists is replaced in place: no packet meets a device without its program.
Formats: linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from stentor.sys.netlink import Message

_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER = 36, 37, 44, 45
_EXCL, _CREATE = 0x200, 0x400
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _ACT_DIRECT = 6, 7, 8, 1
_CLSACT: Final = 0xFFFFFFF1
_PARENT: Final = {True: 0xFFFFFFF2, False: 0xFFFFFFF3}
_HANDLE: Final = 1
_PRIORITY: Final = 1
_ETH_P_ALL: Final = 3


def add_clsact(index: int) -> Message:
    """EEXIST when the device has one."""
    return Message(_NEWQDISC, _CREATE | _EXCL, _tcm(index, 0xFFFF0000, _CLSACT, 0) + _attribute(_TCA_KIND, b"clsact\0"))


def remove_clsact(index: int) -> Message:
    """With all its filters; EINVAL or ENOENT when there is none."""
    return Message(_DELQDISC, 0, _tcm(index, 0xFFFF0000, _CLSACT, 0))


def set_filter(index: int, *, ingress: bool, program: int, name: str) -> Message:
    """Our filter of one direction, made or replaced; `program` is an fd."""
    options = (
        _attribute(_BPF_FD, struct.pack("=I", program))
        + _attribute(_BPF_NAME, name.encode() + b"\0")
        + _attribute(_BPF_FLAGS, struct.pack("=I", _ACT_DIRECT))
    )
    head = _tcm(index, _HANDLE, _PARENT[ingress], _PRIORITY << 16 | socket.htons(_ETH_P_ALL))
    return Message(_NEWTFILTER, _CREATE, head + _attribute(_TCA_KIND, b"bpf\0") + _attribute(_TCA_OPTIONS, options))


def _tcm(index: int, handle: int, parent: int, info: int) -> bytes:
    return struct.pack("=BxHiIII", 0, 0, index, handle, parent, info)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)
