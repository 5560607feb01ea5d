"""Logs, exec and port-forward through the API server to a node."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import aiohttp
import pytest

from apiservers.memory import pod
from apiservers.node import Kubelet, serve_kubelet
from apiservers.process import Server


@pytest.fixture
async def kubelet(server: Server) -> AsyncIterator[Kubelet]:
    async with serve_kubelet(server.pki) as running:
        yield running


@pytest.fixture
async def path(server: Server, kubelet: Kubelet, namespace: str) -> str:
    """A pod's path; its node is the peer."""
    name = f"node-{uuid.uuid4().hex[:6]}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
    }

    def prepare() -> None:
        assert server.request("POST", "/api/v1/nodes", node)[0] == 201
        patched = server.request(
            "PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, media="application/merge-patch+json"
        )
        assert patched[0] == 200
        assert server.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod("web", nodeName=name))[0] == 201

    await asyncio.to_thread(prepare)
    return f"/api/v1/namespaces/{namespace}/pods/web"


@pytest.fixture
async def session(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(
        server.url, connector=aiohttp.TCPConnector(ssl=server.context()), timeout=timeout
    ) as client:
        yield client


async def test_logs_are_streamed(session: aiohttp.ClientSession, path: str, kubelet: Kubelet, namespace: str) -> None:
    async with session.get(f"{path}/log?follow=true&tailLines=5&container=c") as answer:
        assert await answer.content.readline() == b"first\n"
        kubelet.more.set()
        assert await answer.content.readline() == b"second\n"
    assert kubelet.seen == [f"/containerLogs/{namespace}/web/c?follow=true&tailLines=5"]
    assert kubelet.users == ["kube-apiserver-kubelet-client"]


async def test_exec_passes_messages_and_the_subprotocol(
    session: aiohttp.ClientSession, path: str, kubelet: Kubelet, namespace: str
) -> None:
    query = "command=sh&command=-c&command=echo+a%26b&stdin=true&stdout=true&tty=false"
    async with session.ws_connect(
        f"{path}/exec?{query}", protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"]
    ) as socket:
        assert socket.protocol == "v5.channel.k8s.io"
        for message in (b"\x00hello", b"\x04{}", b"\x00" + bytes(200_000), b"\xff\x00"):
            await socket.send_bytes(message)
            assert await socket.receive_bytes() == message
        await socket.send_bytes(b"\x00end")
        assert await socket.receive_bytes() == b"\x00end"
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert kubelet.seen == [f"/exec/{namespace}/web/c?command=sh&command=-c&command=echo+a%26b&input=1&output=1"]


async def test_the_client_may_hang_up(session: aiohttp.ClientSession, path: str, kubelet: Kubelet) -> None:
    async with session.ws_connect(f"{path}/portforward", protocols=["SPDY/3.1+portforward.k8s.io"]) as socket:
        await socket.send_bytes(b"x")
        assert await socket.receive_bytes() == b"x"
    async with session.get(f"{path}/log") as answer:
        assert await answer.read() == b"first\n"


@pytest.mark.parametrize(
    ("request_path", "status", "words"),
    [
        ("/exec?command=ls&container=no", 400, "container no is not valid for pod web"),
        ("/log?container=no", 400, "container no is not valid for pod web"),
    ],
)
async def test_wrong_requests(
    session: aiohttp.ClientSession, path: str, request_path: str, status: int, words: str
) -> None:
    async with session.get(path + request_path) as answer:
        body = await answer.json()
    assert (answer.status, body["message"]) == (status, words)


async def test_what_the_node_says_reaches_the_client(
    server: Server, kubelet: Kubelet, path: str, namespace: str
) -> None:
    node = await asyncio.to_thread(lambda: server.request("GET", path)[1]["spec"]["nodeName"])
    refused = pod("refused", nodeName=node)
    await asyncio.to_thread(lambda: server.request("POST", f"/api/v1/namespaces/{namespace}/pods", refused))
    done = await asyncio.to_thread(lambda: server.run("exec", "refused", "--", "ls", namespace=namespace))
    assert done.returncode != 0
    assert 'container not found ("refused")' in done.stderr


async def test_an_unreachable_node(server: Server, namespace: str) -> None:
    def prepare() -> tuple[str, int]:
        server.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod("lost", nodeName="no-such-node"))
        status, body = server.request("GET", f"/api/v1/namespaces/{namespace}/pods/lost/log")
        return body["message"], status

    assert await asyncio.to_thread(prepare) == ('nodes "no-such-node" not found', 404)
    server.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod("free"))
    status, body = await asyncio.to_thread(
        lambda: server.request("GET", f"/api/v1/namespaces/{namespace}/pods/free/log")
    )
    assert (status, body["message"]) == (400, "pod free does not have a host assigned")
