"""Fuzz the decoder of protobuf request bodies: an object, or BadRequest."""

import sys

import atheris

with atheris.instrument_imports(include=["stentor.apiserver.protobuf"]):
    from stentor.apiserver.errors import BadRequest
    from stentor.apiserver.protobuf import decode


def check(data: bytes) -> None:
    try:
        document = decode(data)
    except BadRequest:
        return
    assert isinstance(document["kind"], str)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
