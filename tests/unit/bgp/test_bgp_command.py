"""What a user meets first: a configuration that is wrong, a port that is taken, a speaker that runs already."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from stentor.bgp.command import main
from stentor.bgp.config import parse
from stentor.bgp.control import Control
from stentor.bgp.errors import BgpError, ConfigError
from stentor.bgp.speaker import Speaker


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("routes: [{prefixes: [192.0.2.1/24]}]", "instances[0].routes[0].prefixes[0]: 192.0.2.1/24 has host bits set"),
        ("routes: [{file: /nowhere}]", "instances[0].routes[0].file: cannot read /nowhere"),
        (
            "routes: [{prefixes: [192.0.2.0/24], communities: {wellKnown: [no-exprot]}}]",
            "instances[0].routes[0].communities.wellKnown[0]: 'no-exprot' is no community: neither 65001:100 nor one of",
        ),
        (
            "routes: [{prefixes: [192.0.2.0/24], communities: {extended: [rt-1]}}]",
            "instances[0].routes[0].communities.extended[0]: 'rt-1' is no extended community",
        ),
        ("colour: red", "instances[0]: Object contains unknown field `colour`"),
    ],
)
def test_check_finds_what_running_would(
    fields: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"instances: [{{name: main, localASN: 65001, routerID: 10.0.0.1, {fields}}}]")
    assert main([str(file), "--check"]) == 1
    assert told in capsys.readouterr().err


def test_what_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe")
    assert main([str(file), "--check"]) == 1
    assert capsys.readouterr().err == f"stentor bgp: {file}: not UTF-8 text\n"


async def test_a_taken_port_names_its_field_and_is_tried_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        speaker = Speaker(asyncio.get_running_loop(), state_dir=None, bfd_path=None)
        wanted = parse(
            f"instances: [{{name: a, localASN: 1, routerID: 1.1.1.1}}, {{name: b, localASN: 1, routerID: 1.1.1.1,"
            f" localPort: {port}, listenAddresses: [127.0.0.1]}}]"
        )
        for _ in range(2):
            with pytest.raises(ConfigError, match=str(port)) as caught:
                speaker.apply(wanted)
            assert caught.value.field == "instances[1].localPort"
    speaker.apply(wanted)
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
    speaker.leave()


async def test_a_taken_port_is_one_instances_matter() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        speaker = Speaker(asyncio.get_running_loop(), state_dir=None, bfd_path=None)
        peer = "peers: [{name: p, peerAddress: 192.0.2.1}]"
        wanted = parse(
            f"instances: [{{name: a, localASN: 1, routerID: 1.1.1.1, localPort: {port}, listenAddresses: [127.0.0.1], {peer}}},"
            f" {{name: b, localASN: 2, routerID: 1.1.1.1, {peer}}}]"
        )
        with pytest.raises(ConfigError, match="cannot listen"):
            speaker.apply(wanted)
        assert {name: list(each.neighbours) for name, each in speaker.instances.items()} == {"a": ["p"], "b": ["p"]}
        speaker.leave()


async def test_a_second_speaker_does_not_take_the_first_ones_socket(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    path = tmp_path / "bgp.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # a process that ended without a word
    first = Control(Speaker(loop, state_dir=None, bfd_path=None), path)
    await first.start()
    second = Control(Speaker(loop, state_dir=None, bfd_path=None), path)
    with pytest.raises(BgpError, match="another speaker serves"):
        await second.start()
    second.close()
    assert path.exists()
    first.close()
