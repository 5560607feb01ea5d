"""What the agent reports of BGP by itself: the status of its CiliumBGPNodeConfig, and metrics under upstream's names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client.core import Metric

from stentor.agent.bgp_view import rfc3339
from stentor.api.bgp import (
    INVALID,
    NODE_CONFIGS,
    RECONCILE_ERROR,
    WAITS_FOR_POOLS,
    BGPFamilyRouteCount,
    CiliumBGPNodeInstanceStatus,
    CiliumBGPNodePeerStatus,
    CiliumBGPNodeStatus,
    CiliumBGPTimersState,
)
from stentor.api.condition import StatusCondition, settle
from stentor.api.core import NODES
from stentor.bgp.errors import Unreachable
from stentor.bgp.resource.link import ask, stream
from stentor.bgp.resource.plan import NODE_CONFIG, Plan
from stentor.bgp.status import PeerStatus
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, NotFound
from stentor.runtime.sample import counter, gauge, histogram

if TYPE_CHECKING:
    from stentor.agent.bgp import BGPControl

_OURS: Final = (RECONCILE_ERROR, INVALID, WAITS_FOR_POOLS)
_REFRESH_S: Final = 5.0
_LINGER_S: Final = 0.05
_RECONNECT_S: Final = 0.5
_MESSAGE_LENGTH: Final = 32768

log = logging.getLogger(__name__)


class Observer:
    """Follows the speaker. `peers` is at most some seconds old, and new at every change of a session."""

    def __init__(self, control: BGPControl, client: Client, *, reports: bool) -> None:
        self.peers: tuple[PeerStatus, ...] = ()
        self._control = control
        self._client = client
        self._reports = reports
        self._changed = asyncio.Event()
        self._written: CiliumBGPNodeStatus | None = None
        self._on_node: str | None = None  # the message of the Node's condition; None before it was looked at
        self._tracker = control.tables.plans.track(replay=False, wake=self._changed.set)

    async def listen(self) -> None:
        """Hear of changes of sessions until cancelled."""
        while True:
            try:
                async for note in stream(self._control.link.path, {"request": "watch"}):
                    if note.get("kind") == "session":
                        self._changed.set()
            except Unreachable:
                self.peers = ()
            await asyncio.sleep(_RECONNECT_S)

    async def run(self) -> None:
        """Look and report until cancelled."""
        while True:
            self._changed.clear()
            self._tracker.drain()
            try:
                answer = await ask(self._control.link.path, {"request": "peers"})
                self.peers = tuple(msgspec.convert(answer[0]["peers"], list[PeerStatus]))
            except Unreachable:
                self.peers = ()
            if self._reports:
                await self._report()
                await self._report_on_node()
            try:
                async with asyncio.timeout(_REFRESH_S):
                    await self._changed.wait()
                await asyncio.sleep(_LINGER_S)
            except TimeoutError:
                continue

    async def _report(self) -> None:
        plan, name = self._control.tables.plan, self._control.node_name
        if name not in self._control.tables.node_configs:
            self._written = None
            return
        config = self._control.tables.node_configs[name]
        wanted = status_of(plan, self.peers, self._control.link.fault, config.generation)
        if self._written is not None and _same(wanted, self._written):
            return
        try:
            present = (await self._client.get(NODE_CONFIGS, name)).status
            conditions = settle(present.conditions, wanted.conditions, _OURS)
            status = msgspec.structs.replace(wanted, conditions=conditions)
            document = {
                "status": msgspec.to_builtins(status) | {"bgpInstances": msgspec.to_builtins(status.bgp_instances)}
            }
            await self._client.patch(NODE_CONFIGS, name, patch.merge(document), subresource="status")
            self._written = wanted
        except NotFound:
            self._written = None
        except ApiError as error:
            log.warning("Status of BGP is not written", extra={"error": error.message})

    async def _report_on_node(self) -> None:
        """CiliumBGPPeeringPolicy has no status: what is wrong with it becomes a condition of the Node."""
        plan, name = self._control.tables.plan, self._control.node_name
        wrong = [] if plan.api == NODE_CONFIG else [str(each) for each in plan.problems if not each.is_waiting]
        wanted = _condition(RECONCILE_ERROR, wrong, "BGPReconcileError", "NoError")
        try:
            if self._on_node is None:
                node = await self._client.get(NODES, name)
                found = [each for each in node.status.conditions if each.type == RECONCILE_ERROR]
                self._on_node = found[0].message if found else ""
            if wanted.message == self._on_node:
                return
            condition = msgspec.to_builtins(wanted) | {"lastHeartbeatTime": wanted.last_transition_time}
            del condition["observedGeneration"]  # a Node's conditions have none
            change = patch.strategic({"status": {"conditions": [condition]}})
            await self._client.patch(NODES, name, change, subresource="status")
            self._on_node = wanted.message
        except ApiError as error:
            log.warning("The node's condition about BGP is not written", extra={"error": error.message})


def _same(one: CiliumBGPNodeStatus, other: CiliumBGPNodeStatus) -> bool:
    """Whether two differ in more than the time at which they were made."""

    def timeless(status: CiliumBGPNodeStatus) -> CiliumBGPNodeStatus:
        bare = tuple(msgspec.structs.replace(each, last_transition_time="") for each in status.conditions)
        return msgspec.structs.replace(status, conditions=bare)

    return timeless(one) == timeless(other)


def status_of(plan: Plan, peers: Iterable[PeerStatus], fault: str, generation: int = 0) -> CiliumBGPNodeStatus:
    """The status of a node's configuration; of one that a CiliumBGPPeeringPolicy supersedes without instances."""
    if plan.api != NODE_CONFIG:
        return CiliumBGPNodeStatus(conditions=conditions_of(Plan(), "", generation))
    found = {(each.instance, each.name): peer_status(each) for each in peers}
    for problem in plan.problems:  # who has no session because of a wrong field is not left out
        if problem.peer:
            found.setdefault((problem.instance, problem.peer), _without_session(problem.peer))
    instances = tuple(
        CiliumBGPNodeInstanceStatus(
            name=instance.name,
            local_asn=instance.local_asn,
            peers=tuple(sorted((row for (name, _), row in found.items() if name == instance.name), key=_name)),
        )
        for instance in plan.instances
    )
    return CiliumBGPNodeStatus(bgp_instances=instances, conditions=conditions_of(plan, fault, generation))


def _name(peer: CiliumBGPNodePeerStatus) -> str:
    return peer.name


def _without_session(name: str) -> CiliumBGPNodePeerStatus:
    return CiliumBGPNodePeerStatus(name=name, peer_address="", peering_state="idle")


def peer_status(peer: PeerStatus) -> CiliumBGPNodePeerStatus:
    """One session."""
    is_up = peer.session_state == "established"
    counts = tuple(
        BGPFamilyRouteCount(afi=each.afi, safi=each.safi, received=each.received, advertised=each.advertised)
        for each in peer.route_count
    )
    return CiliumBGPNodePeerStatus(
        name=peer.name,
        peer_address=peer.peer_address,
        peer_asn=peer.peer_asn,
        peering_state=peer.session_state,
        timers=CiliumBGPTimersState(
            applied_hold_time_seconds=int(peer.applied_hold_time_seconds),
            applied_keepalive_seconds=int(peer.applied_keepalive_seconds),
        )
        if is_up
        else None,
        established_time=rfc3339(peer.established_time) if is_up else None,
        route_count=counts if is_up else (),
    )


def conditions_of(plan: Plan, fault: str, generation: int = 0) -> tuple[StatusCondition, ...]:
    """Upstream's condition with everything that is wrong, and ours for what has to wait."""
    wrong = [str(problem) for problem in plan.problems if not problem.is_waiting] + ([fault] if fault else [])
    waiting = [str(problem) for problem in plan.problems if problem.is_waiting]
    found = [_condition(RECONCILE_ERROR, wrong, "BGPReconcileError", "NoError", generation)]
    if waiting:
        found.append(_condition(WAITS_FOR_POOLS, waiting, "Waiting", "NotWaiting", generation))
    return tuple(found)


def _condition(kind: str, texts: list[str], reason: str, otherwise: str, generation: int = 0) -> StatusCondition:
    return StatusCondition(
        type=kind,
        status="True" if texts else "False",
        reason=reason if texts else otherwise,
        message="; ".join(texts)[:_MESSAGE_LENGTH],
        last_transition_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        observed_generation=generation,
    )


def sample(control: BGPControl) -> Iterator[Metric]:
    """Upstream's metrics of the BGP control plane."""
    sessions: dict[tuple[str, ...], float] = {}
    routes: dict[str, dict[tuple[str, ...], float]] = {"advertised": {}, "received": {}}
    ports = {
        (instance.name, peer.config.name): peer.config.transport.peer_port
        for instance in control.tables.plan.instances
        for peer in instance.peers
    }
    for peer in control.observer.peers:
        address = f"[{peer.peer_address}]" if ":" in peer.peer_address else peer.peer_address
        neighbor = f"{address}:{ports.get((peer.instance, peer.name), 179)}"
        labels = (str(peer.local_asn), neighbor, str(peer.peer_asn))
        sessions[labels] = float(peer.session_state == "established")
        for each in peer.route_count:
            routes["advertised"][*labels, each.afi, each.safi] = float(each.advertised)
            routes["received"][*labels, each.afi, each.safi] = float(each.received)
    prefix, names = "cilium_bgp_control_plane", ("vrouter", "neighbor", "neighbor_asn")
    yield gauge(f"{prefix}_session_state", "State of the sessions: 1 up, 0 down", sessions, names)
    for kind, samples in routes.items():
        yield gauge(f"{prefix}_{kind}_routes", f"Routes {kind}", samples, (*names, "afi", "safi"))
    vrouters = {instance.name: str(instance.local_asn) for instance in control.tables.plan.instances}
    errors = {(vrouters.get(name, name),): float(count) for name, count in control.link.errors.items()}
    yield counter(f"{prefix}_reconcile_errors", "Reconciliations with an error", errors, ("vrouter",))
    runs = {(asn,): control.link.runs for asn in vrouters.values()}
    yield histogram(f"{prefix}_reconcile_run_duration_seconds", "Duration of reconciliations", runs, ("vrouter",))
