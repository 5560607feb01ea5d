"""The runner's end of the warm parents (`hatchery`), each started when the first pod wants its program."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import stentor
from stentor.lab.images.hatchery import REQUEST_LIMIT, hatch

_FD = 3
_CODE = (
    "import sys; sys.path[:0] = {paths!r}; "
    "from stentor.lab.images.hatchery import hatch; hatch({fd}, {library!r}, {program!r})"
)


class WarmParent:
    """Forks programs of images; a process for each program, started on first use and again when it has died."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._parents: dict[str, _Parent] = {}

    def fork(self, program: str) -> None:
        """Forks the parent of a program from this process, which has one thread and no event loop yet.

        What is imported here is shared with it: for a program of large imports that starts with the cluster.
        """
        self._parents.setdefault(program, _Parent(program, self._library)).fork()

    def spawn(self, program: str, argv: Sequence[str], env: Mapping[str, str], ready_fd: int) -> None:
        """Starts `program` as podrun's `argv` says; podrun closes `ready_fd` when it runs. OSError when it cannot."""
        request = json.dumps({"argv": list(argv), "env": dict(env)}).encode()
        parent = self._parents.setdefault(program, _Parent(program, self._library))
        try:
            socket.send_fds(parent.connect(), [request], [ready_fd])
        except (BrokenPipeError, ConnectionResetError):
            parent.close()
            socket.send_fds(parent.connect(), [request], [ready_fd])

    def close(self) -> None:
        """The parents end; what they forked goes on."""
        for parent in self._parents.values():
            parent.close()


class _Parent:
    def __init__(self, program: str, library: Path) -> None:
        self._program, self._library = program, library
        self._socket: socket.socket | None = None
        self._pid = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)

    def fork(self) -> None:
        ours, theirs = _socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            try:
                hatch(theirs.detach(), str(self._library), self._program)
            finally:
                os._exit(1)
        theirs.close()
        self._socket = ours

    def connect(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = _socketpair()
        with theirs:
            # Without `site` an interpreter starts faster and smaller; packages are found by where one of them is.
            paths = [str(Path(package.__file__ or "").parent.parent) for package in (stentor, msgspec)]
            code = _CODE.format(paths=paths, fd=_FD, library=str(self._library), program=self._program)
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD)]
            argv = [sys.executable, "-I", "-S", "-c", code]
            self._pid = os.posix_spawn(sys.executable, argv, {"LANG": "C.UTF-8"}, file_actions=actions)
        self._socket = ours
        return ours


def _socketpair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_LIMIT)
    return ours, theirs
