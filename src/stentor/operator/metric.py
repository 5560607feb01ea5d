"""The operator's metrics, under upstream's names."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

import stentor
from stentor.operator.bgp import OWNER_KIND, ClusterBGP
from stentor.operator.wiring import Operator
from stentor.runtime.sample import counter, gauge, histogram


def sample(operator: Operator) -> Iterator[Metric]:
    """All metrics of an operator; those of its work only while it leads."""
    yield gauge("cilium_operator_version", "Version of the operator", {(stentor.__version__,): 1}, ("version",))
    requests = {key: float(count) for key, count in operator.client.requests.items()}
    yield counter(
        "cilium_operator_k8s_client_api_calls",
        "API calls by method and return code",
        requests,
        ("method", "return_code"),
    )
    yield gauge("cilium_operator_leader", "1 while this operator leads", {(): float(operator.is_leading)})
    entries = {("alive",): float(operator.identities_alive), ("deleted",): float(operator.identities_deleted)}
    yield gauge(
        "cilium_operator_identity_gc_entries", "Identities after the last garbage collection", entries, ("status",)
    )
    yield counter(
        "cilium_operator_identity_gc_runs",
        "Rounds of identity garbage collection",
        {("success",): float(operator.identity_rounds)},
        ("outcome",),
    )
    yield gauge(
        "cilium_operator_identities_pending", "Label sets that wait for an identity", {(): float(operator.pending)}
    )
    for pool in operator.pools:
        labels = (f"ipv{pool.family}",)
        yield gauge(
            "cilium_operator_ipam_used_prefixes", "Pod CIDRs given to nodes", {labels: float(pool.used)}, ("family",)
        )
        yield gauge(
            "cilium_operator_ipam_capacity_prefixes",
            "Pod CIDRs of the cluster's pools",
            {labels: float(pool.capacity)},
            ("family",),
        )
    yield from _load_balancers(operator)
    if operator.bgp is not None:
        yield from _bgp(operator.bgp)
    errors = {(each.name,): float(len(each.failing)) for each in operator.reconcilers}
    yield gauge("cilium_operator_reconciler_errors", "Rows that a reconciler could not write", errors, ("name",))


def _load_balancers(operator: Operator) -> Iterator[Metric]:
    uses, assigner = operator.load_balancers.uses, operator.load_balancers.assigner
    ipam = assigner.ipam
    above = "cilium_operator_lbipam"
    conflicting = sum(1 for use in uses if use.conflict)
    yield gauge(f"{above}_conflicting_pools_total", "Pools that overlap another one", {(): float(conflicting)})
    available = {(use.name,): float(use.available) for use in uses}
    yield gauge(f"{above}_ips_available_total", "Addresses that a pool can still give out", available, ("pool",))
    used = {(use.name,): float(use.used) for use in uses}
    yield gauge(f"{above}_ips_used_total", "Addresses of a pool that are given out or kept back", used, ("pool",))
    yield gauge(f"{above}_services_matching_total", "Services that want addresses", {(): float(ipam.matching)})
    unsatisfied = {(): float(ipam.unsatisfied)}
    yield gauge(f"{above}_services_unsatisfied_total", "Services that did not get all that they asked for", unsatisfied)
    yield histogram(
        f"{above}_event_processing_time_seconds",
        "Time from taking in an event to its decision",
        assigner.durations,
        ("event", "resource"),
    )


def _bgp(bgp: ClusterBGP) -> Iterator[Metric]:
    above = "cilium_operator_bgp_control_plane_reconcile"
    errors = {(OWNER_KIND, name): float(count) for name, count in bgp.errors.items()}
    names = ("resource_kind", "resource_name")
    yield counter(f"{above}_errors", "Failed writes of node configurations", errors, names)
    yield histogram(f"{above}_run_duration_seconds", "Duration of decisions about node configurations", {(): bgp.runs})
