"""Backends roll and the agent is killed while clients connect without a pause: none may fail."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from labs.lab import Lab, LabFactory, eventually, remove

ECHO = "registry.k8s.io/gateway-api/conformance/echo-basic:v1"
ROUNDS = 3
# Connects without a pause until it is told to stop; prints how many connections it made and how many failed.
CLIENT = """
import os, socket, sys, time
address, stop = sys.argv[1], "/tmp/stop"
family = socket.AF_INET6 if ":" in address else socket.AF_INET
made = failed = 0
worst = 0.0
open("/tmp/started", "w").close()
while not os.path.exists(stop):
    began = time.monotonic()
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(3)
            s.connect((address, 80))
            s.sendall(b"GET /health HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            good = s.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        good = False
    made += 1
    failed += not good
    worst = max(worst, time.monotonic() - began)
print(f'{{"made": {made}, "failed": {failed}, "worst_s": {worst:.3f}}}')
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
                            "readinessProbe": {"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1},
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


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(300)
def test_no_connection_fails_while_backends_roll_and_the_agent_dies(lab: Lab) -> None:
    addresses = dict(zip((4, 6), lab.objects("service", "web")["spec"]["clusterIPs"], strict=True))
    for family, address in addresses.items():
        start = f"cat >/tmp/client.py; nohup python3 /tmp/client.py {address} >/tmp/out 2>&1 </dev/null &"
        lab.kubectl("exec", "-i", f"client-{family}", "--", "sh", "-c", start, input=CLIENT)
        eventually(
            lambda f=family: (
                lab.kubectl("exec", f"client-{f}", "--", "test", "-e", "/tmp/started", check=False).returncode == 0
            )
        )
    for _ in range(ROUNDS):
        lab.kubectl("rollout", "restart", "deployment/web")
        lab.run("kill", "node-2/agent")
        lab.run("start", "node-2/agent")
        lab.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    results = {}
    for family in addresses:
        lab.kubectl("exec", f"client-{family}", "--", "touch", "/tmp/stop")
        results[family] = eventually(
            lambda f=family: lab.kubectl("exec", f"client-{f}", "--", "cat", "/tmp/out").stdout.strip()
        )
    found = {family: json.loads(text) for family, text in results.items()}
    assert all(each["made"] > 500 for each in found.values()), found
    assert all(each["failed"] == 0 for each in found.values()), found
