"""Addresses of restored endpoints: nobody's deletion frees what another endpoint still uses."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.agent.endpoint import Endpoints
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools
from stentor.net.address import Addr, Prefix
from stentor.tables.endpoint import Endpoint

ADDR = Addr.parse("10.0.0.5")


def endpoint(number: int, pod: str) -> Endpoint:
    return Endpoint(
        id=number, container_id=f"c{number}", container_ifname="eth0", netns="", namespace="d" if pod else "", pod=pod,
        host_ifname="lo", ifindex=socket.if_nametoindex("lo"), mac=b"\2\0\0\0\0\1", ipv4=ADDR,
    )  # fmt: skip


@pytest.mark.parametrize("pods", [("a", "b"), ("a", "a"), ("", "")])
@pytest.mark.parametrize("first", [0, 1])
async def test_an_address_said_twice_is_free_after_both(tmp_path: Path, pods: tuple[str, str], first: int) -> None:
    store = StateDirectory(tmp_path)
    rows = [endpoint(number, pod) for number, pod in enumerate(pods, 1)]
    for row in rows:
        store.save(row)
    tables, pools = Tables(), NodePools()
    pools.set_prefixes([Prefix.parse("10.0.0.0/24")])
    with ThreadPoolExecutor(1) as executor:
        endpoints = Endpoints(tables.database, tables.endpoints, pools, store, (4,), executor)
        assert await endpoints.restore() == 2
        await endpoints.delete(rows[first].container_id, "eth0")
        other = rows[1 - first]
        assert pools.usage() == {str(ADDR): f"d/{other.pod}" if other.pod else other.container_id}
        await endpoints.delete(other.container_id, "eth0")
        assert pools.usage() == {}
