"""The plugin and the agent together, through real calls on a node: results, repetition, bad requests, an absent agent."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from agents.cluster import Cluster
from agents.cni import CONFIG, PLUGIN, Runtime
from labs.lab import eventually


@pytest.fixture
def runtime(cluster: Cluster) -> Iterator[Runtime]:
    runtime = Runtime(cluster.lab, "node-1")
    yield runtime
    runtime.close()


def endpoint_ids(cluster: Cluster) -> set[str]:
    shown = cluster.lab.stentor("endpoint", "list", "--node", "node-1", "-o", "json").stdout
    return {each["container_id"] for each in json.loads(shown)}


def test_the_life_of_an_attachment(cluster: Cluster, runtime: Runtime) -> None:
    runtime.make_networks("t1")
    added = runtime.call("ADD", "t1")
    assert added.status == 0, added.document
    interfaces = {each["name"]: each for each in added.document["interfaces"]}
    assert interfaces["eth0"]["sandbox"] == "/run/netns/t1"
    assert added.document["cniVersion"] == "1.1.0"
    assert [ip["address"].partition("/")[2] for ip in added.document["ips"]] == ["32", "128"]
    shown = runtime.run("ip", "-n", "t1", "-o", "address", "show", "eth0")
    for ip in added.document["ips"]:
        assert ip["address"].partition("/")[0] in shown
    assert runtime.call("CHECK", "t1") == (0, {})
    assert runtime.call("ADD", "t1") == added
    assert runtime.call("DEL", "t1") == (0, {})
    assert runtime.call("DEL", "t1") == (0, {})
    assert runtime.call("CHECK", "t1").document["code"] == 3
    eventually(lambda: "eth0" not in runtime.run("ip", "-n", "t1", "link"))
    assert "cid-t1" not in endpoint_ids(cluster)


def test_attachments_one_after_the_other(runtime: Runtime) -> None:
    """Each gets an address that has rested: nobody's packets reach a newcomer by mistake."""
    runtime.make_networks("t2")
    seen = set()
    for number in range(50):
        added = runtime.call("ADD", "t2", CNI_CONTAINERID=f"c{number}", CNI_IFNAME=f"net{number}")
        assert added.status == 0, added.document
        seen.add(added.document["ips"][0]["address"])
        assert runtime.call("DEL", "t2", CNI_CONTAINERID=f"c{number}", CNI_IFNAME=f"net{number}").status == 0
    assert len(seen) == 50


def devices(runtime: Runtime) -> set[str]:
    """The node's ends of pods' links; those of pods that have ended go a moment later."""
    return set(re.findall(r"lxc\w+", runtime.run("ip", "-o", "link")))


@pytest.mark.parametrize(
    ("command", "changes", "config", "code", "words"),
    [
        ("ADD", {}, b"{no json", 6, "cannot decode"),
        ("ADD", {}, {"cniVersion": "7.0.0"}, 1, "'7.0.0' is none of"),
        ("ADD", {"CNI_NETNS": ""}, CONFIG, 4, "CNI_NETNS is missing"),
        ("ADD", {"CNI_NETNS": "/run/netns/nothing"}, CONFIG, 3, "/run/netns/nothing"),
        ("ADD", {"CNI_NETNS": "/etc/hosts"}, CONFIG, 100, "Invalid argument"),
        ("ADD", {"CNI_CONTAINERID": ""}, CONFIG, 4, "CNI_CONTAINERID is missing"),
        ("ADD", {"CNI_IFNAME": "a/b"}, CONFIG, 4, "CNI_IFNAME"),
        ("ADD", {"CNI_ARGS": "junk"}, CONFIG, 4, "CNI_ARGS"),
        ("CHECK", {}, CONFIG, 3, "cid-t3"),
        ("EAT", {}, CONFIG, 4, "CNI_COMMAND"),
    ],
)
def test_bad_requests_get_the_specifications_codes(
    cluster: Cluster, runtime: Runtime, command: str, changes: dict[str, str], config: object, code: int, words: str
) -> None:
    runtime.make_networks("t3")
    before = devices(runtime)
    answer = runtime.call(command, "t3", config=config, **changes)
    assert (answer.status, answer.document["code"]) == (1, code), answer.document
    assert words in answer.document["msg"] + answer.document.get("details", "")
    assert devices(runtime) <= before


def test_a_taken_interface_name_is_refused_and_leaves_nothing(runtime: Runtime) -> None:
    runtime.make_networks("t4")
    runtime.run("ip", "-n", "t4", "link", "add", "eth0", "type", "bridge")
    before = devices(runtime)
    answer = runtime.call("ADD", "t4")
    assert (answer.status, answer.document["code"], answer.document["msg"]) == (1, 100, "interface exists already")
    assert devices(runtime) <= before


def test_collection_ends_what_the_runtime_does_not_know(cluster: Cluster, runtime: Runtime) -> None:
    runtime.make_networks("t5")
    assert runtime.call("ADD", "t5").status == 0
    shown = cluster.lab.stentor("endpoint", "list", "--node", "node-1", "-o", "json").stdout
    valid = [
        {"containerID": each["container_id"], "ifname": each["container_ifname"]}
        for each in json.loads(shown)
        if each["container_id"] != "cid-t5"
    ]
    config = CONFIG | {"cni.dev/valid-attachments": valid}
    assert runtime.call("GC", "t5", config=config, CNI_CONTAINERID="", CNI_IFNAME="", CNI_NETNS="").status == 0
    assert endpoint_ids(cluster) == {each["containerID"] for each in valid}
    assert runtime.call("STATUS", "t5", CNI_CONTAINERID="", CNI_IFNAME="", CNI_NETNS="") == (0, {})


def test_without_an_agent_deletions_are_kept_for_the_next_one(cluster: Cluster, runtime: Runtime) -> None:
    runtime.make_networks("t6")
    assert runtime.call("ADD", "t6").status == 0
    cluster.lab.run("stop", "node-1/agent")
    try:
        assert runtime.call("ADD", "t6").document["code"] == 11
        assert runtime.call("STATUS", "t6").document["code"] == 50
        assert runtime.call("DEL", "t6") == (0, {})
        assert (runtime.root / "var/lib/stentor/deletions/cid-t6@eth0").exists()
    finally:
        cluster.lab.run("start", "node-1/agent")
    eventually(lambda: runtime.call("STATUS", "t6").status == 0)
    assert "cid-t6" not in endpoint_ids(cluster)
    assert not (runtime.root / "var/lib/stentor/deletions/cid-t6@eth0").exists()
    eventually(lambda: "eth0" not in runtime.run("ip", "-n", "t6", "link"))


def test_version_needs_no_agent() -> None:
    done = subprocess.run(
        [PLUGIN], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, timeout=10, check=True
    )
    assert json.loads(done.stdout)["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
