"""Reads the speaker's state for people and programs: peers, routes, explanations. Changes nothing."""

from collections.abc import Iterator
from typing import Any

import msgspec

from stentor.bgp.attribute import format_path
from stentor.bgp.compile import format_community, format_extended
from stentor.bgp.config import Config, MatchConfig, PolicyConfig, StatementConfig
from stentor.bgp.decision import Path, Scope, explain
from stentor.bgp.instance import Instance
from stentor.bgp.neighbour import Neighbour
from stentor.bgp.nlri import Family, Prefix, format_address, format_prefix
from stentor.bgp.status import Explanation, PeerStatus, PolicyStatus, RouteCount, RouteStatus

_CAPABILITY_NAMES = {
    1: "multiprotocol",
    2: "route-refresh",
    5: "extended-next-hop",
    6: "extended-message",
    64: "graceful-restart",
    65: "four-octet-as",
    69: "add-path",
    70: "enhanced-route-refresh",
    71: "long-lived-graceful-restart",
    73: "fqdn",
}


def peer_status(instance: Instance, neighbour: Neighbour, now: float) -> PeerStatus:
    """One peer; ``now`` is the loop's time."""
    config, exchange, attempt = neighbour.config, neighbour.exchange, neighbour.main
    session = exchange.session if exchange is not None else None
    connection = attempt.connection
    peer_asn = session.peer.asn if session is not None else config.peer_asn
    codes = session.peer.capabilities.codes if session is not None else ()
    return PeerStatus(
        instance=instance.name,
        name=config.name,
        peer_address=neighbour.address or config.peer_address or "",
        local_asn=config.local_asn or instance.asn,
        peer_asn=peer_asn if isinstance(peer_asn, int) else 0,
        session_state=attempt.state.name.lower().replace("_", ""),
        uptime_seconds=round(now - neighbour.established_at, 3) if session is not None else 0.0,
        established_time=neighbour.established_wall if session is not None else 0.0,
        applied_hold_time_seconds=session.hold_s if session is not None else 0,
        applied_keepalive_seconds=round(session.keepalive_s, 3) if session is not None else 0,
        route_count=_count_routes(neighbour),
        last_error=neighbour.last_error,
        bfd_state=neighbour.bfd_state,
        capabilities=tuple(_CAPABILITY_NAMES.get(code, str(code)) for code in dict.fromkeys(codes)),
        messages_received=attempt.messages_in,
        messages_sent=attempt.messages_out + (exchange.updates_out if exchange is not None else 0),
        updates_received=exchange.updates_in if exchange is not None else 0,
        updates_sent=exchange.updates_out if exchange is not None else 0,
        flaps=neighbour.flaps,
        local_address=connection.local()[0] if connection is not None else "",
        router_id=format_address(session.peer.identifier.to_bytes(4, "big")) if session is not None else "",
        is_dynamic=neighbour.is_dynamic,
    )


def _count_routes(neighbour: Neighbour) -> tuple[RouteCount, ...]:
    exchange = neighbour.exchange
    if exchange is None:
        return tuple(RouteCount(each.afi, 0, 0) for each in neighbour.config.families)
    return tuple(
        RouteCount(
            family.label,
            len(inbound.routes),
            len(exchange.outbound[family].sent),
            stale=len(inbound.stale),
            pending=not exchange.outbound[family].is_idle,
        )
        for family, inbound in exchange.inbound.items()
    )


def route_status(instance: Instance, family: Family, prefix: Prefix, path: Path, *, best: bool) -> RouteStatus:
    """One path."""
    attributes = path.attributes
    return RouteStatus(
        instance=instance.name,
        prefix=format_prefix(family, prefix),
        next_hop=format_address(attributes.next_hop) if attributes.next_hop else "self",
        source="local" if path.source.scope is Scope.LOCAL else path.source.name,
        best=best,
        as_path=format_path(attributes.as_path),
        origin=attributes.origin.name.lower(),
        local_preference=attributes.local_pref,
        med=attributes.med,
        communities=tuple(map(format_community, attributes.communities)),
        large_communities=tuple(":".join(map(str, triple)) for triple in attributes.large_communities),
        extended_communities=tuple(map(format_extended, attributes.extended_communities)),
        path_id=path.path_id,
        tags=path.tags,
    )


def available(instance: Instance, family: Family) -> Iterator[RouteStatus]:
    """The Loc-RIB: best paths first, then their rivals."""
    table = instance.tables[family]
    for prefix in list(table.best):
        best = table.best.get(prefix)
        for path in sorted(table.candidates(prefix), key=lambda each: each is not best):
            yield route_status(instance, family, prefix, path, best=path is best)


def received(instance: Instance, neighbour: Neighbour, family: Family) -> Iterator[RouteStatus]:
    """What a peer sent, before any policy."""
    exchange = neighbour.exchange
    if exchange is None or family not in exchange.inbound:
        return
    inbound = exchange.inbound[family]
    for key, path in list(inbound.routes.items()):
        prefix = key[4:] if inbound.has_path_ids else key
        yield route_status(instance, family, prefix, path, best=False)


def advertised(instance: Instance, neighbour: Neighbour, family: Family) -> Iterator[RouteStatus]:
    """What a peer was told, with the attributes on the wire."""
    exchange = neighbour.exchange
    if exchange is None or family not in exchange.outbound:
        return
    outbound = exchange.outbound[family]
    has_ids = family in outbound.rules.session.add_path_out
    for key, attributes in list(outbound.sent.items()):
        prefix, path_id = (key[4:], int.from_bytes(key[:4], "big")) if has_ids else (key, 0)
        best = instance.tables[family].best.get(prefix)
        source = best.source if best is not None else outbound.rules.source
        yield route_status(instance, family, prefix, Path(source, attributes, path_id), best=True)


def why(instance: Instance, family: Family, prefix: Prefix) -> Explanation:
    """Every path with the step that decided, what was rejected, and what each peer is told and why."""
    table = instance.tables[family]
    best = table.best.get(prefix)
    paths = []
    for path in sorted(table.candidates(prefix), key=lambda each: each is not best):
        status = route_status(instance, family, prefix, path, best=path is best)
        reason = "best" if best is None or path is best else explain(best, path)
        paths.append(_with_reason(status, reason))
    rejected, peers = [], []
    for neighbour in instance.sessions():
        exchange, name = neighbour.exchange, neighbour.config.name
        if exchange is None or family not in exchange.outbound:
            peers.append((name, "not advertised: no session for this family"))
            continue
        inbound = exchange.inbound[family]
        accepted = any(path.source is inbound.source for path in table.candidates(prefix))
        unwanted = [] if accepted else inbound.find(prefix)
        rejected += [f"{name}: {inbound.verdict(p.attributes) or inbound.explain(p, prefix)}" for p in unwanted]
        peers.append((name, exchange.outbound[family].explain(prefix)))
    return Explanation(instance.name, format_prefix(family, prefix), tuple(paths), tuple(rejected), tuple(peers))


_BUILT_IN = {
    "accept": PolicyConfig("accept", default="accept"),
    "reject": PolicyConfig("reject"),
    "local": PolicyConfig("local", (StatementConfig("local", MatchConfig(sources=("local",))),)),
}


def policies(config: Config) -> Iterator[PolicyStatus]:
    """The statements of all policies in use, in the order in which they are tried."""
    known = _BUILT_IN | {policy.name: policy for policy in config.policies}
    for instance in config.instances:
        uses: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for peer in instance.peers:
            for family in peer.families:
                use = (peer.peer_address or peer.name, family.afi)
                for kind, name in (("import", family.import_policy), ("export", family.export_policy)):
                    uses.setdefault((kind, name), []).append(use)
        for (kind, name), found in sorted(uses.items()):
            peers, afis = (tuple(dict.fromkeys(column)) for column in zip(*found, strict=True))
            last = StatementConfig("default", action=known[name].default)
            for number, each in enumerate((*known[name].statements, last)):
                match = msgspec.to_builtins(each.match)
                yield PolicyStatus(
                    instance=instance.name,
                    local_asn=instance.local_asn,
                    type=kind,
                    policy=name,
                    statement=each.name or f"#{number}",
                    peers=peers,
                    families=afis,
                    prefixes=tuple(match.pop("prefixes", ())),
                    conditions=_words(match),
                    action=each.action,
                    changes=_words(msgspec.to_builtins(each.set)) if each.set is not None else (),
                )


def _words(fields: dict[str, Any]) -> tuple[str, ...]:
    def text(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    return tuple(f"{name} {text(value)}" for name, value in fields.items())


def _with_reason(status: RouteStatus, reason: str) -> RouteStatus:
    return msgspec.structs.replace(status, reason=reason)
