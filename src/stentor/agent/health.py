"""What load balancers ask a node: kube-proxy's /healthz, and for each service with `externalTrafficPolicy: Local` its own port
that says whether a backend is here.

Kubernetes' contract (pkg/proxy/healthcheck): 200 with at least one local endpoint, 503 without; the body counts them.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from stentor.api.meta import ObjectKey
from stentor.services.claim import ServiceTables

_RETRY_S = 5.0

log = logging.getLogger(__name__)


class _ServiceName(msgspec.Struct, frozen=True):
    namespace: str
    name: str


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a health-check node port."""

    service: _ServiceName
    local_endpoints: int
    service_proxy_healthy: bool = True


def local_endpoints(tables: ServiceTables, service: ObjectKey) -> int:
    """Ready endpoints of a service on this node, those of two families counted once."""
    node = next(iter(tables.nodes), None)
    slices = tables.slices.by("service", service)
    every = (each for found in slices for each in found.endpoints)
    here = {each.addr for each in every if each.is_ready and node is not None and each.node == node.name}
    return max(sum(1 for addr in here if addr.family == family) for family in (4, 6))


class HealthPorts:
    """Listens on the ports that services ask for, as long as they do."""

    def __init__(self, tables: ServiceTables) -> None:
        self._tables = tables
        self._runners: dict[tuple[ObjectKey, int], web.AppRunner] = {}

    async def run(self) -> None:
        """Follow the services until cancelled."""
        changed = asyncio.Event()
        tracker = self._tables.services.track(wake=changed.set)
        try:
            while True:
                changed.clear()
                tracker.drain()
                is_complete = await self._settle()
                try:
                    async with asyncio.timeout(None if is_complete else _RETRY_S):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            tracker.close()
            for runner in self._runners.values():
                await runner.cleanup()
            self._runners.clear()

    async def _settle(self) -> bool:
        """Whether every port is open; one that is taken is tried again."""
        wanted = {
            (row.key, row.health_check_node_port)
            for row in self._tables.services
            if row.health_check_node_port and row.external_local
        }
        for gone in self._runners.keys() - wanted:
            await self._runners.pop(gone).cleanup()
        for service, port in wanted - self._runners.keys():
            try:
                self._runners[service, port] = await serve(self._handler(service), None, port)
            except OSError as e:
                log.warning(
                    "Health-check node port is not open", extra={"service": str(service), "port": port, "error": str(e)}
                )
        return wanted == self._runners.keys()

    def _handler(self, service: ObjectKey) -> web.Application:
        async def answer(_: web.Request) -> web.Response:
            count = local_endpoints(self._tables, service)
            body = msgspec.json.encode(Answer(_ServiceName(service.namespace, service.name), count))
            headers = {"X-Load-Balancing-Endpoint-Weight": str(count)}
            return web.Response(
                body=body, status=200 if count else 503, content_type="application/json", headers=headers
            )

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        return app


def healthz(tables: ServiceTables) -> web.Application:
    """kube-proxy's health endpoint: well when services are known."""

    async def answer(_: web.Request) -> web.Response:
        now = datetime.now(UTC).isoformat()
        is_well = tables.entries.is_synced
        body = msgspec.json.encode({"lastUpdated": now, "currentTime": now})
        return web.Response(body=body, status=200 if is_well else 503, content_type="application/json")

    app = web.Application()
    app.router.add_get("/healthz", answer)
    return app


async def serve(app: web.Application, host: str | None, port: int) -> web.AppRunner:
    """Listen; without a host on every address. OSError."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host or None, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
