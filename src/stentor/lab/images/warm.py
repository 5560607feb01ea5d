"""The runner's end of the warm parent (`hatchery`), which is started when the first pod wants it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import stentor
from stentor.lab.images.hatchery import REQUEST_LIMIT

_FD = 3
_CODE = (
    "import sys; sys.path.insert(0, {root!r}); from stentor.lab.images.hatchery import hatch; hatch({fd}, {library!r})"
)


class WarmParent:
    """Forks programs of images; one process, started on first use and again when it has died."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._socket: socket.socket | None = None
        self._pid = 0

    def spawn(self, program: str, argv: Sequence[str], env: Mapping[str, str], ready_fd: int) -> None:
        """Starts `program` as podrun's `argv` says; podrun closes `ready_fd` when it runs. OSError when it cannot."""
        request = json.dumps({"program": program, "argv": list(argv), "env": dict(env)}).encode()
        try:
            socket.send_fds(self._connect(), [request], [ready_fd])
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            socket.send_fds(self._connect(), [request], [ready_fd])

    def close(self) -> None:
        """The parent ends; what it forked goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)

    def _connect(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_LIMIT)
            root = str(Path(stentor.__file__).parent.parent)
            code = _CODE.format(root=root, fd=_FD, library=str(self._library))
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD)]
            argv = [sys.executable, "-I", "-S", "-c", code]
            self._pid = os.posix_spawn(sys.executable, argv, {"LANG": "C.UTF-8"}, file_actions=actions)
        self._socket = ours
        return ours
