"""Starting programs from an event loop: posix_spawn (no page tables copied), pidfds instead of SIGCHLD.

Input and output of short programs are memory files: nothing to pump while they run, and a descendant that keeps them
open delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stentor.lab.runner.errors import SpawnTimeout

_ALL_SIGNALS = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Completed(NamedTuple):
    """A program's end; `code` counts as a shell does (128 + signal)."""

    code: int
    output: bytes
    errors: bytes


def spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> int:
    """Starts `argv[0]` (a path) with `fds` (number in the child → ours) open, nothing else; returns the pid.

    Standard input and output are /dev/null unless given.
    OSError when it cannot be executed.
    """
    # A DUP2 must not overwrite a source that is still to be copied: sources move out of the way first.
    sources = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 100) for target, source in fds.items()}
    try:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, standard, os.devnull, os.O_RDWR, 0) for standard in (0, 1) if standard not in fds
        ]
        actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in sources.items()]
        return os.posix_spawn(argv[0], list(argv), env, file_actions=actions, setsigdef=_ALL_SIGNALS)
    finally:
        for source in sources.values():
            os.close(source)


async def wait_readable(fd: int, timeout_s: float | None = None) -> None:
    """Returns once `fd` is readable (a pidfd: its process has ended). TimeoutError after `timeout_s`."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ready.wait()
    finally:
        loop.remove_reader(fd)


def reap(pid: int) -> int:
    """Exit code of a child that has ended."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


async def wait_exit(pid: int, timeout_s: float | None = None) -> int:
    """Exit code of our child; after `timeout_s`, or when cancelled, it is killed. SpawnTimeout after the time."""
    pidfd = os.pidfd_open(pid)
    try:
        await wait_readable(pidfd, timeout_s)
    except (TimeoutError, asyncio.CancelledError) as e:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        reap(pid)
        if isinstance(e, TimeoutError):
            raise SpawnTimeout(f"killed after {timeout_s:g} s") from e
        raise
    finally:
        os.close(pidfd)
    return reap(pid)


async def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    stdin: bytes = b"",
    fds: Mapping[int, int] | None = None,
    timeout_s: float = 30.0,
) -> Completed:
    """Runs a program to its end. OSError when it cannot start, SpawnTimeout when it does not end in time."""
    with contextlib.ExitStack() as stack:
        files = [os.memfd_create(name) for name in ("in", "out", "err")]
        for fd in files:
            stack.callback(os.close, fd)
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = spawn(argv, env, {0: files[0], 1: files[1], 2: files[2], **(fds or {})})
        code = await wait_exit(pid, timeout_s)
        return Completed(code, _content(files[1]), _content(files[2]))


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


async def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data` to a non-blocking descriptor. OSError when nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _wait_writable(fd)


async def _wait_writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(fd, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(fd)
