"""Reading a container's log: the CRI format of podrun's monitor, or a component's plain lines.

CRI: `TIME STREAM TAG text`, TAG F for a whole line and P for a part of one. The file is renamed to `.1` when it has
grown, and a new one begun; a follower notices by the file's inode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from stentor.lab.runner import clock

_POLL_S: Final = 0.05


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """kubelet's parameters; None: not given."""

    follow: bool = False
    tail_lines: int | None = None
    since_ns: int = 0
    timestamps: bool = False
    limit_bytes: int | None = None


class Entry(msgspec.Struct, frozen=True):
    """One line, or a part of one. `time` is empty in plain logs."""

    time: bytes
    stream: bytes
    text: bytes
    whole: bool


def parse_entry(line: bytes) -> Entry:
    """A line of the CRI format without its newline; what has another form is a plain line."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr") or parts[2] not in (b"F", b"P"):
        return Entry(b"", b"stdout", line, True)
    return Entry(parts[0], parts[1], parts[3] if len(parts) == 4 else b"", parts[2] == b"F")


def render(entry: Entry, *, timestamps: bool) -> bytes:
    """As `kubectl logs` prints it."""
    prefix = entry.time + b" " if timestamps and entry.time else b""
    return prefix + entry.text + (b"\n" if entry.whole else b"")


def select(entries: Iterator[Entry], options: Options) -> Iterator[Entry]:
    """What `since` and `tail` leave; a tail counts whole lines."""
    recent = (entry for entry in entries if not options.since_ns or _time_ns(entry) >= options.since_ns)
    if options.tail_lines is None:
        yield from recent
        return
    lines: deque[list[Entry]] = deque(maxlen=options.tail_lines)
    parts: list[Entry] = []
    for entry in recent:
        parts.append(entry)
        if entry.whole:
            lines.append(parts)
            parts = []
    for line in lines:
        yield from line
    yield from parts


async def read(path: Path, options: Options, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Chunks of output; with `follow` until the container has ended and all is read."""
    budget = options.limit_bytes
    async for chunk in _chunks(path, options, is_running):
        if budget is None:
            yield chunk
            continue
        yield chunk[:budget]
        budget -= len(chunk)
        if budget <= 0:
            return


async def _chunks(path: Path, options: Options, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    with contextlib.ExitStack() as stack:
        file = await _open(path, is_running, wait=options.follow)
        if file is None:
            return
        current = _Tail(stack.enter_context(file))
        old = await asyncio.to_thread(_read_rotated, path)
        entries = select(iter([*old, *await asyncio.to_thread(current.entries)]), options)
        first = b"".join(render(entry, timestamps=options.timestamps) for entry in entries)
        if first:
            yield first
        while options.follow:
            alive = is_running()  # asked before reading: what was written before the end is read
            fresh = b"".join(render(entry, timestamps=options.timestamps) for entry in current.entries())
            if fresh:
                yield fresh
                continue
            if current.is_replaced(path):
                current = _Tail(stack.enter_context(path.open("rb")))
                continue
            if not alive:
                return
            await asyncio.sleep(_POLL_S)


class _Tail:
    """An open log and the beginning of a line that is not complete yet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""

    def entries(self) -> list[Entry]:
        """What was written since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [parse_entry(line) for line in lines]

    def is_replaced(self, path: Path) -> bool:
        try:
            return os.stat(path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False


async def _open(path: Path, is_running: Callable[[], bool], *, wait: bool) -> BinaryIO | None:
    while True:
        alive = is_running()
        try:
            return path.open("rb")
        except FileNotFoundError:
            if not (wait and alive):
                return None
        await asyncio.sleep(_POLL_S)


def _read_rotated(path: Path) -> list[Entry]:
    try:
        return [parse_entry(line) for line in Path(f"{path}.1").read_bytes().splitlines()]
    except FileNotFoundError:
        return []


def _time_ns(entry: Entry) -> int:
    """Plain lines carry no time and count as recent."""
    try:
        return clock.parse(entry.time.decode("ascii")) if entry.time else 1 << 63
    except ValueError:
        return 1 << 63
