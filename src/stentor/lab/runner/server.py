"""kubelet's HTTPS API on the node's addresses, port 10250: logs, exec, attach, port-forward.

Clients must show a certificate of the cluster's authority, and be its API server or an administrator: everybody else goes
through the API server, which knows who may do what.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from stentor.lab.runner import channel, clock, forward, logfile
from stentor.lab.runner.attach import Attachment
from stentor.lab.runner.context import Context
from stentor.lab.runner.environment import DEFAULT_PATH
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.mirror import MirrorSet
from stentor.lab.runner.node import PORT
from stentor.lab.runner.roster import Roster
from stentor.lab.runner.session import Command, Session, Streams
from stentor.lab.runner.worker import Worker

_USERS: Final = frozenset({"kube-apiserver-kubelet-client", "kube-apiserver", "system:kube-apiserver"})
_GROUP: Final = "system:masters"

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest, Sequence[str]], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """An answer with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class KubeletServer:
    """One listener an address of the node."""

    def __init__(self, context: Context, roster: Roster, mirrors: MirrorSet) -> None:
        self._context = context
        self._roster = roster
        self._mirrors = mirrors
        self._listeners: list[asyncio.Server] = []
        self._routes: dict[tuple[str, int], Handler] = {
            ("healthz", 0): self._healthz,
            ("containerLogs", 3): self._logs,
            ("exec", 3): self._exec,
            ("attach", 3): self._attach,
            ("portForward", 2): self._forward,
        }

    async def start(self, addresses: Sequence[str], certificate: str, key: str, client_ca: str) -> None:
        """OSError when an address or a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        loop = asyncio.get_running_loop()
        for address in addresses:
            server = web.Server(self._answer)
            self._listeners.append(await loop.create_server(server, address, PORT, ssl=context, reuse_address=True))

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        word, *rest = request.path.strip("/").split("/")
        handler = self._routes.get((word, len(rest)))
        try:
            _authorize(request)
            if handler is None:
                raise Refused(404, "404 page not found")
            return await handler(request, rest)
        except Refused as e:
            return web.Response(status=e.status, text=str(e))
        except StartFailure as e:
            return web.Response(status=500, text=e.message)

    async def _healthz(self, _: web.BaseRequest, __: Sequence[str]) -> web.StreamResponse:
        return web.Response(text="ok")

    # ---- logs

    async def _logs(self, request: web.BaseRequest, path: Sequence[str]) -> web.StreamResponse:
        namespace, pod, name = path
        options = log_options(request.query)
        component = self._mirrors.find(namespace, pod)
        if component is not None:
            return await _stream(request, Path(component.log_path), options, lambda: component.pid > 0)
        worker = self._worker(namespace, pod)
        run = worker.ledger.runs.get(name)
        if run is None:
            raise Refused(400, f'container "{name}" in pod "{pod}" is waiting to start: ContainerCreating')
        file, is_running = Path(run.record.log), lambda: run.is_running
        if _flag(request.query, "previous"):
            attempt = run.record.attempt - 1
            meta = worker.pod.metadata
            file = self._context.machine.log_path(namespace, pod, meta.uid, name, attempt)
            if attempt < 0 or not file.exists():
                raise Refused(400, f'previous terminated container "{name}" in pod "{pod}" not found')
            is_running = _never
        return await _stream(request, file, options, is_running)

    # ---- exec and attach

    async def _exec(self, request: web.BaseRequest, path: Sequence[str]) -> web.StreamResponse:
        namespace, pod, name = path
        words = request.query.getall("command", [])
        if not words:
            raise Refused(400, "you must specify at least 1 command for the container")
        component = self._mirrors.find(namespace, pod)
        command = (
            self._component_command(words) if component is not None else self._command(namespace, pod, name, words)
        )
        socket = await _upgrade(request)
        try:
            await Session(self._context.jobs, socket, streams_of(request.query)).run(command)
        except (OSError, TimeoutError) as e:
            await socket.send_bytes(channel.failure_status(str(e)))
        await socket.close()
        return socket

    def _command(self, namespace: str, pod: str, name: str, words: Sequence[str]) -> Command:
        run = self._worker(namespace, pod).ledger.runs.get(name)
        if run is None:
            raise Refused(404, f"container not found ({name!r})")
        options, fds = run.exec_options()
        env = {"TERM": "xterm", **run.record.env}
        return Command(str(self._context.machine.podrun), options, words, env, fds)

    def _component_command(self, words: Sequence[str]) -> Command:
        """In the machine's own namespaces, as a process of the host's network would be."""
        path = f"{self._context.machine.bin_dir}:{DEFAULT_PATH}"
        env = {"PATH": path, "HOME": "/", "TERM": "xterm", "HOSTNAME": self._context.machine.node_name}
        return Command(str(self._context.machine.podrun), (), words, env, {})

    async def _attach(self, request: web.BaseRequest, path: Sequence[str]) -> web.StreamResponse:
        namespace, pod, name = path
        if self._mirrors.find(namespace, pod) is not None:
            raise Refused(400, "attach: a component of the node has no streams; ask for its logs")
        worker = self._worker(namespace, pod)
        run = worker.ledger.runs.get(name)
        spec = worker.pod.spec
        found = next((entry for entry in (*spec.containers, *spec.init_containers) if entry.name == name), None)
        if run is None or found is None or not run.is_running:
            raise Refused(400, f"container {name} is not running")
        socket = await _upgrade(request)
        await Attachment(self._context.jobs, socket, streams_of(request.query), run, found).serve()
        await socket.close()
        return socket

    # ---- port-forward

    async def _forward(self, request: web.BaseRequest, path: Sequence[str]) -> web.StreamResponse:
        namespace, pod = path
        netns = ""
        if self._mirrors.find(namespace, pod) is None:
            sandbox = self._worker(namespace, pod).sandbox
            if sandbox is None:
                raise Refused(400, f"pod {pod} is not running")
            netns = sandbox.netns
        return await forward.serve(self._context.jobs, request, netns)

    def _worker(self, namespace: str, pod: str) -> Worker:
        worker = self._roster.find(namespace, pod)
        if worker is None:
            raise Refused(404, f'pod "{namespace}/{pod}" not found')
        return worker


def log_options(query: Mapping[str, str]) -> logfile.Options:
    """Refused (400) names a parameter that is wrong."""
    since_ns = 0
    if seconds := _number(query, "sinceSeconds"):
        since_ns = time.time_ns() - seconds * 1_000_000_000
    if query.get("sinceTime"):
        try:
            since_ns = clock.parse(query["sinceTime"])
        except ValueError as e:
            raise Refused(400, f"sinceTime: {e}") from e
    return logfile.Options(
        follow=_flag(query, "follow"),
        tail_lines=_number(query, "tailLines"),
        since_ns=since_ns,
        timestamps=_flag(query, "timestamps"),
        limit_bytes=_number(query, "limitBytes"),
    )


def streams_of(query: Mapping[str, str]) -> Streams:
    """kubelet's names (input, output, error) and the API server's (stdin, stdout, stderr) mean the same."""
    return Streams(
        stdin=_flag(query, "stdin") or _flag(query, "input"),
        stdout=_flag(query, "stdout") or _flag(query, "output"),
        stderr=_flag(query, "stderr") or _flag(query, "error"),
        tty=_flag(query, "tty"),
    )


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in ("1", "t", "T", "true", "TRUE", "True")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not text.isdecimal():
        raise Refused(400, f"{name}: not a number: {text!r}")
    return int(text)


def _never() -> bool:
    return False


def _authorize(request: web.BaseRequest) -> None:
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    subject = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    users = {value for key, value in subject if key == "commonName"}
    groups = {value for key, value in subject if key == "organizationName"}
    if not users & _USERS and _GROUP not in groups:
        raise Refused(403, f"user {', '.join(sorted(users)) or 'unknown'} may not use the kubelet API")


async def _upgrade(request: web.BaseRequest) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=channel.PROTOCOLS, heartbeat=30.0, max_msg_size=4 << 20)
    if not socket.can_prepare(request):
        raise Refused(400, "exec and attach want a WebSocket (v5.channel.k8s.io or v4.channel.k8s.io)")
    await socket.prepare(request)
    return socket


async def _stream(
    request: web.BaseRequest, file: Path, options: logfile.Options, is_running: Callable[[], bool]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    try:
        async for chunk in logfile.read(file, options, is_running):
            await response.write(chunk)
        await response.write_eof()
    except ConnectionError:
        pass  # the reader has gone
    return response
