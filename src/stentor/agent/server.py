"""The CNI socket: requests of `stentor-cni` to endpoints and back."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from stentor.agent.cni import Request, add_result, error_result, parse_request, version_result
from stentor.agent.endpoint import Endpoints
from stentor.agent.errors import CniError, NotAvailable
from stentor.agent.store import StateDirectory
from stentor.sys.peer import is_trusted
from stentor.tables.endpoint import Endpoint

_MAX_REQUEST: Final = 1 << 20
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 1.0
_ANSWER_S: Final = 80.0

log = logging.getLogger(__name__)


def listen(path: Path) -> socket.socket:
    """A unix socket that only root may use, in place of one that an earlier process left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(str(aside))
    aside.chmod(0o600)
    listener.listen(512)
    aside.rename(path)
    listener.setblocking(False)
    return listener


class Acceptor:
    """Takes connections, each for a task of its own, which closes it. Streams would take four turns of the loop more."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._listener = listener
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listen()

    def close(self) -> None:
        """Take no more; those that are being served go on."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as e:  # too many open files, no memory: whoever waits is served later
                log.error("Cannot take a CNI request", extra={"error": str(e)})
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE_S, self._listen)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._serve_and_close(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_and_close(self, connection: socket.socket) -> None:
        with connection:
            await self._serve(connection)


async def _read_all(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """Up to the end of stream; nothing when it is too long."""
    parts = bytearray()
    while chunk := await loop.sock_recv(connection, 65536):
        parts += chunk
        if len(parts) > _MAX_REQUEST:
            return b""
    return bytes(parts)


class CniServer:
    """Answers requests. `in_force` waits, for a short while, until an endpoint with an identity has its policy."""

    def __init__(
        self,
        endpoints: Endpoints,
        store: StateDirectory,
        *,
        in_force: Callable[[Endpoint], Awaitable[None]],
        obstacle: Callable[[], str],
    ) -> None:
        self.durations_s: dict[str, tuple[int, float]] = {}
        self._endpoints = endpoints
        self._store = store
        self._in_force = in_force
        self._obstacle = obstacle
        self._calls: dict[str, Callable[[Request], Awaitable[bytes]]] = {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
            "VERSION": self._version,
        }

    async def serve(self, path: Path) -> Acceptor:
        """Work off stored deletions and listen; a socket file that an earlier agent left is replaced."""
        await self.work_off_deletions()
        return Acceptor(listen(path), self._serve_one)

    async def work_off_deletions(self) -> None:
        """Deletions that the plugin stored while nobody listened; some are still being written when somebody does again."""
        for path, raw in self._store.deletions():
            try:
                request = parse_request(raw)
                await self._endpoints.delete(request.container_id, request.ifname)
            except CniError as e:
                log.warning("Dropped a stored deletion", extra={"path": path.name, "error": str(e)})
            path.unlink(missing_ok=True)

    async def _serve_one(self, connection: socket.socket) -> None:
        if not is_trusted(connection):
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                raw = await _read_all(loop, connection)
            status, answer = await self.answer(raw)
            async with asyncio.timeout(_PATIENCE_S):
                await loop.sock_sendall(connection, bytes([status]) + answer)
        except (OSError, TimeoutError) as e:
            log.info("CNI request broke off", extra={"error": str(e)})

    async def answer(self, raw: bytes) -> tuple[int, bytes]:
        """Exit status and JSON for a request; never raises."""
        began = time.monotonic()
        version, command = "1.0.0", "?"
        try:
            request = parse_request(raw)
            version, command = request.config.cni_version, request.command
            async with asyncio.timeout(_ANSWER_S):
                return 0, await self._calls[request.command](request)
        except CniError as e:
            log.warning("CNI request failed", extra={"command": command, "code": e.code, "error": str(e)})
            return 1, error_result(e, version)
        except Exception as e:
            log.exception("CNI request failed unexpectedly", extra={"command": command})
            return 1, error_result(CniError("internal error", f"{type(e).__name__}: {e}"), version)
        finally:
            count, total = self.durations_s.get(command, (0, 0.0))
            self.durations_s[command] = (count + 1, total + time.monotonic() - began)

    async def _add(self, request: Request) -> bytes:
        endpoint = await self._endpoints.add(request)
        await self._in_force(endpoint)
        settings = self._endpoints.settings
        assert settings is not None
        return add_result(request.config.cni_version, endpoint, mtu=settings.mtu, route_mtu=settings.route_mtu)

    async def _delete(self, request: Request) -> bytes:
        await self._endpoints.delete(request.container_id, request.ifname)
        return b""

    async def _check(self, request: Request) -> bytes:
        await self._endpoints.check(request)
        return b""

    async def _collect(self, request: Request) -> bytes:
        valid = request.config.valid_attachments
        if valid is None:
            valid = request.config.valid_attachments_1_1
        if valid is not None:  # without a list nothing is known to be stale
            await self._endpoints.collect(valid)
        return b""

    async def _status(self, _: Request) -> bytes:
        obstacle = self._obstacle()
        if obstacle:
            raise NotAvailable("plugin is not available", obstacle)
        return b""

    async def _version(self, _: Request) -> bytes:
        return version_result()
