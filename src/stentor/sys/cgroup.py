"""Control groups, version 2: finding the hierarchy, making groups, killing all that lives in one.

Only what needs no controller (attachment of programs, `cgroup.kill`, `cgroup.freeze`), so that it works where version 1
holds the controllers.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def root() -> Path:
    """Where cgroup2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1.

    The last mount wins: an earlier one may be hidden below it.
    """
    found: str | None = None
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            if right.startswith("cgroup2 "):
                found = left.split()[4]
    if found is None:
        raise FileNotFoundError("no cgroup2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
    return Path(found)


def create(path: Path) -> int:
    """Makes the group, with its parents, and returns a descriptor of it."""
    path.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def join(group_fd: int) -> None:
    """Moves the calling process into the group."""
    fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=group_fd)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def kill(path: Path) -> None:
    """SIGKILL to every process in the group and below, frozen ones too, without a race against fork (Linux 5.14).

    Linux 6.18 then kills whatever is cloned straight into that group later: `remove` it before it is used again.
    """
    (path / "cgroup.kill").write_text("1", encoding="ascii")


def is_populated(path: Path) -> bool:
    """Whether any process lives in the group or below."""
    return "populated 1" in (path / "cgroup.events").read_text(encoding="ascii")


def remove(path: Path, deadline_s: float = 10.0) -> None:
    """Kills everything in the group and removes it with all below; a group that does not exist is no error.

    Repeats, since a dying process leaves its group late. TimeoutError when something cannot be killed in time; it says who,
    and where in the kernel that waits. PermissionError when the group is not ours.
    """
    end = time.monotonic() + deadline_s
    while path.is_dir():
        try:
            kill(path)
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)
        except PermissionError:
            raise
        except OSError:
            pass  # somebody else removes it too (ENOENT, ENODEV), or somebody still dies in it (EBUSY)
        if time.monotonic() > end:
            raise TimeoutError(
                f"{path}: processes in this cgroup do not die: {', '.join(_inhabitants(path)) or 'none'}"
            )
        if path.is_dir():
            time.sleep(0.002)


def _inhabitants(path: Path) -> list[str]:
    """Who lives in the group and below."""
    found: list[str] = []
    for directory, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            found += map(_describe, Path(directory, "cgroup.procs").read_text(encoding="ascii").split())
    return found


def _describe(pid: str) -> str:
    """Process id, name, state as in ps, and the function of the kernel in which it waits."""
    try:
        name, _, rest = Path("/proc", pid, "stat").read_text(errors="replace").rpartition(")")
        return f"{pid} {name.partition('(')[2]} ({rest.split()[0]} in {Path('/proc', pid, 'wchan').read_text()})"
    except OSError:
        return pid
