"""Kubernetes' channel protocol over WebSocket, server's side: v5.channel.k8s.io and v4.

A frame's first byte is the channel: 0 standard input, 1 output, 2 errors, 3 the final Status as JSON, 4 terminal size.
v5 adds 255: its second byte names a channel that the client closes (end of input).
https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
PROTOCOLS: Final = (V5, V4)


class Number(IntEnum):
    """Channel numbers."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255


class Size(msgspec.Struct, frozen=True):
    """Of a terminal, in characters."""

    width: int
    height: int


class Input(msgspec.Struct, frozen=True):
    """Bytes for standard input; none means that it ends."""

    data: bytes


class _SizeFields(msgspec.Struct):
    width: int = msgspec.field(name="Width", default=0)
    height: int = msgspec.field(name="Height", default=0)


def decode(frame: bytes) -> Input | Size | None:
    """A frame of the client; None for one that says nothing. ValueError for one that breaks the protocol."""
    if not frame:
        return None
    number, payload = frame[0], frame[1:]
    if number == Number.STDIN:
        return Input(payload) if payload else None
    if number == Number.CLOSE:
        if payload != bytes([Number.STDIN]):
            raise ValueError(f"cannot close channel {payload[:1].hex() or '(none)'}")
        return Input(b"")
    if number == Number.RESIZE:
        try:
            size = msgspec.json.decode(payload, type=_SizeFields)
        except msgspec.MsgspecError as e:
            raise ValueError(f"terminal size: {e}") from e
        if not (0 < size.width < 1 << 16 and 0 < size.height < 1 << 16):
            return None
        return Size(size.width, size.height)
    raise ValueError(f"unknown channel {number}")


def encode(number: Number, payload: bytes) -> bytes:
    return bytes([number]) + payload


def final_status(code: int) -> bytes:
    """Frame of the error channel for a command that ended with `code`."""
    status: dict[str, object] = {"metadata": {}, "status": "Success"}
    if code:
        status = {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit status {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    return encode(Number.ERROR, msgspec.json.encode(status))


def failure_status(message: str) -> bytes:
    """Frame of the error channel when there was no command to run."""
    status = {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}
    return encode(Number.ERROR, msgspec.json.encode(status))
