"""SPDY/3.1 framing, server's side, as far as Kubernetes' port-forward uses it: sans-IO.

A control frame is `1 version(15) type(16) flags(8) length(24)`, a data frame `0 stream(31) flags(8) length(24)`. Header
blocks are compressed with one zlib stream a direction, primed with the protocol's dictionary. Flow control is not spoken:
the peers (moby/spdystream) do not either.
https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final

import msgspec

_VERSION: Final = 0x8003
_FLAG_FIN: Final = 1
_MAX_FRAME: Final = 1 << 20
_MAX_HEADERS: Final = 64 << 10
_CHUNK: Final = 64 << 10


class FaultError(Exception):
    """The peer broke the protocol: the connection cannot go on."""


class Kind(IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Opened(msgspec.Struct, frozen=True):
    """The peer opened a stream; header names are lower case."""

    stream: int
    headers: dict[str, str]
    fin: bool


class Data(msgspec.Struct, frozen=True):
    """Bytes of a stream; `fin`: its last."""

    stream: int
    payload: bytes
    fin: bool


class Reset(msgspec.Struct, frozen=True):
    """The peer gave a stream up."""

    stream: int


class Ended(msgspec.Struct, frozen=True):
    """The peer is going away."""


Event = Opened | Data | Reset | Ended


def _entries(*words: str) -> bytes:
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words)


# Section 2.6.10.1 of the draft.
_WORDS: Final = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match
if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range
referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get
status
"""
DICTIONARY: Final = (
    _entries(*_WORDS.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
    + b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


class Connection:
    """One peer: feed its bytes, take ours with `take`."""

    def __init__(self) -> None:
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._inflater = zlib.decompressobj(zdict=DICTIONARY)
        self._deflater = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> list[Event]:
        """Events of all frames that are complete now. FaultError when the peer broke the protocol."""
        self._inbox += data
        events: list[Event] = []
        while len(self._inbox) >= 8:
            head, tail = struct.unpack_from(">II", self._inbox)
            flags, length = tail >> 24, tail & 0xFFFFFF
            if length > _MAX_FRAME:
                raise FaultError(f"frame of {length} bytes")
            if len(self._inbox) < 8 + length:
                break
            payload = bytes(self._inbox[8 : 8 + length])
            del self._inbox[: 8 + length]
            event = self._control(head, flags, payload) if head >> 31 else Data(head, payload, bool(flags & _FLAG_FIN))
            if event is not None:
                events.append(event)
        return events

    def accept(self, stream: int) -> None:
        """Answers a SYN_STREAM."""
        block = self._deflater.compress(struct.pack(">I", 0)) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        self._send(Kind.SYN_REPLY, 0, struct.pack(">I", stream) + block)

    def send(self, stream: int, payload: bytes, *, fin: bool = False) -> None:
        """Data; with `fin` the stream's last."""
        for start in range(0, max(len(payload), 1), _CHUNK):
            part = payload[start : start + _CHUNK]
            last = fin and start + _CHUNK >= len(payload)
            self._outbox += struct.pack(">II", stream, (_FLAG_FIN if last else 0) << 24 | len(part)) + part

    def take(self) -> bytes:
        """Bytes for the peer, once."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def _send(self, kind: Kind, flags: int, payload: bytes) -> None:
        self._outbox += struct.pack(">HHI", _VERSION, kind, flags << 24 | len(payload)) + payload

    def _control(self, head: int, flags: int, payload: bytes) -> Event | None:
        kind = head & 0xFFFF
        if head >> 16 != _VERSION:
            raise FaultError(f"version {head >> 16 & 0x7FFF}")
        if kind == Kind.SYN_STREAM:
            if len(payload) < 10:
                raise FaultError("short SYN_STREAM")
            (stream,) = struct.unpack_from(">I", payload)
            return Opened(stream & 0x7FFFFFFF, self._headers(payload[10:]), bool(flags & _FLAG_FIN))
        if kind == Kind.RST_STREAM:
            if len(payload) < 8:
                raise FaultError("short RST_STREAM")
            return Reset(struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF)
        if kind == Kind.PING:
            self._send(Kind.PING, 0, payload)
        elif kind == Kind.GOAWAY:
            return Ended()
        elif kind == Kind.HEADERS:
            self._headers(payload[4:])  # the compression state is shared: what is ignored is still read
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._inflater.decompress(block, _MAX_HEADERS)
        except zlib.error as e:
            raise FaultError(f"headers: {e}") from e
        if self._inflater.unconsumed_tail:
            raise FaultError("headers are too long")
        fields = _Fields(raw)
        pairs = [(fields.text(), fields.text()) for _ in range(fields.number())]
        return {name.lower(): value for name, value in pairs}


class _Fields:
    """Length-prefixed fields of a header block."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def number(self) -> int:
        if self._at + 4 > len(self._raw):
            raise FaultError("short header block")
        (value,) = struct.unpack_from(">I", self._raw, self._at)
        self._at += 4
        return int(value)

    def text(self) -> str:
        length = self.number()
        if self._at + length > len(self._raw):
            raise FaultError("short header field")
        self._at += length
        return self._raw[self._at - length : self._at].decode("utf-8", "replace")
