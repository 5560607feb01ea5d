"""What `lab up` hears while a lab starts: lines over a pipe that the daemon and its tasks write and the command prints."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The last event is READY or FAILED."""

    STEP = "step"
    READY = "ready"
    FAILED = "failed"


class Event(msgspec.Struct, frozen=True):
    """A line of progress, or why the lab failed."""

    kind: Kind
    text: str


def tell(fd: int, kind: Kind, text: str) -> None:
    """Writes one event; whoever has stopped listening is no error."""
    try:
        os.write(fd, msgspec.json.encode(Event(kind, text)) + b"\n")
    except BrokenPipeError:
        pass


def listen(fd: int, deadline_s: float) -> Iterator[Event]:
    """Events until the last writer has gone or the time is over; closes `fd`."""
    end = time.monotonic() + deadline_s
    buffer = b""
    try:
        while (left_s := end - time.monotonic()) > 0 and select.select([fd], [], [], left_s)[0]:
            chunk = os.read(fd, 65536)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                yield msgspec.json.decode(line, type=Event)
    finally:
        os.close(fd)
