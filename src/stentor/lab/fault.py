"""Faults of a network: a wire without carrier, frames lost, a slower wire.

This kernel has no netem. Loss is a program of six instructions on the bridge's port, which draws a number for each frame
towards the machine; it hits ARP and neighbour discovery as a bad wire does. Rate is a token bucket (tbf) there.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import socket
import struct

from stentor.lab.errors import LabError, NotThereError
from stentor.lab.machine import MachineNamespaces
from stentor.lab.segment import Segment
from stentor.sys import bpf, netlink
from stentor.sys.namespace import visit_network

KINDS = ("down", "up", "loss", "rate", "clear")
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
_CARRIER_S = 10.0
_TCX_NEXT, _TCX_DROP = -1, 2
_NEWQDISC, _DELQDISC, _CREATE, _REPLACE, _ROOT = 36, 37, 0x400, 0x100, 0xFFFFFFFF
_TCA_KIND, _TCA_OPTIONS, _TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 2, 1, 4, 6
_BURST_BYTES = 64 * 1024
_QUEUE_S = 0.05


class Faults:
    """The faults in force; they end with `clear`, with `up`, or with the machine's power."""

    def __init__(self, segments: dict[str, Segment], machines: dict[str, MachineNamespaces]) -> None:
        self._segments = segments
        self._machines = machines
        self._loss: dict[tuple[str, str], tuple[int, str]] = {}  # (network, port) → link, words
        self._other: dict[tuple[str, str], dict[str, str]] = {}  # (network, port) → what: words

    async def apply(self, target: str, kind: str, amount: float) -> None:
        """On NETWORK, that is every port of it, or NETWORK/MACHINE. NotThereError when there is no such wire."""
        if kind not in KINDS:
            raise LabError(f"{kind!r} is none of {', '.join(KINDS)}")
        name, _, machine = target.partition("/")
        segment = self._segments.get(name)
        if segment is None:
            raise NotThereError(f"there is no network {name!r} (there are: {', '.join(self._segments)})")
        wires = {
            (holder, interface): port
            for (holder, interface), port in segment.ports.items()
            if holder in self._machines and machine in ("", holder)
        }
        if not wires:
            holders = ", ".join(sorted({holder for holder, _ in segment.ports}))
            raise NotThereError(f"no running machine {machine!r} is on network {name} (on it are: {holders})")
        for port in wires.values():
            self._apply(segment, port, kind, amount)
        if kind in ("up", "clear"):
            await asyncio.gather(*(self._await_carrier(holder, interface) for holder, interface in wires))

    def of(self, machine: str) -> tuple[str, ...]:
        """In words, for a status."""
        found = []
        for name, segment in self._segments.items():
            for (holder, _), port in segment.ports.items():
                if holder == machine:
                    words = list(self._other.get((name, port), {}).values())
                    words += [self._loss[name, port][1]] if (name, port) in self._loss else []
                    found += [f"{name} {word}" for word in words]
        return tuple(found)

    def unplug(self, machine: str) -> None:
        """Takes a machine off all its networks; faults of its wires end."""
        for name, segment in self._segments.items():
            for port in segment.unplug(machine):
                self._other.pop((name, port), {})
                self._drop_loss(name, port)

    def _apply(self, segment: Segment, port: str, kind: str, amount: float) -> None:
        name = segment.network.name
        other = self._other.setdefault((name, port), {})
        with visit_network(segment.namespace), netlink.Route() as route:
            index = socket.if_nametoindex(port)
            if kind == "down":
                route.send(netlink.set_link(index, up=False))
                other["down"] = "down"
            if kind in ("up", "clear"):
                route.send(netlink.set_link(index, up=True))
                other.pop("down", "")
            if kind in ("loss", "clear"):
                self._drop_loss(name, port)
            if kind == "loss" and amount > 0:
                self._loss[name, port] = (_attach_loss(index, amount), f"loss {amount:g}%")
            if kind == "rate":
                route.send(_set_rate(index, amount))
                other["rate"] = f"rate {amount:g} bit/s"
            if kind == "clear" and other.pop("rate", ""):
                route.send(netlink.Message(_DELQDISC, 0, _tc_message(index)))

    def _drop_loss(self, network: str, port: str) -> None:
        if found := self._loss.pop((network, port), None):
            os.close(found[0])  # a link ends with its last descriptor

    async def _await_carrier(self, machine: str, interface: str) -> None:
        """The kernel's link watch takes up to half a second to let traffic through again."""
        deadline = asyncio.get_running_loop().time() + _CARRIER_S
        while machine in self._machines and not _is_running(self._machines[machine].network, interface):
            if asyncio.get_running_loop().time() > deadline:
                raise LabError(f"{machine}: {interface} gets no carrier")
            await asyncio.sleep(0.01)


def _is_running(namespace: int, interface: str) -> bool:
    with visit_network(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", interface.encode(), 0))
    return bool(struct.unpack_from("16xH", answer)[0] & _IFF_RUNNING)


def _attach_loss(index: int, percent: float) -> int:
    """A TCX link on the port's egress; frames whose random number is at most the threshold are dropped."""
    threshold = min(0xFFFF_FFFF, math.floor(percent / 100 * 2**32) - 1)
    code = b"".join(
        (
            _instruction(0x85, 0, 0, 0, 7),  # call bpf_get_prandom_u32
            _instruction(0xB4, 1, 0, 0, struct.unpack("<i", struct.pack("<I", threshold))[0]),  # w1 = threshold
            _instruction(0xBE, 0, 1, 2, 0),  # if w0 <= w1 goto +2
            _instruction(0xB7, 0, 0, 0, _TCX_NEXT),
            _instruction(0x95, 0, 0, 0, 0),  # exit
            _instruction(0xB7, 0, 0, 0, _TCX_DROP),
            _instruction(0x95, 0, 0, 0, 0),
        )
    )
    spec = bpf.ProgramSpec("lab_loss", bpf.ProgramType.SCHED_CLS, code, b"GPL\0")
    program = bpf.load_program(spec, 0, bytearray())
    try:
        return bpf.create_link(program, index, bpf.AttachType.TCX_EGRESS)
    finally:
        os.close(program)


def _instruction(code: int, target: int, source: int, offset: int, immediate: int) -> bytes:
    """struct bpf_insn."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, immediate)


def _set_rate(index: int, bits_per_s: float) -> netlink.Message:
    """A token bucket; struct tc_ratespec with link layer Ethernet, so that the kernel needs no rate table."""
    rate = int(bits_per_s / 8)
    limit = _BURST_BYTES + int(rate * _QUEUE_S)
    ratespec = struct.pack("=BBHhHI", 0, 1, 0, -1, 0, min(rate, 0xFFFF_FFFF))
    parameters = ratespec + struct.pack("=BBHhHI", 0, 0, 0, 0, 0, 0) + struct.pack("=III", limit, 0, 0)
    options = (
        _attribute(_TBF_PARMS, parameters)
        + _attribute(_TBF_BURST, struct.pack("=I", _BURST_BYTES))
        + _attribute(_TBF_RATE64, struct.pack("=Q", rate))
    )
    body = _tc_message(index) + _attribute(_TCA_KIND, b"tbf\0") + _attribute(_TCA_OPTIONS, options)
    return netlink.Message(_NEWQDISC, _CREATE | _REPLACE, body)


def _tc_message(index: int) -> bytes:
    """struct tcmsg for the root queue."""
    return struct.pack("=BxHiIII", 0, 0, index, 0, _ROOT, 0)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)
