"""``stentor bgp``: run a speaker, look into one, act on its peers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

SOCKET = "/run/stentor/bgp.sock"

_socket = click.option("--socket", "path", default=SOCKET, show_default=True, help="The speaker's control socket.")
_output = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group()
def bgp() -> None:
    """Speak BGP, and look at what a speaker does."""


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
@_socket
@_output
def peers(path: str, output: str) -> None:
    """Show all peers and their sessions."""
    found = _ask(path, {"request": "peers"})["peers"]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    rows = []
    for peer in found:
        counts = peer["routeCount"] or [{"afi": "", "safi": "", "received": 0, "advertised": 0}]
        state = peer["sessionState"] + (f" ({peer['lastError']})" if peer["lastError"] else "")
        for index, count in enumerate(counts):
            head = [
                peer["instance"],
                str(peer["localASN"]),
                str(peer["peerASN"]),
                peer["peerAddress"] or peer["name"],
                state,
                _span(peer["uptimeSeconds"]) if peer["uptimeSeconds"] else "-",
                peer["bfdState"] or "-",
            ]
            family = f"{count['afi']}/{count['safi']}" if count["afi"] else ""
            tail = [family, str(count["received"]), str(count["advertised"])]
            rows.append((head if index == 0 else [""] * len(head)) + tail)
    heads = ["Instance", "Local AS", "Peer AS", "Peer Address", "Session State", "Uptime", "BFD", "Family", "Received"]
    _table([*heads, "Advertised"], rows)


@bgp.command()
@click.argument("words", nargs=-1)
@click.option("--instance", default="", help="One virtual router only.")
@click.option("--prefix", default="", help="One prefix only.")
@_socket
@_output
def routes(words: tuple[str, ...], instance: str, prefix: str, path: str, output: str) -> None:
    """Show routes: [available|received|advertised] [ipv4|ipv6] [unicast] [peer PEER]."""
    request = _route_request(words) | {"instance": instance, "prefix": prefix}
    found = [route for answer in _stream(path, request) for route in answer["routes"]]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        [
            route["instance"],
            ("*" if route["best"] else " ") + route["prefix"],
            route["nextHop"],
            route["source"],
            route["asPath"] or "-",
            _attributes(route),
        ]
        for route in found
    ]
    _table(["Instance", "Prefix", "NextHop", "Source", "AS Path", "Attrs"], rows)


@bgp.command()
@click.argument("prefix")
@click.option("--instance", default="", help="One virtual router only.")
@_socket
@_output
def why(prefix: str, instance: str, path: str, output: str) -> None:
    """Explain where PREFIX comes from, which path won and why, and which peers are told."""
    found = _ask(path, {"request": "why", "prefix": prefix, "instance": instance})["explanations"]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        click.echo(f"{each['prefix']} in instance {each['instance']}")
        if not each["paths"]:
            click.echo("  no path")
        for route in each["paths"]:
            click.echo(
                f"  path from {route['source']} via {route['nextHop']}: {route['reason']} ({_attributes(route)})"
            )
        for text in each["rejected"]:
            click.echo(f"  rejected from {text}")
        for peer, text in each["peers"]:
            click.echo(f"  to {peer}: {text}")


@bgp.command()
@click.option("--routes", "with_routes", is_flag=True, help="Changed routes, too.")
@_socket
@_output
def watch(with_routes: bool, path: str, output: str) -> None:
    """Follow what happens until interrupted."""
    for note in _stream(path, {"request": "watch", "routes": with_routes}, None):
        if output == "json":
            click.echo(json.dumps(note))
            continue
        stamp = time.strftime("%H:%M:%S", time.localtime(note["time"]))
        where = f"{note['instance']}/{note['peer']}" if note["peer"] else note["instance"]
        click.echo(f"{stamp} {note['kind']:8} {where}: {note['text']}")


def _action(name: str, help_text: str) -> Callable[..., None]:
    def act(peer: str, text: str, path: str) -> None:
        _ask(path, {"request": "peering", "peer": peer, "action": name, "text": text})

    act.__doc__ = help_text
    return act


for _name, _help in (
    ("reset", "End PEER's session and begin a new one."),
    ("disable", "End PEER's session and keep it down."),
    ("enable", "Undo `disable`, or a prefix limit's effect."),
    ("refresh", "Ask PEER for its routes again."),
):
    _command: Any = _socket(_action(_name, _help))
    _command = click.option("--text", default="", help="Reason that the peer's operator reads (RFC 9003).")(_command)
    bgp.command(_name)(click.argument("peer")(_command))


@bgp.command()
@click.option("--undo", is_flag=True, help="Back to normal.")
@_socket
def drain(undo: bool, path: str) -> None:
    """Mark all routes for graceful shutdown (RFC 8326), so that peers move traffic before sessions end."""
    _ask(path, {"request": "drain", "enabled": not undo})


def _route_request(words: Sequence[str]) -> dict[str, Any]:
    request: dict[str, Any] = {"request": "routes"}
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("available", "received", "advertised"):
            request["kind"] = word
        elif word in ("ipv4", "ipv6"):
            request["family"] = word
        elif word == "peer" and left:
            request["peer"] = left.pop(0)
        elif word != "unicast":
            raise click.UsageError(
                f"{word!r} is none of available, received, advertised, ipv4, ipv6, unicast, peer PEER"
            )
    return request


def _attributes(route: dict[str, Any]) -> str:
    words = [route["origin"]]
    words += [f"local-pref {route['localPreference']}"] if route["localPreference"] is not None else []
    words += [f"med {route['med']}"] if route["med"] is not None else []
    communities = route["communities"] + route["largeCommunities"] + route["extendedCommunities"]
    words += [f"communities {' '.join(communities)}"] if communities else []
    return ", ".join(words)


def _ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    return next(iter(_stream(path, request)))


def _stream(path: str, request: dict[str, Any], deadline_s: float | None = 30.0) -> Any:
    from stentor.bgp.client import stream
    from stentor.bgp.errors import BgpError

    try:
        yield from stream(path, request, deadline_s)
    except BgpError as error:
        raise click.ClickException(str(error)) from error


def _span(seconds: float) -> str:
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
