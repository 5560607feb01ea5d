"""Reading logs: CRI lines, tails, followers, rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from stentor.lab.runner import clock, logfile
from stentor.lab.runner.logfile import Entry, Options

STAMPS = [f"2026-01-01T00:00:0{n}.123456789Z" for n in range(5)]


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def rotate(path: Path, line: str) -> None:
    path.rename(f"{path}.1")
    write(path, line)


async def read(path: Path, running: bool = False, **options: object) -> str:
    chunks = [chunk async for chunk in logfile.read(path, Options(**options), lambda: running)]  # type: ignore[arg-type]
    return b"".join(chunks).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "0.log"
    lines = [
        f"{STAMPS[0]} stdout F one",
        f"{STAMPS[1]} stdout P tw",
        f"{STAMPS[2]} stdout F o",
        f"{STAMPS[3]} stderr F ",
    ]
    write(file, *lines)
    return file


async def test_all(path: Path) -> None:
    assert await read(path) == "one\ntwo\n\n"


async def test_tail_counts_whole_lines(path: Path) -> None:
    assert await read(path, tail_lines=2) == "two\n\n"
    assert await read(path, tail_lines=0) == ""


async def test_since_and_timestamps(path: Path) -> None:
    assert await read(path, since_ns=clock.parse(STAMPS[3])) == "\n"
    assert await read(path, tail_lines=1, timestamps=True) == f"{STAMPS[3]} \n"


async def test_limit(path: Path) -> None:
    assert await read(path, limit_bytes=5) == "one\nt"


async def test_rotated_part_comes_first(path: Path) -> None:
    rotate(path, f"{STAMPS[4]} stdout F new")
    assert await read(path) == "one\ntwo\n\nnew\n"


async def test_missing_file_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "none") == ""


async def test_follow_reads_over_a_rotation(path: Path) -> None:
    state = {"running": True}
    seen = []
    async for chunk in logfile.read(path, Options(follow=True), lambda: state["running"]):
        seen.append(chunk)
        if len(seen) == 1:
            append(path, f"{STAMPS[4]} stdout F more")
        elif len(seen) == 2:
            rotate(path, f"{STAMPS[4]} stdout F fresh")
        else:
            state["running"] = False
    assert b"".join(seen) == b"one\ntwo\n\nmore\nfresh\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"T stdout F a b", Entry(b"T", b"stdout", b"a b", True)),
        (b"T stderr P x", Entry(b"T", b"stderr", b"x", False)),
        (b"T stdout F", Entry(b"T", b"stdout", b"", True)),
        (b"plain text", Entry(b"", b"stdout", b"plain text", True)),
        (b"", Entry(b"", b"stdout", b"", True)),
    ],
)
def test_parse(line: bytes, expected: Entry) -> None:
    assert logfile.parse_entry(line) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.5Z",
        "2026-01-01T01:00:00.123456789+01:00",
        "2026-01-01T00:00:00.000000Z",
    ],
)
def test_times(text: str) -> None:
    seconds = clock.parse("2026-01-01T00:00:00Z")
    assert 0 <= clock.parse(text) - seconds < 1_000_000_000
    assert clock.stamp(clock.parse(text)) == "2026-01-01T00:00:00Z"
