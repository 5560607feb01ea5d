"""Backends roll and the agent is killed while clients connect without a pause: none may fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.place import processes
from labs.lab import Lab, LabFactory, eventually, remove

ECHO = "registry.k8s.io/gateway-api/conformance/echo-basic:v1"
ROUNDS = 3
WORKERS = 8
PER_SECOND = 500
GRACE_S = 0.2  # how long after the agent is back a connection may still go to a backend that died meanwhile
# Connects PER_SECOND times a second until it is told to stop: every worker in its turn, late ones without a pause. Prints how
# many connections were made, how many a second, and when each that failed began.
CLIENT = """
import json, os, socket, sys, threading, time
address, workers, per_second, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "/tmp/stop"
family = socket.AF_INET6 if ":" in address else socket.AF_INET
began, made, failed = time.monotonic(), [0] * workers, []

def connect():
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect((address, 80))
        s.sendall(b"GET /health HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        return s.recv(100).startswith(b"HTTP/1.1 200")

def work(number):
    pause = workers / per_second
    due = began + pause * number / workers
    while not os.path.exists(stop):
        time.sleep(max(0, due - time.monotonic()))
        due += pause
        at = time.monotonic()
        try:
            good = connect()
        except OSError:
            good = False
        made[number] += 1
        if not good:
            failed.append(at)

threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
for thread in threads:
    thread.start()
open("/tmp/started", "w").close()
for thread in threads:
    thread.join()
rate = round(sum(made) / (time.monotonic() - began))
print(json.dumps({"made": sum(made), "per_second": rate, "failed": failed}))
"""
OBJECTS = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [
                        {
                            "name": "echo",
                            "image": ECHO,
                            "readinessProbe": {
                                "httpGet": {"path": "/health", "port": 3000},
                                "initialDelaySeconds": 5,
                                "periodSeconds": 1,
                            },
                            # Goes on serving while the endpoint is being taken out, as graceful applications do.
                            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
                        }
                    ],
                },
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"app": "web"},
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": 80, "targetPort": 3000}],
        },
    },
    *(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"client-{family}", "namespace": "default"},
            "spec": {
                "nodeName": "node-2",
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "nicolaka/netshoot", "command": ["sleep", "infinity"]}],
            },
        }
        for family in (4, 6)
    ),
]


@pytest.fixture
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker()
    try:
        made.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, OBJECTS)))
        made.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        made.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        yield made
    finally:
        remove(made)


class Clients:
    """Both families' clients, at work from the start to `results`."""

    def __init__(self, lab: Lab, service: str) -> None:
        self.lab = lab
        addresses = lab.objects("service", service)["spec"]["clusterIPs"]
        for family, address in zip((4, 6), addresses, strict=True):
            words = f"python3 /tmp/client.py {address} {WORKERS} {PER_SECOND}"
            start = f"cat >/tmp/client.py; nohup {words} >/tmp/out 2>&1 </dev/null &"
            lab.kubectl("exec", "-i", f"client-{family}", "--", "sh", "-c", start, input=CLIENT)
            eventually(lambda f=family: self._try(f, "test", "-e", "/tmp/started").returncode == 0)

    def _try(self, family: int, *command: str) -> subprocess.CompletedProcess[str]:
        return self.lab.kubectl("exec", f"client-{family}", "--", *command, check=False)

    def results(self) -> dict[int, dict[str, Any]]:
        found = {}
        for family in (4, 6):
            self.lab.kubectl("exec", f"client-{family}", "--", "touch", "/tmp/stop")
            found[family] = json.loads(eventually(lambda f=family: self._try(f, "cat", "/tmp/out").stdout.strip()))
        print(found)
        return found


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(300)
def test_no_connection_fails_while_backends_roll_and_the_agent_dies(lab: Lab) -> None:
    clients = Clients(lab, "web")
    for _ in range(ROUNDS):
        lab.kubectl("rollout", "restart", "deployment/web")
        lab.run("kill", "node-2/agent")
        lab.run("start", "node-2/agent")
        lab.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    found = clients.results()
    assert all(each["made"] > 3_000 for each in found.values()), found
    assert all(each["failed"] == [] for each in found.values()), found


def kill(lab: Lab, uid: str) -> None:
    """The processes of a pod's containers, without a word to anybody."""
    pids = processes(lab, rf"machines/[^/]+/pods/pod{uid}/.+")
    inside = [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() != "podrun"]
    assert inside
    for pid in inside:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(300)
def test_a_backend_that_dies_while_the_agent_is_down_is_missed_until_it_is_back_only(lab: Lab) -> None:
    clients = Clients(lab, "web")
    outages: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        (victim, *_) = lab.objects("pod", "-l", "app=web")["items"]
        lab.run("kill", "node-2/agent")
        down = time.monotonic()
        kill(lab, victim["metadata"]["uid"])
        lab.run("start", "node-2/agent")
        back = time.monotonic()
        lab.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s")
        outages.append((down, back + GRACE_S))
    found = clients.results()
    assert all(each["made"] > 3_000 for each in found.values()), found
    outside = [at for each in found.values() for at in each["failed"] if not any(a <= at <= b for a, b in outages)]
    assert outside == []
