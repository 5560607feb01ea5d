"""The warm parent: programs of images that are forked from memory instead of executed.

It is forked from the runner before the runner has an event loop or threads, imports nothing later and holds nothing but
its socket. For each request it forks, and the child lets podrun's library do all that podrun does for a command;
where podrun would execute it, the child goes on in Python instead. The monitor is podrun's, so logs, exit codes and
adoption by a later runner are the same as for every other container.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from stentor.lab.images import echo
from stentor.sys import process

Program = Callable[[Mapping[str, str]], None]

PROGRAMS: Final[Mapping[str, Program]] = {"echo": echo.main}
_REQUEST_LIMIT: Final = 1 << 18
_READY_FD: Final = 3
_ENTRY = ctypes.PYFUNCTYPE(None)


class _Request(msgspec.Struct, frozen=True):
    program: str
    argv: list[str]
    env: dict[str, str]


class WarmParent:
    """The runner's end. `start` before any thread exists; the parent ends when this end is closed."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self.pid = pid

    @classmethod
    def start(cls, library: Path) -> WarmParent:
        """Forks the warm parent, which will load podrun's `library`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_LIMIT)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(theirs, library)
        theirs.close()
        return cls(ours, pid)

    def spawn(self, program: str, argv: Sequence[str], env: Mapping[str, str], ready_fd: int) -> None:
        """Starts `program` as podrun's `argv` says; podrun closes `ready_fd` when it runs. OSError when nobody listens."""
        request = msgspec.json.encode(_Request(program, list(argv), dict(env)))
        socket.send_fds(self._sock, [request], [ready_fd])

    def close(self) -> None:
        self._sock.close()
        os.waitpid(self.pid, 0)


def _serve(sock: socket.socket, library: Path) -> None:
    """The loop of the warm parent: it never returns."""
    code = 1
    try:
        process.set_name("stentor-warm")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it ends with the runner
        podrun = ctypes.PyDLL(str(library)).podrun
        # The parent's garbage collection must not write to pages shared with children.
        gc.collect()
        gc.freeze()
        while True:
            message, fds, _, _ = socket.recv_fds(sock, _REQUEST_LIMIT, 1)
            if not message:
                code = 0
                break
            request = msgspec.json.decode(message, type=_Request)
            if os.fork() == 0:
                _become(request, fds[0], podrun)
            os.close(fds[0])
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _become(request: _Request, ready_fd: int, podrun: Callable[..., int]) -> None:
    code = 125
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(ready_fd, _READY_FD, inheritable=True)
        os.closerange(_READY_FD + 1, 1024)
        arguments = (ctypes.c_char_p * len(request.argv))(*(text.encode() for text in request.argv))
        ctypes.pythonapi.PyOS_BeforeFork()
        code = podrun(len(request.argv), arguments, _ENTRY(lambda: _enter(request)))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _enter(request: _Request) -> None:
    """PID 1 of the container."""
    code = 1
    try:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        process.set_name(request.program)
        PROGRAMS[request.program](request.env)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(code)
