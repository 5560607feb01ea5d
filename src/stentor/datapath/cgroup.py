"""Socket programs on a cgroup. A hook follows the processes below the cgroup, whatever their network namespace.

Links are pinned, one a hook: translation goes on without an agent, and the next one swaps the programs in place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stentor.datapath.errors import AttachError
from stentor.datapath.names import Pins
from stentor.datapath.object import CGROUP_HOOKS
from stentor.sys.bpf import AttachType, create_link, get_pinned, link_cgroup, pin, program_id, update_link


class CgroupLinks:
    """Attachments of `programs` (by name, as in CGROUP_HOOKS) to one cgroup."""

    def __init__(self, programs: Mapping[str, int], pins: Pins, cgroup: Path) -> None:
        self._programs, self._cgroup = programs, cgroup
        self._pins = pins.root / "cgroup"

    def attach(self) -> None:
        """Attach every hook that has a program, or take over what is pinned. AttachError."""
        self._pins.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, hook in CGROUP_HOOKS.items():
                if name in self._programs and not self._adopt(name):
                    self._create(name, hook, directory)
        finally:
            os.close(directory)

    def detach(self) -> None:
        """Remove the links; connections that were translated go on."""
        if self._pins.is_dir():
            for path in self._pins.iterdir():
                path.unlink()

    def _adopt(self, name: str) -> bool:
        path = self._pins / name
        try:
            link = get_pinned(path)
        except FileNotFoundError:
            return False
        try:
            program, cgroup = link_cgroup(link)
            if cgroup != self._cgroup.stat().st_ino:  # another one, or gone
                path.unlink()
                return False
            if program != program_id(self._programs[name]):
                update_link(link, self._programs[name])
            return True
        finally:
            os.close(link)

    def _create(self, name: str, hook: AttachType, directory: int) -> None:
        try:
            link = create_link(self._programs[name], directory, hook)
        except OSError as e:
            raise AttachError(name, 0, e) from e
        try:
            pin(link, self._pins / name)
        finally:
            os.close(link)
