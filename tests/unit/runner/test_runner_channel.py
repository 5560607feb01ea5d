"""The channel protocol of exec, and SPDY framing of port-forward."""

from __future__ import annotations

import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.lab.runner import channel, spdy
from stentor.lab.runner.channel import Input, Number, Size
from stentor.lab.runner.spdy import Connection, Data, Ended, FaultError, Kind, Opened, Reset


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"", None),
        (b"\x00", None),
        (b"\x00hello", Input(b"hello")),
        (b"\xff\x00", Input(b"")),
        (b'\x04{"Width":80,"Height":24}', Size(80, 24)),
        (b'\x04{"Width":0,"Height":24}', None),
        (b'\x04{"Width":70000,"Height":24}', None),
    ],
)
def test_client_frames(frame: bytes, expected: object) -> None:
    assert channel.decode(frame) == expected


@pytest.mark.parametrize("frame", [b"\x04{", b"\x04[]", b"\x05x", b"\xff", b"\xff\x01", b"\x01out"])
def test_frames_that_break_the_protocol(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"channel|terminal size"):
        channel.decode(frame)


@given(st.binary(max_size=200))
def test_any_frame_is_decoded_or_refused(frame: bytes) -> None:
    try:
        channel.decode(frame)
    except ValueError:
        return


def test_final_status() -> None:
    good, bad = channel.final_status(0), channel.final_status(3)
    assert good[0] == bad[0] == Number.ERROR
    assert json.loads(good[1:])["status"] == "Success"
    assert json.loads(bad[1:])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


class Peer:
    """The client's side: just enough to talk to the server."""

    def __init__(self) -> None:
        self._deflater = zlib.compressobj(zdict=spdy.DICTIONARY)

    def open(self, stream: int, **headers: str) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._deflater.compress(block) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack(">IIH", stream, 0, 0) + packed
        return struct.pack(">HHI", 0x8003, Kind.SYN_STREAM, len(body)) + body

    def data(self, stream: int, payload: bytes, *, fin: bool = False) -> bytes:
        return struct.pack(">II", stream, fin << 24 | len(payload)) + payload

    def control(self, kind: int, payload: bytes) -> bytes:
        return struct.pack(">HHI", 0x8003, kind, len(payload)) + payload


def test_spdy_streams_and_data() -> None:
    peer, server = Peer(), Connection()
    first = server.receive(peer.open(1, streamType="error", port="80", requestID="0"))
    second = server.receive(peer.open(3, streamType="data", port="80", requestID="0"))
    assert first == [Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}, False)]
    assert second == [Opened(3, {"streamtype": "data", "port": "80", "requestid": "0"}, False)]
    assert server.receive(peer.data(3, b"hello", fin=True)) == [Data(3, b"hello", True)]
    assert server.receive(peer.control(Kind.RST_STREAM, struct.pack(">II", 3, 5))) == [Reset(3)]
    assert server.receive(peer.control(Kind.GOAWAY, bytes(8))) == [Ended()]
    assert server.receive(peer.control(Kind.SETTINGS, bytes(4))) == []


def test_spdy_answers() -> None:
    server = Connection()
    server.accept(1)
    reply = server.take()
    assert struct.unpack(">HH", reply[:4]) == (0x8003, Kind.SYN_REPLY)
    server.send(3, b"x" * 100_000, fin=True)
    sent = server.take()
    lengths, flags, at = [], [], 0
    while at < len(sent):
        _, tail = struct.unpack_from(">II", sent, at)
        lengths.append(tail & 0xFFFFFF)
        flags.append(tail >> 24)
        at += 8 + lengths[-1]
    assert (lengths, flags) == ([65536, 34464], [0, 1])
    server.receive(Peer().control(Kind.PING, b"\0\0\0\1"))
    assert server.take() == Peer().control(Kind.PING, b"\0\0\0\1")


@given(st.data())
def test_spdy_events_do_not_depend_on_how_bytes_arrive(data: st.DataObject) -> None:
    peer, whole, pieces = Peer(), Connection(), Connection()
    stream = b"".join(
        peer.open(index * 2 + 1, port=str(index)) + peer.data(index * 2 + 1, data.draw(st.binary(max_size=40)))
        for index in range(data.draw(st.integers(1, 4)))
    )
    expected = whole.receive(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    seen = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        seen += pieces.receive(stream[start:end])
    assert seen == expected


@given(st.binary(max_size=300))
def test_spdy_garbage_is_refused_or_waits(data: bytes) -> None:
    try:
        Connection().receive(data)
    except FaultError:
        return


@given(st.integers(0, 10), st.binary(max_size=60))
def test_spdy_control_garbage(kind: int, payload: bytes) -> None:
    try:
        Connection().receive(Peer().control(kind, payload))
    except FaultError:
        return


def test_spdy_refuses_a_header_bomb() -> None:
    with pytest.raises(FaultError, match="too long"):
        Connection().receive(Peer().open(1, a="x" * 1_000_000))
