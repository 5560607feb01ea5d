"""The cluster's zone against Kubernetes' DNS specification 1.1.0, section by section."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.api import core
from stentor.dns import row
from stentor.dns.row import dashed, undashed
from stentor.dns.zone import Kind, Outcome, Zone, reverse
from stentor.net.address import Addr
from stentor.state import Database

DOMAIN = "cluster.local"


def service(name: str, **spec: Any) -> core.Service:
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}, core.Service)


def slice_of(name: str, kind: str, *endpoints: dict[str, Any]) -> core.EndpointSlice:
    meta = {"name": f"{name}-{kind}", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    raw = {"metadata": meta, "addressType": kind, "ports": ports, "endpoints": list(endpoints)}
    return msgspec.convert(raw, core.EndpointSlice)


@pytest.fixture
def zone() -> Zone:
    database = Database()
    services, slices, namespaces = row.services(), row.slices(), row.namespaces()
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    for each in (
        service("web", clusterIPs=["10.96.0.7", "fd00:96::7"], ports=ports),
        service("db", clusterIPs=["None"], clusterIP="None", ports=[{"name": "http", "port": 80}]),
        service("asleep", clusterIPs=["None"], clusterIP="None", ports=[{"name": "http", "port": 80}]),
        service("out", type="ExternalName", externalName="www.example.com"),
        service("alias", type="ExternalName", externalName="web.shop.svc.cluster.local"),
    ):
        database.put(services, row.parse_service(each))
    for found in (
        slice_of("db", "IPv4", {"addresses": ["10.0.1.1"], "hostname": "db-0"}, {"addresses": ["10.0.1.2"]},
                 {"addresses": ["10.0.1.3"], "conditions": {"ready": False}}),
        slice_of("db", "IPv6", {"addresses": ["fd00::1"], "hostname": "db-0"}),
        slice_of("asleep", "IPv4", {"addresses": ["10.0.1.9"], "conditions": {"ready": False}}),
    ):  # fmt: skip
        parsed = row.parse_slice(found)
        assert parsed is not None
        database.put(slices, parsed)
    database.put(namespaces, row.Namespace("shop"), row.Namespace("empty"))
    return Zone(DOMAIN, services, slices, namespaces)


def data(zone: Zone, name: str, kind: Kind | None) -> list[str]:
    found = zone.answer(name, kind)
    assert found.outcome is Outcome.ANSWER
    return sorted(each.data for each in found.records)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("dns-version.cluster.local", Kind.TXT, ['"1.1.0"']),
        ("web.shop.svc.cluster.local", Kind.A, ["10.96.0.7"]),
        ("WEB.Shop.svc.cluster.LOCAL", Kind.AAAA, ["fd00:96::7"]),
        ("web.shop.svc.cluster.local", Kind.TXT, []),
        ("web.shop.svc.cluster.local", None, []),
        ("_http._tcp.web.shop.svc.cluster.local", Kind.SRV, ["0 100 80 web.shop.svc.cluster.local."]),
        ("_dns._udp.web.shop.svc.cluster.local", Kind.SRV, ["0 100 53 web.shop.svc.cluster.local."]),
        ("_tcp.web.shop.svc.cluster.local", Kind.SRV, []),
        ("7.0.96.10.in-addr.arpa", Kind.PTR, ["web.shop.svc.cluster.local."]),
        ("db.shop.svc.cluster.local", Kind.A, ["10.0.1.1", "10.0.1.2"]),
        ("db.shop.svc.cluster.local", Kind.AAAA, ["fd00::1"]),
        ("db-0.db.shop.svc.cluster.local", Kind.A, ["10.0.1.1"]),
        ("10-0-1-2.db.shop.svc.cluster.local", Kind.A, ["10.0.1.2"]),
        ("1.1.0.10.in-addr.arpa", Kind.PTR, ["db-0.db.shop.svc.cluster.local."]),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            Kind.SRV,
            ["0 50 8080 10-0-1-2.db.shop.svc.cluster.local.", "0 50 8080 db-0.db.shop.svc.cluster.local."],
        ),
        ("out.shop.svc.cluster.local", Kind.CNAME, ["www.example.com."]),
        ("out.shop.svc.cluster.local", Kind.A, ["www.example.com."]),
        ("alias.shop.svc.cluster.local", Kind.A, ["10.96.0.7", "web.shop.svc.cluster.local."]),
        ("10-0-9-9.shop.pod.cluster.local", Kind.A, ["10.0.9.9"]),
        ("fd00--9.shop.pod.cluster.local", Kind.AAAA, ["fd00::9"]),
        ("10-0-9-9.shop.pod.cluster.local", Kind.AAAA, []),
        ("shop.svc.cluster.local", Kind.A, []),
        ("empty.svc.cluster.local", Kind.A, []),
        ("svc.cluster.local", Kind.A, []),
        ("cluster.local", Kind.NS, ["ns.dns.cluster.local."]),
    ],
)
def test_answers(zone: Zone, name: str, kind: Kind | None, expected: list[str]) -> None:
    assert data(zone, name, kind) == expected


@pytest.mark.parametrize(
    "name",
    [
        "none.shop.svc.cluster.local",
        "web.none.svc.cluster.local",
        "none.svc.cluster.local",
        "x.web.shop.svc.cluster.local",
        "_none._tcp.web.shop.svc.cluster.local",
        "_http._udp.web.shop.svc.cluster.local",
        "a._http._tcp.web.shop.svc.cluster.local",
        "db-0.out.shop.svc.cluster.local",
        "10-0-1-3.db.shop.svc.cluster.local",
        "asleep.shop.svc.cluster.local",
        "_tcp.asleep.shop.svc.cluster.local",
        "_http._tcp.asleep.shop.svc.cluster.local",
        "10-0-0-999.shop.pod.cluster.local",
        "10-0-0-1.none.pod.cluster.local",
        "www.example.com.cluster.local",
        "..cluster.local",
    ],
)
def test_names_that_do_not_exist(zone: Zone, name: str) -> None:
    assert zone.answer(name, Kind.A).outcome is Outcome.NO_SUCH_NAME


@pytest.mark.parametrize("name", ["example.com", "", "xcluster.local", "9.9.9.9.in-addr.arpa", "arpa"])
def test_what_others_answer(zone: Zone, name: str) -> None:
    assert zone.answer(name, Kind.A).outcome is Outcome.ELSEWHERE


def test_an_alias_leads_out_of_the_zone(zone: Zone) -> None:
    assert zone.answer("out.shop.svc.cluster.local", Kind.AAAA).alias == "www.example.com"


def test_targets_come_with_their_addresses(zone: Zone) -> None:
    found = zone.answer("_http._tcp.db.shop.svc.cluster.local", Kind.SRV)
    assert sorted(each.data for each in found.additional) == ["10.0.1.1", "10.0.1.2", "fd00::1"]


def test_an_endpoint_in_an_alias_loop_ends() -> None:
    database = Database()
    services, slices, namespaces = row.services(), row.slices(), row.namespaces()
    for name, other in (("a", "b"), ("b", "a")):
        spec = {"type": "ExternalName", "externalName": f"{other}.shop.svc.{DOMAIN}"}
        database.put(services, row.parse_service(service(name, **spec)))
    found = Zone(DOMAIN, services, slices, namespaces).answer(f"a.shop.svc.{DOMAIN}", Kind.A)
    assert {each.kind for each in found.records} == {Kind.CNAME}


@given(st.ip_addresses())
def test_addresses_as_names_and_back(ip: Any) -> None:
    addr = Addr.of(ip)
    if ip.version == 6 and addr.is_ipv4:
        return
    assert undashed(dashed(addr)) == addr
    assert reverse(tuple(ip.reverse_pointer.split("."))) == addr


@given(st.text(max_size=40), st.sampled_from([*Kind, None]))
def test_any_text_has_an_outcome(text: str, kind: Kind | None) -> None:
    zone = Zone(DOMAIN, row.services(), row.slices(), row.namespaces())
    for name in (text, f"{text}.{DOMAIN}", f"{text}.svc.{DOMAIN}", f"{text}.in-addr.arpa"):
        zone.answer(name, kind)
