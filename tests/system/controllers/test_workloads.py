"""Workloads end to end: kubectl, the API server, the controllers and a node that runs the pods."""

from __future__ import annotations

import signal
from typing import Any

from nodes.machine import Machine, wait_for

ECHO = "registry.k8s.io/gateway-api/conformance/echo-basic:v1"


def template(app: str, image: str = ECHO) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1}
    container = {
        "name": "echo",
        "image": image,
        "ports": [{"name": "http", "containerPort": 3000}],
        "readinessProbe": probe,
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    spec = {"terminationGracePeriodSeconds": 2, "containers": [container]}
    return {"metadata": {"labels": {"app": app}}, "spec": spec}


def workload(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    body = {"selector": {"matchLabels": {"app": name}}, "template": template(name), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": body}


def pods(machine: Machine, app: str) -> list[dict[str, Any]]:
    return list(machine.get("pods", "-l", f"app={app}")["items"])


def rollout(machine: Machine, *words: str) -> str:
    return machine.kubectl("rollout", *words)


def test_deployment_rolls_out_back_and_scales(machine: Machine) -> None:
    machine.apply(workload("Deployment", "web", replicas=3))
    assert "successfully rolled out" in rollout(machine, "status", "deployment/web", "--timeout=30s")
    first = {entry["metadata"]["name"] for entry in pods(machine, "web")}
    assert len(first) == 3
    machine.kubectl("set", "env", "deployment/web", "ROUND=2")
    assert "successfully rolled out" in rollout(machine, "status", "deployment/web", "--timeout=60s")
    wait_for("old pods gone", lambda: len(pods(machine, "web")) == 3)
    assert not first & {entry["metadata"]["name"] for entry in pods(machine, "web")}
    history = rollout(machine, "history", "deployment/web").splitlines()
    assert [line.split()[0] for line in history if line[:1].isdigit()] == ["1", "2"]
    rollout(machine, "undo", "deployment/web")
    assert "successfully rolled out" in rollout(machine, "status", "deployment/web", "--timeout=60s")
    sets = machine.get("replicasets", "-l", "app=web")["items"]
    revisions = {
        entry["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: entry["spec"]["replicas"]
        for entry in sets
    }
    assert revisions == {"2": 0, "3": 3}
    machine.kubectl("scale", "deployment/web", "--replicas=1")
    wait_for("scaled", lambda: len(pods(machine, "web")) == 1)
    conditions = {entry["type"]: entry["status"] for entry in machine.get("deployment", "web")["status"]["conditions"]}
    assert conditions == {"Available": "True", "Progressing": "True"}
    machine.kubectl("delete", "deployment", "web")
    wait_for(
        "nothing left", lambda: not pods(machine, "web") and not machine.get("replicasets", "-l", "app=web")["items"]
    )


def test_replicaset_replaces_what_is_lost(machine: Machine) -> None:
    machine.apply(workload("ReplicaSet", "set", replicas=2))
    wait_for("pods", lambda: len(pods(machine, "set")) == 2)
    victim = pods(machine, "set")[0]["metadata"]["name"]
    machine.kubectl("delete", "pod", victim)
    wait_for("ready", lambda: machine.get("replicaset", "set")["status"].get("readyReplicas") == 2)
    names = {entry["metadata"]["name"] for entry in pods(machine, "set")}
    assert victim not in names
    assert len(names) == 2
    machine.kubectl("delete", "replicaset", "set")


def test_daemonset_follows_nodes(machine: Machine) -> None:
    machine.apply(workload("DaemonSet", "daemon"))
    assert "successfully rolled out" in rollout(machine, "status", "daemonset/daemon", "--timeout=30s")
    (only,) = pods(machine, "daemon")
    assert only["spec"]["nodeName"] == "node-1"
    machine.kubectl("set", "env", "daemonset/daemon", "ROUND=2")
    assert "successfully rolled out" in rollout(machine, "status", "daemonset/daemon", "--timeout=60s")
    machine.kubectl("delete", "daemonset", "daemon")
    wait_for("gone", lambda: not pods(machine, "daemon"))


def test_endpointslices_follow_readiness_and_termination(machine: Machine) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    machine.apply(
        workload("Deployment", "backend", replicas=2),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "backend", "namespace": "default"},
            "spec": {"selector": {"app": "backend"}, "ports": ports},
        },
    )

    def endpoints() -> list[dict[str, Any]]:
        slices = machine.get("endpointslices", "-l", "kubernetes.io/service-name=backend")["items"]
        return [endpoint for entry in slices for endpoint in entry.get("endpoints") or []]

    wait_for("two ready", lambda: [entry["conditions"]["ready"] for entry in endpoints()] == [True, True])
    slices = machine.get("endpointslices", "-l", "kubernetes.io/service-name=backend")["items"]
    assert [(port["name"], port["port"]) for port in slices[0]["ports"]] == [("http", 3000)]
    assert endpoints()[0]["nodeName"] == "node-1"
    machine.kubectl("scale", "deployment/backend", "--replicas=1")
    wait_for("one left", lambda: len(endpoints()) == 1)
    machine.kubectl("delete", "service", "backend")
    wait_for(
        "slices gone", lambda: not machine.get("endpointslices", "-l", "kubernetes.io/service-name=backend")["items"]
    )
    machine.kubectl("delete", "deployment", "backend")


def test_pods_that_fit_nowhere_are_told_and_wait(machine: Machine) -> None:
    body = template("picky")
    body["metadata"]["name"] = "picky"
    body["spec"]["nodeSelector"] = {"disk": "ssd"}
    machine.apply({"apiVersion": "v1", "kind": "Pod", **body})

    def message() -> str:
        conditions = machine.get("pod", "picky")["status"].get("conditions", [])
        return next((entry.get("message", "") for entry in conditions if entry["type"] == "PodScheduled"), "")

    wait_for(
        "refusal", lambda: message() == "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    )
    machine.kubectl("label", "node", "node-1", "disk=ssd")
    machine.kubectl("wait", "--for=condition=Ready", "pod/picky", "--timeout=30s")
    machine.kubectl("delete", "pod", "picky")


def test_cordoned_nodes_take_no_pods(machine: Machine) -> None:
    machine.kubectl("cordon", "node-1")
    machine.apply(workload("Deployment", "late", replicas=1))
    try:
        wait_for(
            "pending",
            lambda: "unschedulable" in machine.kubectl("get", "events", "--field-selector=reason=FailedScheduling"),
        )
    finally:
        machine.kubectl("uncordon", "node-1")
    rollout(machine, "status", "deployment/late", "--timeout=30s")
    machine.kubectl("delete", "deployment", "late")


def test_a_silent_node_becomes_unreachable_and_comes_back(machine: Machine) -> None:
    machine.kill("controllers", signal.SIGTERM)
    flags = ("--kubeconfig", str(machine.kubeconfig()), "--node-grace-s", "2")
    machine.start("controllers", "stentor.lab.controllers.command", *flags)
    machine.apply(workload("Deployment", "stays", replicas=1))
    rollout(machine, "status", "deployment/stays", "--timeout=30s")
    machine.kill("runner")
    machine.kubectl("wait", "--for=condition=Ready=Unknown", "node/node-1", "--timeout=30s")
    wait_for(
        "taint", lambda: "node.kubernetes.io/unreachable" in str(machine.get("node", "node-1")["spec"].get("taints"))
    )
    (only,) = pods(machine, "stays")
    wait_for(
        "pod not ready",
        lambda: machine.kubectl(
            "wait", "--for=condition=Ready=false", "pod", only["metadata"]["name"], "--timeout=1s", check=False
        ),
    )
    machine.start_runner()
    machine.kubectl("wait", "--for=condition=Ready", "node/node-1", "--timeout=30s")
    wait_for("no taint", lambda: not machine.get("node", "node-1")["spec"].get("taints"))
    machine.kubectl("wait", "--for=condition=Ready", "pod", only["metadata"]["name"], "--timeout=30s")
