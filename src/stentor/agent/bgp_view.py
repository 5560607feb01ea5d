"""The speaker's state as `bgp_api` tells it: joined with the plan, which knows what should be and why something is not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stentor.agent.bgp_api import (
    Event,
    FamilyCount,
    PeerList,
    PeerVerdict,
    PeerView,
    PolicyList,
    PolicyView,
    PrefixRange,
    RouteList,
    RouteView,
    Timers,
    WhyList,
    WhyView,
)
from stentor.bgp.compile import parse_range
from stentor.bgp.config import Peer, SetConfig, StatementConfig
from stentor.bgp.errors import ConfigError
from stentor.bgp.nlri import format_prefix
from stentor.bgp.resource.explain import obstacles, origins
from stentor.bgp.resource.link import ask, stream
from stentor.bgp.resource.plan import InstancePlan, Plan
from stentor.bgp.resource.route import BGPRoute
from stentor.bgp.resource.speaker import peer_config
from stentor.bgp.status import Explanation, Note, PeerStatus, RouteStatus
from stentor.net.address import Prefix

if TYPE_CHECKING:
    from stentor.agent.bgp import BGPControl


_TICK_S: Final = 1.0


class BGPViews:
    """Answers of one agent; Unreachable when the speaker does not answer, ConfigError for a wrong parameter."""

    def __init__(self, control: BGPControl) -> None:
        self._control = control
        self._node = control.node_name

    @property
    def _plan(self) -> Plan:
        return self._control.tables.plan

    async def peers(self) -> PeerList:
        """Peers of the speaker, and those of the configuration that have no session."""
        plan, link = self._plan, self._control.link
        known = [self._peer(status) for status in await self._statuses()] if link.is_connected else []
        names = {(peer.instance, peer.name) for peer in known}
        missing = [peer for peer in self._without_session(plan) if (peer.instance, peer.name) not in names]
        return PeerList(
            node=self._node,
            enabled=True,
            speaker=link.fault or "running",
            peers=tuple(sorted((*known, *missing), key=lambda peer: (peer.instance, peer.peer_address, peer.name))),
            problems=tuple(map(str, plan.problems)),
        )

    async def routes(self, kind: str, family: str, peer: str, vrouter: str) -> RouteList:
        """Routes that are known, that peers sent, or that they were told; `peer` is a name or an address."""
        if kind not in ("available", "received", "advertised"):
            raise ConfigError("kind", f"{kind!r} is none of available, received, advertised")
        if family not in ("ipv4", "ipv6"):
            raise ConfigError("family", f"{family!r} is neither ipv4 nor ipv6")
        found: list[RouteView] = []
        instances, path = self._instances(vrouter), self._control.link.path
        statuses = await self._peers_named(peer) if kind != "available" else []
        for instance in instances:
            request = {"request": "routes", "kind": kind, "family": family, "instance": instance.name}
            if kind == "available":
                found += self._routes(instance, "", await _all(path, request))
            for each in statuses:
                if each.instance == instance.name:
                    answer = await _all(path, request | {"peer": each.name})
                    found += self._routes(instance, each.peer_address or each.name, answer)
        return RouteList(node=self._node, enabled=True, routes=tuple(found))

    def policies(self, vrouter: str) -> PolicyList:
        """The export policies of all peers."""
        found = [view for instance in self._instances(vrouter) for view in self._policies(instance)]
        return PolicyList(node=self._node, enabled=True, policies=tuple(found))

    async def why(self, text: str) -> WhyList:
        """Where a prefix comes from, and who is told."""
        try:
            prefix = Prefix.parse(text, strict=True)
        except ValueError as error:
            raise ConfigError("prefix", str(error)) from None
        plan, control = self._plan, self._control
        reasons = tuple(obstacles(prefix, control.tables, control.services))
        if not plan.instances:
            nobody = f"no CiliumBGPPeeringPolicy or CiliumBGPClusterConfig selects node {self._node}"
            return WhyList(node=self._node, enabled=True, prefix=str(prefix), obstacles=(nobody, *reasons))
        answer = await _one(control.link.path, {"request": "why", "prefix": str(prefix)})
        told = {each.instance: each for each in msgspec.convert(answer["explanations"], list[Explanation])}
        views = [
            self._why(instance, prefix, told[instance.name], reasons)
            for instance in plan.instances
            if instance.name in told
        ]
        return WhyList(node=self._node, enabled=True, prefix=str(prefix), explanations=tuple(views))

    async def watch(self, *, with_routes: bool) -> AsyncGenerator[Event | None, None]:
        """What happens, until the reader stops; None now and then while nothing does."""
        request = {"request": "watch", "routes": with_routes}
        async for answer in stream(self._control.link.path, request, tick_s=_TICK_S):
            if not answer:
                yield None
                continue
            note = msgspec.convert(answer, Note)
            yield Event(
                node=self._node,
                time=note.time,
                kind=note.kind,
                instance=note.instance,
                peer=note.peer,
                text=note.text,
            )

    # ---- parts

    def _instances(self, vrouter: str) -> list[InstancePlan]:
        found = [each for each in self._plan.instances if vrouter in ("", each.name, str(each.local_asn))]
        if vrouter and not found:
            raise ConfigError("vrouter", f"no virtual router {vrouter!r}")
        return found

    async def _statuses(self) -> list[PeerStatus]:
        answer = await _one(self._control.link.path, {"request": "peers"})
        return msgspec.convert(answer["peers"], list[PeerStatus])

    async def _peers_named(self, text: str) -> list[PeerStatus]:
        """The speaker's peers of this name or address, however it is spelled; all without one."""
        with suppress(ValueError):
            text = str(ip_address(text))
        found = [each for each in await self._statuses() if text in ("", each.name, each.peer_address)]
        known = ((each.name, each.peer_address) for each in self._without_session(self._plan))
        if text and not found and not any(text in names for names in known):
            raise ConfigError("peer", f"no peer {text!r}; `stentor bgp peers` shows all")
        return found

    def _peer(self, status: PeerStatus) -> PeerView:
        plan = next((each for each in self._plan.instances if each.name == status.instance), None)
        peers = {each.config.name: each.config for each in plan.peers} if plan is not None else {}
        config = peers.get(status.name)
        return PeerView(
            node=self._node,
            instance=status.instance,
            name=status.name,
            peer_address=status.peer_address,
            local_asn=status.local_asn,
            peer_asn=status.peer_asn,
            peer_port=config.transport.peer_port if config is not None else 179,
            interface=(config.interface or "") if config is not None else "",
            session_state=status.session_state,
            uptime_seconds=status.uptime_seconds,
            established_time=rfc3339(status.established_time) if status.established_time else "",
            timers=Timers(
                applied_hold_time_seconds=status.applied_hold_time_seconds,
                applied_keepalive_seconds=status.applied_keepalive_seconds,
            ),
            route_count=tuple(
                FamilyCount(afi=each.afi, safi=each.safi, received=each.received, advertised=each.advertised)
                for each in status.route_count
            ),
            bfd_state=status.bfd_state,
            flaps=status.flaps,
            last_error=status.last_error,
        )

    def _without_session(self, plan: Plan) -> Iterator[PeerView]:
        """Peers whose configuration is wrong, and all others while nobody speaks."""
        link = self._control.link
        for instance in plan.instances if not link.is_connected else ():
            for peer in instance.peers:
                yield PeerView(
                    node=self._node,
                    instance=instance.name,
                    name=peer.config.name,
                    peer_address=peer.config.peer_address or "",
                    local_asn=instance.local_asn,
                    peer_port=peer.config.transport.peer_port,
                    interface=peer.config.interface or "",
                    problem=link.fault,
                )
        asns = {each.name: each.local_asn for each in plan.instances}
        for problem in plan.problems:
            if problem.peer:
                yield PeerView(
                    node=self._node,
                    instance=problem.instance,
                    name=problem.peer,
                    peer_address=problem.peer,
                    local_asn=asns.get(problem.instance, 0),
                    problem=str(problem),
                )

    def _routes(self, instance: InstancePlan, peer: str, found: list[RouteStatus]) -> Iterator[RouteView]:
        now = datetime.now(UTC).timestamp()
        asked = {str(row.prefix): row.entries for row in self._control.tables.routes if row.instance == instance.name}
        for route in sorted(found, key=lambda each: (each.prefix, not each.best)):
            since = self._control.link.since.get((instance.name, route.prefix)) if route.source == "local" else None
            yield RouteView(
                node=self._node,
                instance=instance.name,
                vrouter=instance.local_asn,
                peer=peer,
                prefix=route.prefix,
                next_hop=route.next_hop,
                source=route.source,
                best=route.best,
                age_seconds=round(now - since, 1) if since is not None else -1.0,
                origin=route.origin,
                as_path=route.as_path,
                local_preference=route.local_preference,
                med=route.med,
                communities=route.communities,
                large_communities=route.large_communities,
                extended_communities=route.extended_communities,
                advertisements=asked.get(route.prefix, ()) if route.source == "local" else (),
                reason=route.reason,
            )

    def _policies(self, instance: InstancePlan) -> Iterator[PolicyView]:
        rows = [row for row in self._control.tables.routes if row.instance == instance.name]
        for peer in instance.peers:
            config, policies = peer_config(instance.name, peer)
            by_name = {policy.name: policy for policy in policies}
            for family in config.families:
                for kind, name in (("export", family.export_policy), ("import", family.import_policy)):
                    for statement in by_name[name].statements if name in by_name else ():
                        yield self._policy(instance, config, family.afi, kind, name, statement, rows)

    def _policy(
        self,
        instance: InstancePlan,
        peer: Peer,
        afi: str,
        kind: str,
        name: str,
        statement: StatementConfig,
        rows: list[BGPRoute],
    ) -> PolicyView:
        tags, version = set(statement.match.tags), 4 if afi == "ipv4" else 6
        ours = sorted(row.prefix for row in rows if tags & set(row.entries) and row.prefix.family == version)
        found = [PrefixRange(prefix=str(each), min_length=each.length, max_length=each.length) for each in ours]
        for text in statement.match.prefixes:
            wanted = parse_range(text)
            base = format_prefix(wanted.family, wanted.prefix)
            found.append(PrefixRange(prefix=base, min_length=wanted.shortest, max_length=wanted.longest))
        return PolicyView(
            node=self._node,
            instance=instance.name,
            vrouter=instance.local_asn,
            name=name,
            statement=statement.name,
            type=kind,
            match_peers=(peer.peer_address or peer.name,),
            match_families=(f"{afi}/unicast",),
            match_advertisements=statement.match.tags,
            match_prefixes=tuple(found),
            rib_action=statement.action,
            path_actions=tuple(path_actions(statement)),
        )

    def _why(self, instance: InstancePlan, prefix: Prefix, told: Explanation, reasons: tuple[str, ...]) -> WhyView:
        addresses = {each.config.name: each.config.peer_address or each.config.name for each in instance.peers}
        return WhyView(
            node=self._node,
            instance=instance.name,
            vrouter=instance.local_asn,
            prefix=str(prefix),
            origins=tuple(origins(instance.name, prefix, self._control.tables)),
            obstacles=reasons,
            paths=tuple(self._routes(instance, "", list(told.paths))),
            rejected=told.rejected,
            peers=tuple(
                PeerVerdict(
                    peer=addresses.get(name, name),
                    name=name,
                    advertised=not text.startswith("not advertised"),
                    reason=text,
                )
                for name, text in told.peers
            ),
        )


def path_actions(statement: StatementConfig) -> Iterator[str]:
    """What a statement does to attributes, in words."""
    change = statement.set or SetConfig()
    if change.add_communities:
        yield f"AddCommunities: {' '.join(change.add_communities)}"
    if change.add_large_communities:
        yield f"AddLargeCommunities: {' '.join(change.add_large_communities)}"
    if change.local_preference is not None:
        yield f"SetLocalPreference: {change.local_preference}"


def rfc3339(seconds: float) -> str:
    """A time since 1970 as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _one(path: str, request: Mapping[str, Any]) -> dict[str, Any]:
    (answer,) = await ask(path, request)
    if "error" in answer:
        raise ConfigError(answer.get("field", ""), answer["error"])
    return answer


async def _all(path: str, request: Mapping[str, Any]) -> list[RouteStatus]:
    found: list[RouteStatus] = []
    for answer in await ask(path, request):
        if "error" in answer:
            raise ConfigError(answer.get("field", ""), answer["error"])
        found += msgspec.convert(answer["routes"], list[RouteStatus])
    return found
