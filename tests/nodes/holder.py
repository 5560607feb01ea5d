"""PID 1 of a test machine: makes its mounts, says "ready", reaps orphans, and ends when standard input ends.

Started by `nodes.machine` inside new network, mount, UTS, IPC and PID namespaces and its own cgroup.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from stentor.sys import mount, namespace
from stentor.sys.mount import NO_PROGRAMS, Flag

ADDRESSES = ("10.111.0.1/24", "fd11:1::1/64")


def main() -> None:
    namespace.unshare(namespace.Kind.CGROUP)
    mount.isolate()
    mount.mount("proc", "/proc", "proc", NO_PROGRAMS)
    mount.unmount("/sys")
    mount.mount("sysfs", "/sys", "sysfs", NO_PROGRAMS)
    mount.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", NO_PROGRAMS)
    mount.mount("run", "/run", "tmpfs", Flag.NOSUID | Flag.NODEV, "mode=755")
    mount.mount("vlib", "/var/lib/cni", "tmpfs") if os.path.isdir("/var/lib/cni") else None
    commands = ["link set lo up", "link add eth0 type veth peer name wire", "link set wire up", "link set eth0 up"]
    commands += [f"address add {address} dev eth0 nodad" for address in ADDRESSES if ":" in address]
    commands += [f"address add {address} dev eth0" for address in ADDRESSES if ":" not in address]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
    for family in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{family}", "w") as file:
            file.write("1")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, _reap)
    while os.read(0, 1):
        pass


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
