"""``stentor dns``: cluster DNS, started with the cluster's API and the servers to forward to."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stentor.api.core import ENDPOINT_SLICES, NAMESPACES, SERVICES
from stentor.dns import row
from stentor.dns.hosts import Hosts
from stentor.dns.server import DnsServer, Resolver
from stentor.dns.upstream import Server, of_resolv_conf
from stentor.dns.zone import Zone
from stentor.kube.client import Client
from stentor.kube.config import Connection, find
from stentor.kube.errors import BadConfig
from stentor.kube.source import table_source
from stentor.runtime import log as logs
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.state import Database

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (0); 2 for flags that cannot be used, 1 when an address cannot be listened on."""
    parser = argparse.ArgumentParser(prog="stentor dns", description="Cluster DNS.")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, then the pod's service account")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    parser.add_argument(
        "--listen",
        action="append",
        type=_server,
        metavar="ADDRESS[:PORT]",
        help="UDP and TCP; default: every address, port 53",
    )
    parser.add_argument("--cluster-domain", default="cluster.local", metavar="NAME", help="default: cluster.local")
    parser.add_argument(
        "--upstream",
        action="append",
        type=_server,
        metavar="ADDRESS[:PORT]",
        help="server of all other names; default: resolv.conf's",
    )
    parser.add_argument("--resolv-conf", type=Path, default=Path("/etc/resolv.conf"), metavar="FILE")
    parser.add_argument("--hosts", type=Path, metavar="FILE", help="hosts(5) file with names to answer before asking")
    parser.add_argument("--health-port", type=int, default=8181, metavar="PORT", help="/health, /ready, /metrics")
    arguments = parser.parse_args(argv)
    try:
        hosts = Hosts(arguments.hosts.read_text(errors="replace") if arguments.hosts else "")
        connection = find(arguments.kubeconfig, arguments.context)
    except (OSError, BadConfig) as e:
        print(f"stentor dns: {e}", file=sys.stderr)
        return 2
    logs.set_up()
    gc.freeze()
    listen = arguments.listen or [Server.parse(text) for text in ("0.0.0.0", "::")]
    upstreams = arguments.upstream or list(of_resolv_conf(arguments.resolv_conf))
    try:
        asyncio.run(run(connection, arguments.cluster_domain, listen, upstreams, hosts, arguments.health_port))
    except OSError as e:
        print(f"stentor dns: {e}", file=sys.stderr)
        return 1
    return 0


def _server(text: str) -> Server:
    """A flag's value; argparse shows the message with the flag."""
    try:
        return Server.parse(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


async def run(
    connection: Connection,
    domain: str,
    listen: Sequence[Server],
    upstreams: Sequence[Server],
    hosts: Hosts,
    health_port: int,
) -> None:
    """The server's life, in one event loop."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    database = Database()
    services, slices, namespaces = row.services(), row.slices(), row.namespaces()
    resolver = Resolver(Zone(domain, services, slices, namespaces), upstreams, hosts=hosts)
    async with Client(connection, user_agent="stentor-dns") as client, JobGroup(Health()) as jobs:
        for source in (
            table_source(client, SERVICES, database, services, row_of=row.parse_service, key_of=lambda key: key),
            table_source(client, ENDPOINT_SLICES, database, slices, row_of=row.parse_slice, key_of=lambda key: key),
            table_source(
                client,
                NAMESPACES,
                database,
                namespaces,
                row_of=lambda each: row.Namespace(each.metadata.name),
                key_of=lambda key: key.name,
            ),
        ):
            jobs.keep(str(source.kind), source.run)
        server = DnsServer(resolver, jobs)
        for each in listen:
            await _listen(server, each)
        runner = await _serve_health(resolver, health_port)
        log.info("Serving", extra={"domain": domain, "upstreams": ",".join(str(each.addr) for each in upstreams)})
        await ended.wait()
        await server.stop()
        await runner.cleanup()


async def _listen(server: DnsServer, at: Server) -> None:
    """An address of every kind (`::`) is left out where the machine has no IPv6."""
    try:
        await server.start(str(at.addr), at.port)
    except OSError:
        if int(at.addr):
            raise
        log.info("Not listening", extra={"address": str(at.addr)})


async def _serve_health(resolver: Resolver, port: int) -> web.AppRunner:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(resolver))

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="OK") if resolver.zone.is_synced else web.Response(status=503, text="not synced")

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/ready", ready), web.get("/health", healthy), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


class _Metrics(Collector):
    """CoreDNS' names, so that its dashboards show something."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def collect(self) -> Iterable[Metric]:
        responses = CounterMetricFamily("coredns_dns_responses", "Replies by code.", labels=["rcode"])
        for rcode, count in self._resolver.replies.items():
            responses.add_metric([rcode], count)
        yield responses
        yield GaugeMetricFamily("coredns_cache_entries", "Replies kept.", value=len(self._resolver.cache))


if __name__ == "__main__":
    sys.exit(main())
