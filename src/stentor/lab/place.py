"""Where a lab keeps its files, and how a living lab is told from a dead one.

The guard holds a lock on the lab's directory for as long as it lives: process ids are never compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path

from stentor.lab.errors import LabError, NoSuchLabError
from stentor.sys import cgroup

# Processes die late where the kernel is busy, as with another lab's networks, whose lock some need for their last sockets.
DEADLINE_S = 60.0
_PREFIX = "stentor-lab"


def home() -> Path:
    """The directory of all labs: $STENTOR_LAB_HOME, else /var/lib/stentor-labs."""
    return Path(os.environ.get("STENTOR_LAB_HOME") or "/var/lib/stentor-labs").absolute()


class Place:
    """The directory of one lab."""

    def __init__(self, name: str, labs: Path | None = None) -> None:
        self.name = name
        self.labs = labs or home()
        self.directory = self.labs / name
        self.socket = self.directory / "control.sock"
        self.kubeconfig = self.directory / "kubeconfig"
        self.log = self.directory / "lab.log"
        self._lock = self.directory / "lock"

    @property
    def cgroup(self) -> Path:
        """The lab's cgroup; labs of one name in two homes have two. LabError when no cgroup2 is mounted."""
        return _cgroup_root() / f"{_cgroup_prefix(self.labs)}{self.name}"

    def machine(self, name: str) -> Path:
        return self.directory / "machines" / name

    def cluster(self, name: str) -> Path:
        return self.directory / "clusters" / name

    def logs(self, machine: str) -> Path:
        return self.machine(machine) / "log"

    def exists(self) -> bool:
        return self._lock.exists()

    def create(self) -> None:
        """Makes the directory; LabError when there is a lab of this name, dead or alive."""
        assert self.cgroup  # before anything is made: without cgroups there is no lab
        self.labs.mkdir(parents=True, exist_ok=True)
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError as e:
            state = "is running" if self.is_alive() else "has not been removed"
            hint = f"`stentor lab down --name {self.name}` removes it"
            raise LabError(f"a lab named {self.name!r} {state}: {hint}") from e
        self._lock.touch(mode=0o600)

    def lock(self) -> int:
        """Takes the lock; it is free again when the returned descriptor and its copies are closed."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def last_words(self) -> str:
        """The last line of the lab's own log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "")

    def is_alive(self) -> bool:
        """Whether a guard holds the lock."""
        try:
            os.close(self.lock())
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def remove(self, deadline_s: float = DEADLINE_S) -> bool:
        """Ends every process of the lab and removes all it made, in whatever state it is; False if there was nothing."""
        existed = self.exists() or self.cgroup.is_dir()
        cgroup.remove(self.cgroup, deadline_s)
        end = time.monotonic() + deadline_s
        while self.is_alive():  # the guard notices the end of the daemon and leaves
            if time.monotonic() > end:
                raise LabError(f"the guard of lab {self.name!r} does not end; see {self.log}")
            time.sleep(0.002)
        if self.exists():
            self.sweep()
        return existed

    def sweep(self) -> None:
        """Removes the directory; the lock goes last, so that an interrupted removal can be repeated."""
        for entry in self.directory.iterdir():
            if entry == self._lock:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._lock.unlink()
        self.directory.rmdir()
        with contextlib.suppress(OSError):
            self.labs.rmdir()


def names() -> list[str]:
    """Of all labs, dead ones too: by their directories and by what is left of their cgroups."""
    found = {entry.parent.name for entry in home().glob("*/lock")}
    prefix = _cgroup_prefix(home())
    found |= {entry.name.removeprefix(prefix) for entry in _cgroup_root().glob(f"{prefix}*")}
    return sorted(found)


def find(name: str = "") -> Place:
    """The lab of that name, or the only one; NoSuchLabError lists what there is."""
    known = names()
    if name:
        if name not in known:
            raise NoSuchLabError(f"there is no lab named {name!r}" + _listing(known))
        return Place(name)
    if len(known) != 1:
        what = "there is no lab: `stentor lab up` starts one" if not known else "there are several labs"
        raise NoSuchLabError(what + (_listing(known) + "; choose one with --name" if known else ""))
    return Place(known[0])


def _listing(known: list[str]) -> str:
    return f" (there are: {', '.join(known)})" if known else ""


def _cgroup_root() -> Path:
    try:
        return cgroup.root()
    except FileNotFoundError as e:
        raise LabError(str(e)) from e


def _cgroup_prefix(labs: Path) -> str:
    digest = hashlib.sha256(str(labs.resolve()).encode()).hexdigest()[:8]
    return f"{_PREFIX}.{digest}."
