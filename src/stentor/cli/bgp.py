"""``stentor bgp``: look at BGP in a cluster or at one speaker, convert old resources, run a speaker and act on its peers.

Who is asked: with ``--socket`` that speaker, with ``--local`` the agent of this machine, with a kubeconfig the cluster's
agents, without one the speaker of this machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from stentor.cli import bgp_table
from stentor.cli.inspect import ask, where
from stentor.cli.output import OUTPUT, emit, emit_rows
from stentor.cli.relay import AgentError
from stentor.cli.speaker import SOCKET

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_acts_on = click.option("--socket", "path", default=SOCKET, show_default=True, help="The speaker's control socket.")


def _source(command: F) -> F:
    """Options that say who is asked, and in which form the answer is printed."""
    text = f"Ask the speaker of this control socket.  [default without a kubeconfig: {SOCKET}]"
    return click.option("--socket", "path", metavar="PATH", help=text)(where(OUTPUT(command)))


def _speaker(ctx: click.Context, path: str | None, nodes: tuple[str, ...], local: bool) -> str:
    """The control socket to ask; empty when the agents are."""
    from stentor.kube.config import is_configured

    if path and (nodes or local):
        raise click.UsageError("--socket asks one speaker: --node and --local ask agents")
    if path or nodes or local or ctx.obj["context"] or is_configured(ctx.obj["kubeconfig"]):
        return path or ""
    return SOCKET


def _answers(ctx: click.Context, query: str, kind: type[T], nodes: tuple[str, ...], local: bool) -> list[T]:
    """Of each agent. A cluster whose agents have bgpControlPlane off is told so."""
    found = [msgspec.convert(answer, kind) for _, answer in ask(ctx, query, nodes, local)]
    off = [each for each in found if not getattr(each, "enabled", True)]
    if found and len(off) == len(found):
        raise AgentError("BGP is off: set bgpControlPlane.enabled=true (docs/bgp-lab.md)")
    return found


@click.group()
def bgp() -> None:
    """Look at BGP in a cluster or at one speaker; speak BGP without a cluster.

    \b
    peers, routes, route-policies, why and watch ask
      all agents of the cluster     with a kubeconfig (--kubeconfig, KUBECONFIG); --node for some
      the agent of this machine     with --local
      a speaker of `bgp run`        with --socket PATH, or when there is no kubeconfig
    """


@bgp.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Speak BGP as CONFIG.yaml says (--help shows the flags).",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Speak BGP as CONFIG.yaml says; SIGHUP reads it again, SIGTERM ends."""
    from stentor.bgp.command import main

    sys.exit(main(list(arguments)))


@bgp.command()
@click.option("-v", "--verbose", is_flag=True, help="Names, BFD, and why sessions ended.")
@_source
@click.pass_context
def peers(
    ctx: click.Context, verbose: bool, path: str | None, nodes: tuple[str, ...], local: bool, output: str
) -> None:
    """Show all peers and their sessions."""
    from stentor.agent.bgp_api import PeerList
    from stentor.cli import speaker

    socket = _speaker(ctx, path, nodes, local)
    problems: list[str] = []
    if socket:
        raw = speaker.ask(socket, {"request": "peers"})["peers"]
        views = speaker.peer_views(raw)
    else:
        lists = _answers(ctx, "/v1/bgp/peers", PeerList, nodes, local)
        views = [view for each in lists for view in each.peers]
        raw = msgspec.to_builtins(views)
        problems = [f"{each.node}: {text}" for each in lists for text in each.problems]
        problems += [f"{each.node}: {each.speaker}" for each in lists if each.speaker not in ("", "running")]
    if output != "table":
        emit(raw, output)
    else:
        emit_rows(*bgp_table.peer_table(views, verbose=verbose), output)
        problems += [] if verbose else bgp_table.peer_troubles(views)
    for text in problems:
        click.echo(f"Warning: {text}", err=True)


@bgp.command()
@click.argument(
    "words", nargs=-1, metavar="[available|advertised|received] [ipv4|ipv6] [unicast] [peer PEER] [vrouter N]"
)
@click.option("-v", "--verbose", is_flag=True, help="Where routes come from, and whether they are the best.")
@click.option("--instance", default="", help="The same as `vrouter`.")
@click.option("--prefix", default="", help="One prefix only.")
@_source
@click.pass_context
def routes(
    ctx: click.Context,
    words: tuple[str, ...],
    verbose: bool,
    instance: str,
    prefix: str,
    path: str | None,
    nodes: tuple[str, ...],
    local: bool,
    output: str,
) -> None:
    """Show routes: available, advertised or received. Those known, those a peer was told, those it sent.

    \b
    stentor bgp routes
    stentor bgp routes advertised ipv6 unicast peer 10.0.0.1 vrouter 65000
    """
    request = _route_request(words, instance)
    socket = _speaker(ctx, path, nodes, local)
    raw, views = _local_routes(socket, request, prefix) if socket else _routes(ctx, request, prefix, nodes, local)
    if output != "table":
        emit(raw, output)
        return
    is_advertised = request["kind"] != "available"
    emit_rows(*bgp_table.route_table(views, is_advertised=is_advertised, verbose=verbose), output)


def _routes(
    ctx: click.Context, request: dict[str, str], prefix: str, nodes: tuple[str, ...], local: bool
) -> tuple[Any, list[Any]]:
    from urllib.parse import urlencode

    from stentor.agent.bgp_api import RouteList

    lists = _answers(ctx, f"/v1/bgp/routes?{urlencode(request)}", RouteList, nodes, local)
    views = [view for each in lists for view in each.routes if prefix in ("", view.prefix)]
    return msgspec.to_builtins(views), views


def _local_routes(socket: str, request: dict[str, str], prefix: str) -> tuple[Any, list[Any]]:
    from stentor.cli import speaker

    asns = speaker.routers(socket)
    wanted = request.pop("vrouter")
    names = [name for name, asn in asns.items() if wanted == str(asn)] or [wanted]
    raw = [
        route
        for name in names
        for answer in speaker.answers(socket, {"request": "routes", "instance": name, "prefix": prefix} | request)
        for route in answer["routes"]
    ]
    return raw, [speaker.route_view(route, asns, route["source"]) for route in raw]


def _route_request(words: Sequence[str], instance: str) -> dict[str, str]:
    request = {"kind": "available", "family": "ipv4", "peer": "", "vrouter": instance}
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("available", "received", "advertised"):
            request["kind"] = word
        elif word in ("ipv4", "ipv6"):
            request["family"] = word
        elif word in ("peer", "vrouter") and left:
            request[word] = left.pop(0)
        elif word != "unicast":
            known = "available, received, advertised, ipv4, ipv6, unicast, peer PEER, vrouter N"
            raise click.UsageError(f"{word!r} is none of {known}")
    if request["peer"] and request["kind"] == "available":
        raise click.UsageError("`peer` goes with `advertised` (what it was told) or `received` (what it sent)")
    return request


@bgp.command("route-policies")
@click.argument("words", nargs=-1, metavar="[vrouter N]")
@_source
@click.pass_context
def route_policies(
    ctx: click.Context, words: tuple[str, ...], path: str | None, nodes: tuple[str, ...], local: bool, output: str
) -> None:
    """Show what decides what peers are told. Which routes, and with which attributes."""
    from stentor.agent.bgp_api import PolicyList
    from stentor.cli import speaker

    if words and (len(words) != 2 or words[0] != "vrouter"):
        raise click.UsageError("only `vrouter N` may follow")
    wanted = words[1] if words else ""
    socket = _speaker(ctx, path, nodes, local)
    if socket:
        views = [each for each in speaker.policy_views(socket) if wanted in ("", str(each.vrouter), each.instance)]
    else:
        lists = _answers(ctx, f"/v1/bgp/route-policies?vrouter={wanted}", PolicyList, nodes, local)
        views = [view for each in lists for view in each.policies]
    if output != "table":
        emit(msgspec.to_builtins(views), output)
        return
    emit_rows(*bgp_table.policy_table(views), output)


@bgp.command()
@click.argument("prefix")
@click.option("--instance", default="", help="One virtual router only.")
@_source
@click.pass_context
def why(
    ctx: click.Context,
    prefix: str,
    instance: str,
    path: str | None,
    nodes: tuple[str, ...],
    local: bool,
    output: str,
) -> None:
    """Explain why PREFIX is advertised or not. Who asks for it, what keeps it back, which path won, who is told.

    An address stands for its host route.
    """
    from stentor.agent.bgp_api import WhyList
    from stentor.cli import speaker

    if "/" not in prefix:
        prefix += "/128" if ":" in prefix else "/32"
    socket = _speaker(ctx, path, nodes, local)
    raw: Any
    if socket:
        raw = speaker.ask(socket, {"request": "why", "prefix": prefix, "instance": instance})["explanations"]
        found = [speaker.why_views(raw, prefix, speaker.routers(socket))]
    else:
        from urllib.parse import quote

        found = _answers(ctx, f"/v1/bgp/why?prefix={quote(prefix, safe='')}", WhyList, nodes, local)
        raw = msgspec.to_builtins(found)
    if output != "table":
        emit(raw, output)
        return
    click.echo(bgp_table.explanation(found, instance))


@bgp.command()
@click.option("--routes", "with_routes", is_flag=True, help="Changed routes, too.")
@_source
@click.pass_context
def watch(
    ctx: click.Context, with_routes: bool, path: str | None, nodes: tuple[str, ...], local: bool, output: str
) -> None:
    """Follow what happens until interrupted."""
    from stentor.agent.bgp_api import Event
    from stentor.cli import follow, speaker

    def show(raw: dict[str, Any]) -> None:
        if output == "json":
            click.echo(json.dumps(raw))
        elif output == "yaml":
            click.echo("---")
            emit(raw, output)
        else:
            click.echo(bgp_table.event_line(msgspec.convert({"node": ""} | raw, Event)))

    socket = _speaker(ctx, path, nodes, local)
    if socket:
        for note in speaker.answers(socket, {"request": "watch", "routes": with_routes}, None):
            show(note)
    else:
        follow.run(ctx.obj, f"/v1/bgp/watch?routes={'true' if with_routes else 'false'}", nodes, show, local=local)


@bgp.command()
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="Manifests; - is standard input.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Form.")
@click.pass_context
def convert(ctx: click.Context, files: tuple[str, ...], output: str) -> None:
    """Print peering policies as the newer resources.

    Takes the cluster's policies and nodes, or those of files. What cannot be converted is named on standard error.

    \b
    stentor bgp convert | kubectl apply -f -
    kubectl get ciliumbgppeeringpolicies,nodes -o yaml | stentor bgp convert -f -
    """
    from stentor.cli.conversion import of_cluster, of_files, write

    write(of_files(files) if files else of_cluster(ctx.obj), output)


def _action(name: str, help_text: str) -> Callable[..., None]:
    def act(peer: str, text: str, path: str) -> None:
        from stentor.cli import speaker

        speaker.ask(path, {"request": "peering", "peer": peer, "action": name, "text": text})

    act.__doc__ = help_text
    return act


for _name, _help in (
    ("reset", "End PEER's session and begin a new one."),
    ("disable", "End PEER's session and keep it down."),
    ("enable", "Undo `disable`, or a prefix limit's effect."),
    ("refresh", "Ask PEER for its routes again."),
):
    _command: Any = _acts_on(_action(_name, _help))
    _command = click.option("--text", default="", help="Reason that the peer's operator reads (RFC 9003).")(_command)
    bgp.command(_name)(click.argument("peer")(_command))


@bgp.command()
@click.option("--undo", is_flag=True, help="Back to normal.")
@_acts_on
def drain(undo: bool, path: str) -> None:
    """Mark all routes for graceful shutdown. Peers move traffic away before sessions end (RFC 8326)."""
    from stentor.cli import speaker

    speaker.ask(path, {"request": "drain", "enabled": not undo})
