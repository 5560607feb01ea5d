"""The network configuration that tells a container runtime to use the plugin: written when the agent can serve."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

NAME: Final = "05-cilium.conflist"
_CONTENT: Final = {
    "cniVersion": "1.0.0",
    "name": "cilium",
    "plugins": [{"type": "stentor-cni", "enable-debug": False}],
}


def write_conflist(directory: Path, *, exclusive: bool) -> Path:
    """Write it if it differs; with `exclusive` other configurations are set aside as NAME.cilium_bak, as upstream does."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    content = json.dumps(_CONTENT, indent=2) + "\n"
    if exclusive:
        for other in directory.iterdir():
            if other != path and other.suffix in (".conf", ".conflist", ".json"):
                other.rename(other.with_name(other.name + ".cilium_bak"))
    if not path.exists() or path.read_text() != content:
        aside = directory / f".{NAME}.{os.getpid()}"
        aside.write_text(content)
        aside.rename(path)
    return path
