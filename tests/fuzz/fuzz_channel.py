"""Fuzz the channel protocol of exec: any frame is decoded or refused."""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["stentor.lab.runner.channel"]):
    from stentor.lab.runner import channel


def check(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        channel.decode(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
