"""A command in a container, joined to a WebSocket: exec with and without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from stentor.lab.runner import channel, spawn
from stentor.lab.runner.channel import Input, Number, Size
from stentor.runtime.job import JobGroup

_CHUNK: Final = 32 << 10
_TERMINAL_DEADLINE_S: Final = 10.0
_TERMINAL_FD: Final = 11
_SIZE_DEADLINE_S: Final = 0.3
"""How long a terminal's client may take to say its size. kubectl complains when it is told to close before it has."""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Which streams the client wants."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


class Command(msgspec.Struct, frozen=True):
    """What to spawn: podrun's `exec` with its options, environment and descriptors."""

    podrun: str
    options: Sequence[str]
    words: Sequence[str]
    env: Mapping[str, str]
    fds: Mapping[int, int]


async def said(client: web.WebSocketResponse) -> AsyncIterator[Input | Size | None]:
    """What a client says, until it goes away or breaks the protocol, which closes the connection."""
    async for message in client:
        if message.type is not WSMsgType.BINARY:
            continue
        try:
            decoded = channel.decode(message.data)
        except ValueError as e:
            await client.close(code=1002, message=str(e).encode())
            return
        yield decoded


class Session:
    """One exec; `run` returns once the command has ended and its output is sent, or the client is gone."""

    def __init__(self, jobs: JobGroup, socket_: web.WebSocketResponse, streams: Streams) -> None:
        self._jobs = jobs
        self._socket = socket_
        self._streams = streams
        self._ended = asyncio.Event()
        self._sized = asyncio.Event()
        self._activities: list[asyncio.Event] = []
        self._stdin = -1
        self._terminal = -1

    async def run(self, command: Command) -> None:
        """OSError when the command cannot be spawned."""
        with contextlib.ExitStack() as stack:
            pid, outputs = await self._spawn(command, stack)
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            reading = self._jobs.once(f"exec input {pid}", self._read_client(pidfd))
            watching = self._jobs.once(f"exec {pid}", self._watch(pidfd))
            began = asyncio.get_running_loop().time()
            try:
                await asyncio.gather(*(self._pump(fd, number) for fd, number in outputs))
                await self._ended.wait()
                await self._wait_size(began)
            finally:
                reading.cancel()
                watching.cancel()
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                code = await asyncio.to_thread(spawn.reap, pid)
                if self._stdin >= 0 and self._stdin != self._terminal:
                    os.close(self._stdin)
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(channel.final_status(code))

    async def _wait_size(self, began: float) -> None:
        if self._terminal >= 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(began + _SIZE_DEADLINE_S):
                    await self._sized.wait()

    async def _spawn(self, command: Command, stack: contextlib.ExitStack) -> tuple[int, list[tuple[int, Number]]]:
        if self._streams.tty:
            return await self._spawn_on_terminal(command, stack)
        theirs: dict[int, int] = {}
        outputs: list[tuple[int, Number]] = []
        if self._streams.stdin:
            theirs[0], self._stdin = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._stdin, False)
        for fd, number, wanted in ((1, Number.STDOUT, self._streams.stdout), (2, Number.STDERR, self._streams.stderr)):
            if wanted:
                ours, theirs[fd] = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(ours, False)
                stack.callback(os.close, ours)
                outputs.append((ours, number))
        try:
            argv = [command.podrun, "exec", *command.options, "--", *command.words]
            return spawn.spawn(argv, command.env, {**theirs, **command.fds}), outputs
        finally:
            for fd in theirs.values():
                os.close(fd)

    async def _spawn_on_terminal(
        self, command: Command, stack: contextlib.ExitStack
    ) -> tuple[int, list[tuple[int, Number]]]:
        ours, theirs = socket.socketpair()
        with ours:
            argv = [command.podrun, "exec", "-t", str(_TERMINAL_FD), *command.options, "--", *command.words]
            with theirs:
                pid = spawn.spawn(argv, command.env, {**command.fds, _TERMINAL_FD: theirs.fileno()})
            await spawn.wait_readable(ours.fileno(), _TERMINAL_DEADLINE_S)
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            await asyncio.to_thread(spawn.reap, pid)
            raise OSError(errno.EIO, "no terminal in the container")
        self._terminal = self._stdin = fds[0]
        os.set_blocking(self._terminal, False)
        stack.callback(os.close, self._terminal)
        return pid, [(self._terminal, Number.STDOUT)]

    async def _watch(self, pidfd: int) -> None:
        await spawn.wait_readable(pidfd)
        self._ended.set()
        for activity in self._activities:
            activity.set()

    async def _pump(self, fd: int, number: Number) -> None:
        """Output to the client; a descendant that keeps the pipe open after the command's end is not waited for."""
        activity = asyncio.Event()
        self._activities.append(activity)
        while True:
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                if self._ended.is_set():
                    return
                await self._wait_output(fd, activity)
                continue
            except OSError as e:
                if e.errno == errno.EIO:  # a terminal whose last user has gone
                    return
                raise
            if not data:
                return
            await self._socket.send_bytes(channel.encode(number, data))

    async def _wait_output(self, fd: int, activity: asyncio.Event) -> None:
        """Until there is output, or the command has ended."""
        loop = asyncio.get_running_loop()
        activity.clear()
        loop.add_reader(fd, activity.set)
        try:
            await activity.wait()
        finally:
            loop.remove_reader(fd)

    async def _read_client(self, pidfd: int) -> None:
        """Input and terminal sizes, until the client goes away: then the command is killed."""
        async for decoded in said(self._socket):
            if isinstance(decoded, Size) and self._terminal >= 0:
                size = struct.pack("HHHH", decoded.height, decoded.width, 0, 0)
                with contextlib.suppress(OSError):  # the last user of the terminal has gone
                    fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)
                self._sized.set()
            elif isinstance(decoded, Input) and self._stdin >= 0:
                await self._feed(decoded.data)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def _feed(self, data: bytes) -> None:
        if not data:
            if self._terminal < 0:
                os.close(self._stdin)
                self._stdin = -1
            return
        with contextlib.suppress(OSError):  # the command reads no more
            await spawn.write_all(self._stdin, data)
