"""BGP as the command line prints it: tables with upstream's columns, and sentences for `why` and `watch`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from stentor.agent.bgp_api import Event, PeerView, PolicyView, PrefixRange, RouteView, WhyList, WhyView

Rows = list[list[str]]
_PEERS = ("Local AS", "Peer AS", "Peer Address", "Session State", "Uptime", "Family", "Received", "Advertised")
_PEERS_MORE = ("Instance", "Peer", "BFD", "Flaps", "Last Error")
_POLICIES = (
    "VRouter",
    "Policy Name",
    "Type",
    "Match Peers",
    "Match Families",
    "Match Prefixes (Min..Max Len)",
    "RIB Action",
    "Path Actions",
)
_ORIGINS = {"igp": "i", "egp": "e", "incomplete": "?"}


def peer_table(peers: Sequence[PeerView], *, verbose: bool) -> tuple[tuple[str, ...], Rows]:
    """A row a peer and family; what belongs to the peer is in its first row."""
    has_nodes = any(peer.node for peer in peers)
    rows = []
    for peer in peers:
        head = [str(peer.local_asn), str(peer.peer_asn), peer.peer_address or peer.interface, peer.session_state]
        head = ([peer.node] if has_nodes else []) + [*head, span(peer.uptime_seconds)]
        counts = [[f"{c.afi}/{c.safi}", str(c.received), str(c.advertised)] for c in peer.route_count]
        more = [
            peer.instance,
            peer.name,
            peer.bfd_state or "-",
            str(peer.flaps),
            peer.problem or peer.last_error or "-",
        ]
        for index, count in enumerate(counts or [["", "0", "0"]]):
            first = index == 0
            extra = (more if first else [""] * len(more)) if verbose else []
            rows.append([*(head if first else [""] * len(head)), *count, *extra])
    return (*(("Node",) if has_nodes else ()), *_PEERS, *(_PEERS_MORE if verbose else ())), rows


def peer_troubles(peers: Iterable[PeerView]) -> Iterator[str]:
    """Why peers have no session, as far as it is known."""
    for peer in peers:
        reason = peer.problem or (peer.last_error if peer.session_state != "established" else "")
        if reason:
            where = f"{peer.node}: " if peer.node else ""
            yield f"{where}peer {_named(peer.name, peer.peer_address)}: {reason}"


def route_table(routes: Sequence[RouteView], *, is_advertised: bool, verbose: bool) -> tuple[tuple[str, ...], Rows]:
    """A row a path; `verbose` tells where it is from and whether it is the best."""
    has_nodes = any(route.node for route in routes)
    rows = [
        [
            *([route.node] if has_nodes else []),
            str(route.vrouter or route.instance),
            *([route.peer] if is_advertised else []),
            route.prefix,
            route.next_hop,
            span(route.age_seconds) if route.age_seconds >= 0 else "-",
            attributes(route),
            *([route.source, "yes" if route.best else "no", ", ".join(route.advertisements) or "-"] if verbose else []),
        ]
        for route in routes
    ]
    heads = ("VRouter", *(("Peer",) if is_advertised else ()), "Prefix", "NextHop", "Age", "Attrs")
    more = ("Source", "Best", "Advertisements") if verbose else ()
    return (*(("Node",) if has_nodes else ()), *heads, *more), rows


def attributes(route: RouteView) -> str:
    """In the notation of upstream's tables."""
    parts = [
        ("Origin", _ORIGINS.get(route.origin, route.origin)),
        ("AsPath", route.as_path),
        ("Nexthop", route.next_hop),
        ("Med", "" if route.med is None else str(route.med)),
        ("LocalPref", "" if route.local_preference is None else str(route.local_preference)),
        ("Communities", ", ".join(route.communities)),
        ("LargeCommunities", ", ".join(route.large_communities)),
        ("ExtendedCommunities", ", ".join(route.extended_communities)),
    ]
    return "[" + " ".join(f"{{{name}: {text}}}" for name, text in parts if text) + "]"


def policy_table(policies: Sequence[PolicyView]) -> tuple[tuple[str, ...], Rows]:
    """A row a statement; a list is a line for each member."""
    has_nodes = any(policy.node for policy in policies)
    rows = [
        [
            *([each.node] if has_nodes else []),
            str(each.vrouter or each.instance),
            f"{each.name}: {each.statement}" if each.statement else each.name,
            each.type,
            "\n".join(each.match_peers),
            "\n".join(each.match_families),
            "\n".join((*map(_range, each.match_prefixes), *each.match_advertisements)),
            each.rib_action,
            "\n".join(each.path_actions),
        ]
        for each in policies
    ]
    return (*(("Node",) if has_nodes else ()), *_POLICIES), rows


def _range(found: PrefixRange) -> str:
    return f"{found.prefix} ({found.min_length}..{found.max_length})"


def explanation(answers: Iterable[WhyList], instance: str = "") -> str:
    """Every node's view of a prefix: who asks for it, what keeps it back, which path won, who is told."""
    parts = []
    for answer in answers:
        if not answer.explanations:
            reason = "; ".join(answer.obstacles) or ("no instance" if answer.enabled else "bgpControlPlane is off")
            parts.append(f"{answer.node}: {answer.prefix} is not advertised: {reason}")
        parts += ["\n".join(_explained(each)) for each in answer.explanations if instance in ("", each.instance)]
    return "\n\n".join(parts)


def _explained(view: WhyView) -> Iterator[str]:
    router = f"instance {view.instance}" + (f" (AS {view.vrouter})" if view.vrouter else "")
    yield f"{view.node}: {view.prefix} in {router}" if view.node else f"{view.prefix} in {router}"
    for origin in view.origins:
        yield f"  asked for by {origin}"
    for obstacle in view.obstacles:
        yield f"  kept back: {obstacle}"
    if not view.paths:
        yield "  no path"
    for path in view.paths:
        verdict = "best" if path.best else path.reason or "not the best"
        yield f"  path from {path.source} via {path.next_hop}: {verdict} {attributes(path)}"
    for text in view.rejected:
        yield f"  rejected from {text}"
    for peer in view.peers:
        yield f"  to {_named(peer.name, peer.peer)}: {peer.reason}"


def event_line(event: Event) -> str:
    """One line, in local time."""
    stamp = time.strftime("%H:%M:%S", time.localtime(event.time)) + f"{event.time % 1:.3f}"[1:]
    where = f"{event.instance}/{event.peer}" if event.peer else event.instance
    return " ".join(word for word in (stamp, event.node, f"{event.kind:8}", f"{where}:", event.text) if word)


def span(seconds: float) -> str:
    """`1h2m3s`, as Go writes durations of whole seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _named(name: str, address: str) -> str:
    return f"{name} ({address})" if address and address != name else name
