"""Commands that look into agents: endpoints, identities, nodes, addresses, maps, metrics, configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stentor.cli.output import OUTPUT, emit, emit_rows
from stentor.cli.relay import AgentError, AgentPod, Cluster, ask_all, ask_local, run

F = TypeVar("F", bound=Callable[..., Any])


def where(command: F) -> F:
    """Options that say which agents to ask."""
    command = click.option("--local", is_flag=True, help="Ask the agent of this machine by its socket.")(command)
    return click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this node; repeatable.")(command)


def ask(ctx: click.Context, path: str, nodes: tuple[str, ...], local: bool) -> list[tuple[str, Any]]:
    """(node, answer) of each agent asked. AgentError when none answers; others' failures go to standard error."""
    if local:
        status, answer = ask_local(path)
        if status != 200:
            raise AgentError(answer.get("error", f"HTTP {status}"))
        return [("", answer)]
    return run(_ask_cluster(ctx.obj, path, nodes))


async def _ask_cluster(options: dict[str, str | None], path: str, nodes: tuple[str, ...]) -> list[tuple[str, Any]]:
    async with Cluster(options["kubeconfig"], options["context"]) as cluster:
        agents = choose(await cluster.agents(), nodes)
        answers = await ask_all(cluster, agents, path)
    good = [(agent.node, answer) for agent, answer, error in answers if not error]
    errors = [error for _, _, error in answers if error]
    if not good:
        raise AgentError("; ".join(dict.fromkeys(errors)))
    for error in errors:
        click.echo(f"Warning: {error}", err=True)
    return good


def choose(agents: list[AgentPod], nodes: tuple[str, ...]) -> list[AgentPod]:
    """The agents of the nodes named, all without names; AgentError lists what there is."""
    known = {agent.node for agent in agents}
    if not agents:
        raise AgentError("no agent runs in this cluster (pods with label k8s-app=cilium in kube-system)")
    for name in nodes:
        if name not in known:
            raise AgentError(f"no agent on node {name}; there are: {', '.join(sorted(known))}")
    return [agent for agent in agents if not nodes or agent.node in nodes]


def emit_listings(answers: list[tuple[str, Any]], output: str) -> None:
    """Listings of several agents as one, with a column for the node when there is more than one."""
    many = len(answers) > 1
    columns = (["NODE"] if many else []) + list(answers[0][1]["columns"])
    rows = [([node] if many else []) + list(row) for node, answer in answers for row in answer["rows"]]
    emit_rows(columns, rows, output)


def _listing(name: str, path: str, text: str) -> click.Command:
    """A command that prints one listing."""

    @click.command(name, help=text)
    @where
    @OUTPUT
    @click.pass_context
    def command(ctx: click.Context, nodes: tuple[str, ...], local: bool, output: str) -> None:
        emit_listings(ask(ctx, path, nodes, local), output)

    return command


@click.group()
def endpoint() -> None:
    """Pods' endpoints: addresses, identity, policy, state."""


_ENDPOINT_COLUMNS = (
    "ENDPOINT",
    "POLICY (ingress)\nENFORCEMENT",
    "POLICY (egress)\nENFORCEMENT",
    "IDENTITY",
    "LABELS (source:key[=value])",
    "IPv6",
    "IPv4",
    "STATUS",
)


def _endpoint_row(view: dict[str, Any]) -> list[object]:
    enforcement = (view["ingress_enforcement"], view["egress_enforcement"])
    labels = "\n".join(view["labels"]) or "no labels"
    return [view["id"], *enforcement, view["identity"] or "<none>", labels, view["ipv6"], view["ipv4"], view["state"]]


@endpoint.command("list")
@where
@OUTPUT
@click.pass_context
def endpoint_list(ctx: click.Context, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """List endpoints of all nodes, or of one."""
    answers = ask(ctx, "/v1/endpoints", nodes, local)
    views = [view | ({"node": node} if node else {}) for node, views in answers for view in views]
    _emit_endpoints(views, output, has_nodes=len(answers) > 1)


def _emit_endpoints(views: list[dict[str, Any]], output: str, *, has_nodes: bool) -> None:
    if output != "table":
        emit(views, output)
        return
    columns = (("NODE",) if has_nodes else ()) + _ENDPOINT_COLUMNS
    emit_rows(columns, [([view["node"]] if has_nodes else []) + _endpoint_row(view) for view in views], "table")


@endpoint.command("get")
@click.argument("which")
@where
@click.option(
    "-o", "--output", type=click.Choice(["json", "yaml", "table"]), default="json", show_default=True, help="Form."
)
@click.pass_context
def endpoint_get(ctx: click.Context, which: str, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """Show endpoints by WHICH: an id, an address, or NAMESPACE/POD."""
    answers = ask(ctx, "/v1/endpoints", nodes, local)
    found = [
        view | ({"node": node} if node else {})
        for node, views in answers
        for view in views
        if which in (str(view["id"]), view["ipv4"], view["ipv6"], f"{view['namespace']}/{view['pod']}")
    ]
    if not found:
        raise AgentError(f"no endpoint {which}; `stentor endpoint list` shows all")
    _emit_endpoints(found, output, has_nodes=len(answers) > 1)


@click.group()
def identity() -> None:
    """Security identities and their labels."""


@identity.command("list")
@where
@OUTPUT
@click.pass_context
def identity_list(ctx: click.Context, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """List identities, reserved ones first."""
    answers = ask(ctx, "/v1/tables/identities", nodes, local)
    from stentor.net.identity import Reserved

    found = {int(row[0]): str(row[1]).split("\n") for _, answer in answers for row in answer["rows"]}
    known = {int(each): [each.label] for each in Reserved if each} | found
    if output == "table":
        emit_rows(("ID", "LABELS"), [(number, "\n".join(labels)) for number, labels in sorted(known.items())], output)
    else:
        emit([{"id": number, "labels": labels} for number, labels in sorted(known.items())], output)


@identity.command("get")
@click.argument("number", type=int)
@where
@OUTPUT
@click.pass_context
def identity_get(ctx: click.Context, number: int, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """Show one identity."""
    answers = ask(ctx, "/v1/tables/identities", nodes, local)
    rows = {tuple(row) for _, answer in answers for row in answer["rows"] if int(row[0]) == number}
    if not rows:
        raise AgentError(f"no identity {number}; `stentor identity list` shows all")
    emit_rows(("ID", "LABELS"), sorted(rows), output)


@click.group()
def node() -> None:
    """Nodes of the cluster."""


node.add_command(_listing("list", "/v1/tables/nodes", "List nodes with their addresses and pod CIDRs."))


@click.group()
def ip() -> None:
    """The ipcache: what is known of every address."""


ip.add_command(_listing("list", "/v1/tables/ipcache", "List prefixes with their identity and node."))

_MAPS = {
    "endpoint": "Addresses of local pods.",
    "ipcache": "Identity and tunnel of every prefix.",
    "node": "Underlay addresses from which the overlay takes packets.",
    "policy": "Classes of peers, by policy set and direction.",
    "class": "What a class may do.",
    "ct": "Tracked connections.",
    "nat": "Masqueraded connections.",
    "lb": "Services and their backends.",
    "lb-flow": "Flows of packets to services.",
    "metrics": "Forwarded and dropped packets, drops by reason.",
    "uplink": "Devices to the outside, and pods' addresses there.",
    "l2-responder": "Addresses announced by L2. How long they are answered for, and how often they were.",
    "ipmasq": "Destinations that are not masqueraded.",
}


@click.group()
def bpf() -> None:
    """What is in the kernel's maps."""


def _map_group(name: str, text: str) -> click.Group:
    group = click.Group(name, help=text)
    group.add_command(_listing("list", f"/v1/bpf/{name}", f"List the map. {text}"))
    return group


for _name, _text in _MAPS.items():
    bpf.add_command(_map_group(_name, _text))


@click.group()
def metrics() -> None:
    """Metrics of agents."""


metrics.add_command(_listing("list", "/v1/metrics", "List metrics and their values."))


@click.command()
@where
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Form.")
@click.pass_context
def config(ctx: click.Context, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """Show the configuration that agents run with."""
    answers = ask(ctx, "/v1/config", nodes, local)
    values = [answer for _, answer in answers]
    if all(each == values[0] for each in values):
        emit(values[0], output)
    else:
        emit(dict(answers), output)


@click.command()
@click.argument("name", required=False)
@where
@OUTPUT
@click.pass_context
def table(ctx: click.Context, name: str | None, nodes: tuple[str, ...], local: bool, output: str) -> None:
    """Show any table of the agents; without NAME which there are."""
    emit_listings(ask(ctx, f"/v1/tables/{name}" if name else "/v1/tables", nodes, local), output)
