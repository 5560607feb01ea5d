"""Programs on devices: which hook gets which program, and the two ways of attaching.

TCX links (Linux 6.6) are pinned and swap in 5 µs, but attaching one waits for an RCU grace period (8 ms each). clsact filters
attach to a new device in 0.15 ms and are replaced atomically; they live as long as the device. Pods come and go, so their
devices get clsact first and a TCX link in front of it when there is time; the node's few devices get TCX where the kernel has
it. Where both are, TCX runs and, as our programs always decide, clsact does not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from stentor.datapath.errors import AttachError
from stentor.datapath.names import Pins
from stentor.sys import tc
from stentor.sys.bpf import (
    XDP_NATIVE,
    AttachType,
    create_link,
    detach_link,
    get_pinned,
    link_info,
    pin,
    program_id,
    update_link,
)
from stentor.sys.netlink import Message, NetlinkError, Route

GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.EINVAL, errno.ENOENT})
"""What the kernel answers about a device that is no more."""


class Device(Enum):
    """What a device is to the datapath."""

    POD = "pod"
    OVERLAY = "overlay"
    HOST = "host"
    UPLINK = "uplink"


class Hook(msgspec.Struct, frozen=True):
    program: str
    is_ingress: bool
    is_xdp: bool = False


HOOKS: Final[Mapping[Device, tuple[Hook, ...]]] = {
    Device.POD: (Hook("from_container", True), Hook("to_container", False)),
    Device.OVERLAY: (Hook("from_overlay", True),),
    Device.HOST: (Hook("from_host", False),),
    Device.UPLINK: (Hook("from_netdev", True), Hook("to_netdev", False)),
}
WIRE: Final = Hook("from_wire", True, is_xdp=True)
"""In front of an uplink's other hooks, in the driver."""


class Clsact:
    """Attachment by filters. Not pinned: the device holds them."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = programs

    def attach(self, ifindex: int, hooks: Iterable[Hook]) -> None:
        """Attach, or replace what is there."""
        with Route() as route:
            try:
                route.send(*self.messages(ifindex, hooks))
            except NetlinkError as e:
                if e.errno != errno.EEXIST or e.position:
                    raise AttachError(next(iter(hooks)).program, ifindex, e) from e

    def messages(self, ifindex: int, hooks: Iterable[Hook]) -> tuple[Message, ...]:
        """What `attach` sends, for a caller who sends it along with the device itself."""
        filters = (
            tc.set_filter(ifindex, ingress=hook.is_ingress, program=self._programs[hook.program], name=hook.program)
            for hook in hooks
        )
        return (tc.add_clsact(ifindex), *filters)

    def swap(self, ifindexes: Iterable[int], hooks: Iterable[Hook]) -> None:
        """Replace the programs of devices; one that went away meanwhile is no error."""
        with Route() as route:
            for ifindex in ifindexes:
                try:
                    route.send(*self.messages(ifindex, hooks))
                except NetlinkError as e:
                    if e.errno != errno.EEXIST and e.errno not in GONE:
                        raise AttachError("filters", ifindex, e) from e

    def detach(self, ifindex: int) -> None:
        with Route() as route:
            try:
                route.send(tc.remove_clsact(ifindex))
            except NetlinkError as e:
                if e.errno not in GONE:
                    raise AttachError("clsact", ifindex, e) from e


class Tcx:
    """Attachment by pinned links; XDP's too."""

    def __init__(self, programs: Mapping[str, int], pins: Pins) -> None:
        self._programs, self._pins = programs, pins

    def attach(self, ifindex: int, hooks: Iterable[Hook]) -> None:
        """Attach, or swap the program of a link that an earlier agent pinned."""
        for hook in hooks:
            path, program = self._pins.link(hook.program, ifindex), self._programs[hook.program]
            if not self._adopt(path, program, ifindex):
                self._create(path, hook, program, ifindex)

    def _adopt(self, path: Path, program: int, ifindex: int) -> bool:
        try:
            link = get_pinned(path)
        except FileNotFoundError:
            return False
        try:
            info = link_info(link)
            if info.ifindex != ifindex:  # the device it was on is gone
                path.unlink()
                return False
            if info.program_id != program_id(program):
                update_link(link, program)
            return True
        finally:
            os.close(link)

    def _create(self, path: Path, hook: Hook, program: int, ifindex: int) -> None:
        tcx = AttachType.TCX_INGRESS if hook.is_ingress else AttachType.TCX_EGRESS
        try:
            if hook.is_xdp:
                link = create_link(program, ifindex, AttachType.XDP, XDP_NATIVE)
            else:
                link = create_link(program, ifindex, tcx)
        except OSError as e:
            raise AttachError(hook.program, ifindex, e) from e
        try:
            pin(link, path)
        finally:
            os.close(link)

    def swap(self) -> None:
        """Every pinned link gets the program of its name; links of devices that are gone are removed."""
        for path in self._pins.links.iterdir():
            program, _, ifindex = path.name.rpartition("-")
            if program not in self._programs or not self._adopt(path, self._programs[program], int(ifindex)):
                path.unlink(missing_ok=True)

    def detach(self, ifindex: int, hooks: Iterable[Hook]) -> None:
        """At once; a link whose pin just goes is let go of some time later."""
        for hook in hooks:
            path = self._pins.link(hook.program, ifindex)
            try:
                link = get_pinned(path)
            except FileNotFoundError:
                continue
            with suppress(OSError):  # the device is gone already
                detach_link(link)
            os.close(link)
            path.unlink()
