"""What fields of a Service ask of its type and of each other (pkg/apis/core/validation, ValidateService)."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from stentor.apiserver.errors import Cause, forbidden, invalid, unsupported

Object = dict[str, Any]

_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameNode", "PreferSameZone")
_AFFINITY_MOST_S: Final = 86400
_RANGES: Final = "spec.LoadBalancerSourceRanges"  # spelled so by upstream


def is_exposed(spec: Object) -> bool:
    """Whether clients outside the cluster are meant to reach it."""
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))


def has_health_check(spec: Object) -> bool:
    """Whether load balancers ask a port of its own for local endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def validate_exposure(spec: Object) -> list[Cause]:
    kind = spec.get("type", "ClusterIP")
    causes = [*_validate_ranges(spec.get("loadBalancerSourceRanges") or [], kind), *_validate_affinity(spec)]
    if spec.get("clusterIP") == "None" and kind in ("NodePort", "LoadBalancer"):
        causes.append(invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    if spec.get("externalTrafficPolicy") and not is_exposed(spec):
        policy = spec["externalTrafficPolicy"]
        causes.append(
            invalid("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
        )
    if spec.get("healthCheckNodePort") and not has_health_check(spec):
        only = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        causes.append(invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], only))
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        causes.append(unsupported("spec.trafficDistribution", distribution, _DISTRIBUTIONS))
    return causes


def _validate_ranges(ranges: list[str], kind: str) -> list[Cause]:
    if ranges and kind != "LoadBalancer":
        return [forbidden(_RANGES, "may only be used when `type` is 'LoadBalancer'")]
    wanted = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    return [invalid(f"{_RANGES}[{i}]", text, wanted) for i, text in enumerate(ranges) if not _is_range(text.strip())]


def _validate_affinity(spec: Object) -> list[Cause]:
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    timeout_s = config.get("timeoutSeconds")
    if spec.get("sessionAffinity") != "ClientIP" or timeout_s is None or 0 < timeout_s <= _AFFINITY_MOST_S:
        return []
    where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return [invalid(where, timeout_s, f"must be greater than 0 and less than {_AFFINITY_MOST_S}")]


def _is_range(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
