"""Attaching to a running container: its output as it comes, its standard input and terminal if it has them.

Output is followed in the log, input goes into the FIFO from which the container's monitor reads: a container does not
notice who attaches, and several may. The size of a terminal is set on its master, borrowed from the monitor.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import termios
from pathlib import Path
from typing import Final

from aiohttp import web

from stentor.api.pod import Container
from stentor.lab.runner import channel, logfile, spawn
from stentor.lab.runner.channel import Input, Number, Size
from stentor.lab.runner.container import Container as Run
from stentor.lab.runner.session import Streams, said
from stentor.runtime.job import JobGroup

_TERMINAL_FD: Final = 9  # of the monitor, see podrun.c
_SYS_PIDFD_GETFD: Final = 438

_libc = ctypes.CDLL(None, use_errno=True)


class Attachment:
    """One client at one run of a container."""

    def __init__(
        self, jobs: JobGroup, socket: web.WebSocketResponse, streams: Streams, run: Run, spec: Container
    ) -> None:
        self._jobs = jobs
        self._socket = socket
        self._streams = streams
        self._run = run
        self._spec = spec
        self._fifo = -1

    async def serve(self) -> None:
        """Until the container has ended or the client has gone."""
        if self._streams.stdin and self._spec.stdin:
            self._fifo = _open_fifo(self._run.input_path)
        reading = self._jobs.once(f"attach {self._run.record.name}", self._read_client())
        # Whoever brings the input wants all of the output: nobody can have read it before.
        tail = None if self._spec.stdin_once and not self._run.was_attached else 0
        self._run.was_attached = True
        options = logfile.Options(follow=True, tail_lines=tail)
        try:
            async for chunk in logfile.read(Path(self._run.record.log), options, self._goes_on):
                await self._socket.send_bytes(channel.encode(Number.STDOUT, chunk))
            if not self._socket.closed:
                await self._socket.send_bytes(channel.final_status(0))
        except ConnectionError:
            return  # the client has gone
        finally:
            reading.cancel()
            self._close_fifo()

    def _goes_on(self) -> bool:
        return self._run.is_running and not self._socket.closed

    async def _read_client(self) -> None:
        async for decoded in said(self._socket):
            if isinstance(decoded, Size) and self._spec.tty:
                self._resize(decoded)
            elif isinstance(decoded, Input) and self._fifo >= 0:
                await self._feed(decoded.data)

    async def _feed(self, data: bytes) -> None:
        if not data:
            self._close_fifo()
            return
        with contextlib.suppress(BrokenPipeError):
            await spawn.write_all(self._fifo, data)

    def _close_fifo(self) -> None:
        if self._fifo >= 0:
            os.close(self._fifo)
            self._fifo = -1

    def _resize(self, size: Size) -> None:
        with contextlib.suppress(OSError):  # it is just ending
            master = _borrow(self._run.monitor_fd, _TERMINAL_FD)
            try:
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
            finally:
                os.close(master)


def _open_fifo(path: Path) -> int:
    """-1 when the container reads no input any more."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


def _borrow(pidfd: int, number: int) -> int:
    """A copy of another process's descriptor (pidfd_getfd, Linux 5.6)."""
    fd = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return fd
