"""A peer that speaks kubelet's API: enough to see what the API server passes through, and how."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import WSMsgType, web

from stentor.apiserver import pki


class Kubelet:
    """Answers with what it was asked; exec and port-forward echo every message."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.users: list[str] = []
        self.port = 0
        self.more = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("ssl_object").getpeercert()
        self.users += [v for names in certificate["subject"] for k, v in names if k == "commonName"]
        self.seen.append(request.path_qs)
        if request.path.startswith("/containerLogs/"):
            return await self._log(request)
        if "refused" in request.path:
            return web.Response(status=404, text='container not found ("refused")')
        offered = request.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
        socket = web.WebSocketResponse(protocols=offered)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
                if message.data == b"\x00end":
                    await socket.close()
        return socket

    async def _log(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        if "follow" in request.query:
            await self.more.wait()
            await response.write(b"second\n")
        return response


@asynccontextmanager
async def serve_kubelet(directory: Path) -> AsyncIterator[Kubelet]:
    """On a free port of the loopback, with a certificate of the authority in `directory`."""
    files = pki.Files(directory)
    authority = pki.load_authority(files.read_pair("ca"))
    files.write_pair("kubelet", pki.make_server(authority, "system:node:node-1", ["127.0.0.1"]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.path("ca.crt")))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.path("kubelet.crt"), files.path("kubelet.key"))
    kubelet = Kubelet()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", kubelet.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    kubelet.port = runner.addresses[0][1]
    try:
        yield kubelet
    finally:
        kubelet.more.set()
        await runner.cleanup()
