"""What a test run must not leave behind: `leaks.py save FILE` before it, `leaks.py check FILE` after it.

Compares mounts, named network namespaces, cgroups and what is pinned in BPF file systems, and looks for processes that carry
the run's mark (STENTOR_TEST_RUN) in their environment. Exit 1 when something is left. While another run is under way nobody
can tell whose a mount is: then only processes are looked at, and that is said.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

# What comes and goes with sessions and timers of the machine itself.
SYSTEM_MOUNTS = ("/run/user/", "/run/credentials/")
SYSTEM_GROUPS = (".slice", ".scope", ".service")
GRACE_S = 10.0  # dying namespaces and cgroups go a moment after their last process


def mounts() -> list[str]:
    """Mount point and type of every mount of this namespace."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        # `ip netns` mounts /run/netns for ever the first time it is used on a machine.
        if fields[4] != "/run/netns" and not fields[4].startswith(SYSTEM_MOUNTS):
            found.append(f"mount {fields[4]} ({fields[fields.index('-') + 1]})")
    return found


def namespaces() -> list[str]:
    folder = Path("/run/netns")
    return [f"namespace {entry.name}" for entry in folder.iterdir()] if folder.is_dir() else []


def roots(kind: str) -> list[str]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields[4] for fields in lines if fields[fields.index("-") + 1] == kind]


def cgroups() -> list[str]:
    tops = [entry for root in roots("cgroup2") for entry in Path(root).iterdir() if entry.is_dir()]
    ours = [top for top in tops if not top.name.endswith(SYSTEM_GROUPS)]
    return [f"cgroup {path}" for top in ours for path, _, _ in os.walk(top)]


def pins() -> list[str]:
    return [
        f"pin {path}/{name}"
        for root in roots("bpf")
        for path, _, names in os.walk(root)
        for name in names
        if not name.endswith(".debug")
    ]


_MARK = b"STENTOR_TEST_RUN="


def processes(mark: str) -> tuple[list[str], bool]:
    """Processes of the marked run, but not this one's own ancestors; and whether there are processes of another run."""
    own, others = set(), False
    pid = os.getpid()
    while pid > 1:
        own.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in own:
            continue
        try:
            marks = [each for each in (folder / "environ").read_bytes().split(b"\0") if each.startswith(_MARK)]
            if not marks:
                continue
            if marks[0] != _MARK + mark.encode():
                others = True
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"process {folder.name}: {command[:100]}")
        except OSError:
            continue
    return found, others


def snapshot() -> set[str]:
    return {*mounts(), *namespaces(), *cgroups(), *pins()}


def main(action: str, file: str) -> int:
    if action == "save":
        Path(file).write_text(json.dumps(sorted(snapshot())))
        return 0
    before, mark = set(json.loads(Path(file).read_text())), os.environ.get("STENTOR_TEST_RUN", "")
    deadline = time.monotonic() + GRACE_S
    while True:
        running, others = processes(mark)
        left = running if others else sorted(snapshot() - before) + running
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if others:
        print("another test run is under way: only processes were looked for", file=sys.stderr)
    for what in left:
        print(f"left behind: {what}", file=sys.stderr)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
