"""`/v1/bgp/…` with a real speaker behind it: what should be, what is, and why the two differ."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from stentor.agent.bgp import BGPControl
from stentor.agent.bgp_http import handlers
from stentor.agent.bgp_view import BGPViews
from stentor.agent.state import Tables
from stentor.api.meta import ObjectKey
from stentor.api.peering import CiliumBGPPeeringPolicySpec
from stentor.bgp.control import Control
from stentor.bgp.resource.node import BGPNode
from stentor.bgp.resource.table import derive
from stentor.bgp.speaker import Speaker
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.net.address import Addr, Prefix
from stentor.runtime.config import load
from stentor.state import Graph
from stentor.tables.bgp import Configured
from stentor.tables.node import Node
from stentor.tables.realized import Realized
from stentor.tables.service import Frontend, FrontendKey, LBEntry, Protocol, Service, ServiceType

VIP = Addr.parse("198.18.0.1")
POLICY = {
    "virtualRouters": [
        {
            "localASN": 65100,
            "exportPodCIDR": True,
            "serviceSelector": {"matchLabels": {"app": "web"}},
            "neighbors": [
                {
                    "peerAddress": "192.0.2.1/32",
                    "peerASN": 65200,
                    "advertisedPathAttributes": [
                        {"selectorType": "PodCIDR", "communities": {"standard": ["65100:7"]}, "localPreference": 50}
                    ],
                },
                {"peerAddress": "192.0.2.2/32", "peerASN": 65200, "authSecretRef": "gone"},
            ],
        }
    ]
}
WEB = Service(key=ObjectKey("default", "web"), type="LoadBalancer", ingress_ips=(VIP,), labels=(("app", "web"),))
ENTRY = LBEntry(key=FrontendKey(VIP, 80, Protocol.TCP))


def control_of(directory: Path, *, launches: bool = False) -> BGPControl:
    """The control plane of an agent that knows one policy and one service."""
    tables, values = Tables(), load((), ("bgpControlPlane.enabled=true",))
    client = Client(Connection(server="http://127.0.0.1:9"))
    control = BGPControl(tables, client, values, "node-1", directory, launches=launches)
    put, own = tables.database.put, tables.services
    put(control.tables.nodes, BGPNode(name="node-1"))
    put(control.tables.policies, Configured("test", msgspec.convert(POLICY, CiliumBGPPeeringPolicySpec)))
    put(tables.nodes, Node(name="node-1", pod_cidrs=(Prefix.parse("10.0.1.0/24"),), is_local=True))
    put(own.services, WEB)
    put(own.frontends, Frontend(service=WEB.key, type=ServiceType.LOAD_BALANCER, port_name="", entry=ENTRY))
    put(own.entries, ENTRY)
    put(own.realized, Realized(ENTRY.key, ENTRY))
    graph = Graph(tables.database, schedule=lambda _: None)
    derive(graph, control.tables, control.services, tables.nodes, node_name="node-1", secrets_namespace="kube-system")
    graph.settle()
    return control


def told(
    directory: Path, story: Callable[[TestClient[Any, Any]], Awaitable[None]], *, with_speaker: bool = True
) -> None:
    """Runs a story with a client of the API."""

    async def run() -> None:
        control = control_of(directory)
        speaker = Speaker(asyncio.get_running_loop(), state_dir=None, bfd_path=None)
        socket = Control(speaker, directory / "bgp.sock")
        if with_speaker:
            await socket.start()
        link = asyncio.create_task(control.link.run())
        app = web.Application()
        for path, handler in handlers(BGPViews(control), "node-1").items():
            app.router.add_get(path, handler)
        try:
            async with TestClient(TestServer(app)) as client, asyncio.timeout(30):
                while with_speaker and control.link.fault:
                    await asyncio.sleep(0.005)
                await story(client)
        finally:
            link.cancel()
            with suppress(asyncio.CancelledError):
                await link
            socket.close()
            speaker.leave()

    asyncio.run(run())


async def get(client: TestClient[Any, Any], path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status == status
    return await response.json()


def test_peers_with_and_without_a_session(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        answer = await get(client, "/v1/bgp/peers")
        assert (answer["node"], answer["enabled"], answer["speaker"]) == ("node-1", True, "running")
        first, second = answer["peers"]
        assert (first["instance"], first["peerAddress"], first["localASN"]) == ("65100", "192.0.2.1", 65100)
        assert (first["sessionState"] != "established", first["problem"]) == (True, "")
        assert second["peerAddress"] == "192.0.2.2"
        assert second["problem"] == answer["problems"][0]
        assert second["problem"].endswith("neighbors[1].authSecretRef: Secret kube-system/gone does not exist")

    told(tmp_path, story)


def test_routes_and_their_age(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        routes = (await get(client, "/v1/bgp/routes?kind=available&family=ipv4"))["routes"]
        found = {each["prefix"]: (each["source"], each["advertisements"]) for each in routes}
        assert found == {"10.0.1.0/24": ("local", ["PodCIDR"]), "198.18.0.1/32": ("local", ["Service"])}
        assert all(0 <= each["ageSeconds"] < 60 for each in routes)
        assert (await get(client, "/v1/bgp/routes?family=ipv6"))["routes"] == []
        for query in (
            "kind=advertised",
            "kind=received",
            "kind=advertised&peer=192.0.2.1",
            "kind=received&peer=192.0.2.2",
        ):
            assert (await get(client, f"/v1/bgp/routes?{query}"))["routes"] == []  # nobody is connected

    told(tmp_path, story)


def test_policies(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        found = (await get(client, "/v1/bgp/route-policies?vrouter=65100"))["policies"]
        ipv4 = [each for each in found if each["matchFamilies"] == ["ipv4/unicast"]]
        attributes, accept = ipv4
        assert (attributes["ribAction"], attributes["matchAdvertisements"]) == ("continue", ["PodCIDR"])
        assert attributes["pathActions"] == ["AddCommunities: 65100:7", "SetLocalPreference: 50"]
        assert attributes["matchPrefixes"] == [{"prefix": "10.0.1.0/24", "minLength": 24, "maxLength": 24}]
        assert (accept["ribAction"], accept["matchPeers"]) == ("accept", ["192.0.2.1"])
        assert [each["prefix"] for each in accept["matchPrefixes"]] == ["10.0.1.0/24", "198.18.0.1/32"]

    told(tmp_path, story)


def test_why(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        (view,) = (await get(client, "/v1/bgp/why?prefix=198.18.0.1"))["explanations"]
        assert view["origins"] == ["Service default/web by Service"]
        assert [each["prefix"] for each in view["paths"]] == ["198.18.0.1/32"]
        (peer,) = view["peers"]
        assert (peer["peer"], peer["advertised"]) == ("192.0.2.1", False)

    told(tmp_path, story)


def test_a_watch_ends_when_its_reader_hangs_up(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        before = len(asyncio.all_tasks())
        response = await client.get("/v1/bgp/watch")
        assert response.headers["Content-Type"] == "application/x-ndjson"
        response.close()
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.02)

    told(tmp_path, story)


def test_wrong_questions(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        for path, text in (
            ("routes?kind=best", "kind: 'best' is none of available, received, advertised"),
            ("routes?family=ipx", "family: 'ipx' is neither ipv4 nor ipv6"),
            ("routes?vrouter=7", "vrouter: no virtual router '7'"),
            ("routes?kind=advertised&peer=192.0.2.9", "peer: no peer '192.0.2.9'; `stentor bgp peers` shows all"),
        ):
            assert (await get(client, f"/v1/bgp/{path}", 400))["error"] == text
        assert "error" in await get(client, "/v1/bgp/why?prefix=nonsense", 400)

    told(tmp_path, story)


def test_without_a_speaker(tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        answer = await get(client, "/v1/bgp/peers")
        assert answer["speaker"] != "running"
        first, second = answer["peers"]
        assert (first["peerAddress"], first["problem"]) == ("192.0.2.1", answer["speaker"])
        assert "authSecretRef" in second["problem"]
        assert "cannot reach the speaker" in (await get(client, "/v1/bgp/routes", 503))["error"]

    told(tmp_path, story, with_speaker=False)


def test_a_missing_speaker_is_started_and_outlives_who_started_it(tmp_path: Path) -> None:
    async def until_connected(control: BGPControl) -> None:
        link = asyncio.create_task(control.link.run())
        async with asyncio.timeout(30):
            while control.link.fault:
                await asyncio.sleep(0.02)
        link.cancel()
        with suppress(asyncio.CancelledError):
            await link

    async def run() -> None:
        first = control_of(tmp_path, launches=True)
        await until_connected(first)
        assert first.launched is not None
        try:
            assert first.launched.poll() is None
            second = control_of(tmp_path, launches=True)
            await until_connected(second)
            assert second.launched is None  # it found the one that is there
        finally:
            first.launched.terminate()
            assert first.launched.wait(20) == 0

    asyncio.run(run())


def test_where_bgp_is_off() -> None:
    async def run() -> None:
        app = web.Application()
        for path, handler in handlers(None, "node-1").items():
            app.router.add_get(path, handler)
        async with TestClient(TestServer(app)) as client:
            assert await get(client, "/v1/bgp/peers") == {
                "node": "node-1",
                "enabled": False,
                "speaker": "",
                "peers": [],
                "problems": [],
            }
            assert (await get(client, "/v1/bgp/watch", 503))["error"] == "bgpControlPlane.enabled is false"

    asyncio.run(run())
