"""Namespaces, cgroups and the netlink writer against the kernel."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stentor.sys import cgroup, netlink
from stentor.sys.namespace import new_network, visit_network
from stentor.sys.process import clone_into, exit_code


@pytest.fixture
def network() -> Iterator[int]:
    fd = new_network()
    yield fd
    os.close(fd)


@pytest.fixture
def group() -> Iterator[Path]:
    path = cgroup.root() / f"test-stentor-{os.getpid()}"
    yield path
    cgroup.remove(path)


def links(namespace: int) -> set[str]:
    with visit_network(namespace):
        return {name for _, name in socket.if_nameindex()}


def test_a_visit_returns_even_when_it_fails(network: int) -> None:
    home = os.readlink("/proc/thread-self/ns/net")

    def visit() -> None:
        with visit_network(network):
            assert os.readlink("/proc/thread-self/ns/net") != home
            raise RuntimeError

    with pytest.raises(RuntimeError):
        visit()
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_thousands_of_messages_in_one_send(network: int) -> None:
    addresses = [f"10.0.{n >> 8}.{n & 255}" for n in range(3000)]
    with visit_network(network), netlink.Route() as route:
        route.send(netlink.set_link(1, up=True))
        route.send(*(netlink.add_address(1, ipaddress.ip_interface(address)) for address in addresses))
        local = Path("/proc/thread-self/net/fib_trie").read_text()
    assert [address for address in addresses if f"|-- {address}\n" not in local] == []


def test_veth_into_another_namespace_with_addresses_and_routes(network: int) -> None:
    far = new_network()
    mac = bytes.fromhex("020000000009")
    with visit_network(network), netlink.Route() as route:
        route.send(netlink.add_bridge("br", mtu=1400))
        master = socket.if_nametoindex("br")
        wire = netlink.add_veth("near", "far", peer_namespace_fd=far, peer_mac=mac, master=master, mtu=1400)
        route.send(wire)
    with visit_network(far), netlink.Route() as route:
        index = socket.if_nametoindex("far")
        route.send(
            netlink.set_link(1, up=True),
            netlink.set_link(index, up=True),
            netlink.add_address(index, ipaddress.ip_interface("10.1.0.2/24")),
            netlink.add_address(index, ipaddress.ip_interface("fd01::2/64")),
            netlink.add_route(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("10.1.0.1")),
            netlink.add_route(ipaddress.ip_network("fd02::/64"), ipaddress.ip_address("fd01::1")),
        )
        with socket.create_server(("fd01::2", 0), family=socket.AF_INET6):
            pass  # usable at once: without duplicate address detection
        routes = Path("/proc/thread-self/net/route").read_text()
        assert "far\t00000000\t0100010A" in routes
    assert links(far) == {"lo", "far"}
    assert links(network) == {"lo", "br", "near"}
    os.close(far)


def test_a_refused_message_is_named_and_the_others_take_effect(network: int) -> None:
    with visit_network(network), netlink.Route() as route:
        messages = [netlink.add_bridge(name, mtu=1500) for name in ("one", "one", "two")]
        with pytest.raises(netlink.NetlinkError) as caught:
            route.send(*messages)
        assert caught.value.position == 1
        assert caught.value.errno == 17
        route.send(netlink.delete_link(socket.if_nametoindex("two")))
    assert links(network) == {"lo", "one"}


def test_clone_into_cgroup_and_its_removal(group: Path) -> None:
    fd = cgroup.create(group / "inner")
    read_end, write_end = os.pipe()
    pid = clone_into(fd)
    if pid == 0:
        os.write(write_end, Path("/proc/self/cgroup").read_bytes())
        os.close(write_end)
        os.close(read_end)
        while True:
            os.sched_yield()
    os.close(write_end)
    assert f"0::/{group.name}/inner" in os.read(read_end, 4096).decode()
    os.close(read_end)
    os.close(fd)
    assert cgroup.is_populated(group)
    cgroup.remove(group)
    assert not group.exists()
    assert exit_code(os.waitpid(pid, 0)[1]) == 128 + 9
    cgroup.remove(group)


def test_a_group_can_be_used_again_after_removal(group: Path) -> None:
    """Linux 6.18 kills what is cloned into a group after `cgroup.kill`; a group made anew is free of that."""
    for _ in range(3):
        fd = cgroup.create(group)
        pid = clone_into(fd)
        if pid == 0:
            os._exit(7)
        os.close(fd)
        assert exit_code(os.waitpid(pid, 0)[1]) == 7
        cgroup.kill(group)
        cgroup.remove(group)


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A group of version 1's freezer: what it holds does not even die."""
    hierarchy = Path("/sys/fs/cgroup/freezer")
    if not hierarchy.is_dir():
        pytest.skip("no freezer of version 1 on this machine")
    path = hierarchy / f"test-stentor-{os.getpid()}"
    path.mkdir()
    yield path
    (path / "freezer.state").write_text("THAWED")
    while True:
        try:
            path.rmdir()
        except OSError:  # what was in it is dying
            time.sleep(0.01)
        else:
            return


def test_who_does_not_die_is_named(group: Path, freezer: Path) -> None:
    fd = cgroup.create(group / "inner")
    pid = clone_into(fd)
    if pid == 0:
        while True:
            time.sleep(1)
    os.close(fd)
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    with pytest.raises(TimeoutError, match=rf"do not die: {pid} .+ \(D in \w+\)"):
        cgroup.remove(group, 0.2)
    (freezer / "freezer.state").write_text("THAWED")
    assert exit_code(os.waitpid(pid, 0)[1]) == 128 + 9
