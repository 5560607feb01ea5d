"""A speaker's control socket for the command line: its answers in the shape of the agents' (`agent/bgp_api.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from stentor.agent.bgp_api import (
    FamilyCount,
    PeerVerdict,
    PeerView,
    PolicyView,
    PrefixRange,
    RouteView,
    WhyList,
    WhyView,
)
from stentor.bgp.client import stream
from stentor.bgp.compile import parse_range
from stentor.bgp.errors import BgpError, Unreachable
from stentor.bgp.nlri import format_prefix

SOCKET: Final = "/run/stentor/bgp.sock"


def ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """The one answer to a request."""
    return next(answers(path, request))


def answers(path: str, request: dict[str, Any], deadline_s: float | None = 30.0) -> Iterator[dict[str, Any]]:
    """All answers; ClickException when the speaker refuses, or when there is none."""
    try:
        yield from stream(path, request, deadline_s)
    except Unreachable as error:
        hint = "does a speaker run on this machine? To look at a cluster give --kubeconfig FILE or set KUBECONFIG"
        raise click.ClickException(f"{error}; {hint}") from error
    except BgpError as error:
        raise click.ClickException(str(error)) from error


def peer_views(found: list[dict[str, Any]]) -> list[PeerView]:
    """Of the answer to `peers`."""
    return [
        PeerView(
            node="",
            instance=each["instance"],
            name=each["name"],
            peer_address=each["peerAddress"] or each["name"],
            local_asn=each["localASN"],
            peer_asn=each["peerASN"],
            session_state=each["sessionState"],
            uptime_seconds=each["uptimeSeconds"],
            route_count=tuple(
                FamilyCount(afi=c["afi"], safi=c["safi"], received=c["received"], advertised=c["advertised"])
                for c in each["routeCount"]
            ),
            bfd_state=each["bfdState"],
            flaps=each["flaps"],
            last_error=each["lastError"],
        )
        for each in found
    ]


def routers(path: str) -> dict[str, int]:
    """AS numbers of the instances that have peers, by name."""
    return {each["instance"]: each["localASN"] for each in ask(path, {"request": "peers"})["peers"]}


def route_view(route: dict[str, Any], asns: dict[str, int], peer: str = "") -> RouteView:
    """Of one route; `asns` are those of instances."""
    known = {key: value for key, value in route.items() if key not in ("pathID", "tags")}
    vrouter = asns.get(route["instance"], 0)
    return msgspec.convert({**known, "node": "", "vrouter": vrouter, "peer": peer}, RouteView)


def why_views(found: list[dict[str, Any]], prefix: str, asns: dict[str, int]) -> WhyList:
    """Of the answer to `why`."""
    explanations = tuple(
        WhyView(
            node="",
            instance=each["instance"],
            vrouter=asns.get(each["instance"], 0),
            prefix=each["prefix"],
            paths=tuple(route_view(path, asns) for path in each["paths"]),
            rejected=tuple(each["rejected"]),
            peers=tuple(
                PeerVerdict(peer="", name=name, advertised=text.startswith("advertised"), reason=text)
                for name, text in each["peers"]
            ),
        )
        for each in found
    )
    return WhyList(node="", enabled=True, prefix=prefix, explanations=explanations)


def policy_views(path: str) -> list[PolicyView]:
    """The statements of all policies in use."""
    return [
        PolicyView(
            node="",
            instance=each["instance"],
            vrouter=each["localASN"],
            name=each["policy"],
            statement=each["statement"],
            type=each["type"],
            match_peers=tuple(each["peers"]),
            match_families=tuple(f"{afi}/unicast" for afi in each["families"]),
            match_advertisements=tuple(each["conditions"]),
            match_prefixes=tuple(map(_range, each["prefixes"])),
            rib_action=each["action"],
            path_actions=tuple(each["changes"]),
        )
        for each in ask(path, {"request": "policies"})["policies"]
    ]


def _range(text: str) -> PrefixRange:
    found = parse_range(text)
    return PrefixRange(
        prefix=format_prefix(found.family, found.prefix), min_length=found.shortest, max_length=found.longest
    )
