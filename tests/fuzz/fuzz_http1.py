"""Fuzz the echo server's HTTP/1.1 parser: any bytes are requests or a refusal."""

import contextlib
import io
import sys

import atheris

with atheris.instrument_imports(include=["stentor.lab.images.http1"]):
    from stentor.lab.images import http1


def check(data: bytes) -> None:
    file = io.BytesIO(data)
    with contextlib.suppress(http1.BadRequest):
        while (request := http1.read_request(file)) is not None:
            assert request.method.isalpha()
            assert request.version in ("HTTP/1.0", "HTTP/1.1")


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
