"""``stentor status``: the cluster's networking at a glance, and why it is not well when it is not."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any

import click
import msgspec

from stentor.cli.inspect import choose
from stentor.cli.output import OUTPUT, emit
from stentor.cli.relay import NAMESPACE, AgentError, AgentPod, Cluster, ask_all, ask_local, run

_LOGO = (
    "    /¯¯\\",
    " /¯¯\\__/¯¯\\",
    " \\__/¯¯\\__/",
    " /¯¯\\__/¯¯\\",
    " \\__/¯¯\\__/",
    "    \\__/",
)
_POLL_S = 0.2


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; `errors` empty means healthy."""

    nodes: int
    agents_ready: int
    agents_desired: int
    operator: str
    pods: int
    pods_managed: int
    errors: tuple[str, ...]
    agents: dict[str, Any]


@click.command()
@click.option("--wait", is_flag=True, help="Wait until everything is healthy.")
@click.option("--wait-duration", default="5m", show_default=True, metavar="TIME", help="Longest wait.")
@click.option("--verbose", is_flag=True, help="Everything that each agent says about itself.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this node; repeatable.")
@click.option("--local", is_flag=True, help="Only the agent of this machine, by its socket.")
@OUTPUT
@click.pass_context
def status(
    ctx: click.Context, wait: bool, wait_duration: str, verbose: bool, nodes: tuple[str, ...], local: bool, output: str
) -> None:
    """Is networking healthy, and if not, why? Exit status 1 when it is not.

    Counts agents, the operator and pods, and asks every agent.
    """
    from stentor.runtime.duration import parse_duration_s

    try:
        limit_s = parse_duration_s(wait_duration)
    except ValueError as e:
        raise click.BadParameter(str(e), param_hint="--wait-duration") from e
    report = run(_watch(ctx.obj, nodes, local, limit_s if wait else 0.0))
    if output != "table":
        emit(msgspec.to_builtins(report), output)
    else:
        click.echo(_overview(report))
        if verbose:
            for name, answer in report.agents.items():
                click.echo(f"\n{name}\n{_details(answer)}")
    sys.exit(1 if report.errors else 0)


async def _watch(options: dict[str, str | None], nodes: tuple[str, ...], local: bool, limit_s: float) -> Report:
    """The report, asked for again until it is good or the time is over."""
    deadline = time.monotonic() + limit_s
    shown = ""
    while True:
        try:
            report = _local_report() if local else await _cluster_report(options, nodes)
        except AgentError as e:
            if time.monotonic() >= deadline:
                raise
            report = Report(
                nodes=0,
                agents_ready=0,
                agents_desired=0,
                operator="",
                pods=0,
                pods_managed=0,
                errors=(e.message,),
                agents={},
            )
        if not report.errors or time.monotonic() >= deadline:
            return report
        if report.errors[0] != shown:
            shown = report.errors[0]
            click.echo(f"Waiting: {shown}", err=True)
        await asyncio.sleep(_POLL_S)


def _local_report() -> Report:
    code, answer = ask_local("/v1/status")
    errors = tuple(answer["problems"]) if code == 200 else (f"HTTP {code}",)
    managed = sum(answer["endpoints"].values())
    return Report(
        nodes=answer["nodes"],
        agents_ready=1,
        agents_desired=1,
        operator="",
        pods=managed,
        pods_managed=managed,
        errors=errors,
        agents={answer["node"]: answer},
    )


async def _cluster_report(options: dict[str, str | None], nodes: tuple[str, ...]) -> Report:
    from stentor.api.core import LEASES, NODES
    from stentor.api.pod import POD_SUMMARIES
    from stentor.kube.errors import ApiError, NotFound

    async with Cluster(options["kubeconfig"], options["context"]) as cluster:
        try:
            known, pods = await asyncio.gather(cluster.client.list(NODES), cluster.client.list(POD_SUMMARIES))
        except ApiError as e:
            raise AgentError(f"{cluster.client.connection.server}: {e.message}") from e
        agents = choose(await cluster.agents(), nodes)
        answers = await ask_all(cluster, agents, "/v1/status")
        try:
            lease = await cluster.client.get(LEASES, "cilium-operator-resource-lock", NAMESPACE)
            operator = _operator_state(
                lease.spec.holder_identity, lease.spec.renew_time, lease.spec.lease_duration_seconds
            )
        except NotFound:
            operator = "no operator has ever led"
    own = [pod for pod in pods.items if not pod.spec.host_network and not pod.is_finished and pod.spec.node_name]
    own = [pod for pod in own if not nodes or pod.spec.node_name in nodes]
    managed = sum(sum(answer["endpoints"].values()) for _, answer, error in answers if not error)
    errors = _errors(agents, answers, [node.metadata.name for node in known.items], nodes)
    if operator:
        errors.append(f"cilium-operator: {operator}")
    return Report(
        nodes=len(known.items),
        agents_ready=sum(1 for _, answer, error in answers if not error and not answer["problems"]),
        agents_desired=len(nodes) or len(known.items),
        operator=operator or "OK",
        pods=len(own),
        pods_managed=min(managed, len(own)),
        errors=tuple(errors),
        agents={agent.node: answer for agent, answer, error in answers if not error},
    )


def _operator_state(holder: str | None, renewed: str | None, duration_s: int | None) -> str:
    """Empty when somebody leads."""
    from datetime import UTC, datetime

    if not holder:
        return "no operator leads"
    # Nanoseconds, which some servers write, are more than datetime reads.
    stamp = re.sub(r"(\.\d{6})\d+", r"\1", renewed or "")
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()
    except ValueError:
        return ""
    return f"leader {holder} has been silent for {age_s:.0f} s" if age_s > 2 * (duration_s or 15) else ""


def _errors(
    agents: list[AgentPod], answers: list[tuple[AgentPod, Any, str]], known: list[str], nodes: tuple[str, ...]
) -> list[str]:
    running = {agent.node for agent in agents}
    errors = [f"node {name}: no agent" for name in known if name not in running and (not nodes or name in nodes)]
    for agent, answer, error in answers:
        if error:
            errors.append(error)
        else:
            errors += [f"node {agent.node}: {problem}" for problem in answer["problems"]]
    return errors


def _overview(report: Report) -> str:
    cilium = "OK" if not report.errors else f"{len(report.errors)} errors"
    words = {
        "Cilium:": cilium,
        "Operator:": report.operator or "not asked",
        "Envoy DaemonSet:": "disabled",
        "Hubble Relay:": "disabled",
        "ClusterMesh:": "disabled",
    }
    lines = [_LOGO[0]]
    for logo, (key, value) in zip(_LOGO[1:], words.items(), strict=True):
        lines.append(f"{logo.ljust(14)}{key.ljust(18)}{value}")
    desired, ready = report.agents_desired, report.agents_ready
    lines += [
        "",
        f"DaemonSet              cilium             Desired: {desired}, Ready: {ready}/{desired}, Available: {ready}/{desired}",
        f"Containers:            cilium             Running: {len(report.agents)}",
        f"Cluster Pods:          {report.pods_managed}/{report.pods} managed by Cilium",
    ]
    lines += [f"{'Errors:' if index == 0 else '':<23}{error}" for index, error in enumerate(report.errors)]
    return "\n".join(lines)


def _details(answer: dict[str, Any]) -> str:
    pools = ", ".join(
        f"IPv{pool['family']}: {pool['used']}/{pool['capacity']} allocated from {pool['cidr']}"
        for pool in answer["ipam"]
    )
    reconcilers = answer["reconcilers"]
    healthy = sum(1 for each in reconcilers if not each["error"])
    rows = {
        "Kubernetes:": f"{answer['kubernetes']['state']}   {answer['kubernetes']['msg']}",
        "KubeProxyReplacement:": answer["kube_proxy_replacement"],
        "CNI Config file:": f"{answer['cni']['state']}   {answer['cni']['msg']}",
        "Cilium:": f"{answer['cilium']['state']}   {answer['cilium']['msg']}",
        "IPAM:": pools,
        "Routing:": answer["routing"],
        "Devices:": f"{' '.join(answer['devices'])}   MTU {answer['mtu']}",
        "Masquerading:": answer["masquerading"],
        "BGP:": f"{answer['bgp']['state']}   {answer['bgp']['msg']}",
        "Endpoints:": ", ".join(f"{count} {state}" for state, count in answer["endpoints"].items()) or "none",
        "Identities:": str(answer["identities"]),
        "Nodes:": str(answer["nodes"]),
        "Controller Status:": f"{healthy}/{len(reconcilers)} healthy",
    }
    lines = [f"{key.ljust(24)}{value}" for key, value in rows.items()]
    for each in reconcilers:
        state = each["error"] or ("settled" if each["settled"] else "working")
        lines.append(f"  {each['name'].ljust(22)}{each['rows']} rows, {each['drift_repairs']} repaired: {state}")
    lines += [f"  {part['name'].ljust(22)}{part['level']} {part['message']}".rstrip() for part in answer["parts"]]
    return "\n".join(lines)
