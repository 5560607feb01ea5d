"""How clients reach a Service, and what its fields ask of its type and of each other (pkg/apis/core/validation)."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from stentor.apiserver.errors import Cause, forbidden, invalid, unsupported
from stentor.apiserver.meta import check_qualified_name

Object = dict[str, Any]

HEADLESS: Final = "None"
_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameNode", "PreferSameZone")
_AFFINITY_MOST_S: Final = 86400
_RANGES: Final = "spec.LoadBalancerSourceRanges"  # spelled so by upstream
_RANGES_NOTE: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"
_ONLY_BALANCERS: Final = "may only be used when `type` is 'LoadBalancer'"


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == HEADLESS


def is_balancer(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer"


def has_node_ports(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def allocates_node_ports(spec: Object) -> bool:
    """Whether ports without a node port get one."""
    return has_node_ports(spec) and not (is_balancer(spec) and spec.get("allocateLoadBalancerNodePorts") is False)


def is_exposed(spec: Object) -> bool:
    """Whether clients outside the cluster are meant to reach it."""
    return has_node_ports(spec) or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def has_health_check(spec: Object) -> bool:
    """Whether load balancers ask a port of its own for local endpoints."""
    return is_balancer(spec) and spec.get("externalTrafficPolicy") == "Local"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_address(text: str, path: str) -> list[Cause]:
    """An address that clients elsewhere can have a way to."""
    if not is_address(text):
        return [invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    address = ipaddress.ip_address(text)
    return [
        invalid(path, text, complaint)
        for is_bad, complaint in (
            (address.is_unspecified, f"may not be unspecified ({text})"),
            (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            (
                address in _LOCAL_MULTICAST[address.version],
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
            ),
        )
        if is_bad
    ]


_LOCAL_MULTICAST: Final = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}


def validate_exposure(service: Object) -> list[Cause]:
    spec = service["spec"]
    kind = spec.get("type", "ClusterIP")
    causes = [*_validate_ranges(service), *_validate_affinity(spec)]
    if is_headless(spec) and has_node_ports(spec):
        causes.append(invalid("spec.clusterIPs[0]", HEADLESS, f"may not be set to 'None' for {kind} services"))
    if spec.get("allocateLoadBalancerNodePorts") is not None and not is_balancer(spec):
        causes.append(forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_BALANCERS))
    causes += _validate_class(spec)
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


def _validate_class(spec: Object) -> list[Cause]:
    chosen = spec.get("loadBalancerClass")
    if chosen is None:
        return []
    if not is_balancer(spec):
        return [forbidden("spec.loadBalancerClass", _ONLY_BALANCERS)]
    complaint = check_qualified_name(chosen)
    return [invalid("spec.loadBalancerClass", chosen, complaint)] if complaint else []


def _validate_ranges(service: Object) -> list[Cause]:
    spec, path = service["spec"], _RANGES
    ranges, note = spec.get("loadBalancerSourceRanges") or [], None
    if not ranges:
        note = (service["metadata"].get("annotations") or {}).get(_RANGES_NOTE)
        path = f"metadata.annotations[{_RANGES_NOTE}]"
    if not ranges and note is None:
        return []
    causes = [] if is_balancer(spec) else [forbidden(path, _ONLY_BALANCERS)]
    if note is not None:
        listed = note.strip().split(",") if note.strip() else []
        wanted = "must be a comma-separated list of CIDRs e.g. 192.168.0.0/16,10.0.0.0/8"
        return causes + ([] if all(_is_range(text.strip()) for text in listed) else [invalid(path, note, wanted)])
    wanted = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    return causes + [invalid(f"{path}[{i}]", text, wanted) for i, text in enumerate(ranges) if not _is_range(text)]


def _validate_affinity(spec: Object) -> list[Cause]:
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    timeout_s = config.get("timeoutSeconds")
    if spec.get("sessionAffinity") != "ClientIP" or timeout_s is None or 0 < timeout_s <= _AFFINITY_MOST_S:
        return []
    where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return [invalid(where, timeout_s, f"must be greater than 0 and less than {_AFFINITY_MOST_S}")]


def _is_range(text: str) -> bool:
    """Spaces around are tolerated, as ever since these came from an annotation."""
    try:
        ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return False
    return "/" in text
