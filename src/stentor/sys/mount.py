"""Mounts: mount(2), umount2(2), and the few combinations that machines and pods need."""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_MNT_DETACH = 2


class Flag(IntFlag):
    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    BIND = 4096
    REC = 16384
    PRIVATE = 1 << 18
    SLAVE = 1 << 19


NO_DEVICES = Flag.NOSUID | Flag.NODEV
NO_PROGRAMS = NO_DEVICES | Flag.NOEXEC


def mount(source: str, target: str, fstype: str = "", flags: Flag = Flag.NONE, data: str = "") -> None:
    """mount(2); OSError carries the errno and names the mount."""
    result = _libc.mount(source.encode(), target.encode(), fstype.encode() or None, int(flags), data.encode() or None)
    _check(result, f"mount {fstype} {source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    mount(source, target, flags=Flag.BIND | Flag.REC)
    if read_only:
        mount("", target, flags=Flag.REMOUNT | Flag.BIND | Flag.RDONLY)


def overlay(directory: str, scratch: str) -> None:
    """Makes `directory` writable for this mount namespace alone; changes go below `scratch`, which must be on a tmpfs.

    What is mounted below `directory` is not seen through the overlay.
    """
    for part in ("upper", "work"):
        os.makedirs(f"{scratch}/{part}")
    options = f"lowerdir={directory},upperdir={scratch}/upper,workdir={scratch}/work"
    mount("overlay", directory, "overlay", data=options)


def unmount(target: str) -> None:
    """Detaches `target` and everything below it at once; it ends when its last user has gone."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def isolate() -> None:
    """Nothing mounted here from now on is seen outside. Unmounts outside still arrive, so that nothing is kept busy."""
    mount("", "/", flags=Flag.REC | Flag.SLAVE)


def _check(result: int, what: str) -> None:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)
