"""Cluster addresses and node ports of Services (pkg/registry/core/service/{ipallocator,portallocator})."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from typing import Any, Final

from stentor.apiserver.errors import Cause, duplicate, invalid
from stentor.apiserver.exposure import HEADLESS, allocates_node_ports, has_health_check, has_node_ports, is_headless
from stentor.apiserver.family import settle_families

Object = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Owner = tuple[str, str]

NODE_PORTS: Final = range(30000, 32768)
_STATIC_NODE_PORTS: Final = 86
"""Lower ports are left to services that name theirs, as upstream does."""
_FULL: Final = Cause("InternalError", "spec.ports", "Internal error: failed to allocate a nodePort: range is full")
_TAKEN: Final = "provided port is already allocated"
_OUTSIDE: Final = (
    f"provided port is not in the valid range. The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
)


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
            if address != HEADLESS:
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
        if spec.get("type") == "ExternalName":
            return []
        causes = settle_families(spec, old, self.families)
        if not causes and not is_headless(spec):
            causes = self._set_addresses(owner, spec)
        if not causes and has_node_ports(spec):
            causes = self._set_ports(owner, spec, old or {})
        return causes

    def _set_addresses(self, owner: Owner, spec: Object) -> list[Cause]:
        addresses = list(spec.get("clusterIPs") or ())
        for address, family in zip(addresses, spec["ipFamilies"], strict=False):
            problem = self._problem_of(owner, address, family)
            if problem:
                return [invalid("spec.clusterIPs", addresses, f"failed to allocate IP {address}: {problem}")]
        for family in spec["ipFamilies"][len(addresses) :]:
            found = self._free_address(self.networks[family])
            if found is None:
                return [
                    Cause("InternalError", "spec.clusterIPs", f"Internal error: range {self.networks[family]} is full")
                ]
            addresses.append(found)
        spec["clusterIPs"], spec["clusterIP"] = addresses, addresses[0]
        return []

    def _problem_of(self, owner: Owner, address: str, family: str) -> str:
        network, parsed = self.networks.get(family), ipaddress.ip_address(address)
        if self._addresses.get(address) == owner:
            return ""
        if network is None or parsed not in network or parsed == network.network_address:
            return "the provided network does not match the current range"
        return "provided IP is already allocated" if address in self._addresses else ""

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

    def _set_ports(self, owner: Owner, spec: Object, old: Object) -> list[Cause]:
        ports = spec.get("ports") or ()
        taken: set[tuple[int, str]] = set()
        for index, port in enumerate(ports):
            number, path = port.get("nodePort"), f"spec.ports[{index}].nodePort"
            if not number:
                port.pop("nodePort", None)
                continue
            key = (number, port["protocol"])
            if number not in NODE_PORTS:
                return [invalid(path, number, _OUTSIDE)]
            if key in taken:
                return [duplicate(path, number)]
            if self._ports.get(key, owner) != owner:
                return [invalid(path, number, _TAKEN)]
            taken.add(key)
        for port in ports if allocates_node_ports(spec) else ():
            if "nodePort" not in port:
                port["nodePort"] = self._number_of_sibling(owner, port, ports, taken) or self._free_port(taken)
                if not port["nodePort"]:
                    return [_FULL]
                taken.add((port["nodePort"], port["protocol"]))
        return self._set_health_check_port(owner, spec, old, taken)

    def _number_of_sibling(
        self, owner: Owner, port: Object, ports: Sequence[Object], taken: set[tuple[int, str]]
    ) -> int:
        """One number of a service gets one node port, for TCP and UDP alike. 0 when there is none to share."""
        shared = next((p["nodePort"] for p in ports if p.get("port") == port.get("port") and p.get("nodePort")), 0)
        key = (shared, port["protocol"])
        return shared if key not in taken and self._ports.get(key, owner) == owner else 0

    def _set_health_check_port(
        self, owner: Owner, spec: Object, old: Object, taken: set[tuple[int, str]]
    ) -> list[Cause]:
        if not has_health_check(spec):
            return []
        where, number = "spec.healthCheckNodePort", spec.get("healthCheckNodePort")
        if not number:
            number = spec["healthCheckNodePort"] = self._free_port(taken)
        if not number:
            return [_FULL]
        if has_health_check(old) and old.get("healthCheckNodePort") not in (None, number):
            fixed = "cannot change healthCheckNodePort on loadBalancer service with externalTraffic=Local during update"
            return [invalid(where, number, fixed)]
        is_taken = (number, "TCP") in taken or self._ports.get((number, "TCP"), owner) != owner
        problem = _OUTSIDE if number not in NODE_PORTS else _TAKEN if is_taken else ""
        detail = f"failed to allocate requested HealthCheck NodePort {number}: {problem}"
        return [invalid(where, number, detail)] if problem else []

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
