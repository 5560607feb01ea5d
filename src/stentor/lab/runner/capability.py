"""Linux capabilities of containers: names to bits, and the set a container gets."""

from __future__ import annotations

from typing import Final

from stentor.api.pod import SecurityContext
from stentor.lab.runner.errors import StartFailure

# linux/capability.h, in the order of their bits.
_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
BITS: Final = {name: bit for bit, name in enumerate(_NAMES.split())}

# containerd's default without MKNOD: no devices cgroup stands between a pod of the lab and the host's disks.
_DEFAULT_NAMES: Final = """
CHOWN DAC_OVERRIDE FSETID FOWNER NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE
"""
DEFAULT: Final = frozenset(_DEFAULT_NAMES.split())

# What a pod may ask for in addition: nothing that reaches beyond its own namespaces.
GRANTABLE: Final = DEFAULT | {"NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE", "IPC_LOCK", "IPC_OWNER", "SYS_NICE"}


def mask(context: SecurityContext | None) -> int:
    """Bits of a container's capabilities. StartFailure for what a lab gives to nobody."""
    context = context or SecurityContext()
    if context.privileged:
        raise StartFailure("CreateContainerError", "securityContext.privileged: a lab runs no privileged containers")
    added = {_bare(name) for name in context.capabilities.add}
    dropped = {_bare(name) for name in context.capabilities.drop}
    unknown = sorted((added | dropped) - set(BITS) - {"ALL"})
    if unknown:
        raise StartFailure("CreateContainerError", f"securityContext.capabilities: unknown: {', '.join(unknown)}")
    refused = sorted(added - GRANTABLE - {"ALL"})
    if refused:
        raise StartFailure("CreateContainerError", f"securityContext.capabilities.add: not in a lab: {refused[0]}")
    base = GRANTABLE if "ALL" in added else DEFAULT
    kept = frozenset() if "ALL" in dropped else base - dropped
    return sum(1 << BITS[name] for name in kept | (added - {"ALL"}))


def _bare(name: str) -> str:
    return name.upper().removeprefix("CAP_")
