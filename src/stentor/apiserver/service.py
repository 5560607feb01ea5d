"""Services: defaults, what an update keeps or drops, and validation (pkg/registry/core/service, pkg/apis/core/validation).

Addresses and node ports are given in `allocation`, before validation looks at the whole.
"""

from __future__ import annotations

from typing import Any, Final

from stentor.apiserver.errors import Cause, duplicate, forbidden, invalid, required, unsupported
from stentor.apiserver.exposure import (
    allocates_node_ports,
    check_address,
    has_health_check,
    has_node_ports,
    is_balancer,
    is_exposed,
    is_headless,
    validate_exposure,
)
from stentor.apiserver.meta import (
    check_label,
    check_port_name,
    check_qualified_name,
    check_subdomain,
    validate_labels,
)
from stentor.apiserver.pod import PROTOCOLS, check_port

Object = dict[str, Any]

KUBELET_PORT: Final = 10250
_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_ADDRESS_FIELDS: Final = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


def set_service_defaults(service: Object) -> None:
    spec, kind = service["spec"], service["spec"].get("type")
    for port in spec.get("ports") or ():
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port")
    if spec.get("sessionAffinity") == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", 10800)
    else:
        spec.pop("sessionAffinityConfig", None)
    if kind == "ExternalName":
        return
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if is_exposed(spec):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
        for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
            if ingress.get("ip"):
                ingress.setdefault("ipMode", "VIP")


# -- updating


def prepare_service_update(service: Object, old: Object) -> None:
    """What a client leaves out stays as it was; what the new type has no use for goes, unless the client changed it."""
    spec, stale = service["spec"], old["spec"]
    _drop_unused(spec, stale)
    if not is_balancer(spec) and "status" in service:
        service["status"] = {**(service["status"] or {}), "loadBalancer": {}}
    if _has_addresses(spec) and _has_addresses(stale):
        _keep_addresses(spec, stale)
    if allocates_node_ports(spec) and has_node_ports(stale):
        _keep_node_ports(spec, stale)
    if has_health_check(spec) and has_health_check(stale) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = stale.get("healthCheckNodePort")


def _has_addresses(spec: Object) -> bool:
    return spec.get("type") != "ExternalName"


def _drop_unused(spec: Object, old: Object) -> None:
    for is_used, fields in (
        (_has_addresses, _ADDRESS_FIELDS),
        (has_health_check, ("healthCheckNodePort",)),
        (is_balancer, ("allocateLoadBalancerNodePorts", "loadBalancerClass")),
        (is_exposed, ("externalTrafficPolicy",)),
    ):
        if is_used(old) and not is_used(spec):
            for field in fields:
                if spec.get(field) == old.get(field):
                    spec.pop(field, None)
    if has_node_ports(old) and not has_node_ports(spec) and _numbers(spec) <= _numbers(old):
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)


def _numbers(spec: Object) -> set[int]:
    return {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}


def _keep_addresses(spec: Object, old: Object) -> None:
    """A changed `clusterIP` alone means both fields."""
    for field in ("clusterIP", "clusterIPs"):
        if not spec.get(field) and old.get(field):
            spec[field] = old[field]
    if spec.get("clusterIP") != old.get("clusterIP") and spec.get("clusterIPs") == old.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _keep_node_ports(spec: Object, old: Object) -> None:
    """A port is known by its name: its number and protocol may have changed."""
    known = {port.get("name", ""): port.get("nodePort") for port in old.get("ports") or ()}
    used = _numbers(spec)
    for port in spec.get("ports") or ():
        number = known.get(port.get("name", ""))
        if number and not port.get("nodePort") and number not in used:
            port["nodePort"] = number


# -- validation


def validate_service(service: Object) -> list[Cause]:
    spec = service["spec"]
    kind, ports = spec.get("type", "ClusterIP"), spec.get("ports") or []
    causes: list[Cause] = []
    if not ports and kind != "ExternalName" and not is_headless(spec):
        causes.append(required("spec.ports"))
    if kind == "ExternalName":
        causes += _validate_external_name(spec)
    if kind == "LoadBalancer":
        complaint = f"may not expose port {KUBELET_PORT} externally since it is used by kubelet"
        causes += [
            invalid(f"spec.ports[{index}]", KUBELET_PORT, complaint)
            for index, port in enumerate(ports)
            if port.get("port") == KUBELET_PORT
        ]
    causes += _validate_ports(ports)
    causes += validate_labels(spec.get("selector") or {}, "spec.selector")
    if spec.get("sessionAffinity") not in ("ClientIP", "None"):
        causes.append(unsupported("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None")))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        causes += check_address(address, f"spec.externalIPs[{index}]")
    if kind not in _TYPES:
        causes.append(unsupported("spec.type", kind, _TYPES))
    if kind == "ClusterIP":
        causes += [
            forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
            for index, port in enumerate(ports)
            if port.get("nodePort")
        ]
    causes += _validate_uniqueness(ports)
    for field in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if spec.get(field, "Cluster") not in ("Cluster", "Local"):
            causes.append(unsupported(f"spec.{field}", spec[field], ("Cluster", "Local")))
    return causes + validate_exposure(service)


def validate_service_update(new: Object, old: Object) -> list[Cause]:
    spec, stale = new["spec"], old["spec"]
    if is_balancer(spec) and is_balancer(stale) and spec.get("loadBalancerClass") != stale.get("loadBalancerClass"):
        return [invalid("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set")]
    return []


def _validate_external_name(spec: Object) -> list[Cause]:
    causes = [
        forbidden(f"spec.{field}", "may not be set for ExternalName services")
        for field in _ADDRESS_FIELDS[1:]
        if spec.get(field)
    ]
    name = (spec.get("externalName") or "").removesuffix(".")
    complaint = check_subdomain(name) if name else None
    if not name:
        causes.append(required("spec.externalName"))
    elif complaint:
        causes.append(invalid("spec.externalName", name, complaint))
    return causes


def _validate_ports(ports: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name, protocol, target = port.get("name"), port.get("protocol", "TCP"), port.get("targetPort")
        if not name:
            causes += [required(f"{where}.name")] if len(ports) > 1 else []
        else:
            complaint = check_label(name)
            if complaint:
                causes.append(invalid(f"{where}.name", name, complaint))
            elif name in names:
                causes.append(duplicate(f"{where}.name", name))
            names.add(name)
        causes += check_port(port.get("port", 0), f"{where}.port")
        if protocol not in PROTOCOLS:
            causes.append(unsupported(f"{where}.protocol", protocol, PROTOCOLS))
        if isinstance(target, str):
            complaint = check_port_name(target)
            causes += [invalid(f"{where}.targetPort", target, complaint)] if complaint else []
        elif target is not None:
            causes += check_port(target, f"{where}.targetPort")
        complaint = check_qualified_name(port["appProtocol"]) if port.get("appProtocol") else None
        if complaint:
            causes.append(invalid(f"{where}.appProtocol", port["appProtocol"], complaint))
    return causes


def _validate_uniqueness(ports: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    for number in ("nodePort", "port"):
        seen: set[tuple[int, str]] = set()
        for index, port in enumerate(ports):
            pair = (port.get(number, 0), port.get("protocol", "TCP"))
            if pair in seen and pair[0]:
                where = f"spec.ports[{index}]"
                both = duplicate(where, {"port": pair[0], "protocol": pair[1]})
                causes.append(both if number == "port" else duplicate(f"{where}.nodePort", pair[0]))
            seen.add(pair)
    return causes
