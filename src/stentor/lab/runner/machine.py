"""What the runner knows about its machine: names, addresses, directories. Read once from the flags."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Final

import msgspec

CLUSTER_DOMAIN: Final = "cluster.local"

# Nothing of the person at the keyboard, nor of the labs, is a pod's business. Files of the host's root only.
MASKED: Final = (
    *("/root", "/home", "/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/kubernetes"),
    *("/var/lib/stentor", "/var/lib/stentor-lab", "/var/lib/stentor-labs"),
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Fixed for the life of the runner; addresses are text, at most one a family, the primary family first."""

    node_name: str
    addresses: tuple[str, ...]
    run_dir: Path
    state_dir: Path
    cgroup: Path
    bin_dir: Path
    cluster_dns: tuple[str, ...] = ()
    masked: tuple[str, ...] = MASKED
    labels: dict[str, str] = {}

    @property
    def podrun(self) -> Path:
        return self.bin_dir / "podrun"

    @property
    def podrun_library(self) -> Path:
        return self.bin_dir / "libpodrun.so"

    @property
    def primary_address(self) -> str:
        return self.addresses[0] if self.addresses else ""

    def pod_directory(self, uid: str) -> Path:
        return self.run_dir / "pods" / uid

    def pod_cgroup(self, uid: str) -> Path:
        return self.cgroup / f"pod{uid}"

    def log_path(self, namespace: str, pod: str, uid: str, container: str, attempt: int) -> Path:
        """Where kubelets keep it, below the state directory."""
        return self.state_dir / "log" / "pods" / f"{namespace}_{pod}_{uid}" / container / f"{attempt}.log"


def memory_bytes() -> int:
    """Of the host: machines of a lab share it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def family(address: str) -> int:
    """4 or 6."""
    return ipaddress.ip_address(address).version
