"""The echo server of the Gateway API conformance images (`echo-basic`), for pods of the lab.

HTTP on HTTP_PORT (3000), HTTPS on HTTPS_PORT (8443) where TLS_SERVER_CERT and TLS_SERVER_PRIVKEY are set, or with
TCP_ECHO_SERVER / UDP_ECHO_SERVER the TCP (3000) and UDP (8080) servers. The answer's fields and their order are those of
https://github.com/kubernetes-sigs/gateway-api/tree/main/conformance/echo-basic. HTTP/2, gRPC and WebSocket are not served.

One thread a connection and the standard library only: an echo pod is a fork of a small parent, and keeps most of its
memory shared with it (see `http1`).
"""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import FrameType

from stentor.lab.images import http1
from stentor.lab.images.http1 import BadRequest, Request, Response

_STATUS_PATH = re.compile(r"/status/(\d\d\d)")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_DATAGRAM = 1024
_STACK_BYTES = 256 << 10
_BACKLOG = 512

Json = dict[str, object]
Connection = socket.socket


class Echo:
    """The answers; `env` is the container's environment. Called from many threads."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._http_port = env.get("HTTP_PORT") or "3000"
        self._identity: Json = {
            "namespace": env.get("NAMESPACE", ""),
            "ingress": env.get("INGRESS_NAME", ""),
            "service": env.get("SERVICE_NAME", ""),
            "pod": env.get("POD_NAME", ""),
        }
        self._attempts: dict[str, int] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request, tls: Json | None = None) -> Response:
        """One HTTP request of any method and path."""
        path, _, query_text = request.target.partition("?")
        path = re.sub("/+", "/", path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(query_text).items()}
        if path == "/health":
            return _text(HTTPStatus.OK, "OK")
        if path.startswith("/status/"):
            match = _STATUS_PATH.fullmatch(request.target)
            return Response(int(match[1]) if match and int(match[1]) >= 200 else 400, [], b"")
        try:
            refused = self._refuse(query) if path.startswith("/retry/") else None
            return refused or self._echo(request, query, tls)
        except ValueError as e:
            return _json({"message": str(e)}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _echo(self, request: Request, query: Mapping[str, str], tls: Json | None) -> Response:
        if query.get("delay"):
            time.sleep(parse_duration(query["delay"]))
        headers: dict[str, list[str]] = {}
        for name, value in sorted(request.headers, key=lambda pair: pair[0]):
            if name != "Host":
                headers.setdefault(name, []).append(value)
        body: Json = {
            "path": request.target,
            "host": request.header("Host"),
            "method": request.method,
            "proto": request.version,
            "headers": headers,
            "httpPort": self._http_port,
            **self._identity,
        }
        if tls is not None:
            body["tls"] = tls
        response = _json(body, HTTPStatus.OK)
        wanted = [value for name, value in request.headers if name == "X-Echo-Set-Header"]
        response.headers.extend(_set_headers(wanted))
        return response

    def _refuse(self, query: Mapping[str, str]) -> Response | None:
        """The first `succeedAfter` attempts of a `uuid` fail; None once they may succeed."""
        uuid, count = query.get("uuid", ""), query.get("succeedAfter", "")
        if not uuid or not count.isdecimal():
            return _text(HTTPStatus.BAD_REQUEST, "uuid and succeedAfter are required\n")
        if query.get("delayRetry"):
            time.sleep(parse_duration(query["delayRetry"]))
        with self._lock:
            self._attempts[uuid] = self._attempts.get(uuid, 0) + 1
            if self._attempts[uuid] > int(count):
                return None
        code = query.get("responseCode", "")
        if code.isdecimal() and 200 <= int(code) <= 999:
            return Response(int(code), [], b"")
        return Response(0, [], b"", reset=True)

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


def _text(status: int, text: str) -> Response:
    return Response(status, [("Content-Type", "text/plain; charset=utf-8")], text.encode())


def _json(body: Json, status: int) -> Response:
    headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
    return Response(status, headers, json.dumps(body, indent=1, ensure_ascii=False).encode())


def _set_headers(values: list[str]) -> list[tuple[str, str]]:
    """`name:value, name2:value2`; the values of a repeated name are joined."""
    found: dict[str, list[str]] = {}
    for value in values:
        for part in value.split(","):
            name, colon, content = part.partition(":")
            if colon and name.strip():
                found.setdefault(name.strip(), []).append(content.strip())
    return [(name, ",".join(contents)) for name, contents in found.items()]


# ---- sockets


def _serve_http(echo: Echo, connection: Connection) -> None:
    tls = _tls_state(connection)
    with connection, connection.makefile("rb") as file:
        while True:
            try:
                request = http1.read_request(file)
            except BadRequest as e:
                connection.sendall(http1.encode_response(_text(e.status, f"{e}\n")))
                return
            if request is None:
                return
            response = echo.answer(request, tls)
            if response.reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            connection.sendall(http1.encode_response(response, with_body=request.method != "HEAD"))
            if not request.keeps_alive:
                return


def _refuse_http1(connection: Connection) -> None:
    """The port of HTTP/2 without TLS refuses HTTP/1."""
    with connection:
        connection.recv(http1.MAX_LINE)
        response = _text(HTTPStatus.BAD_REQUEST, "Expected h2c request\n")
        connection.sendall(http1.encode_response(response._replace(headers=[("Connection", "close")])))


def _serve_lines(echo: Echo, port: str, connection: Connection) -> None:
    with connection, connection.makefile("rb") as file:
        connection.sendall(b"Gateway API Test TCP Server\n")
        while line := file.readline(http1.MAX_LINE):
            connection.sendall(echo.line(line.decode("utf-8", "replace"), port))


def _serve_datagrams(echo: Echo, sock: socket.socket) -> None:
    while True:
        data, sender = sock.recvfrom(_MAX_DATAGRAM)
        sock.sendto(echo.datagram(data), sender)


def _tls_state(connection: Connection) -> Json | None:
    if not isinstance(connection, ssl.SSLSocket):
        return None
    state: Json = {"version": connection.version()}
    peer = connection.getpeercert(binary_form=True)
    if peer:
        state["peerCertificates"] = [ssl.DER_cert_to_PEM_cert(peer)]
    state["serverName"] = getattr(connection, "asked_name", "")
    if connection.selected_alpn_protocol():
        state["negotiatedProtocol"] = connection.selected_alpn_protocol()
    state["cipherSuite"] = (connection.cipher() or ("",))[0]
    return state


class _NamedSocket(ssl.SSLSocket):
    """Remembers the name that the client asked for (SNI), which Python's server side does not keep."""

    asked_name = ""


def _tls_context(env: Mapping[str, str]) -> ssl.SSLContext | None:
    certificate, key = env.get("TLS_SERVER_CERT", ""), env.get("TLS_SERVER_PRIVKEY", "")
    if not certificate or not key:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _NamedSocket
    context.load_cert_chain(certificate, key)
    if env.get("TLS_CLIENT_CACERTS"):
        context.load_verify_locations(env["TLS_CLIENT_CACERTS"])
        context.verify_mode = ssl.CERT_OPTIONAL

    def remember(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if isinstance(connection, _NamedSocket):
            connection.asked_name = name or ""

    context.sni_callback = remember
    return context


def _listen(kind: socket.SocketKind, port: int) -> socket.socket:
    """One socket for both families; IPv4 alone where the kernel has no IPv6."""
    dual = socket.has_dualstack_ipv6()
    sock = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, kind)
    if dual:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::" if dual else "0.0.0.0", port))
    if kind is socket.SOCK_STREAM:
        sock.listen(_BACKLOG)
    return sock


def _accept(sock: socket.socket, serve: Callable[[Connection], None]) -> None:
    def guarded(connection: Connection) -> None:
        try:
            serve(connection)
        except OSError:
            connection.close()  # the peer went away

    while True:
        connection, _ = sock.accept()
        threading.Thread(target=guarded, args=(connection,), daemon=True).start()


def _start(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def _start_http(echo: Echo, env: Mapping[str, str]) -> None:
    port, h2c_port = int(env.get("HTTP_PORT") or 3000), int(env.get("H2C_PORT") or 3001)
    _start(_accept, _listen(socket.SOCK_STREAM, port), lambda connection: _serve_http(echo, connection))
    _start(_accept, _listen(socket.SOCK_STREAM, h2c_port), _refuse_http1)
    context = _tls_context(env)
    if context is not None:
        sock = _listen(socket.SOCK_STREAM, int(env.get("HTTPS_PORT") or 8443))
        _start(_accept, sock, lambda raw: _serve_http(echo, context.wrap_socket(raw, server_side=True)))
    print(f"Starting server, listening on port {port} (http)", flush=True)


def main(env: Mapping[str, str]) -> None:
    """The program of the image, in a process of its own: serves until SIGTERM."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    threading.stack_size(_STACK_BYTES)
    echo = Echo(env)
    if env.get("GRPC_ECHO_SERVER"):
        print("gRPC is not served by the lab's echo image", file=sys.stderr, flush=True)
        sys.exit(1)
    if env.get("TCP_ECHO_SERVER"):
        port = env.get("TCP_PORT") or "3000"
        listener = _listen(socket.SOCK_STREAM, int(port))
        _start(_accept, listener, lambda connection: _serve_lines(echo, port, connection))
    elif env.get("UDP_ECHO_SERVER"):
        _start(_serve_datagrams, echo, _listen(socket.SOCK_DGRAM, int(env.get("UDP_PORT") or 8080)))
    else:
        _start_http(echo, env)
    while True:
        signal.pause()
