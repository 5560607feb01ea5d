"""Port-forward: TCP connections into a pod, carried as SPDY streams inside a WebSocket.

For each connection the client opens an `error` and a `data` stream with one request id; what goes wrong is told on the
first, the bytes flow on the second. Connections are made to the pod's loopback, from inside its network namespace.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from stentor.lab.runner import spdy
from stentor.lab.runner.spdy import Connection, Data, Ended, Event, Opened, Reset
from stentor.runtime.job import JobGroup
from stentor.sys import namespace

PROTOCOL: Final = "SPDY/3.1+portforward.k8s.io"
_CONNECT_DEADLINE_S: Final = 10.0
_CHUNK: Final = 64 << 10


class _Pending(msgspec.Struct):
    """A request's streams as they come in."""

    error: int = 0
    data: int = 0
    port: int = 0


async def serve(jobs: JobGroup, request: web.BaseRequest, netns: str) -> web.StreamResponse:
    """One client; `netns` is the path of the pod's network namespace, empty for the machine's own."""
    channel = web.WebSocketResponse(protocols=(PROTOCOL,), heartbeat=30.0, max_msg_size=4 << 20)
    if not channel.can_prepare(request) or PROTOCOL not in request.headers.get("Sec-WebSocket-Protocol", ""):
        return web.Response(status=400, text=f"portForward wants a WebSocket that speaks {PROTOCOL}")
    await channel.prepare(request)
    forwarder = _Forwarder(jobs, channel, netns)
    try:
        async for message in channel:
            if message.type is WSMsgType.BINARY and not await forwarder.take(message.data):
                break
    except spdy.FaultError as e:
        await channel.close(code=1002, message=str(e).encode()[:120])
    finally:
        forwarder.close()
    await channel.close()
    return channel


class _Forwarder:
    def __init__(self, jobs: JobGroup, channel: web.WebSocketResponse, netns: str) -> None:
        self._jobs = jobs
        self._channel = channel
        self._netns = netns
        self._connection = Connection()
        self._pending: dict[str, _Pending] = {}
        self._inputs: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def take(self, data: bytes) -> bool:
        """Whether to go on."""
        for event in self._connection.receive(data):
            if isinstance(event, Ended):
                return False
            await self._handle(event)
        await self._flush()
        return True

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._open(event)
        elif isinstance(event, Data) and event.stream in self._inputs:
            queue = self._inputs[event.stream]
            if event.payload:
                await queue.put(event.payload)
            if event.fin:
                await queue.put(b"")
        elif isinstance(event, Reset) and event.stream in self._inputs:
            await self._inputs[event.stream].put(b"")

    def _open(self, event: Opened) -> None:
        self._connection.accept(event.stream)
        request = self._pending.setdefault(event.headers.get("requestid", ""), _Pending())
        port = event.headers.get("port", "")
        request.port = int(port) if port.isdecimal() and 0 < int(port) < 1 << 16 else 0
        if event.headers.get("streamtype") == "error":
            request.error = event.stream
            return
        request.data = event.stream
        self._inputs[event.stream] = asyncio.Queue(64)
        self._tasks.append(self._jobs.once(f"port-forward {request.port}", self._carry(request)))

    async def _carry(self, request: _Pending) -> None:
        try:
            reader, writer = await self._connect(request.port)
        except (OSError, TimeoutError) as e:
            text = f"failed to connect to localhost:{request.port} inside the pod: {e or 'timed out'}"
            self._connection.send(request.error, text.encode(), fin=True)
            self._connection.send(request.data, b"", fin=True)
            await self._flush()
            return
        sending = self._jobs.once(f"port-forward input {request.port}", self._send(request.data, writer))
        try:
            while data := await reader.read(_CHUNK):
                self._connection.send(request.data, data)
                await self._flush()
        except ConnectionError:
            pass  # reset by the pod: the stream ends
        finally:
            sending.cancel()
            writer.close()
            self._inputs.pop(request.data, None)
        self._connection.send(request.data, b"", fin=True)
        self._connection.send(request.error, b"", fin=True)
        await self._flush()

    async def _send(self, stream: int, writer: asyncio.StreamWriter) -> None:
        queue = self._inputs[stream]
        while data := await queue.get():
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """IPv4 first, then IPv6: what a program listens on is its own choice."""
        try:
            return await self._connect_to("127.0.0.1", port)
        except OSError:
            return await self._connect_to("::1", port)

    async def _connect_to(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = _socket_in(self._netns, socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            async with asyncio.timeout(_CONNECT_DEADLINE_S):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def _flush(self) -> None:
        data = self._connection.take()
        if data and not self._channel.closed:
            await self._channel.send_bytes(data)


def _socket_in(netns: str, family: socket.AddressFamily) -> socket.socket:
    """A socket belongs to the namespace it was made in."""
    if not netns:
        return _socket(family)
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespace.visit_network(fd):
            return _socket(family)
    finally:
        os.close(fd)


def _socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock
