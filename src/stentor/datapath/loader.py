"""The datapath of one node: its programs, maps and links, made or taken over from the agent that was here before.

Everything is pinned, so traffic goes on when this process ends. A program's pin is named by a digest of all that it was made
from (object, configuration, maps): what is pinned already is not loaded again, and what differs is swapped in place.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from typing import Self

from stentor.datapath.attachment import GONE, HOOKS, WIRE, Clsact, Device, Tcx
from stentor.datapath.config import DatapathConfig
from stentor.datapath.errors import AttachError
from stentor.datapath.maps import ENDPOINT, MAPS
from stentor.datapath.names import Pins
from stentor.datapath.object import XDP, Object, read_objects
from stentor.datapath.store import Store
from stentor.sys.bpf import Map, MapSpec, get_pinned, pin
from stentor.sys.netlink import Message


class Datapath:
    """Programs and maps of a node. Used from one thread, in the node's network namespace: ifindexes are resolved there."""

    def __init__(
        self, pins: Pins, store: Store, objects: Mapping[str, Object], config: DatapathConfig, enable_tcx: bool
    ) -> None:
        self._pins, self._store, self._objects = pins, store, objects
        self.config = config
        self.programs: dict[str, int] = {}
        self.statistics: dict[str, str] = {}
        self._clsact, self._tcx = Clsact(self.programs), Tcx(self.programs, pins)
        self._has_tcx = enable_tcx

    @classmethod
    def load(
        cls,
        pins: Pins,
        config: DatapathConfig,
        *,
        limits: Mapping[str, int] | None = None,
        objects: Mapping[str, Object] | None = None,
        enable_tcx: bool = True,
        accelerate: bool = False,
    ) -> Self:
        """Make or take over maps and programs, and swap whatever is attached to the new programs.

        `limits` overrides map capacities by the names in `MAPS[…].limit`. `enable_tcx` False (upstream's `bpf.enableTCX`)
        attaches by clsact even where the kernel has TCX. `accelerate` loads what `accelerate_uplink` needs; without it an
        earlier agent's goes. MapLayoutChanged, MapTooSmall, StaleObject, VerifierError.
        """
        pins.make()
        objects = {name: found for name, found in (objects or read_objects()).items() if accelerate or name != XDP}
        store = Store(pins)
        store.open(_wanted_maps(objects, limits or {}))
        self = cls(pins, store, objects, config, enable_tcx)
        self.swap(config)
        store.settle()
        return self

    @property
    def maps(self) -> Mapping[str, Map]:
        return self._store.maps

    def swap(self, config: DatapathConfig) -> None:
        """Run programs of this configuration from now on, on every device that has some; no packet is lost meanwhile.

        VerifierError leaves everything as it was. Devices are gone through even when all programs were there already: an
        earlier agent may have died between loading and swapping.
        """
        packed = config.pack()
        wanted = {name: self._digest(found, packed) for found in self._objects.values() for name in found.programs}
        fresh: dict[str, int] = {}
        try:
            for found in self._objects.values():
                self._load(found, packed, wanted, fresh)
        except BaseException:
            _close(fresh)
            raise
        old = self.programs.copy()
        self.config = config
        self.programs.update(fresh)
        self._tcx.swap()
        self._clsact.swap(self._pod_devices(), HOOKS[Device.POD])
        self._prune(wanted)
        _close(old)

    def _load(self, found: Object, config: bytes, wanted: Mapping[str, str], fresh: dict[str, int]) -> None:
        """Programs of one object, from their pins where these exist."""
        missing = []
        for name in found.programs:
            try:
                fresh[name] = get_pinned(self._pins.program(name, wanted[name]))
            except FileNotFoundError:
                missing.append(name)
        if missing:
            loaded = found.load(config, self._store.maps)
            for name in missing:
                fresh[name] = loaded.program(name)
                pin(fresh[name], self._pins.program(name, wanted[name]))
            self.statistics |= loaded.statistics

    def _digest(self, found: Object, config: bytes) -> str:
        ids = repr([(name, self._store.maps[name].id) for name in sorted(found.definitions)])
        return hashlib.sha256(found.raw + config + ids.encode()).hexdigest()[:16]

    def _prune(self, wanted: Mapping[str, str]) -> None:
        keep = {self._pins.program(name, digest) for name, digest in wanted.items()}
        for path in self._pins.programs.iterdir():
            if path not in keep:
                path.unlink()

    def _pod_devices(self) -> set[int]:
        return {ENDPOINT.unpack(value)[0] for _, value in self.maps["endpoints"].items()}

    def attach_endpoint(self, ifindex: int) -> None:
        """The host end of a pod's veth. Its row in `endpoints` comes first: programs know devices by it."""
        self._clsact.attach(ifindex, HOOKS[Device.POD])

    def promote_endpoint(self, ifindex: int) -> None:
        """Put a TCX link in front of the pod's ingress filter: 3 % more round trips, after 10-20 ms of waiting for RCU.

        Blocking: for an executor, once the pod is up. A device that went away meanwhile is no error.
        """
        if not self._has_tcx:
            return
        try:
            self._tcx.attach(ifindex, HOOKS[Device.POD][:1])
        except AttachError as e:
            if e.errno not in GONE:
                raise

    def endpoint_messages(self, ifindex: int) -> tuple[Message, ...]:
        """The same as netlink messages, for a caller who sends them together with those that make the device."""
        return self._clsact.messages(ifindex, HOOKS[Device.POD])

    def attach_overlay(self, ifindex: int) -> None:
        """The VXLAN device; `config.overlay_ifindex` must be it."""
        self._attach(ifindex, Device.OVERLAY)

    def attach_host(self, ifindex: int) -> None:
        """The device into which routes send the host's packets for other nodes' pods (cilium_host)."""
        self._attach(ifindex, Device.HOST)

    def attach_uplink(self, ifindex: int) -> None:
        """A device that leads out of the cluster. `uplinks` holds the addresses to masquerade with."""
        self._attach(ifindex, Device.UPLINK)

    def accelerate_uplink(self, ifindex: int) -> None:
        """Known flows through this node take a short cut in the device's driver; AttachError where it has no native XDP."""
        self._tcx.attach(ifindex, (WIRE,))

    def _attach(self, ifindex: int, device: Device) -> None:
        if self._has_tcx:
            try:
                self._tcx.attach(ifindex, HOOKS[device])
            except AttachError as e:
                if e.errno != errno.EINVAL:
                    raise
                self._has_tcx = False  # before Linux 6.6
        if not self._has_tcx:
            self._clsact.attach(ifindex, HOOKS[device])

    def detach(self, ifindex: int) -> None:
        """Remove every program from a device."""
        for hooks in (*HOOKS.values(), (WIRE,)):
            self._tcx.detach(ifindex, hooks)
        self._clsact.detach(ifindex)

    def close(self) -> None:
        """Let go of file descriptors; what is pinned stays."""
        _close(self.programs)
        self.programs.clear()
        self._store.close()


def _close(programs: Mapping[str, int]) -> None:
    for fd in programs.values():
        os.close(fd)


def _wanted_maps(objects: Mapping[str, Object], limits: Mapping[str, int]) -> dict[str, MapSpec]:
    wanted: dict[str, MapSpec] = {}
    for found in objects.values():
        for name in found.definitions:
            layout = MAPS.get(name)
            most = limits.get(layout.limit) if layout and layout.limit else None
            wanted.setdefault(name, found.map_spec(name, most))
    return wanted
