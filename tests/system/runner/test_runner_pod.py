"""Pods on a real node: started over CNI, seen and entered with kubectl, ended in order."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

from nodes.machine import Machine, pod, wait_for

FIELDS = ("path", "host", "method", "proto", "headers", "httpPort", "namespace", "ingress", "service", "pod")
ECHO = "registry.k8s.io/gateway-api/conformance/echo-basic:v20240412"


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script], **fields}


def phase(machine: Machine, name: str) -> str:
    found = machine.get("pod", name)
    return str(found["status"].get("phase", "")) if found else ""


def container(machine: Machine, name: str, index: int = 0) -> dict[str, Any]:
    found = machine.get("pod", name)
    statuses = (found or {}).get("status", {}).get("containerStatuses") or [{}]
    return dict(statuses[index])


def run_pod(machine: Machine, body: dict[str, Any]) -> None:
    machine.apply(body)
    name = body["metadata"]["name"]
    machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=20s")


def test_echo_answers_on_both_families(machine: Machine) -> None:
    fields = [("POD_NAME", "metadata.name"), ("NAMESPACE", "metadata.namespace")]
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields]
    probe = {"httpGet": {"path": "/health", "port": 3000}}
    run_pod(machine, pod("echo", {"name": "echo", "image": ECHO, "env": env, "readinessProbe": probe}))
    status = machine.get("pod", "echo")["status"]
    addresses = [entry["ip"] for entry in status["podIPs"]]
    assert [":" in address for address in addresses] == [False, True]
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        answer = machine.run("curl", "-s", "-H", "x-echo-set-header: A: b", "-D-", f"http://{host}:3000/a?b=c").stdout
        head, _, body = answer.partition("\n\n")
        seen = json.loads(body)
        assert "A: b" in head
        assert list(seen) == [*FIELDS]
        assert (seen["path"], seen["pod"], seen["namespace"]) == ("/a?b=c", "echo", "default")
        assert seen["headers"]["User-Agent"][0].startswith("curl/")
    assert _unshared_kib(machine, "echo") <= 3 * 1024


def _unshared_kib(machine: Machine, name: str) -> int:
    """Of the process behind the pod, found by its cgroup."""
    uid = machine.get("pod", name)["metadata"]["uid"]
    script = (
        f"for p in $(cat /sys/fs/cgroup/pods/pod{uid}/*-0/cgroup.procs); do "
        "awk '/^Private/ {n += $2} END {print n}' /proc/$p/smaps_rollup; done"
    )
    return max(int(word) for word in machine.run("sh", "-c", script).stdout.split())


def test_logs(machine: Machine) -> None:
    run_pod(machine, pod("logs", shell("echo one; echo two; echo three; exec sleep 100")))
    wait_for("three lines", lambda: machine.kubectl("logs", "logs").count("\n") == 3)
    assert machine.kubectl("logs", "logs") == "one\ntwo\nthree\n"
    assert machine.kubectl("logs", "logs", "--tail=1") == "three\n"
    assert machine.kubectl("logs", "logs", "--limit-bytes=3") == "one"
    stamped = machine.kubectl("logs", "logs", "--timestamps").splitlines()[0]
    assert stamped.endswith("Z one")
    assert machine.kubectl("logs", "logs", "--since=1h").count("\n") == 3


def test_follow_ends_with_the_container(machine: Machine) -> None:
    script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done"
    machine.apply(pod("follow", shell(script), restartPolicy="Never"))
    wait_for("start", lambda: phase(machine, "follow") in ("Running", "Succeeded"))
    assert machine.kubectl("logs", "-f", "follow") == "1\n2\n3\n4\n5\n6\n"


def test_exec_passes_streams_and_status(machine: Machine) -> None:
    run_pod(machine, pod("exec"))
    command = machine.kubectl_command("exec", "-i", "exec", "--", "sh", "-c", "cat; echo err >&2; exit 3")
    data = os.urandom(300_000).hex()
    done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=30)
    assert done.stdout == data
    assert "err\n" in done.stderr
    assert done.returncode == 3
    missing = machine.kubectl_command("exec", "exec", "--", "no-such-program")
    done = subprocess.run(missing, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "no-such-program" in done.stderr


def test_exec_on_a_terminal(machine: Machine) -> None:
    run_pod(machine, pod("terminal"))
    leader, follower = pty.openpty()
    command = machine.kubectl_command(
        "exec", "-it", "terminal", "--", "sh", "-c", "tty; stty size; read x; echo got=$x; exit 5"
    )
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    seen = b""
    while b"/dev/pts/" not in seen:
        seen += os.read(leader, 1000)
    os.write(leader, b"hello\n")
    while b"got=hello" not in seen:
        seen += os.read(leader, 1000)
    assert process.wait(timeout=20) == 5
    os.close(leader)


def test_environment_and_volumes(machine: Machine) -> None:
    machine.kubectl("create", "configmap", "settings", "--from-literal=color=red", "--from-literal=file.txt=content")
    machine.kubectl("create", "secret", "generic", "hidden", "--from-literal=key=s3cret")
    env = [
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(COLOR)-$(SECRET)-$(NOPE)"},
    ]
    mounts = [
        {"name": "settings", "mountPath": "/etc/settings"},
        {"name": "hidden", "mountPath": "/run/hidden", "readOnly": True},
        {"name": "labels", "mountPath": "/etc/labels"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]
    volumes = [
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "hidden", "secret": {"secretName": "hidden", "defaultMode": 0o400}},
        {
            "name": "labels",
            "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]},
        },
        {"name": "scratch", "emptyDir": {}},
    ]
    body = pod(
        "env",
        {"name": "main", "image": "busybox", "command": ["sleep", "100"], "env": env, "volumeMounts": mounts},
        {"name": "other", "image": "busybox", "command": ["sleep", "100"], "volumeMounts": mounts[3:]},
        volumes=volumes,
    )
    body["metadata"]["labels"] = {"app": "x"}
    run_pod(machine, body)

    def inside(script: str, name: str = "main") -> str:
        return machine.kubectl("exec", "env", "-c", name, "--", "sh", "-c", script).strip()

    address = machine.get("pod", "env")["status"]["podIP"]
    assert inside("echo $COLOR $SECRET $IP $BOTH $HOSTNAME") == f"red s3cret {address} red-s3cret-$(NOPE) env"
    assert inside("echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT") == "10.96.0.1:443"
    assert inside("cat /etc/settings/file.txt /run/hidden/key /etc/labels/labels") == 'contents3cretapp="x"'
    assert inside("touch /etc/settings/x 2>&1 || echo refused").endswith("refused")
    assert inside("cat /etc/hosts | tail -2; cat /etc/resolv.conf").splitlines()[-3:] == [
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "options ndots:5",
    ]
    inside("echo shared > /scratch/file")
    assert inside("cat /scratch/file", "other") == "shared"
    token = inside("cat /var/run/secrets/kubernetes.io/serviceaccount/token")
    assert token.count(".") == 2
    assert inside("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace") == "default"


def test_containers_share_network_and_hostname_not_processes(machine: Machine) -> None:
    sleeper = ["sleep", "123"]
    run_pod(
        machine,
        pod("two", *({"name": name, "image": "busybox", "command": sleeper} for name in ("a", "b"))),
    )
    seen = [
        machine.kubectl(
            "exec", "two", "-c", name, "--", "sh", "-c", "hostname; readlink /proc/self/ns/net /proc/self/ns/ipc"
        )
        for name in ("a", "b")
    ]
    assert seen[0] == seen[1]
    assert (
        machine.kubectl("exec", "two", "-c", "a", "--", "sh", "-c", "ps -eo args= | grep -cx 'sleep 123'").strip()
        == "1"
    )


def test_init_containers_run_in_order_before_the_others(machine: Machine) -> None:
    mounts = [{"name": "x", "mountPath": "/x"}]
    init = [
        {"name": f"i{n}", "image": "busybox", "command": ["sh", "-c", f"echo {n} >> /x/order"], "volumeMounts": mounts}
        for n in (1, 2)
    ]
    main = shell("echo main >> /x/order; cat /x/order; exec sleep 100", volumeMounts=mounts)
    run_pod(machine, pod("init", main, initContainers=init, volumes=[{"name": "x", "emptyDir": {}}]))
    wait_for("log", lambda: machine.kubectl("logs", "init") == "1\n2\nmain\n")
    states = machine.get("pod", "init")["status"]["initContainerStatuses"]
    assert [entry["state"]["terminated"]["reason"] for entry in states] == ["Completed", "Completed"]


def test_failing_init_container_fails_the_pod(machine: Machine) -> None:
    init = [{"name": "i", "image": "busybox", "command": ["sh", "-c", "exit 4"]}]
    machine.apply(pod("bad-init", initContainers=init, restartPolicy="Never"))
    wait_for("failure", lambda: phase(machine, "bad-init") == "Failed")
    status = machine.get("pod", "bad-init")["status"]
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_restart_policies(machine: Machine) -> None:
    machine.apply(
        pod("good", shell("exit 0"), restartPolicy="OnFailure"),
        pod("bad", shell("echo last words > /dev/termination-log; kill -9 $$$$"), restartPolicy="Never"),
        pod("crash", shell("echo try; exit 7")),
    )
    wait_for("good", lambda: phase(machine, "good") == "Succeeded")
    wait_for("bad", lambda: phase(machine, "bad") == "Failed")
    ended = container(machine, "bad")["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (137, "last words\n")
    wait_for("back-off", lambda: "CrashLoopBackOff" in json.dumps(container(machine, "crash").get("state", {})))
    seen = container(machine, "crash")
    assert seen["restartCount"] == 1
    assert seen["state"]["waiting"]["message"].startswith("back-off 10s restarting failed container=main")
    assert seen["lastState"]["terminated"]["exitCode"] == 7
    assert machine.kubectl("logs", "crash", "--previous") == "try\n"
    wait_for(
        "event",
        lambda: (
            "BackOff" in machine.kubectl("get", "events", "-o", "name", "--field-selector=reason=BackOff")
            or "BackOff" in machine.kubectl("get", "events")
        ),
    )


def test_a_missing_command_is_told(machine: Machine) -> None:
    machine.apply(pod("nothing", {"name": "main", "image": "busybox", "command": ["/no/such"]}, restartPolicy="Never"))
    wait_for("failure", lambda: phase(machine, "nothing") == "Failed")
    ended = container(machine, "nothing")["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert "/no/such" in ended["message"]


def test_unknown_image_says_how_to_map_it(machine: Machine) -> None:
    machine.apply(pod("image", {"name": "main", "image": "example.com/my/app:v1"}))
    wait_for(
        "state", lambda: container(machine, "image").get("state", {}).get("waiting", {}).get("reason") == "ErrImagePull"
    )
    message = container(machine, "image")["state"]["waiting"]["message"]
    assert "spec.images: {example.com/my/app: {command:" in message


def test_missing_configmap_is_told_and_waited_for(machine: Machine) -> None:
    source = [{"configMapRef": {"name": "later"}}]
    machine.apply(pod("waits", {"name": "main", "image": "busybox", "command": ["sleep", "100"], "envFrom": source}))
    wait_for(
        "state",
        lambda: (
            container(machine, "waits").get("state", {}).get("waiting", {}).get("reason")
            == "CreateContainerConfigError"
        ),
    )
    assert container(machine, "waits")["state"]["waiting"]["message"] == 'configmap "later" not found'
    machine.kubectl("create", "configmap", "later", "--from-literal=a=b")
    machine.kubectl("wait", "--for=condition=Ready", "pod/waits", "--timeout=30s")


def test_liveness_restarts_and_readiness_gates(machine: Machine) -> None:
    quick = {"periodSeconds": 1, "failureThreshold": 1}
    alive = {"exec": {"command": ["test", "-e", "/tmp/alive"]}, "initialDelaySeconds": 1, **quick}
    ready = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **quick}
    script = "touch /tmp/alive; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    machine.apply(pod("probes", shell(script, livenessProbe=alive, readinessProbe=ready)))
    wait_for("start", lambda: "running" in container(machine, "probes").get("state", {}))
    assert container(machine, "probes")["ready"] is False
    machine.kubectl("exec", "probes", "--", "touch", "/tmp/ready")
    machine.kubectl("wait", "--for=condition=Ready", "pod/probes", "--timeout=20s")
    machine.kubectl("exec", "probes", "--", "rm", "/tmp/ready")
    wait_for("unready", lambda: container(machine, "probes")["ready"] is False)
    machine.kubectl("exec", "probes", "--", "rm", "/tmp/alive")
    wait_for("restart", lambda: container(machine, "probes")["restartCount"] == 1)
    events = wait_for("events", lambda: _events(machine, "probes", "Killing"))
    assert "Container main failed liveness probe, will be restarted" in events


def _events(machine: Machine, name: str, reason: str) -> list[str]:
    selector = f"involvedObject.name={name},reason={reason}"
    found = machine.get("events", f"--field-selector={selector}")
    return [entry["message"] for entry in found["items"]]


def test_a_pod_that_others_made_unready_is_ready_again(machine: Machine) -> None:
    """The node controller does so to the pods of a node that was silent for a while."""
    run_pod(machine, pod("silenced", shell("sleep 1000")))
    off = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    machine.kubectl("patch", "pod", "silenced", "--subresource=status", "-p", json.dumps(off))
    machine.kubectl("wait", "--for=condition=Ready", "pod/silenced", "--timeout=20s")


def test_termination_is_graceful_and_complete(machine: Machine, tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    run_pod(machine, pod("ends", shell(script), terminationGracePeriodSeconds=20))
    uid = machine.get("pod", "ends")["metadata"]["uid"]
    follow = subprocess.Popen(machine.kubectl_command("logs", "-f", "ends"), stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    assert follow.stdout.readline() == "up\n"
    machine.kubectl("delete", "pod", "ends", "--wait")
    assert follow.communicate(timeout=20)[0] == "bye\n"
    assert machine.get("pod", "ends") is None
    script = f"ls -d /sys/fs/cgroup/pods/pod{uid} /run/stentor-lab/pods/{uid} 2>/dev/null; true"
    wait_for("files", lambda: machine.run("sh", "-c", script).stdout == "")


def test_deaf_containers_are_killed_after_the_grace_period(machine: Machine) -> None:
    run_pod(machine, pod("deaf", shell("trap '' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=1))
    machine.kubectl("delete", "pod", "deaf", "--wait", "--timeout=15s")
    assert machine.get("pod", "deaf") is None


def test_a_pod_cannot_hurt_its_host(machine: Machine) -> None:
    run_pod(machine, pod("hostile"))

    def attempt(script: str) -> int:
        command = machine.kubectl_command("exec", "hostile", "--", "sh", "-c", script)
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    assert attempt("mount -t tmpfs none /mnt") != 0
    assert attempt("mknod /tmp/disk b 8 0") != 0
    assert attempt("echo 1 > /proc/sys/kernel/panic") != 0
    assert attempt("echo b > /proc/sysrq-trigger") != 0
    assert attempt("mkdir /sys/fs/cgroup/x") != 0
    assert attempt('test -z "$(ls -A /root /home /var/lib/stentor 2>/dev/null | grep -v :)"') == 0
    assert attempt("cat /etc/shadow | grep .") != 0
    before = len(list(Path("/usr/share/doc").iterdir()))
    assert attempt("rm -rf --no-preserve-root /usr/share/doc && test ! -e /usr/share/doc") == 0
    assert len(list(Path("/usr/share/doc").iterdir())) == before
    refused = pod("privileged", {"name": "main", "image": "busybox", "securityContext": {"privileged": True}})
    machine.apply(refused)
    state = wait_for(
        "refusal", lambda: container(machine, "privileged").get("state", {}).get("waiting", {}).get("message")
    )
    assert "privileged" in state


def test_security_context(machine: Machine) -> None:
    context = {
        "runAsUser": 1234,
        "runAsGroup": 5678,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "allowPrivilegeEscalation": False,
    }
    main = {"name": "main", "image": "busybox", "command": ["sleep", "100"], "securityContext": context}
    run_pod(machine, pod("secure", main, securityContext={"supplementalGroups": [77]}))
    script = "id -u; id -G; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /x 2>&1"
    command = machine.kubectl_command("exec", "secure", "--", "sh", "-c", script)
    lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split("\n")
    assert lines[:2] == ["1234", "5678 77"]
    assert lines[2].split()[1] == "0" * 16
    assert lines[3].split()[1] == "1"
    assert "Read-only file system" in lines[4]


def test_host_network(machine: Machine) -> None:
    run_pod(machine, pod("host", hostNetwork=True))
    status = machine.get("pod", "host")["status"]
    assert status["podIP"] == status["hostIP"] == "10.111.0.1"
    assert (
        machine.kubectl("exec", "host", "--", "readlink", "/proc/self/ns/net")
        == machine.run("readlink", "/proc/self/ns/net").stdout
    )


def test_port_forward(machine: Machine) -> None:
    run_pod(machine, pod("forward", {"name": "echo", "image": ECHO, "env": [{"name": "POD_NAME", "value": "forward"}]}))
    command = machine.kubectl_command("port-forward", "pod/forward", ":3000")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().split("127.0.0.1:")[1].split()[0]
    for _ in range(3):
        answer = machine.run("curl", "-s", "-m", "10", f"http://127.0.0.1:{port}/x").stdout
        assert json.loads(answer)["pod"] == "forward"
    process.terminate()
    process.wait(timeout=10)


def test_run_with_standard_input(machine: Machine) -> None:
    words = (
        "run",
        "once",
        "--image=busybox",
        "--restart=Never",
        "-i",
        "--rm",
        "--quiet",
        "--",
        "sh",
        "-c",
        "cat; echo end",
    )
    done = subprocess.run(
        machine.kubectl_command(*words), input="one\ntwo\n", capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "one\ntwo\nend\n"
    wait_for("removal", lambda: machine.get("pod", "once") is None)


def test_run_on_a_terminal(machine: Machine) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    words = ("run", "shell", "--image=busybox", "--restart=Never", "-it", "--rm", "--quiet", "--", "sh", "-c")
    script = "while [ $(stty size | cut -d' ' -f1) != 33 ]; do sleep 0.05; done; tty; read x; echo got=$x; exit 6"
    command = machine.kubectl_command(*words, script)
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    seen = b""
    while b"/dev/pts/" not in seen:
        seen += os.read(leader, 1000)
    os.write(leader, b"hello\n")
    while b"got=hello" not in seen:
        seen += os.read(leader, 1000)
    assert process.wait(timeout=30) == 6
    os.close(leader)


def test_lifecycle_hooks(machine: Machine) -> None:
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo begun > /tmp/begun"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /proc/1/fd/1"]}},
    }
    begun = "while [ ! -e /tmp/begun ]; do sleep 0.02; done; cat /tmp/begun"
    script = f"trap 'echo bye; exit 0' TERM; {begun}; while :; do sleep 0.05; done"
    main = {"name": "main", "image": "debian", "command": ["sh", "-c", script], "lifecycle": hooks}
    run_pod(machine, pod("hooks", main, terminationGracePeriodSeconds=20))
    follow = subprocess.Popen(machine.kubectl_command("logs", "-f", "hooks"), stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    assert follow.stdout.readline() == "begun\n"
    machine.kubectl("delete", "pod", "hooks")
    assert follow.communicate(timeout=20)[0] == "stopping\nbye\n"
