"""Places of a lab (pods and machines) as network namespaces that the test process can open sockets in."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labs.lab import Lab, eventually
from stentor.sys.namespace import visit_network

LIMIT_S = 10.0


def processes(lab: Lab, pattern: str) -> list[int]:
    """Ids of the lab's processes whose cgroup below the lab's matches."""
    prefix = lab.place.cgroup.name
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            group = (path / "cgroup").read_text()
        except OSError:
            continue
        _, _, below = group.partition(f"/{prefix}/")
        if below and re.fullmatch(pattern, below.strip()):
            found.append(int(path.name))
    return sorted(found)


class Place:
    """A network namespace with addresses; `pid` is a process that lives in it."""

    def __init__(self, name: str, pid: int, addresses: dict[int, str]) -> None:
        self.name = name
        self.pid = pid
        self.addresses = addresses
        self._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def inside(self) -> Iterator[None]:
        with visit_network(self._fd):
            yield

    def socket(self, family: int, kind: int) -> socket.socket:
        with self.inside():
            made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        made.settimeout(LIMIT_S)
        return made

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=60, check=False)


def machine(lab: Lab, name: str, addresses: dict[int, str], component: str = "agent") -> Place:
    """A node by its agent's process; a host needs a `run` entry, named by `component`."""
    pids = processes(lab, rf"machines/{name}/(components/{component}|.*)")
    assert pids, f"nothing runs on {name}"
    return Place(name, pids[0], addresses)


def pod(lab: Lab, name: str, namespace: str = "default") -> Place:
    """A running pod."""

    def ready() -> dict[str, Any]:
        found: dict[str, Any] = lab.objects("pod", name, "-n", namespace)
        states = found["status"].get("conditions", [])
        assert any(each["type"] == "Ready" and each["status"] == "True" for each in states), found["status"]
        return found

    found = eventually(ready, 60)
    pids = processes(lab, rf"machines/[^/]+/pods/pod{found['metadata']['uid']}/.+")
    monitors = {pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "podrun"}
    inside = [pid for pid in pids if pid not in monitors]
    assert inside, f"pod {name} has no process"
    ips = [each["ip"] for each in found["status"]["podIPs"]]
    return Place(name, inside[0], {6 if ":" in ip else 4: ip for ip in ips})


def ping(source: Place, target: str, *, size: int = 56) -> bool:
    """One echo, unfragmented, with one repetition for a first packet that meets a cold path."""
    done = source.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", str(size), target)
    return done.returncode == 0


def exchange_tcp(client: Place, server: Place, target: str, port: int, total: int = 4096) -> str:
    """Send `total` bytes there and back over one connection; the client's address as the server saw it."""
    family = 6 if ":" in target else 4
    listener = server.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((target, port))
    listener.listen()
    seen: list[str] = []

    def echo() -> None:
        accepted, peer = listener.accept()
        with accepted:
            accepted.settimeout(LIMIT_S)
            seen.append(peer[0])
            left = total
            while left and (data := accepted.recv(1 << 16)):
                accepted.sendall(data)
                left -= len(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with listener, client.socket(family, socket.SOCK_STREAM) as source:
        source.connect((target, port))
        received = 0
        payload = os.urandom(min(total, 1 << 16))
        sent = 0
        while sent < total:
            part = payload[: total - sent]
            source.sendall(part)
            sent += len(part)
            while received < sent:
                data = source.recv(1 << 16)
                assert data, "the connection ended early"
                at = received % len(payload)
                assert data[: len(payload) - at] == payload[at : at + len(data)]
                received += len(data)
        thread.join(LIMIT_S)
    return seen[0]


def exchange_udp(client: Place, server: Place, target: str, port: int, size: int = 100) -> str:
    """One datagram there and back, unfragmented; the client's address as the server saw it."""
    family = 6 if ":" in target else 4
    with server.socket(family, socket.SOCK_DGRAM) as there, client.socket(family, socket.SOCK_DGRAM) as here:
        there.bind((target, port))
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
        here.setsockopt(level, option, 2)  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER: do not fragment
        payload = os.urandom(size)
        here.sendto(payload, (target, port))
        data, peer = there.recvfrom(1 << 16)
        assert data == payload
        there.sendto(data, peer)
        assert here.recvfrom(1 << 16)[0] == payload
    return str(peer[0])
