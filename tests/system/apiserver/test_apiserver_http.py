"""HTTP itself: forms of bodies and answers, wrong requests, wrong starts."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiservers.memory import CRON_TABS, config_map, deployment
from apiservers.process import Server

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"

WRONG: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", MAPS, {"raw": b"{"}, 400, "the object provided is unrecognized (must be of type json)"),
    ("POST", MAPS, {"raw": b"[]"}, 400, "must be of type object"),
    ("POST", MAPS, {"raw": b"[" * 100_000}, 400, ""),
    ("POST", MAPS, {"raw": b'{"a":' * 900 + b"1" + b"}" * 900}, 400, ""),
    ("POST", MAPS, {"raw": b"\xff\xfe"}, 400, "unrecognized"),
    ("POST", MAPS, {"raw": b"{}", "media": "text/plain"}, 415, "accepted media types include: application/json"),
    ("POST", MAPS, {"raw": b"a: [", "media": "application/yaml"}, 400, "error parsing YAML"),
    ("POST", MAPS, {"raw": b"k8s\x00garbage", "media": "application/vnd.kubernetes.protobuf"}, 400, "malformed protobuf"),
    ("POST", MAPS, {"body": {}}, 400, "Object 'Kind' is missing"),
    ("POST", MAPS, {"body": {"kind": "ConfigMap"}}, 400, "Object 'apiVersion' is missing"),
    ("POST", MAPS, {"body": {"kind": "Pod", "apiVersion": "v1"}}, 400, "does not match the expected kind"),
    ("POST", MAPS, {"body": {"kind": "ConfigMap", "apiVersion": "v2"}}, 400, "does not match the expected API version (v1)"),
    ("POST", MAPS, {"body": {**config_map("x"), "metadata": {"name": "x", "namespace": "other"}}}, 400, "namespace"),
    ("POST", MAPS, {"body": {**config_map("x"), "metadata": {"name": "x", "labels": {"a": 1}}}}, 400, "metadata.labels.a"),
    ("POST", MAPS, {"body": {**config_map("x"), "metadata": []}}, 400, "metadata"),
    ("POST", f"{MAPS}?dryRun=Some", {"body": config_map("x")}, 422, "dryRun"),
    ("POST", f"{MAPS}?fieldValidation=Hard", {"body": {**config_map("x"), "z": 1}}, 422, "fieldValidation"),
    ("POST", f"{MAPS}/x", {"body": config_map("x")}, 405, "does not allow this method"),
    ("PUT", MAPS, {"body": config_map("x")}, 405, "does not allow this method"),
    ("POST", "/api/v1/configmaps", {"body": config_map("x")}, 400, "an empty namespace may not be set"),
    ("PUT", f"{MAPS}/kube-root-ca.crt", {"body": config_map("y")}, 400, "does not match the name on the URL"),
    ("PATCH", f"{MAPS}/kube-root-ca.crt", {"body": {}}, 415, "application/strategic-merge-patch+json"),
    ("PATCH", f"{MAPS}/missing", {"body": {}, "media": "application/merge-patch+json"}, 404, 'configmaps "missing" not found'),
    ("PATCH", f"{MAPS}/kube-root-ca.crt", {"body": {"metadata": 5}, "media": "application/merge-patch+json"}, 400, "metadata"),
    ("PATCH", f"{MAPS}/kube-root-ca.crt", {"body": {"a": 1}, "media": "application/json-patch+json"}, 400, "JSON patch"),
    ("DELETE", f"{MAPS}/kube-root-ca.crt", {"body": {"propagationPolicy": "Sideways"}}, 422, "propagationPolicy"),
    ("DELETE", f"{MAPS}/kube-root-ca.crt?gracePeriodSeconds=soon", {}, 400, "gracePeriodSeconds"),
    ("GET", f"{MAPS}?labelSelector=a==b==c", {}, 400, "unable to parse requirement"),
    ("GET", f"{MAPS}?fieldSelector=data.x=1", {}, 400, "field label not supported: data.x"),
    ("GET", f"{MAPS}?resourceVersion=abc", {}, 400, "resourceVersion"),
    ("GET", f"{MAPS}?watch=1&resourceVersion=abc", {}, 400, "resourceVersion"),
    ("GET", f"{MAPS}?limit=few", {}, 400, "limit"),
    ("GET", "/api/v1/namespaces/default/nonsense", {}, 404, "could not find the requested resource"),
    ("GET", "/apis/nonsense.example.com/v1", {}, 404, "could not find the requested resource"),
    ("GET", "/openapi/v3/apis/nope/v1", {}, 404, ""),
    ("GET", f"{PODS}/x/nonsense", {}, 404, "could not find the requested resource"),
    ("GET", "/api/v1/namespaces/default/namespaces/x", {}, 404, ""),
    ("TRACE", PODS, {}, 405, ""),
    ("POST", "/api", {"body": {}}, 405, ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "arguments", "status", "words"), WRONG)
def test_a_wrong_request_gets_a_status_that_says_why(
    server: Server, method: str, path: str, arguments: dict[str, Any], status: int, words: str
) -> None:
    code, answer = server.request(method, path, **arguments)
    assert (code, answer["kind"], answer["status"], answer["code"]) == (status, "Status", "Failure", status)
    assert words in answer["message"]


def test_a_body_that_is_too_large(server: Server) -> None:
    status, answer = server.request("POST", MAPS, raw=b" " * (9 << 20))
    assert (status, answer["reason"]) == (413, "RequestEntityTooLarge")


def test_yaml_in_and_out(server: Server, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    document = config_map("y", text="2020-01-01")
    assert server.request("POST", path, raw=yaml.safe_dump(document).encode(), media="application/yaml")[0] == 201
    request = urllib.request.Request(f"{server.url}{path}/y", headers={"Accept": "application/yaml"})
    with urllib.request.urlopen(request, timeout=10, context=server.context()) as answer:
        assert answer.headers["Content-Type"] == "application/yaml"
        assert yaml.safe_load(answer.read())["data"] == {"text": "2020-01-01"}


def test_unknown_fields_are_warned_of(server: Server, namespace: str) -> None:
    document = deployment("d")
    document["spec"]["replicaz"] = 3
    done = server.run("apply", "--validate=warn", "-f", "-", stdin=yaml.safe_dump(document), namespace=namespace)
    assert done.returncode == 0, done.stderr
    assert 'Warning: unknown field "spec.replicaz"' in done.stderr


def test_events_are_served_by_both_groups(server: Server, namespace: str) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "a", "namespace": namespace},
        "reason": "Tested",
        "note": "hello",
        "type": "Normal",
        "action": "Test",
        "reportingController": "test",
        "reportingInstance": "test-1",
    }
    new, old = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", f"/api/v1/namespaces/{namespace}/events"
    assert server.request("POST", new, event)[0] == 201
    (seen,) = server.request("GET", new)[1]["items"]
    assert {k: v for k, v in seen.items() if k != "metadata"} == {k: v for k, v in event.items() if k != "metadata"}
    (plain,) = server.request("GET", f"{old}?fieldSelector=involvedObject.name=a,reason=Tested")[1]["items"]
    assert (plain["apiVersion"], plain["message"]) == ("v1", "hello")
    assert "hello" in server.kubectl("get", "events", namespace=namespace)


def test_deletecollection(server: Server, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    for name in "abc":
        labels = {"keep": "no" if name != "b" else "yes"}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": labels},
            "stringData": {"k": "v"},
        }
        assert server.request("POST", path, body)[1]["data"] == {"k": "dg=="}
    assert len(server.request("DELETE", f"{path}?labelSelector=keep=no")[1]["items"]) == 2
    assert [i["metadata"]["name"] for i in server.request("GET", path)[1]["items"]] == ["b"]


def test_openapi_describes_custom_resources(server: Server) -> None:
    group = "openapi.example.com"
    crd = yaml.safe_load(yaml.safe_dump(CRON_TABS).replace("stable.example.com", group))
    assert server.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)[0] == 201
    index = server.request("GET", "/openapi/v3")[1]["paths"]
    document = server.request("GET", index[f"apis/{group}/v1"]["serverRelativeURL"])[1]
    kind = document["components"]["schemas"]["com.example.openapi.v1.CronTab"]
    assert kind["properties"]["spec"]["properties"]["cronSpec"]["description"] == "When to run."
    patch = document["paths"][f"/apis/{group}/v1/namespaces/{{namespace}}/crontabs/{{name}}"]["patch"]
    assert "fieldValidation" in [p["name"] for p in patch["parameters"]]
    server.kubectl("delete", "crd", f"crontabs.{group}", "--timeout=20s")


def test_wrong_starts_end_with_a_reason(server: Server, tmp_path: Path) -> None:
    def start(data: Path, listen: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "stentor.apiserver.command",
            "--data",
            str(data),
            "--pki",
            str(tmp_path / "pki"),
            "--listen",
            listen,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    taken = start(tmp_path / "data", f"127.0.0.1:{server.port}")
    assert taken.returncode == 1
    assert "address already in use" in taken.stderr
    shared = start(server.directory / "data", "127.0.0.1:0")
    assert shared.returncode == 1
    assert "database is locked" in shared.stderr
    assert "Traceback" not in taken.stderr + shared.stderr
