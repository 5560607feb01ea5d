"""A blocking client of the BFD process, for tests that watch from outside."""

from __future__ import annotations

import socket

from stentor.bgp.bfd.client import fetch
from stentor.bgp.bfd.errors import Unreachable
from stentor.bgp.bfd.message import Endpoint, Report, Request, Status, Want, decode_report, encode_line


class Sessions:
    """An owner's connection to the process at ``path``; asks anew for every look at a status."""

    def __init__(self, path: str, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._socket: socket.socket | None = None
        self._answer: Report | None = None

    def reach(self) -> bool:
        """Whether the process answers."""
        try:
            fetch(self._path)
        except Unreachable:
            return False
        return True

    def want(self, *requests: Request) -> None:
        """State the owner's set, over a new connection when the former process is gone."""
        connection = self._connect()
        connection.sendall(encode_line(Want(self._owner, requests)))
        with connection.makefile("rb") as stream:
            self._answer = decode_report(stream.readline())
            while not self._answer.complete:
                self._answer = decode_report(stream.readline())

    def leave(self) -> None:
        """Go away without a word, as a killed client does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def statuses(self) -> tuple[Status, ...]:
        """The process's answer to the last ``want``."""
        assert self._answer is not None
        return self._answer.sessions

    def status(self, endpoint: Endpoint) -> Status:
        """A session as it is now; AssertionError when it is not there."""
        for each in fetch(self._path):
            if each.endpoint == endpoint:
                return each
        raise AssertionError(f"no session with {endpoint}")

    def babble(self, data: bytes) -> bytes:
        """What the process answers to these octets before it hangs up."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self._path)
            connection.sendall(data)
            return connection.recv(1 << 16)

    def _connect(self) -> socket.socket:
        self.leave()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(self._path)
        return self._socket
