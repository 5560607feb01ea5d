"""Addresses of services of type LoadBalancer: what services ask for, what they get, and how full pools are."""

from __future__ import annotations

import msgspec

from stentor.api.core import ServiceStatus
from stentor.net.address import Addr
from stentor.state import Table

ServiceKey = tuple[str, str]
"""Namespace and name."""


class ServiceRequest(msgspec.Struct, frozen=True):
    """A Service as far as it concerns its addresses.

    `wanted` says whether addresses are ours to give: its type and class. `families` and `requested` are what it asks for;
    with requested addresses families do not count. `shown` is what status.loadBalancer.ingress says now.
    """

    key: ServiceKey
    uid: str = ""
    version: str = ""
    created: str = ""
    generation: int = 0
    wanted: bool = True
    labels: dict[str, str] = {}
    families: tuple[int, ...] = (4,)
    requested: tuple[Addr, ...] = ()
    sharing_key: str = ""
    sharing_namespaces: tuple[str, ...] = ()
    permits_different_pods: bool = False
    ports: frozenset[tuple[str, int]] = frozenset()
    external_local: bool = False
    selector: tuple[tuple[str, str], ...] = ()
    shown: tuple[Addr, ...] = ()
    status: ServiceStatus = ServiceStatus()
    is_marked: bool = False
    """Whether its status has our condition: it was ours once."""

    @property
    def age_key(self) -> tuple[str, ServiceKey]:
        """Sorts older services first."""
        return (self.created, self.key)


class Assignment(msgspec.Struct, frozen=True):
    """What a service's status should say; without a reason nothing of ours: no address, no condition.

    `version` is that of the service on which it was decided: a status that somebody else changed is written anew.
    """

    key: ServiceKey
    version: str = ""
    addresses: tuple[Addr, ...] = ()
    satisfied: bool = False
    reason: str = ""
    message: str = ""
    generation: int = 0


class PoolUse(msgspec.Struct, frozen=True):
    """State of a pool. `conflict` and `fault` are messages, empty when there is nothing to say."""

    name: str
    generation: int = 0
    total: int = 0
    used: int = 0
    conflict: str = ""
    fault: str = ""

    @property
    def available(self) -> int:
        """How many addresses can still be given out."""
        return self.total - self.used


def service_requests() -> Table[ServiceKey, ServiceRequest]:
    """By key."""
    return Table("lb-services", lambda row: row.key)


def assignments() -> Table[ServiceKey, Assignment]:
    """By key."""
    return Table("lb-assignments", lambda row: row.key)


def pool_uses() -> Table[str, PoolUse]:
    """By name of the pool."""
    return Table("lb-pool-uses", lambda row: row.name)
