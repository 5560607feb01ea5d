"""Services: defaults, validation, and the allocation of cluster addresses and node ports (pkg/registry/core/service)."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from typing import Any, Final

from stentor.apiserver.errors import Cause, duplicate, forbidden, invalid, required, unsupported
from stentor.apiserver.exposure import has_health_check, is_exposed, validate_exposure
from stentor.apiserver.meta import check_label, check_subdomain, validate_labels
from stentor.apiserver.pod import PROTOCOLS, check_port

Object = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Owner = tuple[str, str]

NODE_PORTS: Final = range(30000, 32768)
_STATIC_NODE_PORTS: Final = 86
"""Lower ports are left to services that name theirs, as upstream does."""
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_HEADLESS = "None"
_FULL = Cause("InternalError", "spec.ports", "Internal error: failed to allocate a nodePort: range is full")


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
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def validate_service(service: Object) -> list[Cause]:
    spec = service["spec"]
    kind, ports = spec.get("type", "ClusterIP"), spec.get("ports") or []
    causes: list[Cause] = []
    if kind not in _TYPES:
        causes.append(unsupported("spec.type", kind, _TYPES))
    if kind == "ExternalName":
        name = (spec.get("externalName") or "").rstrip(".")
        complaint = check_subdomain(name) if name else None
        if not name:
            causes.append(required("spec.externalName"))
        elif complaint:
            causes.append(invalid("spec.externalName", name, complaint))
    elif not ports and not is_headless(spec):
        causes.append(required("spec.ports"))
    causes += _validate_ports(ports)
    causes += validate_labels(spec.get("selector") or {}, "spec.selector")
    if spec.get("sessionAffinity") not in ("ClientIP", "None"):
        causes.append(unsupported("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None")))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        if not _is_address(address):
            causes.append(invalid(f"spec.externalIPs[{index}]", address, "must be a valid IP address"))
    for field in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if spec.get(field, "Cluster") not in ("Cluster", "Local"):
            causes.append(unsupported(f"spec.{field}", spec[field], ("Cluster", "Local")))
    return causes + validate_exposure(spec)


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == _HEADLESS


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _validate_ports(ports: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    names: set[str] = set()
    seen: set[tuple[int, str]] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name, protocol = port.get("name"), port.get("protocol", "TCP")
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
        if isinstance(port.get("targetPort"), int):
            causes += check_port(port["targetPort"], f"{where}.targetPort")
        pair = (port.get("port", 0), protocol)
        if pair in seen:
            causes.append(duplicate(where, {"port": pair[0], "protocol": pair[1]}))
        seen.add(pair)
    return causes


def validate_service_update(new: Object, old: Object) -> list[Cause]:
    fresh, stale = new["spec"], old["spec"]
    if "ExternalName" in (fresh.get("type"), stale.get("type")):
        return []
    before, after = stale.get("clusterIPs") or [], fresh.get("clusterIPs") or []
    causes = []
    if before and after and before[0] != after[0]:
        causes.append(invalid("spec.clusterIPs[0]", after, "may not change once set"))
    if before and after and len(before) > 1 and len(after) > 1 and before[1] != after[1]:
        causes.append(invalid("spec.clusterIPs[1]", after, "may not change once set"))
    return causes


class Allocator:
    """Cluster addresses and node ports in use. An allocation holds from the write on, before it is committed."""

    def __init__(self, networks: Sequence[str]) -> None:
        """`networks`: service CIDRs, the first one of the cluster's primary family. Raises ValueError."""
        self.networks: dict[str, Network] = {}
        for text in networks:
            network = ipaddress.ip_network(text)
            self.networks.setdefault(f"IPv{network.version}", network)
        self._addresses: dict[str, Owner] = {}
        self._ports: dict[tuple[int, str], Owner] = {}

    @property
    def families(self) -> list[str]:
        return list(self.networks)

    def first_address(self, family: str) -> str:
        """The address of the `kubernetes` service."""
        return str(self.networks[family][1])

    def claim(self, owner: Owner, spec: Object) -> None:
        """Remember what a stored service holds."""
        for address in spec.get("clusterIPs") or ():
            if address != _HEADLESS:
                self._addresses[address] = owner
        for key in _node_ports(spec):
            self._ports[key] = owner

    def release(self, owner: Owner, spec: Object) -> None:
        for address in spec.get("clusterIPs") or ():
            if self._addresses.get(address) == owner:
                del self._addresses[address]
        for key in _node_ports(spec):
            if self._ports.get(key) == owner:
                del self._ports[key]

    def allocate(self, owner: Owner, spec: Object, old: Object | None) -> list[Cause]:
        """Complete `spec` with families, addresses and ports; what could not be had as causes. Claims nothing."""
        if old is not None:
            _carry_over(spec, old)
        if spec.get("type") == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
            return []
        causes = self._set_families(spec)
        if not causes and not is_headless(spec):
            causes = self._set_addresses(owner, spec)
        return causes or self._set_ports(owner, spec)

    def _set_families(self, spec: Object) -> list[Cause]:
        addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
        if spec.get("clusterIP") and addresses[0] != spec["clusterIP"]:
            return [invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")]
        if addresses:
            spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses
        given = [f"IPv{ipaddress.ip_address(a).version}" for a in addresses if _is_address(a)]
        families = list(spec.get("ipFamilies") or given)
        policy = spec.get("ipFamilyPolicy") or ("SingleStack" if len(families) < 2 else "RequireDualStack")
        if policy not in _POLICIES:
            return [unsupported("spec.ipFamilyPolicy", policy, _POLICIES)]
        unknown = [f for f in families if f not in self.networks]
        if unknown and (spec.get("selector") or not is_headless(spec)):
            return [invalid("spec.ipFamilies[0]", unknown[0], "not configured on this cluster")]
        if policy == "RequireDualStack" and len(self.networks) < 2:
            return [invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")]
        wanted = families or self.families[:1]
        if policy != "SingleStack":
            wanted = [*wanted, *(f for f in self.families if f not in wanted)]
        spec["ipFamilies"] = wanted if policy != "SingleStack" else wanted[:1]
        spec["ipFamilyPolicy"] = policy
        return []

    def _set_addresses(self, owner: Owner, spec: Object) -> list[Cause]:
        addresses = list(spec.get("clusterIPs") or ())[: len(spec["ipFamilies"])]
        for index, address in enumerate(addresses):
            causes = self._check_address(owner, address, spec["ipFamilies"][index], f"spec.clusterIPs[{index}]")
            if causes:
                return causes
        for family in spec["ipFamilies"][len(addresses) :]:
            found = self._free_address(self.networks[family])
            if found is None:
                return [
                    Cause("InternalError", "spec.clusterIPs", f"Internal error: range {self.networks[family]} is full")
                ]
            addresses.append(found)
        spec["clusterIPs"], spec["clusterIP"] = addresses, addresses[0]
        return []

    def _check_address(self, owner: Owner, address: str, family: str, path: str) -> list[Cause]:
        if not _is_address(address):
            return [invalid(path, address, "must be a valid IP address")]
        parsed = ipaddress.ip_address(address)
        if f"IPv{parsed.version}" != family:
            return [invalid(path, address, f"expected an {family} value as indicated by `ipFamilies[{path[-2]}]`")]
        network = self.networks[family]
        if parsed not in network or parsed == network.network_address:
            detail = f"failed to allocate IP {address}: the provided network does not match the current range"
            return [invalid(path, [address], detail)]
        if self._addresses.get(address, owner) != owner:
            return [invalid(path, [address], f"failed to allocate IP {address}: provided IP is already allocated")]
        return []

    def _free_address(self, network: Network) -> str | None:
        size = min(network.num_addresses, 1 << 16) - 1
        static = min(max(16, size // 16), 256)
        first = static if size > 2 * static else 1
        for low, high in ((first, size), (1, first)):
            start = random.randrange(low, high) if high > low else low
            for step in range(high - low):
                address = str(network[low + (start - low + step) % (high - low)])
                if address not in self._addresses:
                    return address
        return None

    def _set_ports(self, owner: Owner, spec: Object) -> list[Cause]:
        kind = spec.get("type")
        wants = kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True))
        taken: set[tuple[int, str]] = set()
        for index, port in enumerate(spec.get("ports") or ()):
            number, path = port.get("nodePort"), f"spec.ports[{index}].nodePort"
            if not number:
                port.pop("nodePort", None)
                if not wants:
                    continue
                number = port["nodePort"] = self._free_port(taken)
                if not number:
                    return [_FULL]
            elif kind not in ("NodePort", "LoadBalancer"):
                return [forbidden(path, f"may not be used when `type` is '{kind}'")]
            elif number not in NODE_PORTS:
                valid = f"The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                return [invalid(path, number, f"provided port is not in the valid range. {valid}")]
            key = (number, port["protocol"])
            if key in taken:
                return [duplicate(path, number)]
            if self._ports.get(key, owner) != owner:
                return [invalid(path, number, "provided port is already allocated")]
            taken.add(key)
        return self._set_health_check_port(owner, spec, taken)

    def _set_health_check_port(self, owner: Owner, spec: Object, taken: set[tuple[int, str]]) -> list[Cause]:
        if not has_health_check(spec):
            return []
        number = spec.get("healthCheckNodePort")
        if not number:
            number = spec["healthCheckNodePort"] = self._free_port(taken)
        if not number:
            return [_FULL]
        if (number, "TCP") in taken or self._ports.get((number, "TCP"), owner) != owner:
            return [invalid("spec.healthCheckNodePort", number, "provided port is already allocated")]
        return []

    def _free_port(self, taken: set[tuple[int, str]]) -> int:
        """0 when all are in use."""
        band = list(NODE_PORTS[_STATIC_NODE_PORTS:])
        random.shuffle(band)
        used = {n for n, _ in (*self._ports, *taken)}
        return next((n for n in (*band, *NODE_PORTS[:_STATIC_NODE_PORTS]) if n not in used), 0)


def _node_ports(spec: Object) -> list[tuple[int, str]]:
    ports = [(p["nodePort"], p.get("protocol", "TCP")) for p in spec.get("ports") or () if p.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append((spec["healthCheckNodePort"], "TCP"))
    return ports


def _carry_over(spec: Object, old: Object) -> None:
    """A client that leaves allocated fields out of an update keeps them; what its new type has no use for goes."""
    if not has_health_check(spec):
        if spec.get("healthCheckNodePort") == old.get("healthCheckNodePort"):
            spec.pop("healthCheckNodePort", None)
    elif not spec.get("healthCheckNodePort") and old.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old["healthCheckNodePort"]
    if not is_exposed(spec) and spec.get("externalTrafficPolicy") == old.get("externalTrafficPolicy"):
        spec.pop("externalTrafficPolicy", None)
    if spec.get("type") == "ExternalName" or old.get("type") == "ExternalName":
        return
    if not spec.get("clusterIP"):
        for field in ("clusterIP", "clusterIPs"):
            if field in old:
                spec[field] = old[field]
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if not spec.get(field) and field in old:
            spec[field] = old[field]
    if spec.get("ipFamilyPolicy") == "SingleStack":
        spec["ipFamilies"] = spec["ipFamilies"][:1]
        spec["clusterIPs"] = (spec.get("clusterIPs") or [])[:1]
    if spec.get("type") not in ("NodePort", "LoadBalancer"):
        before = {p.get("nodePort") for p in old.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in before:
                port.pop("nodePort", None)
        return
    ports = {(p.get("port"), p.get("protocol")): p.get("nodePort") for p in old.get("ports") or ()}
    for port in spec.get("ports") or ():
        known = ports.get((port.get("port"), port.get("protocol")))
        if known and not port.get("nodePort"):
            port["nodePort"] = known
