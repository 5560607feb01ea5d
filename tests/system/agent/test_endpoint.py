"""Endpoints in namespaces of their own: calls for one attachment at a time, nothing left of an addition that failed."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.agent.cni import Request
from stentor.agent.endpoint import Endpoints, LinkSettings
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools
from stentor.net.address import Addr, Prefix
from stentor.sys.namespace import Kind, new_network, setns, visit_network
from stentor.sys.netlink import Message


class Node:
    """Endpoints of a node that is one network namespace, with a pod that is another."""

    def __init__(self, path: Path, families: tuple[int, ...] = (4,)) -> None:
        self.path, self.families = path, families
        self.host, self.pod = new_network(), new_network()
        self.thread = ThreadPoolExecutor(1, initializer=setns, initargs=(self.host, Kind.NET))
        self.pools = NodePools()
        self.pools.set_prefixes([Prefix.parse("10.0.0.0/24"), Prefix.parse("fd00:10::/120")])
        self.endpoints = self.restart()
        self.endpoints.settings = LinkSettings(mtu=1500, route_mtu=1450, sources=(), attach=lambda index: ())

    def request(self, ifname: str = "eth0") -> Request:
        return Request(command="ADD", container_id="c", ifname=ifname, netns=f"/proc/{os.getpid()}/fd/{self.pod}")

    def restart(self) -> Endpoints:
        """The endpoints of another agent, whose predecessor was killed."""
        self.tables, store = Tables(), StateDirectory(self.path)
        families, pools = self.families, self.pools
        return Endpoints(self.tables.database, self.tables.endpoints, pools, store, families, self.thread)

    def run(self, *argv: str) -> None:
        """A command on the node."""
        self.thread.submit(subprocess.check_call, argv).result()

    def devices(self) -> set[str]:
        return {name for _, name in self.thread.submit(socket.if_nameindex).result() if name.startswith("lxc")}

    def switch_ipv6_off(self) -> None:
        with visit_network(self.pod):
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")

    def default_routes(self) -> list[str]:
        """The pod's, IPv4 and IPv6."""
        with visit_network(self.pod):
            return [subprocess.check_output(["ip", f"-{n}", "route", "show", "default"], text=True) for n in (4, 6)]

    @property
    def used(self) -> set[Addr]:
        return set(self.pools.pool(4).owners)

    def close(self) -> None:
        self.thread.shutdown()
        os.close(self.pod)
        os.close(self.host)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    try:
        yield made
    finally:
        made.close()


async def test_a_deletion_waits_for_the_addition_that_is_under_way(node: Node) -> None:
    gate = threading.Event()
    node.thread.submit(gate.wait)
    adding = asyncio.create_task(node.endpoints.add(node.request()))
    await asyncio.sleep(0)
    deleting = asyncio.create_task(node.endpoints.delete("c", "eth0"))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(20):
        await adding
        await deleting
    assert (len(node.tables.endpoints), node.used) == (0, set())


async def test_an_addition_that_is_cancelled_waits_for_its_device_and_leaves_nothing(node: Node) -> None:
    gate, begun = threading.Event(), threading.Event()

    def attach(index: int) -> Iterator[Message]:
        begun.set()
        gate.wait()
        return iter(())

    node.endpoints.settings = LinkSettings(mtu=1500, route_mtu=1450, sources=(), attach=attach)
    try:
        adding = asyncio.create_task(node.endpoints.add(node.request()))
        async with asyncio.timeout(20):
            await asyncio.to_thread(begun.wait)
        for _ in range(2):  # the limit's cancellation, and that of an agent that ends
            adding.cancel()
            await asyncio.sleep(0)
            assert node.used  # a device is being made that has the address
    finally:
        gate.set()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await adding
    assert (len(node.tables.endpoints), node.used, node.devices()) == (0, set(), set())


async def test_an_addition_that_cannot_be_stored_leaves_nothing(node: Node) -> None:
    burying = asyncio.create_task(node.endpoints.bury())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError):
            await node.endpoints.add(node.request())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (len(node.tables.endpoints), node.used) == (0, set())
    async with asyncio.timeout(20):
        while node.devices():
            await asyncio.sleep(0.01)
    burying.cancel()


async def test_an_addition_right_after_a_deletion_finds_the_interface_gone(node: Node) -> None:
    burying = asyncio.create_task(node.endpoints.bury())
    async with asyncio.timeout(60):
        first = await node.endpoints.add(node.request())
        for _ in range(3):
            await node.endpoints.delete("c", "eth0")
            last = await node.endpoints.add(node.request())
        assert first.host_ifname not in node.devices()
        while node.devices() != {last.host_ifname}:
            await asyncio.sleep(0.01)
    burying.cancel()


async def test_an_agent_that_ends_leaves_no_device_of_an_ended_endpoint(node: Node) -> None:
    burying = asyncio.create_task(node.endpoints.bury())
    async with asyncio.timeout(20):
        await node.endpoints.add(node.request())
        await node.endpoints.delete("c", "eth0")
        await asyncio.sleep(0)
        burying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await burying
    assert node.devices() == set()  # asked on the thread that had to remove it first


async def test_a_successor_removes_what_a_killed_agent_left_without_an_endpoint(node: Node) -> None:
    others = {"lxcbr0", "lxc0123456789", "lxc0123456789ab"}
    node.run("ip", "link", "add", "lxcbr0", "type", "bridge")
    node.run("ip", "link", "add", "lxc0123456789", "type", "bridge")
    node.run("ip", "link", "add", "lxc0123456789ab", "type", "veth", "peer", "name", "lxcother")
    async with asyncio.timeout(60):
        kept = await node.endpoints.add(node.request("eth0"))
        ended = await node.endpoints.add(node.request("eth1"))
        await node.endpoints.delete("c", "eth1")  # nobody buries: the agent was killed
        assert ended.host_ifname in node.devices()
        successor = node.restart()
        assert await successor.restore() == 1
        successor.settings = node.endpoints.settings
        later = await successor.add(node.request("eth1"))
    assert node.devices() == {kept.host_ifname, later.host_ifname, "lxcother", *others}


async def test_ipv6_is_switched_on_where_a_runtime_left_it_off(tmp_path: Path) -> None:
    node = Node(tmp_path, (4, 6))
    try:
        node.switch_ipv6_off()
        async with asyncio.timeout(20):
            endpoint = await node.endpoints.add(node.request())
            await node.endpoints.check(node.request())
        assert {addr.family for addr in endpoint.addresses} == {4, 6}
        routes = node.default_routes()
        assert all("dev eth0" in each and "mtu 1450" in each for each in routes), routes
    finally:
        node.close()
