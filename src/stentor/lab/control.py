"""What commands and the daemon say to each other: one request and one reply over the lab's unix socket.

`Enter` is answered with descriptors: the command enters the machine by itself, so that a terminal, signals and the exit
code need no relay.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import msgspec

from stentor.lab.errors import LabError, NoSuchLabError
from stentor.lab.place import Place
from stentor.runtime.job import JobGroup
from stentor.sys.peer import is_trusted

_MESSAGE_BYTES = 256 * 1024


class Status(msgspec.Struct, frozen=True, tag=True):
    """What runs; answered with `LabStatus`."""


class Enter(msgspec.Struct, frozen=True, tag=True):
    """Descriptors of a machine: its cgroup for commands, the lab's PID namespace, the machine's namespaces."""

    machine: str


class Act(msgspec.Struct, frozen=True, tag=True):
    """stop, start, restart or kill of MACHINE, MACHINE/COMPONENT or CLUSTER/COMPONENT."""

    verb: str
    target: str


class Link(msgspec.Struct, frozen=True, tag=True):
    """A fault on NETWORK or NETWORK/MACHINE: down, up, loss (percent), rate (bit/s), clear."""

    target: str
    fault: str
    amount: float = 0.0


Request = Status | Enter | Act | Link


class ProcessStatus(msgspec.Struct, frozen=True):
    """A component; `pid` is 0 while it does not run, `last_exit` as a shell tells it (128 and more: a signal)."""

    name: str
    state: str
    pid: int
    starts: int
    last_exit: int | None
    log: str


class MachineStatus(msgspec.Struct, frozen=True):
    """A machine and its components; `faults` are those in force, in words. `cluster` is empty for hosts."""

    name: str
    cluster: str
    state: str
    addresses: tuple[str, ...]
    faults: tuple[str, ...]
    processes: tuple[ProcessStatus, ...]


class LabStatus(msgspec.Struct, frozen=True):
    """The answer to `Status`; `kubeconfig` is a path."""

    name: str
    ready: bool
    kubeconfig: str
    machines: tuple[MachineStatus, ...]


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request came to; with `problem` nothing else counts."""

    problem: str = ""
    text: tuple[str, ...] = ()
    status: LabStatus | None = None


Answer = tuple[Reply, list[int]]


def ask(place: Place, request: Request, deadline_s: float = 60.0) -> Answer:
    """Sends a request to a living lab; LabError with its words when it refuses, NoSuchLabError when it is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(deadline_s)
        try:
            sock.connect(_short(place))
            sock.send(msgspec.json.encode(request))
            raw, fds, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, 16)
        except TimeoutError as e:
            raise LabError(f"lab {place.name!r} has not answered in {deadline_s:.0f} s; see {place.log}") from e
        except PermissionError:
            raise  # a living lab of somebody else
        except OSError as e:
            words = f"lab {place.name!r} is not running: `stentor lab down --name {place.name}` removes what is left"
            raise NoSuchLabError(words) from e
    if not raw:
        raise LabError(f"lab {place.name!r} has closed the connection; see {place.log}")
    reply = msgspec.json.decode(raw, type=Reply)
    if reply.problem:
        raise LabError(reply.problem)
    return reply, fds


class Server:
    """The daemon's side: answers each request with `answer`, one after the other on a connection."""

    def __init__(self, place: Place, jobs: JobGroup, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        self._jobs = jobs
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        place.socket.unlink(missing_ok=True)
        self._listener.bind(_short(place))
        place.socket.chmod(0o600)
        self._listener.listen(64)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            self._jobs.once("control", self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        with client:
            if not is_trusted(client):
                return
            raw = await asyncio.get_running_loop().sock_recv(client, _MESSAGE_BYTES)
            if not raw:
                return
            try:
                reply, fds = await self._answer(msgspec.json.decode(raw, type=Request))
            except (LabError, msgspec.DecodeError, OSError, TimeoutError) as e:
                reply, fds = Reply(problem=str(e) or type(e).__name__), []
            socket.send_fds(client, [msgspec.json.encode(reply)], fds)


def _short(place: Place) -> str:
    """A path of the socket that fits into sockaddr_un's 108 bytes, however deep the directory is."""
    path = str(place.socket)
    if len(path.encode()) < 108:
        return path
    fd = os.open(place.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{fd}/{place.socket.name}"  # the descriptor is a command's, or the daemon's only one
