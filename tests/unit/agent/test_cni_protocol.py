"""The CNI protocol: requests, their errors by the specification's codes, results by version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.agent.cni import add_result, error_result, parse_request, version_result
from stentor.agent.errors import CniError
from stentor.net.address import Addr
from stentor.tables.endpoint import Endpoint

CONFIG = {"cniVersion": "1.1.0", "name": "cilium", "type": "stentor-cni"}
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u",
}


def raw(config: object = CONFIG, **changes: str | None) -> bytes:
    variables = {key: value for key, value in (VARIABLES | changes).items() if value is not None}
    head = b"".join(f"{key}={value}".encode() + b"\0" for key, value in variables.items())
    body = config if isinstance(config, bytes) else json.dumps(config).encode()
    return head + b"\0" + body


def test_a_whole_request() -> None:
    request = parse_request(raw())
    assert (request.command, request.container_id, request.netns, request.ifname) == (
        "ADD",
        "abc",
        "/run/netns/x",
        "eth0",
    )
    assert request.pod == ("ns", "pod")
    assert request.arguments["K8S_POD_UID"] == "u"
    assert request.config.cni_version == "1.1.0"


@pytest.mark.parametrize(
    ("request_bytes", "code", "words"),
    [
        (b"", 4, "CNI_COMMAND"),
        (raw(CNI_COMMAND="EAT"), 4, "'EAT' is none of ADD"),
        (raw(CNI_CONTAINERID=None), 4, "CNI_CONTAINERID is missing"),
        (raw(CNI_CONTAINERID="../x"), 4, "CNI_CONTAINERID: '../x' is malformed"),
        (raw(CNI_IFNAME="much-too-long-a-name"), 4, "CNI_IFNAME"),
        (raw(CNI_IFNAME="a/b"), 4, "CNI_IFNAME: 'a/b' is malformed"),
        (raw(CNI_IFNAME=".."), 4, "CNI_IFNAME"),
        (raw(CNI_NETNS=None), 4, "CNI_NETNS is missing"),
        (raw(CNI_ARGS="junk"), 4, "CNI_ARGS: 'junk'"),
        (raw(b"{"), 6, "cannot decode"),
        (raw(b""), 6, "it is empty"),
        (raw({"cniVersion": 3}), 7, "cniVersion"),
        (raw([]), 7, "Expected `object`"),
        (raw(CONFIG | {"cniVersion": "9.9.9"}), 1, "'9.9.9' is none of 0.3.0"),
        (raw(CONFIG | {"cniVersion": "1.0.0"}, CNI_COMMAND="STATUS"), 1, "STATUS needs cniVersion 1.1.0"),
        (raw(CONFIG | {"cniVersion": "0.3.1"}, CNI_COMMAND="CHECK"), 1, "CHECK needs cniVersion 0.4.0"),
        (raw(CONFIG | {"cni.dev/valid-attachments": [{"ifname": "e"}]}, CNI_COMMAND="GC"), 7, "containerID"),
    ],
)
def test_errors_have_codes_and_name_what_is_wrong(request_bytes: bytes, code: int, words: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_request(request_bytes)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert json.loads(error_result(caught.value))["code"] == code


def test_deletion_needs_no_namespace() -> None:
    assert parse_request(raw(CNI_COMMAND="DEL", CNI_NETNS=None)).command == "DEL"


def test_valid_attachments_of_a_collection() -> None:
    config = CONFIG | {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}
    request = parse_request(raw(config, CNI_COMMAND="GC", CNI_CONTAINERID=None, CNI_IFNAME=None, CNI_NETNS=None))
    assert request.config.valid_attachments is not None
    assert [(each.container_id, each.ifname) for each in request.config.valid_attachments] == [("a", "eth0")]


ENDPOINT = Endpoint(
    id=1, container_id="abc", container_ifname="eth0", netns="/run/netns/x", namespace="ns", pod="pod", host_ifname="lxc1",
    ifindex=7, mac=b"\2\0\0\0\0\1", ipv4=Addr.parse("10.0.0.5"), ipv6=Addr.parse("fd00::5"),
)  # fmt: skip


def test_results_by_version() -> None:
    newest = json.loads(add_result("1.1.0", ENDPOINT, mtu=1500, route_mtu=1450))
    assert newest["ips"] == [{"address": "10.0.0.5/32", "interface": 1}, {"address": "fd00::5/128", "interface": 1}]
    assert newest["routes"] == [{"dst": "0.0.0.0/0", "mtu": 1450}, {"dst": "::/0", "mtu": 1450}]
    assert [interface.get("mtu") for interface in newest["interfaces"]] == [1500, 1500]
    assert newest["interfaces"][1]["sandbox"] == "/run/netns/x"
    older = json.loads(add_result("1.0.0", ENDPOINT, mtu=1500, route_mtu=1450))
    assert older["cniVersion"] == "1.0.0"
    assert all("mtu" not in each for each in older["interfaces"] + older["routes"])
    oldest = json.loads(add_result("0.4.0", ENDPOINT, mtu=1500, route_mtu=1450))
    assert [ip["version"] for ip in oldest["ips"]] == ["4", "6"]


def test_versions() -> None:
    assert json.loads(version_result())["supportedVersions"][-1] == "1.1.0"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_cni_error(data: bytes) -> None:
    try:
        parse_request(data)
    except CniError as e:
        assert e.code in (1, 4, 6, 7)


@given(st.binary(max_size=200))
def test_any_configuration_is_taken_or_refused(body: bytes) -> None:
    try:
        parse_request(raw(body))
    except CniError as e:
        assert e.code in (1, 6, 7)
