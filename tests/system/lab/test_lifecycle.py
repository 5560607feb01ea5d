"""A lab's beginning and end: refused topologies make nothing, and every way to die leaves nothing that `down` can't remove."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labs.lab import STENTOR, Lab, LabFactory, eventually, leftovers
from stentor.lab import control
from stentor.sys import cgroup, netlink
from stentor.sys.namespace import new_network, visit_network

SMALL: dict[str, Any] = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "small"},
    "spec": {
        "networks": [{"name": "lan", "cidrs": ["10.7.0.0/24"]}],
        "hosts": [
            {"name": "a", "networks": [{"name": "lan"}], "run": [["sh", "-c", "setsid sleep 3600 & exec sleep 3600"]]},
            {"name": "b", "networks": [{"name": "lan"}]},
        ],
    },
}


def stentor(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(STENTOR), "lab", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_refused_topology_makes_nothing(lab_environment: dict[str, str], lab_home: Path, tmp_path: Path) -> None:
    bad = {**SMALL, "spec": {**SMALL["spec"], "hosts": [{"name": "a", "networks": [{"name": "lam"}], "runs": []}]}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad))
    done = stentor(lab_environment, "up", str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path}/bad.yaml: spec.hosts[0].runs: unknown field\n"
    assert not (lab_home / "small").exists()


def test_a_command_that_ends_fails_the_start(lab_environment: dict[str, str], lab_home: Path, tmp_path: Path) -> None:
    hosts = [{"name": "a", "networks": [{"name": "lan"}], "run": [["sh", "-c", "echo no such thing >&2; exit 3"]]}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({**SMALL, "spec": {**SMALL["spec"], "hosts": hosts}}))
    done = stentor(lab_environment, "up", str(tmp_path / "t.yaml"))
    assert done.returncode == 1
    assert "a: sh ended with code 3: no such thing" in done.stderr
    assert not (lab_home / "small").exists()


def test_names_are_taken_once(lab: LabFactory, lab_environment: dict[str, str], tmp_path: Path) -> None:
    first = lab(SMALL)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(SMALL))
    done = stentor(lab_environment, "up", "--name", first.name, str(tmp_path / "t.yaml"))
    assert done.returncode == 1
    assert f"a lab named '{first.name}' is running" in done.stderr
    assert first.exec("a", "hostname").stdout == "a\n"


def test_two_labs_of_one_topology_live_side_by_side(lab: LabFactory, lab_environment: dict[str, str]) -> None:
    one, two = lab(SMALL), lab(SMALL)
    for each in (one, two):
        assert " 0% packet loss" in each.exec("a", "ping", "-c1", "-W2", "b").stdout
    listed = stentor(lab_environment, "list").stdout
    assert one.name in listed
    assert two.name in listed
    done = stentor(lab_environment, "exec", "a", "--", "true")
    assert done.returncode == 1
    assert "there are several labs" in done.stderr
    one.run("down")
    assert " 0% packet loss" in two.exec("a", "ping", "-c1", "-W2", "b").stdout


def test_who_is_not_root_is_told_so(lab: LabFactory, lab_environment: dict[str, str]) -> None:
    """The capability lets nobody read the checkout, wherever it is, and do nothing more than that."""
    made = lab(SMALL)
    reads = [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]
    for command in (["list"], ["status"], ["exec", "a", "--", "true"], ["kill", "a"], ["down"]):
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads, str(STENTOR), "lab", *command]
        done = subprocess.run(argv, env=lab_environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "run it as root" in done.stderr) == (1, True), done.stderr
    assert [machine["state"] for machine in made.status()["machines"]] == ["Running", "Running"]


def test_down_is_idempotent(lab: LabFactory, lab_environment: dict[str, str]) -> None:
    made = lab(SMALL)
    assert made.run("down").stdout == f"lab {made.name} is removed\n"
    assert made.run("down").stdout == f"there is no lab {made.name}\n"
    assert leftovers(made.place) == []


class Canary:
    """One end of a veth pair here, the other in each machine: when a namespace is destroyed, its pair goes with it."""

    def __init__(self) -> None:
        self.namespace = new_network()

    def watch(self, lab: Lab) -> None:
        with visit_network(self.namespace), netlink.Route() as route:
            route.send(netlink.add_bridge("bridge", mtu=1500))
            master = socket.if_nametoindex("bridge")
            for machine in ("a", "b"):
                _, fds = control.ask(lab.place, control.Enter(machine))
                network = next(fd for fd in fds if os.readlink(f"/proc/self/fd/{fd}").startswith("net:"))
                mac = b"\x02\0\0\0\0" + machine.encode()
                wire = netlink.add_veth(
                    f"c-{machine}", "c", peer_namespace_fd=network, peer_mac=mac, master=master, mtu=1500
                )
                route.send(wire)
                for fd in fds:
                    os.close(fd)
        assert self.alive() == {"c-a", "c-b"}

    def alive(self) -> set[str]:
        with visit_network(self.namespace):
            return {name for _, name in socket.if_nameindex() if name.startswith("c-")}


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    os.close(made.namespace)


def pids(lab: Lab) -> dict[str, int]:
    """Of guard and daemon, as the host counts."""
    daemon = int((lab.place.cgroup / "daemon" / "cgroup.procs").read_text().split()[0])
    parent = int(Path(f"/proc/{daemon}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return {"guard": parent, "daemon": daemon}


@pytest.mark.parametrize("victims", [("daemon",), ("guard",), ("guard", "daemon")], ids="+".join)
def test_killed_labs_leave_no_process_and_no_namespace(
    lab: LabFactory, lab_environment: dict[str, str], canary: Canary, victims: tuple[str, ...]
) -> None:
    made = lab(SMALL)
    canary.watch(made)
    processes = pids(made)
    for victim in victims:
        os.kill(processes[victim], signal.SIGKILL)
    eventually(lambda: canary.alive() == set())
    eventually(lambda: not any(left.startswith("process") for left in leftovers(made.place)))
    assert f"{made.name}   Dead" in stentor(lab_environment, "list").stdout
    done = made.exec("a", "true", check=False)
    assert done.returncode == 1
    assert "is not running" in done.stderr
    assert stentor(lab_environment, "down", "--all").returncode == 0
    assert leftovers(made.place) == []
    assert stentor(lab_environment, "down", "--all").stdout == "there is no lab\n"


def test_down_removes_namespaces(lab: LabFactory, canary: Canary) -> None:
    made = lab(SMALL)
    canary.watch(made)
    made.run("down")
    eventually(lambda: canary.alive() == set())


def test_a_lab_without_its_directory_is_removed_too(lab: LabFactory, lab_environment: dict[str, str]) -> None:
    made = lab(SMALL)
    subprocess.run(["rm", "-rf", str(made.place.directory)], check=True)
    assert stentor(lab_environment, "down", "--all").stdout == f"lab {made.name} is removed\n"
    eventually(lambda: leftovers(made.place) == [])


INTERRUPTED = """
def test_waits(lab):
    made = lab({topology!r}, name={name!r})
    print("up", flush=True)
    made.exec("a", "sleep", "1000")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_labs_of_an_interrupted_test_run_disappear(
    lab_environment: dict[str, str], tmp_path: Path, how: signal.Signals
) -> None:
    """A pytest with a running lab is interrupted, politely or not: its guard sees the end of the pipe and sweeps."""
    name = f"interrupted-{os.getpid()}"
    root = Path(__file__).resolve().parents[3]
    (tmp_path / "test_interrupted.py").write_text(INTERRUPTED.format(topology=SMALL, name=name))
    (tmp_path / "conftest.py").write_text((root / "tests/system/conftest.py").read_text())
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environment = {**lab_environment, "PYTHONPATH": str(root / "tests")}
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        while "up" not in (line := run.stdout.readline()):
            assert line, "pytest ended before the lab was up"
        assert mentions(name)
        os.killpg(run.pid, how)
        run.wait(60)
    eventually(lambda: not mentions(name))


def mentions(name: str) -> list[str]:
    """Cgroups of labs of that name; they are there as long as anything of the lab is."""
    return [path.name for path in cgroup.root().glob(f"stentor-lab.*.{name}")]


def test_up_that_is_interrupted_removes_what_it_made(
    lab_environment: dict[str, str], lab_home: Path, leash: int, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(SMALL))
    argv = [str(STENTOR), "lab", "up", "--name", "ctrl-c", "--die-with-fd", str(leash), str(tmp_path / "t.yaml")]
    with subprocess.Popen(
        argv, env=lab_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=(leash,)
    ) as up:
        assert up.stdout is not None
        first = up.stdout.readline()
        up.send_signal(signal.SIGINT)
        _, errors = up.communicate(timeout=60)
    assert "made 1 network and 2 machines" in first
    assert up.returncode == 1
    assert errors == "Error: interrupted; everything is removed\n"
    assert not (lab_home / "ctrl-c").exists()
