"""The agent's HTTP API: read-only JSON on a unix socket, and the health endpoint for probes.

GET /v1/status  /v1/healthz  /v1/config  /v1/endpoints[/ID]  /v1/tables[/NAME]  /v1/bpf[/MAP]  /v1/metrics  /v1/bgp/…
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from stentor.agent import listing
from stentor.agent.bgp_http import handlers
from stentor.agent.bgp_view import BGPViews
from stentor.agent.life import Agent
from stentor.agent.server import listen
from stentor.agent.service import service_views
from stentor.agent.status import status_of
from stentor.net.address import Addr
from stentor.state import Table
from stentor.sys.peer import is_trusted
from stentor.tables.endpoint import Endpoint

SOCKET: Final = "agent.sock"
HEALTH_PORT: Final = 9879


def _hook(value: Any) -> Any:
    if isinstance(value, int):  # addresses are integers with a text form
        return str(value)
    raise NotImplementedError(type(value).__name__)


_ENCODER = msgspec.json.Encoder(enc_hook=_hook)


@web.middleware
async def _admit(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The socket is for root and the agent's own user, whatever its mode has become."""
    transport = request.transport
    if transport is None or not is_trusted(transport.get_extra_info("socket")):
        raise web.HTTPForbidden
    return await handler(request)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_ENCODER.encode(value), content_type="application/json", status=status)


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as the command line shows it."""

    id: int
    identity: int
    labels: tuple[str, ...]
    ipv4: str
    ipv6: str
    state: str
    namespace: str
    pod: str
    container_id: str
    container_ifname: str
    host_ifname: str
    ifindex: int
    mac: str
    netns: str
    ingress_enforcement: str = "Disabled"
    egress_enforcement: str = "Disabled"


def view_of(endpoint: Endpoint, mode: str) -> EndpointView:
    """`mode` is policyEnforcementMode: without policies only `always` enforces."""
    enforcement = "Enabled" if mode == "always" else "Disabled"

    def text(addr: Addr | None) -> str:
        return str(addr) if addr is not None else ""

    return EndpointView(
        id=endpoint.id,
        identity=endpoint.identity,
        labels=tuple(map(str, endpoint.labels)),
        ipv4=text(endpoint.ipv4),
        ipv6=text(endpoint.ipv6),
        state=endpoint.state.value,
        namespace=endpoint.namespace,
        pod=endpoint.pod,
        container_id=endpoint.container_id,
        container_ifname=endpoint.container_ifname,
        host_ifname=endpoint.host_ifname,
        ifindex=endpoint.ifindex,
        mac=endpoint.mac.hex(":"),
        netns=endpoint.netns,
        ingress_enforcement=enforcement,
        egress_enforcement=enforcement,
    )


def table_listing(table: Table[Any, Any]) -> listing.Listing:
    """A table of the agent by its own columns."""
    columns = tuple(column.name for column in table.columns) or ("ROW",)
    rows = (
        tuple(_cell(column.show(row)) for column in table.columns) if table.columns else (str(row),) for row in table
    )
    return listing.Listing(columns, tuple(rows))


def _cell(value: object) -> str | int:
    return value if type(value) is int else str(value)


class Api:
    """Serves one agent."""

    def __init__(self, agent: Agent, registry: CollectorRegistry) -> None:
        self._agent = agent
        self._registry = registry
        self._runners: list[web.AppRunner] = []

    async def serve(self) -> None:
        """Listen on the socket and on the health port of both loopback addresses."""
        app = web.Application(middlewares=[_admit])
        routes: dict[str, Callable[[web.Request], Any]] = {
            "/v1/status": self._status,
            "/v1/healthz": self._health,
            "/v1/config": self._config,
            "/v1/endpoints": self._endpoints,
            "/v1/endpoints/{id}": self._endpoint,
            "/v1/services": self._services,
            "/v1/tables": self._tables,
            "/v1/tables/{name}": self._table,
            "/v1/bpf": self._maps,
            "/v1/bpf/{name}": self._map,
            "/v1/metrics": self._metrics,
        }
        views = BGPViews(self._agent.bgp) if self._agent.bgp is not None else None
        for path, answer in (routes | handlers(views, self._agent.node.name)).items():
            app.router.add_get(path, answer)
        runner = await self._start(app)
        await web.SockSite(runner, listen(self._agent.paths.run / SOCKET)).start()
        health = web.Application()
        health.router.add_get("/healthz", self._health)
        probe = await self._start(health)
        for host in ("127.0.0.1", "::1"):
            try:
                await web.TCPSite(probe, host, HEALTH_PORT).start()
            except OSError:
                if host == "127.0.0.1":
                    raise  # a machine without IPv6 has no ::1

    async def _start(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()

    async def _status(self, _: web.Request) -> web.Response:
        return _json(status_of(self._agent))

    async def _health(self, _: web.Request) -> web.Response:
        status = status_of(self._agent)
        healthy = not self._agent.obstacle
        return _json({"status": status.cilium.state, "problems": status.problems}, 200 if healthy else 503)

    async def _config(self, _: web.Request) -> web.Response:
        return _json(self._agent.values)

    async def _endpoints(self, _: web.Request) -> web.Response:
        mode = self._agent.values.policy_enforcement_mode
        rows = sorted(self._agent.tables.endpoints, key=lambda row: row.id)
        return _json([view_of(row, mode) for row in rows])

    async def _endpoint(self, request: web.Request) -> web.Response:
        text = request.match_info["id"]
        row = self._agent.tables.endpoints.get(int(text)) if text.isdecimal() else None
        if row is None:
            return _json({"error": f"no endpoint {text}"}, 404)
        return _json(view_of(row, self._agent.values.policy_enforcement_mode))

    async def _services(self, _: web.Request) -> web.Response:
        return _json(service_views(self._agent.tables.services, self._agent.service_target))

    async def _tables(self, _: web.Request) -> web.Response:
        tables = self._agent.tables.database.tables
        rows = tuple((name, len(table), "yes" if table.is_synced else "no") for name, table in tables.items())
        return _json(listing.Listing(("TABLE", "ROWS", "SYNCED"), rows))

    async def _table(self, request: web.Request) -> web.Response:
        table = self._agent.tables.database.tables.get(request.match_info["name"])
        if table is None:
            return _json({"error": f"no table {request.match_info['name']}; `stentor table` shows all"}, 404)
        return _json(table_listing(table))

    async def _maps(self, _: web.Request) -> web.Response:
        return _json(listing.Listing(("MAP",), tuple((name,) for name in listing.names())))

    async def _map(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if self._agent.datapath is None:
            return _json({"error": "the datapath is not loaded yet"}, 503)
        if name not in listing.names():
            return _json({"error": f"no map {name}; there are {', '.join(listing.names())}"}, 404)
        maps = self._agent.datapath.maps
        found = await asyncio.get_running_loop().run_in_executor(None, listing.listing, name, maps)
        return _json(found)

    async def _metrics(self, _: web.Request) -> web.Response:
        rows = tuple(
            (sample.name, ",".join(f'{key}="{value}"' for key, value in sample.labels.items()), str(sample.value))
            for family in self._registry.collect()
            for sample in family.samples
        )
        return _json(listing.Listing(("Metric", "Labels", "Value"), rows))
