"""What the agent says about itself: the content of `/v1/status`. Key names follow upstream's `cilium-dbg status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

import stentor
from stentor.runtime.health import Level
from stentor.tables.endpoint import EndpointState

if TYPE_CHECKING:
    from stentor.agent.life import Agent


class Statement(msgspec.Struct, frozen=True):
    """A state (Ok, Warning, Failure, Disabled) with its reason."""

    state: str
    msg: str = ""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of one family."""

    family: int
    cidr: str
    used: int
    capacity: int


class ReconcilerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One reconciler: rows wanted, rows failing with an example, repairs of drift so far."""

    name: str
    rows: int
    failing: int
    settled: bool
    drift_repairs: int
    error: str = ""


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the process."""

    name: str
    level: str
    message: str
    since: float


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole status; `problems` says what is wrong in a person's words, empty when all is well."""

    node: str
    version: str
    cilium: Statement
    kubernetes: Statement
    cni: Statement
    kube_proxy_replacement: str
    ipam: tuple[PoolStatus, ...]
    routing: str
    masquerading: str
    bgp: Statement
    mtu: int
    devices: tuple[str, ...]
    endpoints: dict[str, int]
    identities: int
    nodes: int
    reconcilers: tuple[ReconcilerStatus, ...]
    parts: tuple[PartStatus, ...]
    problems: tuple[str, ...]
    waiting_for: tuple[str, ...]
    bootstrap_seconds: float


def status_of(agent: Agent) -> AgentStatus:
    """Now."""
    problems = _problems(agent)
    states: dict[str, int] = {}
    for endpoint in agent.tables.endpoints:
        states[endpoint.state.value] = states.get(endpoint.state.value, 0) + 1
    values = agent.values
    masquerade = [f"IPv{f}: {'Enabled' if on else 'Disabled'}" for f, on in _masquerade(agent).items()]
    faults = [f"{source.kind}: {source.fault}" for source in agent.watches if source.fault]
    return AgentStatus(
        node=agent.node.name,
        version=stentor.__version__,
        cilium=Statement("Failure" if problems else "Ok", problems[0] if problems else f"{stentor.__version__}"),
        kubernetes=Statement("Warning", faults[0]) if faults else Statement("Ok", agent.client.connection.server),
        cni=Statement("Warning", agent.obstacle) if agent.obstacle else Statement("Ok", str(agent.paths.cni_conf)),
        kube_proxy_replacement="True" if values.kube_proxy_replacement else "False",
        ipam=tuple(
            PoolStatus(family=p.prefix.family, cidr=str(p.prefix), used=len(p.owners), capacity=p.capacity)
            for p in agent.pools.pools
        ),
        routing=f"Network: Tunnel [{values.tunnel_protocol}]   Host: {'Legacy' if values.bpf.host_legacy_routing else 'BPF'}",
        masquerading=f"BPF   [{', '.join(d.name for d in agent.underlay.devices) if agent.underlay else ''}]   "
        + ", ".join(masquerade),
        bgp=_bgp(agent),
        mtu=agent.underlay.mtu if agent.underlay is not None else 0,
        devices=tuple(each.name for each in agent.underlay.devices) if agent.underlay is not None else (),
        endpoints=states,
        identities=len(agent.tables.identities),
        nodes=len(agent.tables.nodes),
        reconcilers=tuple(_reconcilers(agent)),
        parts=tuple(
            PartStatus(name=p.name, level=p.level.value, message=p.message, since=p.since) for p in agent.health.parts
        ),
        problems=tuple(problems),
        waiting_for=tuple(_waiting_for(agent)),
        bootstrap_seconds=agent.bootstrap_s,
    )


def _masquerade(agent: Agent) -> dict[int, bool]:
    values = agent.values
    on = {4: values.enable_ipv4_masquerade, 6: values.enable_ipv6_masquerade}
    return {family: on[family] for family in agent.families}


def _bgp(agent: Agent) -> Statement:
    if agent.bgp is None:
        return Statement("Disabled")
    problems, peers = agent.bgp.problems, agent.bgp.observer.peers
    up = sum(1 for peer in peers if peer.session_state == "established")
    return Statement("Warning" if problems else "Ok", f"{up} of {len(peers)} sessions established")


def _waiting_for(agent: Agent) -> list[str]:
    return sorted({source for table in agent.tables.database.tables.values() for source in table.waiting_for})


def _reconcilers(agent: Agent) -> list[ReconcilerStatus]:
    found = []
    for each in agent.reconcilers:
        failing = each.failing
        found.append(
            ReconcilerStatus(
                name=each.name,
                rows=len(each.table),
                failing=len(failing),
                settled=each.is_settled,
                drift_repairs=each.counters.drift_repairs,
                error=each.fault or next((status.error for status in failing.values()), ""),
            )
        )
    return found


def _problems(agent: Agent) -> list[str]:
    problems = [agent.obstacle] if agent.obstacle else []
    lost = [source for source in agent.watches if source.fault]
    if lost:
        kinds = ", ".join(dict.fromkeys(source.kind.plural for source in lost))
        problems.append(f"the Kubernetes API is not watched ({kinds}): {lost[0].fault}")
    problems += [
        f"{each.name}: {max(1, each.failing)} rows could not be written: {each.error}"
        for each in _reconcilers(agent)
        if each.error
    ]
    problems += [
        f"{part.name}: {part.message}" for part in agent.health.parts if part.level is Level.DEGRADED and part.message
    ]
    refused = agent.service_target.maglev.refused if agent.service_target is not None else 0
    if refused:
        problems.append(
            f"map lb_maglev is full: no look-up table for {refused} sets of backends, which are chosen at random"
        )
    problems += [f"BGP: {problem}" for problem in agent.bgp.problems] if agent.bgp is not None else []
    waiting = sum(1 for row in agent.tables.endpoints if row.state is EndpointState.WAITING_FOR_IDENTITY)
    if waiting:
        problems.append(f"{waiting} endpoints wait for an identity; is the operator running?")
    own = agent.tables.nodes.get((agent.values.cluster.name, agent.node.name))
    if own is not None and own.operator_error:
        problems.append(f"operator: {own.operator_error}")
    return problems
