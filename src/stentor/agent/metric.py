"""The agent's metrics, under upstream's names (docs: "Monitoring & Metrics")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from prometheus_client.core import Metric

import stentor
from stentor.agent import bgp_status
from stentor.agent.l2 import Announcements
from stentor.agent.life import Agent
from stentor.agent.status import status_of
from stentor.datapath import metric as datapath
from stentor.datapath.maps import MAPS
from stentor.datapath.verdict import drop_text
from stentor.runtime.sample import counter, gauge
from stentor.tables.endpoint import EndpointState


def sample(agent: Agent) -> Iterator[Metric]:
    """All metrics of an agent."""
    yield gauge("cilium_version", "Version of the agent", {(stentor.__version__,): 1}, ("version",))
    start = {("overall", "success"): agent.bootstrap_s}
    yield gauge("cilium_agent_bootstrap_seconds", "Duration of the start", start, ("scope", "outcome"))
    yield from _endpoints(agent)
    yield from _cluster(agent)
    yield from _jobs(agent)
    if agent.bgp is not None:
        yield from bgp_status.sample(agent.bgp)
    if agent.l2 is not None:
        yield from _announcements(agent.l2)
    if agent.datapath is not None:
        yield from _datapath(agent)


def _endpoints(agent: Agent) -> Iterator[Metric]:
    rows = agent.tables.endpoints
    yield gauge("cilium_endpoint", "Endpoints of this node", {(): float(len(rows))})
    states = Counter(row.state for row in rows)
    samples = {(state.value,): float(states[state]) for state in EndpointState}
    yield gauge("cilium_endpoint_state", "Endpoints by state", samples, ("endpoint_state",))
    done = {("success",): float(agent.resolver.regenerations)}
    yield counter("cilium_endpoint_regenerations", "Changes of endpoints' identity", done, ("outcome",))
    counts = {("ADD",): 0.0}
    counts |= {(name,): float(count) for name, (count, _) in agent.cni.durations_s.items()}
    yield counter("cilium_cni_requests", "CNI requests", counts, ("command",))
    seconds = {(name,): total for name, (_, total) in agent.cni.durations_s.items()}
    yield counter("cilium_cni_request_seconds", "Time spent on CNI requests", seconds, ("command",))
    usage = {(f"ipv{pool.prefix.family}",): float(len(pool.owners)) for pool in agent.pools.pools}
    yield gauge("cilium_ip_addresses", "Allocated addresses", usage, ("family",))
    capacity = {(f"ipv{pool.prefix.family}",): float(pool.capacity) for pool in agent.pools.pools}
    yield gauge("cilium_ipam_capacity", "Addresses of this node's pod CIDRs", capacity, ("family",))


def _cluster(agent: Agent) -> Iterator[Metric]:
    tables = agent.tables
    kinds = {("cluster_local",): float(len(tables.identities)), ("reserved",): 10.0}
    yield gauge("cilium_identity", "Identities known", kinds, ("type",))
    yield gauge("cilium_nodes_all_num", "Nodes known", {(): float(len(tables.nodes))})
    yield gauge("cilium_policy", "Policies loaded", {(): 0.0})
    enforcing = len(tables.endpoints) if agent.values.policy_enforcement_mode == "always" else 0
    statuses = {("none",): float(len(tables.endpoints) - enforcing), ("both",): float(enforcing)}
    yield gauge("cilium_policy_endpoint_enforcement_status", "Endpoints by enforcement", statuses, ("enforcement",))
    host = urlsplit(agent.client.connection.server).netloc
    calls = {(host, *key): float(count) for key, count in agent.client.requests.items()}
    labels = ("host", "method", "return_code")
    yield counter("cilium_k8s_client_api_calls", "API calls by server, method and return code", calls, labels)
    events: dict[tuple[str, ...], float] = {}
    for source in agent.watches:  # some kinds are watched twice
        key = (source.kind.kind, "update", "success")
        events[key] = events.get(key, 0.0) + source.events
    yield counter("cilium_kubernetes_events", "Events received from Kubernetes", events, ("scope", "action", "status"))


def _announcements(l2: Announcements) -> Iterator[Metric]:
    rows = {(): float(len(l2.tables.announcements))}
    yield gauge("cilium_l2_announcements", "Addresses that this node answers for, by link", rows)
    ours = sum(1 for row in l2.tables.leases if row.is_ours)
    wanted = {row.lease for row in l2.tables.wanted}
    leases = {("held",): float(ours), ("waiting",): float(max(0, len(wanted) - ours))}
    yield gauge("cilium_l2_leases", "Leases that this node competes for", leases, ("state",))
    asked = {key: float(count) for key, count in l2.requests.items()}
    yield counter("cilium_l2_lease_requests", "Requests about leases", asked, ("verb", "outcome"))
    told = {(): float(l2.announcer.sent if l2.announcer is not None else 0)}
    yield counter("cilium_l2_told", "ARP announcements and unsolicited advertisements sent", told)


def _jobs(agent: Agent) -> Iterator[Metric]:
    statuses = status_of(agent).reconcilers
    failing = {(): float(sum(1 for each in statuses if each.error))}
    yield gauge("cilium_controllers_failing", "Reconcilers with rows that could not be written", failing)
    runs: dict[tuple[str, str], float] = {}
    repairs: dict[tuple[str], float] = {}
    for each in agent.reconcilers:
        runs[each.name, "success"] = float(each.counters.upserts + each.counters.deletes)
        runs[each.name, "failure"] = float(each.counters.errors)
        repairs[(each.name,)] = float(each.counters.drift_repairs)
    yield counter("cilium_reconciler_operations", "Rows written by reconcilers", runs, ("name", "outcome"))
    yield counter("cilium_reconciler_drift_repairs", "Rows found wrong in the kernel and repaired", repairs, ("name",))


def _datapath(agent: Agent) -> Iterator[Metric]:
    assert agent.datapath is not None
    maps = agent.datapath.maps
    forwarded = list(datapath.forwarded(maps))
    packets = {(each.direction.name,): float(each.packets) for each in forwarded}
    size = {(each.direction.name,): float(each.bytes) for each in forwarded}
    yield counter("cilium_forward_count", "Packets forwarded", packets, ("direction",))
    yield counter("cilium_forward_bytes", "Bytes forwarded", size, ("direction",))
    drops: dict[tuple[str, str], float] = {}
    dropped_bytes: dict[tuple[str, str], float] = {}
    for drop in datapath.dropped(maps):
        key = (drop_text(drop.reason), drop.direction.name)
        drops[key] = drops.get(key, 0.0) + drop.packets
        dropped_bytes[key] = dropped_bytes.get(key, 0.0) + drop.bytes
    yield counter("cilium_drop_count", "Packets dropped", drops, ("reason", "direction"))
    yield counter("cilium_drop_bytes", "Bytes dropped", dropped_bytes, ("reason", "direction"))
    capacity = {(name,): float(maps[name].spec.max_entries) for name in MAPS if name in maps}
    yield gauge("cilium_bpf_map_capacity", "Maximum rows of maps", capacity, ("map_group",))
    rows = {"endpoints": len(agent.tables.endpoint_entries), "ipcache": len(agent.tables.ipcache)}
    rows["lb_services"] = len(agent.tables.services.entries)
    pressure = {(name,): count / maps[name].spec.max_entries for name, count in rows.items()}
    if agent.service_target is not None:
        maglev = agent.service_target.maglev
        taken = {"lb_slots": agent.service_target.slots, "lb_members": agent.service_target.slots}
        taken["lb_sources"] = agent.service_target.sources
        pressure |= {(name,): count / maps[name].spec.max_entries for name, count in taken.items()}
        pressure[("lb_maglev",)] = maglev.pressure
        refused = {(): float(maglev.refused)}
        yield gauge("cilium_maglev_tables_refused", "Backend sets without a look-up table for want of room", refused)
    yield gauge("cilium_bpf_map_pressure", "Fill of maps, 1.0 is full", pressure, ("map_name",))
    collected = agent.collected
    if collected is not None:
        entries = {("alive",): float(collected.alive), ("deleted",): float(collected.deleted)}
        yield gauge("cilium_datapath_conntrack_gc_entries", "Connections in the last collection", entries, ("status",))
        yield gauge(
            "cilium_datapath_conntrack_gc_duration_seconds",
            "Duration of the last collection",
            {(): collected.duration_s},
        )
