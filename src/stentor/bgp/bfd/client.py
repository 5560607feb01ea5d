"""The speaker's side of the control socket, in callbacks of its event loop.

``Client`` keeps itself connected: every time it reaches the process it states the wanted set and is told every session's state.
The process keeps the sessions while the client is away.
"""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from stentor.bgp.bfd.errors import Unreachable
from stentor.bgp.bfd.message import Report, Request, Show, Status, Want, decode_report, encode_line
from stentor.runtime.fault import describe

_DEADLINE_S = 5.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0
_CHUNK = 1 << 16

log = logging.getLogger(__name__)


class Client:
    """An owner's sessions.

    ``on_status`` is called for every session after each (re)connection and at each change of state; ``on_lost`` when the
    process went away: that is no news about the neighbours, who notice it by themselves. With ``launch_missing`` a process
    is started, outliving us, when nobody serves ``path``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        owner: str,
        on_status: Callable[[Status], None],
        on_lost: Callable[[], None],
        *,
        launch_missing: bool = False,
    ) -> None:
        self._loop = loop
        self._path = path
        self._owner = owner
        self._on_status = on_status
        self._on_lost = on_lost
        self._launch_missing = launch_missing
        self._launched: subprocess.Popen[bytes] | None = None
        self._wanted: tuple[Request, ...] = ()
        self._socket: socket.socket | None = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._pause_s = _FIRST_PAUSE_S
        self._retry: asyncio.TimerHandle | None = None

    def want(self, requests: tuple[Request, ...]) -> None:
        """Exactly these sessions from now on, at once or as soon as the process is reached; none: AdminDown to all."""
        if requests == self._wanted:
            return
        self._wanted = requests
        if self._socket is not None:
            self._state()
        elif self._retry is None:
            self._connect()

    def close(self) -> None:
        """Disconnect; the sessions live on for the process's grace time. A process that we started in vain ends."""
        if self._launched is not None:
            self._launched.terminate()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._disconnect()

    def _connect(self) -> None:
        self._retry = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(self._path)  # a unix socket connects at once or not at all
        except OSError as error:
            connection.close()
            self._missing(error)
            return
        self._socket = connection
        self._launched = None  # it serves, and outlives us from now on
        self._pause_s = _FIRST_PAUSE_S
        self._loop.add_reader(connection, self._read)
        self._state()

    def _missing(self, error: OSError) -> None:
        absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        if self._launch_missing and absent and (self._launched is None or self._launched.poll() is not None):
            self._launched = launch(self._path)
            log.info("BFD process started", extra={"path": self._path, "pid": self._launched.pid})
        self._retry = self._loop.call_later(self._pause_s, self._connect)
        self._pause_s = min(_MOST_PAUSE_S, self._pause_s * 2)

    def _state(self) -> None:
        self._outgoing += encode_line(Want(self._owner, self._wanted))
        self._write()

    def _write(self) -> None:
        if self._socket is None:
            return
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._write)
        except OSError:
            self._lose("the process does not read")
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose("the process went away")
            return
        self._incoming += data
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        for line in lines:
            try:
                report = decode_report(line)
            except msgspec.DecodeError as error:
                self._lose(str(error))
                return
            for status in report.sessions:
                self._on_status(status)

    def _lose(self, reason: str) -> None:
        log.warning("Lost the BFD process", extra={"path": self._path, "reason": reason})
        self._disconnect()
        self._retry = self._loop.call_later(self._pause_s, self._connect)
        self._on_lost()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        self._incoming.clear()
        self._outgoing.clear()


def fetch(path: str) -> tuple[Status, ...]:
    """All sessions of the process at ``path``; Unreachable when it does not answer. Blocks for up to 5 s."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_DEADLINE_S)
        try:
            connection.connect(path)
            connection.sendall(encode_line(Show()))
            with connection.makefile("rb") as stream:
                report: Report = decode_report(stream.readline())
        except (OSError, msgspec.DecodeError) as error:
            raise Unreachable(path, describe(error)) from error
    return report.sessions


def launch(path: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a process that outlives us, serves ``path`` and ends when nobody needs it; its log goes to our standard error.

    Where one serves already the new one ends at once.
    """
    argv = [sys.executable, "-m", "stentor.bgp.bfd.command", "--socket", path, "--exit-when-idle", *options]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
