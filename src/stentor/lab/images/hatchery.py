"""The warm parent: a small process that forks the programs of images from memory.

It is executed once a program, imports what that needs and nothing else (each page that a child touches is a page of its
own), and forks for each request. The child lets podrun's library do all that podrun does for a command; where podrun
would execute it, the child goes on in Python instead. Monitor, log, exit code and adoption by a later runner are the
same as for every other container.

    python -I -c '…hatch(FD, LIBRARY, PROGRAM)'

FD is a SOCK_SEQPACKET socket; a request is JSON with one descriptor, podrun's 3.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping

Program = Callable[[Mapping[str, str]], None]

PROGRAMS: Mapping[str, str] = {"echo": "stentor.lab.images.echo", "dns": "stentor.lab.images.dns"}
"""Modules whose `main` takes the container's environment."""
REQUEST_LIMIT = 1 << 18
_READY_FD = 3
_ENTRY = ctypes.PYFUNCTYPE(None)


def hatch(fd: int, library: str, program: str) -> None:
    """The loop of the warm parent of a program; it ends with the process that asks."""
    main: Program = importlib.import_module(PROGRAMS[program]).main
    sock = socket.socket(fileno=fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    podrun = ctypes.PyDLL(library).podrun
    # The garbage collector must not write to pages that are shared with children.
    gc.collect()
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(sock, REQUEST_LIMIT, 1)
        if not message:
            return
        if os.fork() == 0:
            _become(json.loads(message), fds[0], podrun, main)
        os.close(fds[0])


def _become(request: dict[str, object], ready_fd: int, podrun: Callable[..., int], main: Program) -> None:
    code = 125
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(ready_fd, _READY_FD, inheritable=True)
        os.closerange(_READY_FD + 1, 1024)
        argv = request["argv"]
        assert isinstance(argv, list)
        arguments = (ctypes.c_char_p * len(argv))(*(str(text).encode() for text in argv))
        ctypes.pythonapi.PyOS_BeforeFork()
        code = podrun(len(argv), arguments, _ENTRY(lambda: _enter(request, main)))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _enter(request: dict[str, object], main: Program) -> None:
    """PID 1 of the container."""
    code = 1
    try:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        env = request["env"]
        assert isinstance(env, dict)
        main(env)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(code)
