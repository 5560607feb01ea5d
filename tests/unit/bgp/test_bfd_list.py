"""`stentor bfd --list`: a session a line, and why nobody answers."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from stentor.bgp.bfd.command import command, render
from stentor.bgp.bfd.message import Endpoint, Status
from stentor.bgp.bfd.packet import State


def test_a_session_a_line() -> None:
    status = Status(endpoint=Endpoint("192.0.2.1"), state=State.UP, changed=1795475229.457, detection_time_us=150_000)
    _, row = render((status,)).split("\n")
    assert row.split() == ["192.0.2.1", "single", "hop", "UP", "2026-11-23T23:07:09Z", "0ms", "150ms", "0"]


def test_nobody_answers(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--socket", str(tmp_path / "none"), "--list"])
    assert done.exit_code == 1
    assert done.output == f"Error: cannot reach the BFD process at {tmp_path}/none: No such file or directory\n"
