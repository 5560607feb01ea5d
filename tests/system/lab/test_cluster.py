"""A cluster in the lab as its user finds it: ready, reachable by kubectl, and healing from what `lab kill` does."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labs.lab import KUBECTL, Lab, LabFactory, eventually, remove, run

MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: apps}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: apps}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: apps}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: my/web, readinessProbe: {httpGet: {port: 8000, path: /}, periodSeconds: 1}}
"""


def topology(manifest: Path) -> dict[str, Any]:
    nodes = [{"name": f"n{i}", "labels": {"rack": f"r{i}"}, "networks": [{"name": "lan"}]} for i in (1, 2)]
    return {
        "apiVersion": "lab.stentor.io/v1",
        "kind": "Topology",
        "metadata": {"name": "cluster"},
        "spec": {
            "networks": [{"name": "lan", "cidrs": ["172.18.5.0/24", "fd00:18:5::/64"]}],
            "clusters": [{"name": "blue", "controlPlane": "n2", "nodes": nodes}],
            "hosts": [{"name": "outside", "networks": [{"name": "lan"}]}],
            "images": {"my/web": {"command": ["python3", "-m", "http.server", "8000"]}},
            "manifests": [str(manifest)],
        },
    }


@pytest.fixture(scope="module")
def cluster(lab_maker: LabFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    manifest = tmp_path_factory.mktemp("manifests") / "web.yaml"
    manifest.write_text(MANIFEST)
    made = lab_maker(topology(manifest))
    yield made
    remove(made)


def ready_nodes(lab: Lab) -> set[str]:
    nodes = lab.objects("nodes")["items"]
    conditions = {n["metadata"]["name"]: {c["type"]: c["status"] for c in n["status"]["conditions"]} for n in nodes}
    return {name for name, found in conditions.items() if found.get("Ready") == "True"}


def test_nodes_are_ready_when_up_returns(cluster: Lab) -> None:
    assert ready_nodes(cluster) == {"n1", "n2"}
    assert cluster.run("status").returncode == 0


def test_nodes_carry_labels_and_addresses_of_the_topology(cluster: Lab) -> None:
    node = cluster.objects("node", "n1")
    labels = node["metadata"]["labels"]
    assert labels["rack"] == "r1"
    assert labels["kubernetes.io/hostname"] == "n1"
    assert labels["kubernetes.io/os"] == "linux"
    assert "kubernetes.io/arch" in labels
    internal = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    assert internal == ["172.18.5.2", "fd00:18:5::2"]


def test_kubeconfig_has_the_clusters_as_contexts(cluster: Lab) -> None:
    config = yaml.safe_load(cluster.place.kubeconfig.read_text())
    assert [context["name"] for context in config["contexts"]] == ["blue"]
    assert config["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")
    assert cluster.run("kubeconfig").stdout.strip() == str(cluster.place.kubeconfig)
    own = cluster.run("kubeconfig", "--cluster", "blue").stdout.strip()
    assert yaml.safe_load(Path(own).read_text())["current-context"] == "blue"
    assert cluster.place.kubeconfig.stat().st_mode & 0o077 == 0


def test_components_are_pods_with_upstream_labels(cluster: Lab) -> None:
    def running(selector: str) -> list[str]:
        pods = cluster.objects("pods", "-n", "kube-system", "-l", selector)["items"]
        return sorted(p["spec"]["nodeName"] for p in pods if p["status"]["phase"] == "Running")

    eventually(lambda: running("k8s-app=cilium") == ["n1", "n2"])
    eventually(lambda: running("io.cilium/app=operator") == ["n2"])
    eventually(lambda: running("component=kube-apiserver") == ["n2"])
    assert "Ready" in cluster.kubectl("-n", "kube-system", "logs", "cilium-n1").stdout


def test_machines_hold_their_configuration_and_only_their_keys(cluster: Lab) -> None:
    values = yaml.safe_load(cluster.exec("n1", "cat", "/etc/stentor/values.yaml").stdout)
    assert values["cluster"] == {"name": "blue", "id": 0}
    assert values["ipv6"] == {"enabled": True}
    assert values["bpf"]["ipcacheMax"] == 32768
    assert cluster.exec("n1", "sh", "-c", "cd /etc/kubernetes/pki; ls").stdout.split() == [
        "ca.crt",
        "kubelet.crt",
        "kubelet.key",
    ]
    assert "ca.key" in cluster.exec("n2", "ls", "/etc/kubernetes/pki").stdout
    nodes = cluster.exec("n2", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "nodes", "-o", "name")
    assert nodes.stdout.split() == ["node/n1", "node/n2"]


def web_is_ready(lab: Lab) -> bool:
    status = lab.objects("deployment", "web", "-n", "apps")["status"]
    return bool(status.get("readyReplicas") == 2)


def test_manifests_and_images_of_the_topology(cluster: Lab) -> None:
    assert cluster.objects("configmap", "settings", "-n", "apps")["data"] == {"colour": "blue"}
    eventually(lambda: web_is_ready(cluster))
    for pod in cluster.objects("pods", "-n", "apps")["items"]:
        for node in ("n1", "n2"):
            url = f"http://{pod['status']['podIP']}:8000/etc/hostname"
            assert cluster.exec(node, "curl", "-sf", "-m5", url).stdout == f"{pod['metadata']['name']}\n"


def test_a_short_command_on_a_terminal_ends_without_a_word(cluster: Lab) -> None:
    pods = cluster.kubectl("get", "pods", "-n", "apps", "-o", "name").stdout.split()
    for pod in pods * 8:
        kubectl = shlex.join([str(KUBECTL), "exec", "-n", "apps", "-it", pod, "--", "true"])
        on_terminal = ["script", "-qec", kubectl, "/dev/null"]
        assert "Error" not in run(on_terminal, cluster.kube_environment, True, stdin=subprocess.DEVNULL).stdout


@pytest.mark.parametrize(("target", "machine"), [("n1/agent", "n1"), ("blue/operator", "n2"), ("n1/runner", "n1")])
def test_a_killed_component_is_started_again(cluster: Lab, target: str, machine: str) -> None:
    name = target.partition("/")[2]

    def process() -> Any:
        machines = {m["name"]: m for m in cluster.status()["machines"]}
        return {p["name"]: p for p in machines[machine]["processes"]}[name]

    before = process()
    assert cluster.run("kill", target).stdout == f"{machine}/{name} killed\n"
    eventually(lambda: process()["state"] == "Running" and process()["pid"] != before["pid"])
    eventually(lambda: ready_nodes(cluster) == {"n1", "n2"})


def test_a_killed_api_server_keeps_what_it_acknowledged(cluster: Lab) -> None:
    for number in range(5):
        cluster.kubectl("create", "configmap", f"kept-{number}", "-n", "apps", "--from-literal", "a=b")
    cluster.run("kill", "blue/apiserver")
    eventually(lambda: cluster.kubectl("get", "ns", check=False).returncode == 0)
    names = {c["metadata"]["name"] for c in cluster.objects("configmaps", "-n", "apps")["items"]}
    assert {f"kept-{number}" for number in range(5)} <= names


def test_a_rebooted_node_comes_back(cluster: Lab) -> None:
    """Its pods are started again: everything but the disk is gone, so old addresses would lead nowhere."""

    def containers() -> set[str]:
        pods = cluster.objects("pods", "-n", "apps", "--field-selector", "spec.nodeName=n1")["items"]
        return {p["status"]["containerStatuses"][0]["containerID"] for p in pods}

    def all_answer() -> bool:
        pods = cluster.objects("pods", "-n", "apps")["items"]
        addresses = [pod["status"].get("podIP") for pod in pods]
        urls = [f"http://{address}:8000/etc/hostname" for address in addresses if address]
        answers = [cluster.exec("n2", "curl", "-sf", "-m2", url, check=False).stdout.strip() for url in urls]
        return answers == [pod["metadata"]["name"] for pod in pods]

    before = containers()
    cluster.run("restart", "n1")
    eventually(lambda: not containers() & before)
    eventually(lambda: ready_nodes(cluster) == {"n1", "n2"} and web_is_ready(cluster))
    eventually(all_answer)


def test_a_manifest_that_is_refused_fails_the_start(lab_maker: LabFactory, tmp_path: Path) -> None:
    manifest = tmp_path / "bad.yaml"
    manifest.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 99999}]}\n")
    spec = topology(manifest)
    spec["spec"]["clusters"][0]["nodes"].pop()
    spec["spec"]["clusters"][0]["controlPlane"] = "n1"
    with pytest.raises(AssertionError, match=r"bad\.yaml: Service s: .*spec\.ports\[0\]\.port"):
        lab_maker(spec)
