"""A TCP relay from the host's loopback into a machine: how kubectl on the host reaches an API server in the lab.

Bytes only; TLS ends where it should, at the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from stentor.sys.namespace import visit_network

_CONNECT_S = 10.0
_CHUNK_BYTES = 256 * 1024


class Relay:
    """Listens on a port of 127.0.0.1 and connects each client to `port` on the loopback of a network namespace."""

    def __init__(self, port: int, namespace: Callable[[], int | None]) -> None:
        self._target = port
        self._namespace = namespace
        self._serving: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    async def serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK_BYTES)
        async with server:
            await server.serve_forever()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The loop itself does not hold on to a task whose client has ended its direction: it would be collected."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            sock = await connect(self._namespace(), self._target)
        except (OSError, TimeoutError):
            writer.close()  # the client sees a closed connection, as when the machine were off
            return
        there = await asyncio.open_connection(sock=sock, limit=_CHUNK_BYTES)
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        there[1].close()
        writer.close()


async def connect(namespace: int | None, port: int) -> socket.socket:
    """A connection to `port` on the loopback of a network namespace; OSError when nobody listens, or it is off."""
    if namespace is None:
        raise ConnectionRefusedError("the machine is off")
    with visit_network(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port)), _CONNECT_S)
    except BaseException:
        sock.close()
        raise
    return sock


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copies until the source ends, then ends the sink's direction; half-open connections stay possible."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
