"""Machines, networks and commands of a lab without clusters: what each sees, and that nothing else sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labs.lab import STENTOR, Lab, LabFactory, eventually, remove

TOPOLOGY: dict[str, Any] = {
    "apiVersion": "lab.stentor.io/v1",
    "kind": "Topology",
    "metadata": {"name": "hosts"},
    "spec": {
        "networks": [
            {"name": "lan1", "cidrs": ["172.18.1.0/24", "fd00:18:1::/64"], "mtu": 1400},
            {"name": "lan2", "cidrs": ["172.18.2.0/24", "fd00:18:2::/64"]},
        ],
        "hosts": [
            {"name": "a", "networks": [{"name": "lan1"}]},
            {"name": "b", "networks": [{"name": "lan2"}]},
            {
                "name": "tor",
                "forward": True,
                "networks": [
                    {"name": "lan1", "addresses": ["172.18.1.1", "fd00:18:1::1"]},
                    {"name": "lan2", "addresses": ["172.18.2.1", "fd00:18:2::1"]},
                ],
                "files": {"/etc/stentor-test/x": "of tor\n", "/srv/www/page": "hello\n"},
                "run": [
                    ["python3", "-m", "http.server", "80", "--directory", "/srv/www"],
                    ["sh", "-c", "echo started > /tmp/shared; exec sleep 1000"],
                ],
            },
        ],
        "routes": [{"machine": "a", "to": "192.0.2.0/24", "via": "172.18.1.1"}],
    },
}


@pytest.fixture(scope="module")
def hosts(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(TOPOLOGY)
    yield made
    remove(made)


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_router_forwards_both_families(hosts: Lab, family: str) -> None:
    assert " 0% packet loss" in hosts.exec("a", "ping", family, "-c2", "-i0.1", "-W2", "b").stdout


@pytest.mark.parametrize(
    ("family", "ways"), [("-4", ("172.18.1.9", "172.18.2.9")), ("-6", ("fd00:18:1::9", "fd00:18:2::9"))]
)
def test_router_chooses_equal_paths_by_flow(hosts: Lab, family: str, ways: tuple[str, str]) -> None:
    """The same two addresses, many ports: both paths carry some."""
    target = "198.51.100.1" if family == "-4" else "2001:db8:99::1"
    hops = " ".join(f"nexthop via {way}" for way in ways)
    ports = "for port in $(seq 1000 1063)"
    look = f"{ports}; do ip {family} route get {target} ipproto udp sport $port dport 53; done"
    found = hosts.exec(
        "tor", "sh", "-c", f"ip {family} route add {target} {hops}; {look}; ip {family} route del {target}"
    )
    assert {way for way in ways if f"via {way} " in found.stdout} == set(ways)


def test_a_network_passes_frames_unread(hosts: Lab) -> None:
    """Also one that no router would forward: with a wrong checksum in its IPv4 header."""
    listen = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)); s.settimeout(20)\n"
        "print('ready', flush=True)\n"
        "while not s.recv(2000).endswith(b'a marker'): pass"
    )
    frame = (
        "ff" * 6 + "020000000001" + "0800" + "4500001c0000400040fd0bad" + "ac120102" + "ac120101" + b"a marker".hex()
    )
    send = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); "
        f"s.send(bytes.fromhex('{frame}'))"
    )
    argv = [str(STENTOR), "lab", "exec", "--name", hosts.name, "tor", "--", "python3", "-c", listen]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=hosts.environment) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        hosts.exec("a", "python3", "-c", send)
        assert listening.wait(30) == 0


def test_routes_and_mtu(hosts: Lab) -> None:
    routes = hosts.exec("a", "ip", "route").stdout
    assert "default via 172.18.1.1 dev eth0" in routes
    assert "192.0.2.0/24 via 172.18.1.1 dev eth0" in routes
    assert "mtu 1400" in hosts.exec("a", "ip", "link", "show", "eth0").stdout


def test_files_belong_to_one_machine(hosts: Lab) -> None:
    assert hosts.exec("tor", "cat", "/etc/stentor-test/x").stdout == "of tor\n"
    assert hosts.exec("a", "cat", "/etc/stentor-test/x", check=False).returncode == 1
    assert not Path("/etc/stentor-test").exists()
    assert not Path("/srv/www/page").exists()
    assert hosts.exec("a", "hostname").stdout == "a\n"
    assert hosts.exec("a", "cat", "/etc/hostname").stdout == "a\n"


def test_commands_serve_and_share_tmp_with_exec(hosts: Lab) -> None:
    assert hosts.exec("a", "curl", "-s", "-m5", "http://tor/page").stdout == "hello\n"
    assert hosts.exec("tor", "cat", "/tmp/shared").stdout == "started\n"
    assert hosts.exec("a", "cat", "/tmp/shared", check=False).returncode == 1


def test_a_machine_sees_its_own_kernel_views(hosts: Lab) -> None:
    assert hosts.exec("tor", "ls", "/sys/class/net").stdout.split() == ["eth0", "eth1", "lo"]
    assert "0::/exec" in hosts.exec("a", "cat", "/proc/self/cgroup").stdout
    mounts = hosts.exec("a", "cat", "/proc/self/mountinfo").stdout
    assert len(re.findall(r" - cgroup2 ", mounts)) == 1
    assert " /sys/fs/bpf " in mounts
    assert hosts.exec("a", "ls", "/sys/fs/bpf").stdout.split() in ([], ["maps.debug", "progs.debug"])


@pytest.mark.parametrize(
    ("script", "code"), [("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("true", 0)]
)
def test_exit_codes_are_the_commands(hosts: Lab, script: str, code: int) -> None:
    assert hosts.exec("a", "sh", "-c", script, check=False).returncode == code


def test_exec_of_what_does_not_exist(hosts: Lab) -> None:
    done = hosts.exec("a", "no-such-program", check=False)
    assert (done.returncode, done.stderr) == (127, "no-such-program: no such program in the machine\n")
    done = hosts.exec("nobody", "true", check=False)
    assert done.returncode == 1
    assert "there is no machine 'nobody' (machines: a, b, tor" in done.stderr


def test_exec_passes_standard_streams_and_signals(hosts: Lab) -> None:
    assert hosts.exec("a", "cat", input="through\n").stdout == "through\n"
    argv = [str(STENTOR), "lab", "exec", "--name", hosts.name, "a", "--"]
    script = "trap 'echo got TERM; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*argv, "sh", "-c", script], stdout=subprocess.PIPE, text=True, env=hosts.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "got TERM\n"
        assert process.wait(10) == 9


def test_exec_gives_a_shell_its_terminal(hosts: Lab) -> None:
    """Job control, Ctrl-C for the job in the foreground only, the exit code: as in any terminal."""
    argv = [str(STENTOR), "lab", "exec", "--name", hosts.name, "a", "--", "bash", "--norc", "-i"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, {**hosts.environment, "PS1": "> ", "TERM": "dumb"})
    said = ""

    def expect(words: str) -> None:
        nonlocal said
        while words not in said:
            assert select.select([terminal], [], [], 20)[0], f"{words!r} does not come: {said!r}"
            said += os.read(terminal, 4096).decode()
        said = said[said.index(words) + len(words) :]

    expect("> ")
    os.write(terminal, b"hostname; sleep 1000\n")
    expect("\na\r\n")
    eventually(lambda: "sleep" in hosts.exec("a", "ps", "-o", "comm=", "-t", tty_of(pid)).stdout)
    os.write(terminal, b"\x03")
    expect("> ")
    os.write(terminal, b"echo interrupted-$?\n")
    expect("\ninterrupted-130\r\n")
    os.write(terminal, b"exit 5\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert "no job control" not in said
    os.close(terminal)


def tty_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/fd/0").removeprefix("/dev/")


def test_the_host_is_untouched(hosts: Lab) -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert not {name for name in names if name.startswith(("port", "bridge"))}
    assert str(hosts.place.directory) not in Path("/proc/self/mountinfo").read_text()


def process_of(lab: Lab, machine: str, name: str) -> Any:
    machines = {m["name"]: m for m in lab.status()["machines"]}
    return {p["name"]: p for p in machines[machine]["processes"]}[name]


def test_a_killed_command_is_started_again(hosts: Lab) -> None:
    before = process_of(hosts, "tor", "python3")
    assert hosts.run("kill", "tor/python3").stdout == "tor/python3 killed\n"

    def restarted() -> bool:
        now = process_of(hosts, "tor", "python3")
        return now["state"] == "Running" and now["starts"] > before["starts"] and now["pid"] != before["pid"]

    eventually(restarted)
    eventually(lambda: hosts.exec("a", "curl", "-s", "-m5", "http://tor/page", check=False).stdout == "hello\n")


def test_stop_holds_until_start(hosts: Lab) -> None:
    hosts.run("stop", "tor/sh")
    assert process_of(hosts, "tor", "sh")["state"] == "Stopped"
    assert hosts.run("status", check=False).returncode == 1
    hosts.run("start", "tor/sh")
    assert process_of(hosts, "tor", "sh")["state"] == "Running"


def test_a_dead_zygote_is_replaced(hosts: Lab) -> None:
    processes = (hosts.place.cgroup / "daemon" / "cgroup.procs").read_text().split()
    [zygote] = [pid for pid in processes if Path(f"/proc/{pid}/comm").read_text() == "lab-zygote\n"]
    os.kill(int(zygote), signal.SIGKILL)
    eventually(lambda: hosts.run("restart", "tor/sh", check=False).returncode == 0)
    assert process_of(hosts, "tor", "sh")["state"] == "Running"


def test_reboot_keeps_the_disk_and_nothing_else(hosts: Lab) -> None:
    hosts.exec("b", "sh", "-c", "echo kept > /var/lib/stentor/x; echo lost > /run/x; ip link add gone type bridge")
    address = hosts.exec("b", "cat", "/sys/class/net/eth0/address").stdout
    hosts.run("stop", "b")
    assert hosts.run("status", check=False).returncode == 1
    assert hosts.exec("b", "true", check=False).returncode == 1
    assert hosts.exec("a", "ping", "-c1", "-W1", "b", check=False).returncode == 1
    hosts.run("start", "b")
    assert hosts.exec("b", "cat", "/var/lib/stentor/x").stdout == "kept\n"
    assert hosts.exec("b", "cat", "/run/x", check=False).returncode == 1
    assert hosts.exec("b", "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]
    assert hosts.exec("b", "cat", "/sys/class/net/eth0/address").stdout == address
    assert " 0% packet loss" in hosts.exec("a", "ping", "-c1", "-W2", "b").stdout


@pytest.fixture
def faulty(hosts: Lab) -> Iterator[Lab]:
    """A lab whose faults end with the test."""
    yield hosts
    for network in ("lan1", "lan2"):
        hosts.run("link", network, "clear")


def lost(lab: Lab, count: int = 400) -> float:
    out = lab.exec("a", "ping", "-q", f"-c{count}", "-i0.002", "-W1", "172.18.1.1", check=False).stdout
    return float(re.findall(r"([\d.]+)% packet loss", out)[0])


def test_link_faults(faulty: Lab) -> None:
    assert lost(faulty, 20) == 0
    faulty.run("link", "lan1/a", "loss", "50")
    assert 30 < lost(faulty) < 70
    assert "lan1 loss 50%" in faulty.run("status", check=False).stdout
    faulty.run("link", "lan1/a", "loss", "100")
    assert lost(faulty, 5) == 100
    faulty.run("link", "lan1/a", "clear")
    assert lost(faulty, 20) == 0
    faulty.run("link", "lan1", "down")
    assert "NO-CARRIER" in faulty.exec("a", "ip", "link", "show", "eth0").stdout
    assert lost(faulty, 2) == 100
    faulty.run("link", "lan1", "up")
    assert lost(faulty, 20) == 0


def test_a_rate_limits(faulty: Lab) -> None:
    """1 MB at 8 Mbit/s takes a second; on the bare bridge it takes a millisecond."""
    faulty.run("link", "lan1/a", "rate", "8mbit")
    script = "head -c 1000000 /dev/zero > /srv/www/big"
    faulty.exec("tor", "sh", "-c", script)
    speed = faulty.exec(
        "a", "curl", "-s", "-m20", "-o", "/dev/null", "-w", "%{speed_download}", "http://tor/big"
    ).stdout
    faulty.run("link", "lan1/a", "clear")
    assert float(speed) < 2_000_000
    fast = faulty.exec("a", "curl", "-s", "-m20", "-o", "/dev/null", "-w", "%{speed_download}", "http://tor/big").stdout
    assert float(fast) > 2_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stop", "nobody"), "there is no machine 'nobody'"),
        (("kill", "tor/nothing"), "tor has no component 'nothing' (it runs: python3, sh)"),
        (("start", "a"), "machine a is running"),
        (("link", "lan9", "down"), "there is no network 'lan9' (there are: lan1, lan2)"),
        (("link", "lan1/b", "down"), "no running machine 'b' is on network lan1 (on it are: a, tor)"),
        (("link", "lan1", "loss"), "loss needs an amount"),
        (("link", "lan1", "loss", "101"), "from 0 to 100 percent"),
        (("link", "lan1", "rate", "fast"), "'fast' is no amount for rate"),
        (("kubeconfig", "--cluster", "x"), "has no cluster 'x' (there are: none)"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_commands_say_why(hosts: Lab, arguments: tuple[str, ...], message: str) -> None:
    done = hosts.run(*arguments, check=False)
    assert done.returncode != 0
    assert message in done.stderr
