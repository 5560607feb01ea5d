"""The echo server of the Gateway API conformance images (`echo-basic`), for pods of the lab.

HTTP on HTTP_PORT (3000), HTTPS on HTTPS_PORT (8443) where TLS_SERVER_CERT and TLS_SERVER_PRIVKEY are set, or with
TCP_ECHO_SERVER / UDP_ECHO_SERVER the TCP (3000) and UDP (8080) servers. The answer's fields and their order are those of
https://github.com/kubernetes-sigs/gateway-api/tree/main/conformance/echo-basic. HTTP/2 and gRPC are not served.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import struct
import sys
import weakref
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

_STATUS_PATH: Final = re.compile(r"/status/(\d\d\d)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_H2C_PORT: Final = 3001
_MAX_DATAGRAM: Final = 1024

Json = dict[str, object]

# The name that a client asked for (SNI): Python's server side does not keep it.
_server_names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()


class Echo:
    """The answers; `env` is the container's environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._http_port = env.get("HTTP_PORT") or "3000"
        self._identity: dict[str, object] = {
            "namespace": env.get("NAMESPACE", ""),
            "ingress": env.get("INGRESS_NAME", ""),
            "service": env.get("SERVICE_NAME", ""),
            "pod": env.get("POD_NAME", ""),
        }
        self._attempts: dict[str, int] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One HTTP request of any method and path."""
        await request.read()
        path = re.sub("/+", "/", request.path)
        if path == "/health":
            return web.Response(text="OK")
        if path.startswith("/status/"):
            match = _STATUS_PATH.fullmatch(request.raw_path)
            return web.Response(status=int(match[1]) if match and int(match[1]) >= 200 else 400)
        if path == "/ws":
            return await _echo_frames(request)
        if path.startswith("/retry/"):
            refused = await self._refuse(request)
            if refused is not None:
                return refused
        return await self._echo(request)

    async def expect_h2c(self, request: web.BaseRequest) -> web.StreamResponse:
        """The port of HTTP/2 without TLS refuses HTTP/1."""
        return web.Response(status=400, text="Expected h2c request\n")

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        delay = request.query.get("delay", "")
        if delay:
            try:
                await asyncio.sleep(parse_duration(delay))
            except ValueError as e:
                return _json_response({"message": str(e)}, status=500)
        body: Json = {
            "path": request.raw_path,
            "host": request.headers.get("Host", ""),
            "method": request.method,
            "proto": f"HTTP/{request.version.major}.{request.version.minor}",
            "headers": _headers(request),
            "httpPort": self._http_port,
            **self._identity,
        }
        tls = _tls_state(request.transport)
        if tls is not None:
            body["tls"] = tls
        response = _json_response(body)
        for header in request.headers.getall("X-Echo-Set-Header", []):
            for part in header.split(","):
                name, colon, value = part.partition(":")
                if colon:
                    _append_header(response, name.strip(), value.strip())
        return response

    async def _refuse(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """The first `succeedAfter` attempts of a `uuid` fail; None once they may succeed."""
        uuid, count = request.query.get("uuid", ""), request.query.get("succeedAfter", "")
        if not uuid or not count.isdecimal():
            return web.Response(status=400, text="uuid and succeedAfter are required\n")
        delay = request.query.get("delayRetry", "")
        if delay:
            await asyncio.sleep(parse_duration(delay))
        self._attempts[uuid] = self._attempts.get(uuid, 0) + 1
        if self._attempts[uuid] > int(count):
            return None
        code = request.query.get("responseCode", "")
        if code.isdecimal() and 200 <= int(code) <= 999:
            return web.Response(status=int(code))
        return _reset(request)

    def line(self, command: str, port: str) -> bytes:
        """Answer of the TCP server to one line."""
        state = {**self._identity, "tcpport": port, "tlsport": "8443", "isTLS": False}
        answers = {"TEST": json.dumps(state, separators=(",", ":")), "IS_TLS": "false", "PING": "PONG"}
        return (answers.get(command.strip(), "") + "\n").encode()

    def datagram(self, data: bytes) -> bytes:
        """Answer of the UDP server."""
        return json.dumps({"request": data.decode("utf-8", "replace"), **self._identity}).encode()


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as `1m30s`; ValueError when it is none."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f'time: invalid duration "{text}"')
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _headers(request: web.BaseRequest) -> dict[str, list[str]]:
    """As Go's net/http has them: canonical names, every value, without Host."""
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        if name.lower() != "host":
            found.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
    return dict(sorted(found.items()))


def _json_response(body: Json, status: int = 200) -> web.Response:
    text = json.dumps(body, indent=1, ensure_ascii=False)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"X-Content-Type-Options": "nosniff"}
    )


def _append_header(response: web.Response, name: str, value: str) -> None:
    before = response.headers.get(name)
    response.headers[name] = value if before is None else f"{before},{value}"


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    """Ends the connection with RST instead of an answer."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)


async def _echo_frames(request: web.BaseRequest) -> web.StreamResponse:
    channel = web.WebSocketResponse()
    await channel.prepare(request)
    async for message in channel:
        if isinstance(message.data, str):
            await channel.send_str(message.data)
        elif isinstance(message.data, bytes):
            await channel.send_bytes(message.data)
    return channel


def _tls_state(transport: asyncio.Transport | None) -> Json | None:
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        return None
    state: Json = {"version": tls.version()}
    peer = tls.getpeercert(binary_form=True)
    if peer:
        state["peerCertificates"] = [ssl.DER_cert_to_PEM_cert(peer)]
    state["serverName"] = _server_names.get(tls, "")
    if tls.selected_alpn_protocol():
        state["negotiatedProtocol"] = tls.selected_alpn_protocol()
    state["cipherSuite"] = (tls.cipher() or ("",))[0]
    return state


def _tls_context(env: Mapping[str, str]) -> ssl.SSLContext | None:
    certificate, key = env.get("TLS_SERVER_CERT", ""), env.get("TLS_SERVER_PRIVKEY", "")
    if not certificate or not key:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if env.get("TLS_CLIENT_CACERTS"):
        context.load_verify_locations(env["TLS_CLIENT_CACERTS"])
        context.verify_mode = ssl.CERT_OPTIONAL

    def remember(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        _server_names[connection] = name or ""

    context.sni_callback = remember
    return context


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self._transport.sendto(self._echo.datagram(data[:_MAX_DATAGRAM]), addr)


async def _serve_lines(echo: Echo, port: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"Gateway API Test TCP Server\n")
    try:
        while line := await reader.readline():
            writer.write(echo.line(line.decode("utf-8", "replace"), port))
            await writer.drain()
    except (ConnectionError, ValueError):
        pass  # the peer went away, or sent no line within the limit
    finally:
        writer.close()


def _listener(kind: socket.SocketKind, port: int) -> socket.socket:
    """One socket for both families; IPv4 alone where the kernel has no IPv6."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    sock.setblocking(False)
    return sock


async def _serve_http(echo: Echo, env: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    server, refuser = web.Server(echo.answer), web.Server(echo.expect_h2c)
    port = int(env.get("HTTP_PORT") or 3000)
    await loop.create_server(server, sock=_listener(socket.SOCK_STREAM, port), backlog=512)
    h2c_port = int(env.get("H2C_PORT") or _H2C_PORT)
    await loop.create_server(refuser, sock=_listener(socket.SOCK_STREAM, h2c_port))
    context = _tls_context(env)
    if context is not None:
        tls_port = int(env.get("HTTPS_PORT") or 8443)
        await loop.create_server(server, sock=_listener(socket.SOCK_STREAM, tls_port), ssl=context)
    print(f"Starting server, listening on port {port} (http)", flush=True)


async def serve(env: Mapping[str, str]) -> None:
    """Serves until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    echo = Echo(env)
    if env.get("TCP_ECHO_SERVER"):
        port = env.get("TCP_PORT") or "3000"

        async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _serve_lines(echo, port, reader, writer)

        await asyncio.start_server(lines, sock=_listener(socket.SOCK_STREAM, int(port)))
    elif env.get("UDP_ECHO_SERVER"):
        sock = _listener(socket.SOCK_DGRAM, int(env.get("UDP_PORT") or 8080))
        await loop.create_datagram_endpoint(lambda: _Datagrams(echo), sock=sock)
    elif env.get("GRPC_ECHO_SERVER"):
        print("gRPC is not served by the lab's echo image", file=sys.stderr, flush=True)
        raise SystemExit(1)
    else:
        await _serve_http(echo, env)
    await ended.wait()


def main(env: Mapping[str, str]) -> None:
    """The program of the image, in a process of its own."""
    asyncio.run(serve(env))
