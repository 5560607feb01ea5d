"""Network configurations, version negotiation, results and errors: against real files and tiny real plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stentor.lab.runner import cni
from stentor.lab.runner.cni import Attachment, Invoker, Network
from stentor.lab.runner.errors import BadNetworkConfig, CniError

# Notes down how it was called, and answers what the configuration says.
PLUGIN = """#!/usr/bin/env python3
import json, os, sys
config = json.load(sys.stdin)
call = {key: value for key, value in os.environ.items() if key.startswith("CNI_")} | {"config": config}
with open(config["journal"], "a") as journal:
    journal.write(json.dumps(call) + "\\n")
answer = config.get("answers", {}).get(os.environ["CNI_COMMAND"], {})
print(json.dumps(answer) if not isinstance(answer, str) else answer)
sys.exit(1 if "code" in answer or isinstance(answer, str) else 0)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("first", "second"):
        (directory / name).write_text(PLUGIN)
        (directory / name).chmod(0o755)
    return directory


def network(tmp_path: Path, *answers: dict[str, Any], version: str = "1.0.0", **fields: Any) -> Network:
    journal = str(tmp_path / "journal")
    listed = [
        {"type": name, "journal": journal, "answers": answer}
        for name, answer in zip(("first", "second"), answers, strict=False)
    ]
    path = tmp_path / "10-test.conflist"
    path.write_text(json.dumps({"cniVersion": version, "name": "net", "plugins": listed, **fields}))
    return cni.parse_network(path)


def calls(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]


ATTACHMENT = Attachment(container_id="c1", netns="/run/netns/x", args={"K8S_POD_NAME": "p", "K8S_POD_NAMESPACE": "n"})
RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}, {"address": "fd00::5/64"}]}


async def test_add_chains_the_results(tmp_path: Path, plugins: Path) -> None:
    found = network(tmp_path, {"ADD": {"ips": [{"address": "10.0.0.1/8"}]}}, {"ADD": RESULT})
    result = await Invoker([plugins]).add(found, ATTACHMENT)
    assert result.addresses == ("10.0.0.5", "fd00::5")
    first, second = calls(tmp_path)
    assert first["CNI_COMMAND"] == "ADD"
    assert (first["CNI_CONTAINERID"], first["CNI_NETNS"], first["CNI_IFNAME"]) == ("c1", "/run/netns/x", "eth0")
    assert first["CNI_ARGS"] == "K8S_POD_NAME=p;K8S_POD_NAMESPACE=n"
    assert first["CNI_PATH"] == str(plugins)
    assert (first["config"]["name"], first["config"]["cniVersion"]) == ("net", "1.0.0")
    assert "prevResult" not in first["config"]
    assert second["config"]["prevResult"] == {"ips": [{"address": "10.0.0.1/8"}]}


async def test_a_failed_add_is_undone_in_reverse(tmp_path: Path, plugins: Path) -> None:
    found = network(tmp_path, {"ADD": RESULT}, {"ADD": {"code": 11, "msg": "later", "details": "busy"}})
    with pytest.raises(CniError, match=r'plugin type="second" failed \(add\): later; busy') as caught:
        await Invoker([plugins]).add(found, ATTACHMENT)
    assert caught.value.code == 11
    order = [(call["CNI_COMMAND"], call["config"]["type"]) for call in calls(tmp_path)]
    assert order == [("ADD", "first"), ("ADD", "second"), ("DEL", "second"), ("DEL", "first")]


async def test_delete_gets_the_result_of_add(tmp_path: Path, plugins: Path) -> None:
    await Invoker([plugins]).delete(network(tmp_path, {}, {}), ATTACHMENT, RESULT)
    assert [call["config"]["prevResult"] for call in calls(tmp_path)] == [RESULT, RESULT]
    assert [call["config"]["type"] for call in calls(tmp_path)] == ["second", "first"]


@pytest.mark.parametrize(("version", "expected"), [("1.1.0", ["STATUS", "GC"]), ("1.0.0", [])])
async def test_status_and_gc_came_with_1_1(tmp_path: Path, plugins: Path, version: str, expected: list[str]) -> None:
    found, invoker = network(tmp_path, {}, version=version), Invoker([plugins])
    (tmp_path / "journal").touch()
    await invoker.status(found)
    await invoker.collect(found, [ATTACHMENT])
    assert [call["CNI_COMMAND"] for call in calls(tmp_path)] == expected
    if expected:
        valid = calls(tmp_path)[-1]["config"]["cni.dev/valid-attachments"]
        assert valid == [{"containerID": "c1", "ifname": "eth0"}]
        assert "CNI_CONTAINERID" not in calls(tmp_path)[-1]


@pytest.mark.parametrize(("fields", "asked"), [({}, 1), ({"disableCheck": True}, 0)])
async def test_check(tmp_path: Path, plugins: Path, fields: dict[str, Any], asked: int) -> None:
    found = network(tmp_path, {}, **fields)
    (tmp_path / "journal").touch()
    await Invoker([plugins]).check(found, ATTACHMENT, RESULT)
    assert len(calls(tmp_path)) == asked


async def test_capabilities_reach_only_plugins_that_declare_them(tmp_path: Path, plugins: Path) -> None:
    path = tmp_path / "10-test.conflist"
    journal = str(tmp_path / "journal")
    listed = [
        {"type": "first", "journal": journal, "capabilities": {"portMappings": True}},
        {"type": "second", "journal": journal},
    ]
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": listed}))
    attachment = Attachment(container_id="c", netns="/x", capabilities={"portMappings": [{"hostPort": 80}], "mac": "x"})
    await Invoker([plugins]).add(cni.parse_network(path), attachment)
    configs = [call["config"].get("runtimeConfig") for call in calls(tmp_path)]
    assert configs == [{"portMappings": [{"hostPort": 80}]}, None]


async def test_missing_and_broken_plugins_are_named(tmp_path: Path, plugins: Path) -> None:
    found = network(tmp_path, {"ADD": "no JSON at all"})
    with pytest.raises(CniError, match=r"first.*exit status 1"):
        await Invoker([plugins]).add(found, ATTACHMENT)
    with pytest.raises(CniError, match=r'failed to find plugin "first" in path \[/nowhere\]'):
        await Invoker([Path("/nowhere")]).add(found, ATTACHMENT)


def test_the_first_file_by_name_counts(tmp_path: Path) -> None:
    assert cni.find_network(tmp_path) is None
    assert cni.find_network(tmp_path / "missing") is None
    (tmp_path / "20-b.conf").write_text('{"cniVersion": "0.4.0", "name": "b", "type": "x"}')
    (tmp_path / "10-a.conflist").write_text('{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "y"}]}')
    (tmp_path / "05-ignored.txt").write_text("{}")
    found = cni.find_network(tmp_path)
    assert found is not None
    assert (found.name, found.version, [plugin["type"] for plugin in found.plugins]) == ("a", "1.0.0", ["y"])
    single = cni.parse_network(tmp_path / "20-b.conf")
    assert (single.name, single.version, single.plugins[0]["type"]) == ("b", "0.4.0", "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Input data was truncated"),
        ("[]", "Expected `object`"),
        ('{"plugins": [{"type": "x"}]}', "name: missing"),
        ('{"name": "a", "cniVersion": "1.0.0", "plugins": []}', "plugins: must be"),
        ('{"name": "a", "cniVersion": "1.0.0", "plugins": [{}]}', r"plugins\[0\].type"),
        ('{"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "../x"}]}', r"plugins\[0\].type"),
        ('{"name": "a", "cniVersion": "0.1.0", "plugins": [{"type": "x"}]}', "cniVersion: 0.1.0; known:"),
        ('{"name": "a", "plugins": [{"type": "x"}]}', "cniVersion: 0.2.0; known:"),
    ],
)
def test_bad_configurations_name_file_and_field(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.conflist"
    path.write_text(text)
    with pytest.raises(BadNetworkConfig, match=f"x.conflist: .*{problem}"):
        cni.parse_network(path)


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersions": ["0.3.1", "9.0.0"]}, "0.3.1"),
    ],
)
def test_the_highest_common_version_is_spoken(offered: dict[str, Any], spoken: str) -> None:
    assert cni.negotiate(Path("x"), offered) == spoken


@pytest.mark.parametrize("result", [{"ips": "no"}, {"ips": [{}]}, {"ips": [{"address": 5}]}])
def test_a_result_that_is_none_is_an_error(result: dict[str, Any]) -> None:
    with pytest.raises(CniError, match="result"):
        cni.parse_result(result)
