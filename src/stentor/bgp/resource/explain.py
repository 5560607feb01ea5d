"""Why a prefix is advertised, and why it is not: in words, from the tables as they are."""

from __future__ import annotations

from collections.abc import Iterator

from stentor.bgp.resource import service
from stentor.bgp.resource.plan import Origin, Plan
from stentor.bgp.resource.table import BGPTables, ServiceView, service_addresses
from stentor.net.address import Prefix
from stentor.tables.service import Service


def origins(instance: str, prefix: Prefix, tables: BGPTables) -> Iterator[str]:
    """Who asks for a prefix, by which advertisements."""
    for row in tables.contributions.by("route", (instance, prefix)):
        yield f"{row.origin} by {', '.join(row.entries)}"


def obstacles(prefix: Prefix, tables: BGPTables, services: ServiceView) -> Iterator[str]:
    """What keeps addresses inside a prefix from being advertised."""
    plan = tables.plan
    if plan.is_leaving:
        yield "this node is leaving the cluster, or is out of service: it advertises nothing"
    elif plan.is_excluded:
        yield "this node is excluded from load balancers by its label: it advertises no service"
    for row in services.services:
        yield from _of_service(row, prefix, plan, tables, services)
    for problem in plan.problems:
        if not problem.peer:
            yield str(problem)


def _of_service(row: Service, prefix: Prefix, plan: Plan, tables: BGPTables, services: ServiceView) -> Iterator[str]:
    wanted = [addr for addr in (*row.ingress_ips, *row.external_ips, *row.cluster_ips) if prefix.covers(addr)]
    if not wanted:
        return
    found = [each for each in service_addresses(services, row) if each.addr in wanted]
    name = f"Service {row.key}"
    if not found:
        yield f"{name}: this node's load balancer does not serve {', '.join(map(str, wanted))}"
    for address in found:
        if address.obstacle:
            yield f"{name}: {address.addr} ({address.kind.value}): {address.obstacle}"
    labels, pools = service.selectable_labels(row), list(tables.pools)
    entries = [entry for each in plan.instances for entry in each.entries if entry.origin is Origin.SERVICE]
    selecting = [entry for entry in entries if service.selects(entry, labels)]
    if entries and not selecting:
        yield f"{name}: no selector of {', '.join(dict.fromkeys(entry.name for entry in entries))} matches it"
    if not entries and plan.instances:
        yield f"{name}: nothing advertises services"
    for address in found:
        if selecting and not any(
            address.kind in entry.addresses and service.in_pools(entry, address.addr, pools) for entry in selecting
        ):
            names = ", ".join(dict.fromkeys(entry.name for entry in selecting))
            yield f"{name}: {address.addr} is a {address.kind.value}, which {names} does not advertise"
