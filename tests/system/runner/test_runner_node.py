"""The runner itself: its node, its death and return, components as mirror pods, who may use its API."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.machine import ADDRESSES, Machine, node, pod, wait_for
from stentor.apiserver import pki


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with node(tmp_path_factory.mktemp("node")) as made:
        yield made


def ready(machine: Machine) -> dict[str, Any]:
    conditions = machine.get("node", "node-1")["status"].get("conditions", [])
    return next((dict(entry) for entry in conditions if entry["type"] == "Ready"), {})


def container(machine: Machine, name: str) -> dict[str, Any]:
    found = machine.get("pod", name) or {"status": {}}
    return dict((found["status"].get("containerStatuses") or [{}])[0])


def restart(machine: Machine) -> None:
    machine.start_runner()
    wait_for(
        "runner",
        lambda: (
            "certificate required"
            in machine.run("curl", "-sk", f"https://{ADDRESSES[0]}:10250/", check=False, env=None).stderr
            or machine.run("sh", "-c", "ss -ltn | grep -q :10250", check=False).returncode == 0
        ),
    )


def test_node_reports_itself(machine: Machine) -> None:
    found = machine.get("node", "node-1")
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == "node-1"
    internal = [entry["address"] for entry in found["status"]["addresses"] if entry["type"] == "InternalIP"]
    assert tuple(internal) == ADDRESSES
    assert found["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    assert found["status"]["allocatable"]["pods"] == "110"
    lease = wait_for("lease", lambda: machine.get("lease", "-n", "kube-node-lease", "node-1"))
    assert lease["spec"]["holderIdentity"] == "node-1"


def test_node_is_not_ready_without_a_network(machine: Machine) -> None:
    conflist = machine.directory / "net.d" / "10-bridge.conflist"
    away = conflist.with_suffix(".away")
    conflist.rename(away)
    try:
        condition = wait_for("not ready", lambda: (found := ready(machine))["status"] == "False" and found)
        assert condition["reason"] == "KubeletNotReady"
        assert condition["message"] == (
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            "message:Network plugin returns error: cni plugin not initialized"
        )
        machine.apply(pod("early"))
        events = wait_for("event", lambda: "network is not ready" in machine.kubectl("get", "events"))
        assert events
    finally:
        away.rename(conflist)
    wait_for("ready", lambda: ready(machine)["status"] == "True")
    machine.kubectl("wait", "--for=condition=Ready", "pod/early", "--timeout=30s")
    machine.kubectl("delete", "pod", "early")


def test_pods_outlive_a_killed_runner(machine: Machine) -> None:
    machine.apply(
        pod("stays"),
        pod("crashes", {"name": "main", "image": "busybox", "command": ["sleep", "1234"]}),
        pod("leaves"),
        pod("vanishes"),
    )
    for name in ("stays", "crashes", "leaves", "vanishes"):
        machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=20s")
    before = container(machine, "stays")
    uid = machine.get("pod", "vanishes")["metadata"]["uid"]
    assert machine.kill("runner", signal.SIGKILL) == 128 + signal.SIGKILL or True
    machine.run("sh", "-c", "kill -9 $(pgrep -fx 'sleep 1234')")
    machine.kubectl("delete", "pod", "leaves", "--wait=false")
    machine.kubectl("delete", "pod", "vanishes", "--force", "--grace-period=0")
    restart(machine)
    wait_for("restart", lambda: container(machine, "crashes").get("restartCount") == 1)
    wait_for("deletion", lambda: machine.get("pod", "leaves") is None)
    wait_for("clean-up", lambda: machine.run("ls", f"/run/stentor-lab/pods/{uid}", check=False).returncode != 0)
    after = container(machine, "stays")
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert "running" in after["state"]
    assert machine.kubectl("exec", "stays", "--", "echo", "alive") == "alive\n"
    machine.kubectl("delete", "pods", "stays", "crashes")
    wait_for(
        "no groups",
        lambda: machine.run("sh", "-c", "ls -d /sys/fs/cgroup/pods/pod* 2>/dev/null | wc -l").stdout == "0\n",
    )
    assert machine.run("ls", "/run/netns").stdout == ""


def test_sigterm_ends_the_runner_cleanly(machine: Machine) -> None:
    machine.apply(pod("sleeps"))
    machine.kubectl("wait", "--for=condition=Ready", "pod/sleeps", "--timeout=20s")
    assert machine.kill("runner", signal.SIGTERM) == 0
    assert machine.run("sh", "-c", "ls /sys/fs/cgroup/pods | grep -c pod").stdout == "1\n"
    restart(machine)
    machine.kubectl("delete", "pod", "sleeps")


def test_a_rebooted_machine_starts_its_pods_again(machine: Machine) -> None:
    done = {"name": "main", "image": "busybox", "command": ["true"]}
    machine.apply(pod("reboot"), pod("done", done, restartPolicy="Never"))
    machine.kubectl("wait", "--for=condition=Ready", "pod/reboot", "--timeout=20s")
    wait_for("end", lambda: (machine.get("pod", "done") or {})["status"].get("phase") == "Succeeded")
    machine.kill("runner")
    pods = "/sys/fs/cgroup/pods"
    unpin = "umount -l /run/netns/* /run/stentor-lab/pods/*/[iu]*; rm -rf /run/stentor-lab"
    remove = f"while [ -d {pods} ]; do find {pods} -depth -type d -exec rmdir {{}} + 2>/dev/null; done"
    machine.run("sh", "-c", f"echo 1 > {pods}/cgroup.kill; {unpin}; {remove}")
    restart(machine)
    wait_for("restart", lambda: container(machine, "reboot").get("restartCount") == 1)
    machine.kubectl("wait", "--for=condition=Ready", "pod/reboot", "--timeout=20s")
    assert container(machine, "reboot")["lastState"]["terminated"]["exitCode"] == 255
    assert container(machine, "done")["state"]["terminated"]["reason"] == "Completed"
    machine.kubectl("delete", "pods", "reboot", "done")


def component(name: str, directory: Path) -> dict[str, Any]:
    notes = {
        "lab.stentor.io/log": str(directory / f"{name}.text"),
        "lab.stentor.io/pid": str(directory / f"{name}.pid"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-node-1",
            "namespace": "kube-system",
            "labels": {"k8s-app": name},
            "annotations": notes,
        },
        "spec": {"hostNetwork": True, "containers": [{"name": "agent", "image": "stentor"}]},
    }


def test_components_are_mirror_pods(machine: Machine) -> None:
    directory = machine.directory
    (directory / "agent.text").write_text("first line\nsecond line\n")
    (directory / "agent.pid").write_text("1\n")
    (directory / "components" / "agent.json").write_text(json.dumps(component("agent", directory)))
    kube_system = ("-n", "kube-system")
    wait_for("pod", lambda: machine.get(*kube_system, "pod", "agent-node-1"))
    machine.kubectl(*kube_system, "wait", "--for=condition=Ready", "pod/agent-node-1", "--timeout=20s")
    found = machine.get(*kube_system, "pod", "agent-node-1")
    assert found["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Node"
    assert found["status"]["podIP"] == ADDRESSES[0]
    assert machine.kubectl(*kube_system, "logs", "agent-node-1", "--tail=1") == "second line\n"
    net = machine.run("readlink", "/proc/self/ns/net").stdout
    assert machine.kubectl(*kube_system, "exec", "agent-node-1", "--", "readlink", "/proc/self/ns/net") == net
    machine.kubectl(*kube_system, "delete", "pod", "agent-node-1", "--wait=false")
    wait_for(
        "new pod",
        lambda: (
            (new := machine.get(*kube_system, "pod", "agent-node-1"))
            and new["metadata"]["uid"] != found["metadata"]["uid"]
        ),
    )
    (directory / "agent.pid").write_text("")
    machine.kubectl(*kube_system, "wait", "--for=condition=Ready=false", "pod/agent-node-1", "--timeout=20s")
    (directory / "components" / "agent.json").unlink()
    wait_for("no pod", lambda: machine.get(*kube_system, "pod", "agent-node-1") is None)


def test_kubelet_api_wants_the_api_server(machine: Machine) -> None:
    files = pki.Files(machine.directory / "apiserver" / "pki")
    stranger = pki.make_client(pki.load_authority(files.read_pair("ca")), "system:node:node-2", ("system:nodes",))
    files.write_pair("stranger", stranger)
    other = pki.make_authority("other")
    files.write_pair("foreign", pki.make_client(other, "kube-apiserver-kubelet-client", ("system:masters",)))

    def ask(pair: str | None) -> subprocess.CompletedProcess[str]:
        words = ["curl", "-s", "-m", "10", "-w", "%{http_code}", "--cacert", str(files.path("ca.crt"))]
        if pair is not None:
            words += ["--cert", str(files.path(f"{pair}.crt")), "--key", str(files.path(f"{pair}.key"))]
        return machine.run(*words, f"https://{ADDRESSES[0]}:10250/healthz", check=False)

    assert ask(None).returncode != 0
    assert ask("foreign").returncode != 0
    assert ask("stranger").stdout.endswith("403")
    assert ask("apiserver-kubelet-client").stdout == "ok200"


def test_a_chain_of_plugins(machine: Machine) -> None:
    """bridge + tuning: the second plugin gets the first one's result, and changes the pod's namespace."""
    path = machine.directory / "net.d" / "10-bridge.conflist"
    document = json.loads(path.read_text())
    plain = path.read_text()
    document["plugins"].append({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}})
    path.write_text(json.dumps(document))
    try:
        machine.apply(pod("chained"))
        machine.kubectl("wait", "--for=condition=Ready", "pod/chained", "--timeout=20s")
        assert machine.kubectl("exec", "chained", "--", "cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify") == "1\n"
        address = machine.get("pod", "chained")["status"]["podIP"]
        reserved = machine.directory / "ipam" / "bridge" / address
        assert reserved.exists()
        machine.kubectl("delete", "pod", "chained")
        wait_for("address released", lambda: not reserved.exists())
    finally:
        path.write_text(plain)


def test_flags_are_checked(machine: Machine) -> None:
    machine.start(
        "wrong", "stentor.lab.runner.command", "--kubeconfig", "/nowhere", "--node-name", "x", "--node-ip", "1.2.3.4"
    )
    wait_for("message", lambda: "/nowhere: No such file" in machine.log("wrong"))
