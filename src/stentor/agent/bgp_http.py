"""`/v1/bgp/…` on the agent's socket; `bgp_api` has the shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
from aiohttp import web

from stentor.agent.bgp_api import PeerList, PolicyList, RouteList, View, WhyList
from stentor.agent.bgp_view import BGPViews
from stentor.bgp.errors import ConfigError, Unreachable

_encode = msgspec.json.Encoder().encode
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def handlers(views: BGPViews | None, node: str) -> dict[str, Handler]:
    """Handlers by path; without views BGP is off."""

    def answering(answer: Callable[[BGPViews, web.Request], Awaitable[View]], off: View) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if views is None:
                return _json(off)
            try:
                return _json(await answer(views, request))
            except ConfigError as error:
                return _json({"error": str(error)}, 400)
            except Unreachable as error:
                return _json({"error": str(error)}, 503)

        return handle

    async def watch(request: web.Request) -> web.StreamResponse:
        if views is None:
            return _json({"error": "bgpControlPlane.enabled is false"}, 503)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async with aclosing(views.watch(with_routes=request.query.get("routes") == "true")) as events:
                async for event in events:
                    if request.transport is None or request.transport.is_closing():
                        break  # nobody tells when the reader hangs up while nothing happens
                    if event is not None:
                        await response.write(_encode(event) + b"\n")
        except Unreachable as error:
            await response.write(_encode({"error": str(error)}) + b"\n")
        except ConnectionError:
            pass
        return response

    return {
        "/v1/bgp/peers": answering(lambda views, _: views.peers(), PeerList(node=node, enabled=False)),
        "/v1/bgp/routes": answering(_routes, RouteList(node=node, enabled=False)),
        "/v1/bgp/route-policies": answering(_policies, PolicyList(node=node, enabled=False)),
        "/v1/bgp/why": answering(
            lambda views, request: views.why(request.query.get("prefix", "")),
            WhyList(node=node, enabled=False, prefix="", obstacles=("bgpControlPlane.enabled is false",)),
        ),
        "/v1/bgp/watch": watch,
    }


async def _routes(views: BGPViews, request: web.Request) -> RouteList:
    query = request.query
    kind, family = query.get("kind", "available"), query.get("family", "ipv4")
    return await views.routes(kind, family, query.get("peer", ""), query.get("vrouter", ""))


async def _policies(views: BGPViews, request: web.Request) -> PolicyList:
    return views.policies(request.query.get("vrouter", ""))


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), content_type="application/json", status=status)
