"""``stentor lb``: pools of addresses for services, and which service has which address or why it has none."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stentor.cli.output import OUTPUT, emit, emit_rows
from stentor.cli.relay import AgentError, Cluster, run

if TYPE_CHECKING:
    from stentor.api.core import Service
    from stentor.api.lbipam import CiliumLoadBalancerIPPool
    from stentor.api.meta import Kind, Resource

    R = TypeVar("R", bound=Resource)

POOL_COLUMNS = ("NAME", "DISABLED", "CONFLICTING", "IPS TOTAL", "IPS USED", "IPS AVAILABLE", "AGE", "PROBLEM")
SERVICE_COLUMNS = ("NAMESPACE", "NAME", "IPS", "POOLS", "REASON", "MESSAGE")


@click.group()
def lb() -> None:
    """Addresses of LoadBalancer services."""


@lb.command()
@OUTPUT
@click.pass_context
def pools(ctx: click.Context, output: str) -> None:
    """Pools, how full they are, and what is wrong with them."""
    from stentor.api.lbipam import LB_IP_POOLS

    found = [pool_view(pool, datetime.now(UTC)) for pool in run(_list(ctx.obj, LB_IP_POOLS))]
    if output != "table":
        emit(found, output)
        return
    keys = ("name", "disabled", "conflicting", "ipsTotal", "ipsUsed", "ipsAvailable", "age", "problem")
    emit_rows(POOL_COLUMNS, [[str(view[key]) for key in keys] for view in found], "table")


@lb.command()
@OUTPUT
@click.pass_context
def services(ctx: click.Context, output: str) -> None:
    """Services, their addresses, and why they lack one. Only those of type LoadBalancer."""
    from stentor.api.core import SERVICES
    from stentor.api.lbipam import LB_IP_POOLS

    pools = list(run(_list(ctx.obj, LB_IP_POOLS)))
    listed = run(_list(ctx.obj, SERVICES))
    found = [service_view(each, pools) for each in listed if each.spec.type == "LoadBalancer"]
    if output != "table":
        emit(found, output)
        return
    keys = ("namespace", "name", "ips", "pools", "reason", "message")
    emit_rows(SERVICE_COLUMNS, [[_cell(each[key]) for key in keys] for each in found], "table")


def _cell(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)


async def _list(options: dict[str, str | None], kind: Kind[R]) -> list[R]:
    from stentor.kube.errors import ApiError, NotFound

    async with Cluster(options["kubeconfig"], options["context"]) as cluster:
        try:
            page = await cluster.client.list(kind)
        except NotFound as e:
            raise AgentError(f"{cluster.client.connection.server} does not know {kind}: has an operator run?") from e
        except ApiError as e:
            raise AgentError(f"{cluster.client.connection.server}: {e.message}") from e
    return sorted(page.items, key=lambda each: each.key)


def pool_view(pool: CiliumLoadBalancerIPPool, now: datetime) -> dict[str, Any]:
    """A pool as it is printed; what the operator has not said yet is empty."""
    from stentor.api import lbipam

    conditions = {each.type: each for each in pool.status.conditions}

    def count(kind: str) -> int | str:
        return int(conditions[kind].message) if kind in conditions else ""

    conflict = conditions.get(lbipam.POOL_CONFLICT)
    invalid = conditions.get("stentor.io/InvalidConfiguration")
    problems = [each.message for each in (conflict, invalid) if each is not None and each.status == "True"]
    return {
        "name": pool.metadata.name,
        "disabled": pool.spec.disabled,
        "conflicting": conflict.status if conflict is not None else "",
        "ipsTotal": count(lbipam.IPS_TOTAL),
        "ipsUsed": count(lbipam.IPS_USED),
        "ipsAvailable": count(lbipam.IPS_AVAILABLE),
        "blocks": [each.cidr or f"{each.start}-{each.stop or each.start}" for each in pool.spec.blocks],
        "age": age(pool.metadata.creation_timestamp, now),
        "problem": "; ".join(problems),
    }


def service_view(service: Service, pools: Iterable[CiliumLoadBalancerIPPool]) -> dict[str, Any]:
    """A service as it is printed."""
    from stentor.api.lbipam import REQUEST_SATISFIED
    from stentor.ipam.pool import spans_of
    from stentor.net.address import Addr

    ips = [each.ip for each in service.status.load_balancer.ingress if each.ip]
    spans = [(pool.metadata.name, span) for pool in pools for span in spans_of(pool.spec)[0]]
    sources = [next((name for name, span in spans if span.first <= Addr.parse(ip) <= span.last), "") for ip in ips]
    condition = next((each for each in service.status.conditions if each.type == REQUEST_SATISFIED), None)
    return {
        "namespace": service.metadata.namespace,
        "name": service.metadata.name,
        "ips": ips,
        "pools": sources,
        "reason": condition.reason if condition is not None else "",
        "message": condition.message if condition is not None else "",
    }


def age(stamp: str | None, now: datetime) -> str:
    """As kubectl: 45s, 12m, 5h, 3d."""
    if not stamp:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(stamp)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
