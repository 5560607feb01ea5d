"""Names under bpffs. All pins of a node live below one directory, which only root may enter."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = "stentor"


class Pins(msgspec.Struct, frozen=True):
    """Where things are pinned, below the mount point of a bpffs."""

    bpffs: Path

    @property
    def root(self) -> Path:
        return self.bpffs / ROOT

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    @property
    def programs(self) -> Path:
        return self.root / "progs"

    @property
    def links(self) -> Path:
        return self.root / "links"

    def map(self, name: str) -> Path:
        return self.maps / name

    def program(self, name: str, digest: str) -> Path:
        """The digest is of all that the program was made from, so a pin that exists is the program wanted."""
        return self.programs / f"{name}-{digest}"

    def link(self, program: str, ifindex: int) -> Path:
        return self.links / f"{program}-{ifindex}"

    def make(self) -> None:
        """The directories, with mode 0700: whoever may open a pinned map may change the policy."""
        for path in (self.root, self.maps, self.programs, self.links):
            path.mkdir(mode=0o700, exist_ok=True)
