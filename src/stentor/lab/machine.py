"""A machine: network, mount, UTS, IPC and cgroup namespaces, held by descriptors, and a cgroup subtree.

A short-lived child makes the namespaces and mounts; the daemon keeps one descriptor of each, so that a machine needs no
process of its own and ends with the daemon. The order of mounts matters: the cgroup is joined before its namespace is
made; /sys is detached whole, since a hidden cgroup2 mount would be found first; sysfs shows the network namespace of
whoever mounts it.
"""

from __future__ import annotations

import os
import stat
import sys
import traceback
import zlib
from collections.abc import Iterable
from pathlib import Path

from stentor.lab.errors import LabError
from stentor.lab.place import Place
from stentor.lab.plan import Machine, Plan
from stentor.sys import cgroup, mount
from stentor.sys.namespace import Kind, setns, unshare
from stentor.sys.process import clone_into, set_hostname

# What of the lab's directory a machine sees, and where; it outlives a restart of the machine, as a disk would.
DISK = {
    "cni": "/etc/cni/net.d",
    "kubernetes": "/etc/kubernetes",
    "values": "/etc/stentor",
    "lab": "/etc/stentor-lab",
    "log": "/var/log/stentor",
    "runner": "/var/lib/stentor-lab",
    "state": "/var/lib/stentor",
}
GROUPS = ("components", "exec", "pods", "run")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "uts")
_SCRATCH = "/run/.machine"
_PRIVATE = ("/etc", "/var")  # overlays: what is written there is seen by the machine alone
_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
# Addresses, protocol and ports decide among equal paths. Policy 1 would do so, too, but take over the hash that the sending
# socket has left on the packet: then the second router chooses as the first has done, and leaves paths unused.
_BY_FLOW = {
    "net/ipv4/fib_multipath_hash_fields": "55",
    "net/ipv6/fib_multipath_hash_fields": "55",
    "net/ipv4/fib_multipath_hash_policy": "3",
    "net/ipv6/fib_multipath_hash_policy": "3",
}


class MachineNamespaces:
    """The living part of a machine: its cgroup, and descriptors of its namespaces and, last, of its root directory."""

    def __init__(self, name: str, group: Path, namespaces: dict[str, int]) -> None:
        self.name = name
        self.group = group
        self.namespaces = namespaces

    @property
    def network(self) -> int:
        return self.namespaces["net"]

    def close(self) -> None:
        """Kills every process of the machine and lets go of its namespaces: the power switch."""
        cgroup.remove(self.group)
        for fd in self.namespaces.values():
            os.close(fd)


def make(machine: Machine, plan: Plan, place: Place) -> MachineNamespaces:
    """Makes the machine, without wires. LabError with the child's words when a mount is refused."""
    group = place.cgroup / "machines" / machine.name
    for part in GROUPS:
        (group / part).mkdir(parents=True, exist_ok=True)
    disk = place.machine(machine.name)
    for part in DISK:
        (disk / part).mkdir(parents=True, exist_ok=True)
    group_fd = cgroup.create(group)
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = clone_into(group_fd)
    if pid == 0:
        os.close(ready_r)
        os.close(done_w)
        _become(machine, plan, disk, ready_w, done_r)
    os.close(ready_w)
    os.close(done_r)
    try:
        words = os.read(ready_r, 65536)
        if words != b"ready":
            raise LabError(f"machine {machine.name} cannot be made: {words.decode() or 'its process died'}")
        opened = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in _NAMESPACES}
        opened["root"] = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    finally:
        for fd in (group_fd, ready_r, done_w):  # the child reads the end of `done` and leaves
            os.close(fd)
        os.waitpid(pid, 0)
    return MachineNamespaces(machine.name, group, opened)


def enter(descriptors: Iterable[int]) -> None:
    """Moves the calling process, which must have one thread, into namespaces; its cgroup is joined before.

    A directory among the descriptors, after the mount namespace, becomes the root: setns(2) leads to the root of the mount
    namespace, which is not where the machine's files are when the lab was started in a chroot.
    """
    for fd in descriptors:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fchdir(fd)
            os.chroot(".")
        else:
            setns(fd)


def _become(machine: Machine, plan: Plan, disk: Path, ready: int, done: int) -> None:
    """The child: makes everything, tells so, and lives until its namespaces have been opened. Does not return."""
    try:
        unshare(Kind.NET | Kind.MNT | Kind.UTS | Kind.IPC | Kind.CGROUP)
        mount.isolate()
        set_hostname(machine.name)
        _mount_kernel_views()
        _mount_files(machine, plan, disk)
        for key, value in (_SYSCTLS | (_FORWARDING if machine.forward else {})).items():
            Path("/proc/sys", key).write_text(value, encoding="ascii")
        for key, value in _by_flow(machine).items():
            if (setting := Path("/proc/sys", key)).exists():
                setting.write_text(value, encoding="ascii")
        os.write(ready, b"ready")
        os.read(done, 1)
    except BaseException:
        os.write(ready, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(0)


def _by_flow(machine: Machine) -> dict[str, str]:
    """Routers choose among equal paths by flow, each with a seed of its own. A kernel may lack the settings."""
    if not machine.forward:
        return {}
    return _BY_FLOW | {"net/ipv4/fib_multipath_hash_seed": str(zlib.crc32(machine.name.encode()) or 1)}


def _mount_kernel_views() -> None:
    mount.unmount("/sys")
    mount.mount("sysfs", "/sys", "sysfs", mount.NO_PROGRAMS)
    mount.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", mount.NO_PROGRAMS)
    mount.mount("bpf", "/sys/fs/bpf", "bpf", mount.NO_PROGRAMS, "mode=0700")


def _mount_files(machine: Machine, plan: Plan, disk: Path) -> None:
    # The disk's directories are opened first: the overlay of /var would hide them, or be bound in their place.
    shown = {target: disk / part for part, target in DISK.items()} | _installation()
    sources = {target: os.open(path, os.O_PATH | os.O_DIRECTORY) for target, path in shown.items()}
    mount.mount("run", "/run", "tmpfs", mount.NO_DEVICES, "mode=755")
    mount.mount("tmp", "/tmp", "tmpfs", mount.NO_DEVICES, "mode=1777")
    os.makedirs("/run/netns")
    os.mkdir(_SCRATCH, 0o700)
    tops = {"/" + Path(file).parts[1] for file in machine.files}
    for top in sorted({*_PRIVATE, *tops} - {"/run", "/tmp"}):
        mount.overlay(top, _SCRATCH + top)
    for target, fd in sources.items():
        os.makedirs(target, exist_ok=True)
        mount.bind(f"/proc/self/fd/{fd}", target)
        os.close(fd)
    files = {
        "/etc/hostname": machine.name + "\n",
        "/etc/hosts": _hosts(plan),
        "/etc/resolv.conf": "# no name server: names of the lab are in /etc/hosts\n",
        **machine.files,
    }
    for path, text in files.items():
        if os.path.islink(path):
            os.unlink(path)  # of the overlay: a link into the host's /run would lead nowhere
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _installation() -> dict[str, Path]:
    """Our own programs where the machine's private /run or /tmp would hide them: target and source."""
    own = {Path(__file__).resolve().parents[2], Path(sys.prefix).resolve()}
    return {str(path): path for path in sorted(own) if path.parts[1] in ("run", "tmp")}


def _hosts(plan: Plan) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {machine.name}" for machine in plan.machines for address in machine.addresses]
    return "\n".join(lines) + "\n"
