"""HTTP/1.1 as the echo server needs it: blocking, from a socket's file, with the standard library only.

A library would do more and cost each echo pod megabytes of its own: objects of a forked parent are copied when touched.
RFC 9112. Limits: 64 KiB a line, 256 header lines, 16 MiB of body.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import BinaryIO, NamedTuple

MAX_LINE = 64 << 10
MAX_HEADERS = 256
MAX_BODY = 16 << 20


class BadRequest(Exception):
    """What the peer sent is no HTTP/1.x request; `status` is the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """`target` as it was sent; header names canonical (`Accept-Encoding`), in order of arrival."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first value of a canonical name, empty when absent."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def keeps_alive(self) -> bool:
        options = {word.strip().lower() for word in self.header("Connection").split(",")}
        return "close" not in options and (self.version == "HTTP/1.1" or "keep-alive" in options)


class Response(NamedTuple):
    """`reset`: end the connection with RST instead of answering."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reset: bool = False


def read_request(file: BinaryIO) -> Request | None:
    """The next request; None when the peer has ended. BadRequest, or OSError of the connection."""
    line = _read_line(file)
    while line == b"":  # an empty line before a request is skipped (RFC 9112, 2.2)
        line = _read_line(file)
    if line is None:
        return None
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1") or not parts[0].isalpha():
        raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed request line")
    headers = _read_headers(file)
    request = Request(parts[0], parts[1], parts[2], headers, b"")
    if parts[2] == "HTTP/1.1" and not request.header("Host"):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "missing required Host header")
    return request._replace(body=_read_body(file, request))


def encode_response(response: Response, *, with_body: bool = True) -> bytes:
    """Status line, headers with Content-Length, body."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if response.status >= 200 and response.status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(response.body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    return head + (response.body if with_body else b"")


def canonical(name: str) -> str:
    """As Go's net/http spells header names."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _read_line(file: BinaryIO) -> bytes | None:
    line = file.readline(MAX_LINE + 1)
    if not line:
        return None
    if len(line) > MAX_LINE or not line.endswith(b"\n"):
        raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "line too long or cut short")
    return line.rstrip(b"\r\n")


def _read_headers(file: BinaryIO) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    while line := _read_line(file):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed header line")
        headers.append((canonical(name), value.strip()))
        if len(headers) > MAX_HEADERS:
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header lines")
    if line is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "headers cut short")
    return headers


def _read_body(file: BinaryIO, request: Request) -> bytes:
    coding, length = request.header("Transfer-Encoding"), request.header("Content-Length")
    if coding:
        if coding.lower() != "chunked" or length:
            raise BadRequest(HTTPStatus.NOT_IMPLEMENTED, "unsupported transfer encoding")
        return _read_chunks(file)
    if not length:
        return b""
    if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
        raise BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "bad Content-Length")
    return _read_exactly(file, int(length))


def _read_chunks(file: BinaryIO) -> bytes:
    body = b""
    while True:
        size_text = (_read_line(file) or b"").partition(b";")[0].strip()
        try:
            size = int(size_text, 16) if size_text.isalnum() else -1
        except ValueError:
            size = -1
        if size < 0 or len(body) + size > MAX_BODY:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "bad chunk")
        if size == 0:
            _read_headers(file)  # trailers
            return body
        body += _read_exactly(file, size)
        if _read_line(file) != b"":
            raise BadRequest(HTTPStatus.BAD_REQUEST, "bad chunk")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "body cut short")
    return data
