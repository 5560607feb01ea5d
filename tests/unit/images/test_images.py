"""The image catalogue and the echo server's answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.lab.images import http1
from stentor.lab.images.catalogue import Catalogue, Image, load_images
from stentor.lab.images.echo import Echo, parse_duration
from stentor.lab.images.errors import BadImageFile, UnknownImage
from stentor.lab.images.http1 import BadRequest, Request


@pytest.mark.parametrize(
    "reference",
    [
        "curlimages/curl",
        "curlimages/curl:8.5.0",
        "docker.io/curlimages/curl@sha256:0123",
        "localhost:5000/mirror/curlimages/curl:latest",
    ],
)
def test_tags_and_registries_do_not_matter(reference: str) -> None:
    assert Catalogue().find(reference).command == ("curl",)


@pytest.mark.parametrize(
    "reference", ["busybox", "busybox:1", "docker.io/library/busybox", "registry.k8s.io/e2e-test-images/busybox:1.29"]
)
def test_official_images(reference: str) -> None:
    assert Catalogue().find(reference).args == ("sh",)


def test_echo_is_warm() -> None:
    assert Catalogue().find("registry.k8s.io/gateway-api/conformance/echo-basic:v1").warm == "echo"


def test_own_images_win() -> None:
    own = Catalogue({"my/app:v1": Image(command=("true",)), "busybox": Image(command=("false",))})
    assert own.find("my/app:v2").command == ("true",)
    assert own.find("busybox:1").command == ("false",)


def test_unknown_images_say_how_to_map_them() -> None:
    with pytest.raises(UnknownImage, match=r"spec.images: \{example.com/app: \{command:"):
        Catalogue().find("example.com/app:v1")
    with pytest.raises(UnknownImage, match='needs the program "no-such-program"'):
        Catalogue({"x": Image(command=("no-such-program",))}).find("x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "Expected `object`"),
        ('{"a": {"command": "x"}}', "Expected `array`"),
        ('{"a": {"comand": ["x"]}}', "comand"),
        ('{"a": {}}', "neither command nor rootfs"),
        ('{"a": {"rootfs": "/no/such"}}', "rootfs"),
        ('{"a": {"rootfs": "."}}', "absolute"),
    ],
)
def test_bad_image_files(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "images.json"
    path.write_text(text)
    with pytest.raises(BadImageFile, match=problem):
        load_images(path)


# ---- echo


def request(target: str = "/", method: str = "GET", *headers: tuple[str, str]) -> Request:
    return Request(method, target, "HTTP/1.1", [("Host", "h"), *headers], b"")


ECHO = Echo({"POD_NAME": "p", "NAMESPACE": "n", "SERVICE_NAME": "s", "INGRESS_NAME": "i"})


def test_the_answer_has_upstreams_form() -> None:
    response = ECHO.answer(request("/a//b?c=d", "POST", ("X-B", "2"), ("X-A", "1"), ("X-B", "3")))
    assert response.body.startswith(b'{\n "path": "/a//b?c=d",\n "host": "h",\n "method": "POST",')
    body = json.loads(response.body)
    assert list(body) == [
        "path",
        "host",
        "method",
        "proto",
        "headers",
        "httpPort",
        "namespace",
        "ingress",
        "service",
        "pod",
    ]
    assert body["headers"] == {"X-A": ["1"], "X-B": ["2", "3"]}
    assert dict(response.headers) == {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


def test_headers_on_demand() -> None:
    response = ECHO.answer(request("/", "GET", ("X-Echo-Set-Header", "A: 1, b:2"), ("X-Echo-Set-Header", "A:3")))
    assert [pair for pair in response.headers if pair[0] in ("A", "b")] == [("A", "1,3"), ("b", "2")]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/health", 200),
        ("/status/204", 204),
        ("/status/599", 599),
        ("/status/1234", 400),
        ("/status/abc", 400),
        ("//health", 200),
    ],
)
def test_routes(target: str, status: int) -> None:
    assert ECHO.answer(request(target)).status == status


def test_retry_fails_as_often_as_asked() -> None:
    target = "/retry/x?uuid=u1&succeedAfter=2&responseCode=503"
    assert [ECHO.answer(request(target)).status for _ in range(4)] == [503, 503, 200, 200]
    resets = [ECHO.answer(request("/retry/?uuid=u2&succeedAfter=1")).reset for _ in range(2)]
    assert resets == [True, False]
    assert ECHO.answer(request("/retry/")).status == 400


def test_delays() -> None:
    assert ECHO.answer(request("/?delay=1ms")).status == 200
    assert ECHO.answer(request("/?delay=soon")).status == 500
    assert parse_duration("1m1.5s2ms") == pytest.approx(61.502)


def test_line_and_datagram_servers() -> None:
    assert ECHO.line("PING\n", "3000") == b"PONG\n"
    assert json.loads(ECHO.line("TEST", "3000"))["pod"] == "p"
    assert json.loads(ECHO.datagram(b"hi")) == {
        "request": "hi",
        "namespace": "n",
        "ingress": "i",
        "service": "s",
        "pod": "p",
    }


# ---- HTTP/1.1


def read(data: bytes) -> Request | None:
    return http1.read_request(io.BytesIO(data))


def test_requests() -> None:
    found = read(b"\r\nPOST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcREST")
    assert found == Request("POST", "/x", "HTTP/1.1", [("Host", "a"), ("Content-Length", "3")], b"abc")
    chunked = read(
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    )
    assert chunked is not None
    assert chunked.body == b"abcde"
    assert read(b"") is None


def test_several_requests_on_one_connection() -> None:
    file = io.BytesIO(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.0\r\n\r\n")
    first, second = http1.read_request(file), http1.read_request(file)
    assert first is not None
    assert second is not None
    assert [(entry.target, entry.keeps_alive) for entry in (first, second)] == [("/1", True), ("/2", False)]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"G=T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n",
        b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read(data)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_request_or_refused(data: bytes, started: bool) -> None:
    try:
        read((b"GET / HTTP/1.1\r\nHost: a\r\n" if started else b"") + data)
    except BadRequest:
        return
