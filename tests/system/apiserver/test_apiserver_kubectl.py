"""Real kubectl against a real server process."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiservers.memory import CRON_TABS, cron_tab, deployment, pod
from apiservers.process import Server


def text(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_client_side_apply(server: Server, namespace: str) -> None:
    def apply(replicas: int) -> str:
        return server.kubectl("apply", "-f", "-", stdin=text(deployment("web", replicas)), namespace=namespace)

    assert "created" in apply(1)
    assert "unchanged" in apply(1)
    assert "configured" in apply(2)
    assert server.kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}", namespace=namespace) == "2"
    without = deployment("web", 2)
    without["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    server.kubectl("apply", "-f", "-", stdin=text(without), namespace=namespace)
    server.kubectl("apply", "-f", "-", stdin=text(deployment("web", 2)), namespace=namespace)
    assert server.kubectl("get", "deploy", "web", "-o", "jsonpath={..env}", namespace=namespace) == ""


def test_server_side_apply_after_client_side(server: Server, namespace: str) -> None:
    manifest = text(deployment("web", 2))
    server.kubectl("apply", "-f", "-", stdin=manifest, namespace=namespace)
    assert "serverside-applied" in server.kubectl(
        "apply", "--server-side", "-f", "-", stdin=manifest, namespace=namespace
    )
    managers = server.kubectl(
        "get", "deploy", "web", "-o", "jsonpath={.metadata.managedFields[*].manager}", namespace=namespace
    )
    assert "kubectl-client-side-apply" not in managers.split()
    server.kubectl("scale", "deploy", "web", "--replicas=5", namespace=namespace)
    failed = server.run("apply", "--server-side", "-f", "-", stdin=manifest, namespace=namespace)
    assert failed.returncode == 1
    assert 'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale"' in failed.stderr
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest, namespace=namespace)
    assert server.kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}", namespace=namespace) == "2"


@pytest.mark.parametrize("side", ["--server-side=false", "--server-side"])
def test_apply_takes_a_list(server: Server, namespace: str, side: str) -> None:
    maps = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {}} for name in "ab"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": maps})
    assert len(server.kubectl("apply", side, "-f", "-", stdin=text, namespace=namespace).splitlines()) == 2
    wrong = text.replace('"data"', '"dada"')
    said = server.kubectl("apply", side, "-f", "-", stdin=wrong, namespace=namespace, check=False)
    assert "dada" in said


def test_diff_and_dry_run(server: Server, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=text(deployment("web", 2)), namespace=namespace)
    assert server.run("diff", "-f", "-", stdin=text(deployment("web", 2)), namespace=namespace).returncode == 0
    other = server.run("diff", "-f", "-", stdin=text(deployment("web", 4)), namespace=namespace)
    assert other.returncode == 1
    assert "+  replicas: 4" in other.stdout
    server.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text(deployment("web", 7)), namespace=namespace)
    assert server.kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}", namespace=namespace) == "2"


CREATIONS = [
    "configmap x --from-literal=a=b",
    "secret generic x --from-literal=a=b",
    "serviceaccount x",
    "service clusterip x --tcp=80:8080",
    "service nodeport x --tcp=80:8080",
    "service externalname x --external-name=example.org",
    "deployment x --image=example.org/app:1 --replicas=3 --port=80",
    "job x --image=example.org/app:1 -- echo hello",
    "cronjob x --image=example.org/app:1 --schedule=*/5_*_*_*_* -- date",
    "role x --verb=get,list --resource=pods",
    "rolebinding x --role=x --user=jane",
    "ingress x --rule=example.org/a*=svc:80 --class=cilium",
    "poddisruptionbudget x --min-available=50% --selector=a=b",
]
GENERATED = {"clusterIP", "clusterIPs", "nodePort", "selector", "labels"}


@pytest.mark.parametrize("command", CREATIONS, ids=[c.split(" x")[0] for c in CREATIONS])
def test_create_sends_protobuf_that_means_what_its_json_says(server: Server, namespace: str, command: str) -> None:
    """kubectl's own JSON of the object is the oracle: whatever it names must be there."""
    words = [w.replace("_", " ") for w in command.split()]
    wanted = json.loads(
        server.kubectl("create", *_before_dashes(words, "--dry-run=client", "-o", "json"), namespace=namespace)
    )
    made = json.loads(server.kubectl("create", *_before_dashes(words, "-o", "json"), namespace=namespace))
    assert _missing(wanted, made) == []


def _before_dashes(words: list[str], *flags: str) -> list[str]:
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *flags, *words[at:]]


def _missing(wanted: Any, made: Any, path: str = "") -> list[str]:
    """Paths of `wanted` that `made` lacks; what JSON shows as empty may be absent."""
    if isinstance(wanted, dict) and isinstance(made, dict):
        return [
            p for k, v in wanted.items() if v not in (None, {}, []) for p in _missing(v, made.get(k), f"{path}.{k}")
        ]
    if isinstance(wanted, list) and isinstance(made, list) and len(wanted) == len(made):
        return [p for i, v in enumerate(wanted) for p in _missing(v, made[i], f"{path}[{i}]")]
    return [] if wanted == made else [f"{path}: {wanted!r} is {made!r}"]


def test_output_forms(server: Server, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=text(pod("web", nodeName="node-1")), namespace=namespace)
    status = {"status": {"phase": "Running", "podIP": "10.0.0.7"}}
    path = f"/api/v1/namespaces/{namespace}/pods/web/status"
    assert server.request("PATCH", path, status, media="application/merge-patch+json")[0] == 200

    def get(*flags: str) -> list[list[str]]:
        return [line.split() for line in server.kubectl("get", "pod", *flags, namespace=namespace).splitlines()]

    assert get()[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert get()[1][:4] == ["web", "0/1", "Running", "0"]
    assert get("-o", "wide")[0][5:7] == ["IP", "NODE"]
    assert get("-o", "wide")[1][5:7] == ["10.0.0.7", "node-1"]
    assert get("-o", "name") == [["pod/web"]]
    assert get("--no-headers", "-o", "custom-columns=N:.metadata.name,P:.status.phase") == [["web", "Running"]]
    assert (
        yaml.safe_load(server.kubectl("get", "pod", "web", "-o", "yaml", namespace=namespace))["status"]["phase"]
        == "Running"
    )
    assert json.loads(server.kubectl("get", "pod", "-o", "json", namespace=namespace))["kind"] == "List"
    assert get("-l", "a=b") == []
    assert get("--field-selector", "spec.nodeName=node-1", "-o", "name") == [["pod/web"]]
    assert get("--sort-by=.metadata.name", "-o", "name") == [["pod/web"]]
    assert get("--show-labels")[1][-1] == "<none>"


def test_get_watches(server: Server, namespace: str, tmp_path: Path) -> None:
    output = tmp_path / "watched"
    command = server.command(
        "get", "cm", "-w", "--output-watch-events", "--field-selector=metadata.name=a", namespace=namespace
    )

    def lines() -> list[list[str]]:
        return [line.split()[:3] for line in output.read_text().splitlines()]

    with output.open("wb") as file:
        watching = subprocess.Popen(command, stdout=file)
    try:
        server.kubectl("create", "cm", "a", namespace=namespace)
        wait_for(lambda: ["ADDED", "a", "0"] in lines())
        server.kubectl("patch", "cm", "a", "-p", '{"data":{"x":"1"}}', namespace=namespace)
        wait_for(lambda: ["MODIFIED", "a", "1"] in lines())
        server.kubectl("delete", "cm", "a", namespace=namespace)
        wait_for(lambda: ["DELETED", "a", "1"] in lines())
        assert lines()[0] == ["EVENT", "NAME", "DATA"]
    finally:
        watching.kill()
        watching.wait()


def test_editing_commands(server: Server, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=text(deployment("web")), namespace=namespace)

    def show(path: str) -> str:
        return server.kubectl("get", "deploy", "web", "-o", f"jsonpath={{{path}}}", namespace=namespace)

    server.kubectl("label", "deploy", "web", "tier=front", namespace=namespace)
    server.kubectl("annotate", "deploy", "web", "note=x", namespace=namespace)
    server.kubectl("set", "image", "deploy/web", "c=example.org/app:2", namespace=namespace)
    server.kubectl("set", "env", "deploy/web", "A=1", namespace=namespace)
    server.kubectl("scale", "deploy", "web", "--replicas=4", namespace=namespace)
    assert (show(".metadata.labels.tier"), show(".metadata.annotations.note"), show(".spec.replicas")) == (
        "front",
        "x",
        "4",
    )
    assert (show("..image"), show("..env[0].value")) == ("example.org/app:2", "1")
    server.kubectl(
        "patch",
        "deploy",
        "web",
        "--type=json",
        "-p",
        '[{"op":"replace","path":"/spec/replicas","value":1}]',
        namespace=namespace,
    )
    server.kubectl(
        "patch", "deploy", "web", "--type=merge", "-p", '{"metadata":{"labels":{"tier":null}}}', namespace=namespace
    )
    assert (show(".spec.replicas"), show(".metadata.labels.tier")) == ("1", "")
    server.kubectl("rollout", "pause", "deploy/web", namespace=namespace)
    assert show(".spec.paused") == "true"
    assert "web" in server.kubectl("describe", "deploy", "web", namespace=namespace)
    server.kubectl("replace", "-f", "-", stdin=text(deployment("web", 6)), namespace=namespace)
    assert show(".spec.replicas") == "6"
    server.kubectl("expose", "deploy", "web", "--port=80", namespace=namespace)
    assert "app=web" in server.kubectl("get", "svc", "web", "-o", "wide", namespace=namespace)


def test_wait_and_rollout_status(server: Server, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=text(deployment("web")), namespace=namespace)
    waiting = subprocess.Popen(
        server.command("rollout", "status", "deploy/web", "--timeout=20s", namespace=namespace), stdout=subprocess.PIPE
    )
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web/status"
    server.request("PATCH", path, {"status": status}, media="application/merge-patch+json")
    output, _ = waiting.communicate(timeout=30)
    assert b"successfully rolled out" in output
    server.kubectl(
        "wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=1", "--timeout=10s", namespace=namespace
    )
    server.kubectl("delete", "deploy", "web", namespace=namespace)
    server.kubectl("wait", "deploy/web", "--for=delete", "--timeout=10s", namespace=namespace)


def test_custom_resources(server: Server, namespace: str) -> None:
    group = f"{namespace}.example.com"
    crd = json.loads(json.dumps(CRON_TABS).replace("stable.example.com", group))
    tab = {**cron_tab("a", replicas=3), "apiVersion": f"{group}/v1"}
    server.kubectl("apply", "-f", "-", stdin=text(crd))
    try:
        server.kubectl("wait", "--for=condition=Established", f"crd/crontabs.{group}", "--timeout=10s")
        server.kubectl("apply", "-f", "-", stdin=text(tab), namespace=namespace)
        rows = server.kubectl("get", f"crontabs.{group}", "-o", "wide", namespace=namespace).splitlines()
        assert [rows[0].split(), rows[1].split()[:7]] == [
            ["NAME", "SPEC", "REPLICAS", "AGE"],
            ["a", *("*" * 5), "3"],
        ]
        assert "When to run." in server.kubectl("explain", f"crontabs.{group}.spec.cronSpec")
        server.kubectl("scale", f"crontabs.{group}", "a", "--replicas=5", namespace=namespace)
        assert (
            server.kubectl("get", f"crontabs.{group}", "a", "-o", "jsonpath={.spec.replicas}", namespace=namespace)
            == "5"
        )
        bad = server.run(
            "apply", "-f", "-", stdin=text({**tab, "spec": {**tab["spec"], "nonsense": 1}}), namespace=namespace
        )
        assert 'unknown field "spec.nonsense"' in bad.stderr
        wrong = server.run(
            "apply", "-f", "-", stdin=text({**tab, "spec": {**tab["spec"], "replicas": 99}}), namespace=namespace
        )
        assert (
            "spec.replicas: Invalid value: 99: spec.replicas in body should be less than or equal to 10" in wrong.stderr
        )
        assert "serverside-applied" in server.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text(tab), namespace=namespace
        )
    finally:
        server.kubectl("delete", "crd", f"crontabs.{group}", "--timeout=20s")
    assert server.request("GET", f"/apis/{group}/v1/crontabs")[0] == 404


def test_a_pod_fits_into_a_namespace_just_made(server: Server) -> None:
    documents = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}}, pod("p")]
    documents[1]["metadata"]["namespace"] = "fresh"
    try:
        server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
    finally:
        server.kubectl("delete", "namespace", "fresh", "--wait=false")


def test_explain_and_resources(server: Server) -> None:
    assert "replicas\t<integer>" in server.kubectl("explain", "deployment.spec")
    assert "-required-" in server.kubectl("explain", "pod.spec.containers")
    rows = server.kubectl("api-resources", "--no-headers").splitlines()
    assert any(r.split()[:2] == ["services", "svc"] for r in rows)
    assert "apps/v1" in server.kubectl("api-versions").split()
    assert "v1.33" in server.kubectl("version")


def test_a_namespace_takes_its_content_along(server: Server) -> None:
    server.kubectl("create", "namespace", "ending")
    server.kubectl("create", "configmap", "a", namespace="ending")
    server.kubectl("run", "p", "--image=example.org/app:1", namespace="ending")
    server.kubectl("delete", "namespace", "ending", "--timeout=20s")
    assert "NotFound" in server.kubectl("get", "namespace", "ending", check=False)


@pytest.mark.parametrize(("policy", "stays"), [("background", False), ("foreground", False), ("orphan", True)])
def test_cascading_deletion(server: Server, namespace: str, policy: str, *, stays: bool) -> None:
    owner = json.loads(
        server.kubectl("create", "-f", "-", "-o", "json", stdin=text(deployment("web")), namespace=namespace)
    )
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "web",
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [reference]}}
    server.kubectl("create", "-f", "-", stdin=text(child), namespace=namespace)
    server.kubectl("delete", "deploy", "web", f"--cascade={policy}", "--timeout=20s", namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/configmaps/child"
    if stays:
        wait_for(lambda: "ownerReferences" not in server.request("GET", path)[1]["metadata"])
    else:
        wait_for(lambda: server.request("GET", path)[0] == 404)


def test_an_object_whose_owner_never_was_goes(server: Server, namespace: str) -> None:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "no-such-uid"}
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [reference]}}
    server.kubectl("create", "-f", "-", stdin=text(child), namespace=namespace)
    wait_for(lambda: server.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/child")[0] == 404)


def test_a_deleted_default_account_comes_back(server: Server, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    uid = server.request("GET", path)[1]["metadata"]["uid"]
    server.kubectl("delete", "serviceaccount", "default", namespace=namespace)
    wait_for(lambda: server.request("GET", path)[1].get("metadata", {}).get("uid", uid) != uid)


def test_services_get_addresses_of_both_families(server: Server, namespace: str) -> None:
    def make(name: str, **spec: Any) -> Any:
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": 80}], **spec},
        }
        return server.request("POST", f"/api/v1/namespaces/{namespace}/services", body)

    single = make("single")[1]["spec"]
    assert (single["ipFamilies"], single["ipFamilyPolicy"], len(single["clusterIPs"])) == (["IPv4"], "SingleStack", 1)
    dual = make("dual", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"])[1]["spec"]
    assert [":" in a for a in dual["clusterIPs"]] == [True, False]
    assert make("headless", clusterIP="None")[1]["spec"]["clusterIPs"] == ["None"]
    node = make("node", type="NodePort")[1]["spec"]["ports"][0]["nodePort"]
    assert 30000 <= node <= 32767
    taken = make("taken", clusterIP=single["clusterIP"])[1]
    assert taken["details"]["causes"][0]["field"] == "spec.clusterIPs"
    assert "provided IP is already allocated" in taken["message"]
    assert (
        "provided port is already allocated"
        in make("port", type="NodePort", ports=[{"port": 1, "nodePort": node}])[1]["message"]
    )
    server.kubectl("delete", "service", "single", namespace=namespace)
    assert make("again", clusterIP=single["clusterIP"])[0] == 201


def test_the_cluster_is_reachable_by_its_service(server: Server) -> None:
    spec = server.request("GET", "/api/v1/namespaces/default/services/kubernetes")[1]["spec"]
    assert spec["clusterIPs"] == ["10.96.0.1", "fd00:96::1"]
    (slice_,) = server.request("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")[1]["items"]
    assert slice_["endpoints"][0]["addresses"] == ["192.0.2.1"]


def test_eviction_binding_and_cordon(server: Server, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=text(pod("web")), namespace=namespace)
    base = f"/api/v1/namespaces/{namespace}/pods/web"
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "web"},
        "target": {"kind": "Node", "name": "node-1"},
    }
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    change = json.dumps({"status": {"conditions": [waiting]}})
    server.kubectl("patch", "pod", "web", "--subresource=status", "-p", change, namespace=namespace)
    assert server.request("POST", f"{base}/binding", binding)[0] == 201
    bound = server.request("GET", base)[1]
    assert bound["spec"]["nodeName"] == "node-1"
    (scheduled,) = [each for each in bound["status"]["conditions"] if each["type"] == "PodScheduled"]
    assert (scheduled["status"], "reason" in scheduled) == ("True", False)
    assert server.request("POST", f"{base}/binding", binding)[0] == 409
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "web"},
        "deleteOptions": {"gracePeriodSeconds": 0},
    }
    assert server.request("POST", f"{base}/eviction", eviction)[0] == 201
    assert server.request("GET", base)[0] == 404
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}}
    server.kubectl("create", "-f", "-", stdin=text(node))
    try:
        server.kubectl("cordon", namespace)
        server.kubectl("taint", "node", namespace, "a=b:NoSchedule")
        assert "SchedulingDisabled" in server.kubectl("get", "node", namespace)
        assert "a=b:NoSchedule" in server.kubectl("describe", "node", namespace)
    finally:
        server.kubectl("delete", "node", namespace)
