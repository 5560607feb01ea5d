"""The guard: the one process of a lab that lives outside it. It starts the daemon, waits for its end, and sweeps.

    command ──fork──► guard ──clone3(NEWPID, NEWNS, into the cgroup)──► daemon = PID 1 of the lab

When the daemon dies, the kernel kills the whole PID namespace, and namespaces and mounts go with their last descriptor:
only empty cgroups and the directory stay. The daemon dies with the guard (PDEATHSIG), so killing either is enough.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback

from stentor.lab.place import DEADLINE_S, Place
from stentor.lab.plan import Plan
from stentor.sys import cgroup
from stentor.sys.namespace import Kind
from stentor.sys.process import clone_into, die_with_parent, set_name


def launch(plan: Plan, place: Place, *, leash: int | None = None) -> int:
    """Starts the lab; the descriptor from which `progress.listen` reads how it goes.

    `leash` is a descriptor whose end (the close of a pipe's other side) takes the lab down and removes it whole.
    """
    place.create()
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(read_end)
        _guard(plan, place, write_end, leash)
    os.close(write_end)
    if leash is not None:
        os.close(leash)
    return read_end


def _guard(plan: Plan, place: Place, progress: int, leash: int | None) -> None:
    """Does not return."""
    status = 1
    try:
        os.setsid()
        set_name("lab-guard")
        _detach(place, keep={progress} | ({leash} if leash is not None else set()))
        lock = place.lock()
        daemon_fd = cgroup.create(place.cgroup / "daemon")
        pid = clone_into(daemon_fd, Kind.PID | Kind.MNT)
        if pid == 0:
            die_with_parent()
            os.close(lock)  # a copy in the daemon would make a dead lab look alive
            _daemon(plan, place, progress, leash)
        os.close(progress)
        leashed = _wait(pid, leash)
        cgroup.remove(place.cgroup, DEADLINE_S)
        if leashed:
            place.sweep()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _daemon(plan: Plan, place: Place, progress: int, leash: int | None) -> None:
    """Does not return."""
    status = 1
    try:
        if leash is not None:
            os.close(leash)
        from stentor.lab import daemon  # only here: the guard stays small

        status = daemon.run(plan, place, progress)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, leash: int | None) -> bool:
    """Until the daemon has ended, by itself or since the leash did; whether it was the leash."""
    ended = False
    if leash is not None:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(leash, select.POLLIN | select.POLLHUP)
        ended = leash in {fd for fd, _ in poll.poll()}
        if ended:
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # returns when every process of its PID namespace has gone
    return ended


def _detach(place: Place, keep: set[int]) -> None:
    """Away from the command's terminal and files."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
