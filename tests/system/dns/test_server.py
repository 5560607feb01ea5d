"""The DNS server over real sockets: UDP, TCP, forwarding, silence of the servers behind it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import msgspec
import pytest

from stentor.api import core
from stentor.dns import row
from stentor.dns.hosts import Hosts
from stentor.dns.server import DnsServer, Resolver
from stentor.dns.upstream import Server
from stentor.dns.zone import Zone
from stentor.net.address import Addr
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.state import Database

LOOPBACK = "127.0.0.1"


def zone_of(domain: str, addresses: list[str]) -> Zone:
    """A zone with one service `web` in `shop`; two others lead out of it, to web.shop.svc.upstream.test and to tor1."""
    database = Database()
    services, slices, namespaces = row.services(), row.slices(), row.namespaces()
    for name, spec in (
        ("web", {"clusterIPs": addresses}),
        ("out", {"type": "ExternalName", "externalName": "web.shop.svc.upstream.test"}),
        ("router", {"type": "ExternalName", "externalName": "tor1"}),
    ):
        raw = {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}
        database.put(services, row.parse_service(msgspec.convert(raw, core.Service)))
    database.put(namespaces, row.Namespace("shop"))
    return Zone(domain, services, slices, namespaces)


@pytest.fixture
async def ports() -> AsyncIterator[tuple[int, Resolver]]:
    """A server that forwards to a second one, and its resolver."""
    async with JobGroup(Health()) as jobs:
        behind = DnsServer(
            Resolver(zone_of("upstream.test", [f"10.1.{n // 200}.{n % 200}" for n in range(300)]), ()), jobs
        )
        upstream = Server(Addr.parse(LOOPBACK), await behind.start(LOOPBACK, 0))
        hosts = Hosts("192.0.2.1 tor1 web.shop.svc.cluster.local\n2001:db8::1 tor1\n")
        resolver = Resolver(zone_of("cluster.local", ["10.96.0.7"]), (upstream,), hosts=hosts)
        front = DnsServer(resolver, jobs)
        port = await front.start(LOOPBACK, 0)
        yield port, resolver
        await front.stop()
        await behind.stop()


def addresses(reply: dns.message.Message) -> list[str]:
    return [each.to_text() for rrset in reply.answer for each in rrset]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_both_transports(ports: tuple[int, Resolver], transport: str) -> None:
    ask = dns.asyncquery.udp if transport == "udp" else dns.asyncquery.tcp
    reply = await ask(dns.message.make_query("web.shop.svc.cluster.local", "A"), LOOPBACK, timeout=5, port=ports[0])
    assert addresses(reply) == ["10.96.0.7"]
    missing = await ask(dns.message.make_query("no.shop.svc.cluster.local", "A"), LOOPBACK, timeout=5, port=ports[0])
    assert missing.rcode() == dns.rcode.NXDOMAIN


async def test_what_is_forwarded_is_whole_even_when_it_was_cut_and_kept(ports: tuple[int, Resolver]) -> None:
    port, resolver = ports
    query = dns.message.make_query("web.shop.svc.upstream.test", "A")
    over_tcp = await dns.asyncquery.tcp(query, LOOPBACK, timeout=5, port=port)
    assert len(addresses(over_tcp)) == 300
    over_udp = await dns.asyncquery.udp(query, LOOPBACK, timeout=5, port=port)
    assert over_udp.flags & dns.flags.TC
    assert len(resolver.cache) == 1


async def test_an_alias_out_of_the_zone_is_followed(ports: tuple[int, Resolver]) -> None:
    query = dns.message.make_query("out.shop.svc.cluster.local", "A")
    reply = await dns.asyncquery.tcp(query, LOOPBACK, timeout=5, port=ports[0])
    assert addresses(reply)[0] == "web.shop.svc.upstream.test."
    assert len(addresses(reply)) == 301


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("tor1", "A", ["192.0.2.1"]),
        ("tor1", "AAAA", ["2001:db8::1"]),
        ("tor1", "TXT", []),
        ("1.2.0.192.in-addr.arpa", "PTR", ["tor1.", "web.shop.svc.cluster.local."]),
        ("router.shop.svc.cluster.local", "A", ["tor1.", "192.0.2.1"]),
        ("router.shop.svc.cluster.local", "TXT", ["tor1."]),
        ("web.shop.svc.cluster.local", "A", ["10.96.0.7"]),
    ],
)
async def test_hosts_are_known_without_asking(
    ports: tuple[int, Resolver], name: str, kind: str, expected: list[str]
) -> None:
    ports[1].upstreams = ()
    reply = await dns.asyncquery.udp(dns.message.make_query(name, kind), LOOPBACK, timeout=5, port=ports[0])
    assert reply.rcode() == dns.rcode.NOERROR
    assert sorted(addresses(reply)) == sorted(expected)


async def test_silence_behind_is_a_failure_and_the_zone_goes_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((LOOPBACK, 0))
        gone = Server(Addr.parse(LOOPBACK), deaf.getsockname()[1])
        async with JobGroup(Health()) as jobs:
            server = DnsServer(Resolver(zone_of("cluster.local", ["10.96.0.7"]), (gone,)), jobs)
            port = await server.start(LOOPBACK, 0)
            outside = asyncio.ensure_future(
                dns.asyncquery.udp(dns.message.make_query("example.com", "A"), LOOPBACK, timeout=10, port=port)
            )
            inside = dns.message.make_query("web.shop.svc.cluster.local", "A")
            assert addresses(await dns.asyncquery.udp(inside, LOOPBACK, timeout=5, port=port)) == ["10.96.0.7"]
            assert (await outside).rcode() == dns.rcode.SERVFAIL
            await server.stop()


async def test_before_the_tables_are_synced_nothing_is_denied() -> None:
    zone = zone_of("cluster.local", ["10.96.0.7"])
    zone._services.expect("kube")
    async with JobGroup(Health()) as jobs:
        server = DnsServer(Resolver(zone, ()), jobs)
        port = await server.start(LOOPBACK, 0)
        query = dns.message.make_query("no.shop.svc.cluster.local", "A")
        assert (await dns.asyncquery.udp(query, LOOPBACK, timeout=5, port=port)).rcode() == dns.rcode.SERVFAIL
        await server.stop()


async def test_several_queries_on_one_connection_and_a_broken_one(ports: tuple[int, Resolver]) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, ports[0])
    raw = dns.message.make_query("web.shop.svc.cluster.local", "A").to_wire()
    writer.write((struct.pack("!H", len(raw)) + raw) * 3)
    async with asyncio.timeout(5):
        for _ in range(3):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            assert addresses(dns.message.from_wire(await reader.readexactly(size))) == ["10.96.0.7"]
        writer.write(struct.pack("!H", 3) + b"abc")
        assert await reader.read() == b""
    writer.close()
