"""The operator's metrics, under upstream's names."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

import stentor
from stentor.operator.wiring import Operator
from stentor.runtime.sample import counter, gauge


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
    errors = {(each.name,): float(len(each.failing)) for each in operator.reconcilers}
    yield gauge("cilium_operator_reconciler_errors", "Rows that a reconciler could not write", errors, ("name",))
