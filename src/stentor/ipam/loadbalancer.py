"""Which service has which load-balancer addresses. Pure: services and pools in, assignments out; the operator acts on it.

No address is ever given to two services that do not share it, whatever the order of events:

- An address is *claimed* by every service that has it, that shows it in its status, or into whose status somebody has tried
  to write it without knowing whether that succeeded. Only an address without claims is free. So what a service loses is
  given to another only once the API shows that it is gone.
- Addresses that services show when this process first sees them are theirs, if a pool has them: a restart changes nothing.
- A state older than one that is known already is ignored, and every write names the version that it was decided on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from stentor.ipam.pool import Pool, Range, settle_conflicts
from stentor.ipam.request import incompatibility
from stentor.net.address import Addr
from stentor.tables.bgp import LoadBalancerPool
from stentor.tables.loadbalancer import Assignment, PoolUse, ServiceKey, ServiceRequest

NO_POOL: Final = (
    "no_pool",
    "There are no enabled CiliumLoadBalancerIPPools that match this service",
)
OUT_OF_IPS: Final = (
    "out_of_ips",
    "All enabled CiliumLoadBalancerIPPools that match this service ran out of allocatable IPs",
)
SATISFIED: Final = ("satisfied", "")

Fault = tuple[str, str]
"""Reason and message."""


class _Service:
    """A service, the addresses that it has with their ranges, and those that its status may still show."""

    __slots__ = ("attempts", "claims", "has", "is_judged", "request")

    def __init__(self, request: ServiceRequest) -> None:
        self.request = request
        self.has: dict[Addr, Range] = {}
        self.attempts: dict[str, frozenset[Addr]] = {}
        """What was to be written, by the version on which it was decided."""
        self.claims: frozenset[Addr] = frozenset()
        self.is_judged = False
        """Whether it was looked at while there were pools: then its condition is ours to keep right."""


class LoadBalancerIPAM:
    """All allocations. Feed it with `set_pool`, `set_service` and their opposites, then `settle` for what is to be written."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        self._services: dict[ServiceKey, _Service] = {}
        self._claimants: dict[Addr, dict[ServiceKey, None]] = {}
        self._by_sharing_key: dict[str, dict[ServiceKey, None]] = {}
        self._ordered: list[Pool] = []
        self._unsatisfied: dict[ServiceKey, None] = {}
        self._dirty: dict[ServiceKey, None] = {}
        self._pools_changed = False
        self._has_freed = False

    # ---- what happens

    def set_pool(self, row: LoadBalancerPool) -> None:
        """A pool is new or has changed."""
        pool = self.pools.get(row.name)
        if pool is None:
            self.pools[row.name] = Pool(row)
        else:
            pool.update(row)
        self._pools_changed = True

    def remove_pool(self, name: str) -> None:
        """A pool is gone; its addresses go back at the next `settle`."""
        if self.pools.pop(name, None) is not None:
            self._pools_changed = True

    def set_service(self, request: ServiceRequest) -> None:
        """A service is new or has changed; a state older than the known one is ignored."""
        service = self._services.get(request.key)
        if service is None:
            service = self._services[request.key] = _Service(request)
        elif _is_older(request.version, service.request.version):
            return
        self._index(service, request.sharing_key)
        service.request = request
        # A write succeeds only on the version that it names: on an older one it has been made by now, and shows, or never.
        for version in [version for version in service.attempts if not _is_current(version, request.version)]:
            del service.attempts[version]
        self._claim(service)
        self._dirty[request.key] = None

    def remove_service(self, key: ServiceKey) -> None:
        """A service is gone, and its addresses are free."""
        service = self._services.pop(key, None)
        if service is None:
            return
        for addr in list(service.has):
            self._release(service, addr)
        service.attempts = {}
        self._index(service, "")
        service.request = ServiceRequest(key)
        self._claim(service)
        self._unsatisfied.pop(key, None)
        self._dirty.pop(key, None)

    def attempt(self, key: ServiceKey, version: str, addresses: Iterable[Addr]) -> None:
        """Somebody is about to write these addresses into the service's status, if its version is still this one."""
        service = self._services.get(key)
        if service is not None:
            service.attempts[version] = service.attempts.get(version, frozenset()).union(addresses)
            self._claim(service)

    # ---- what follows

    def settle(self) -> dict[ServiceKey, Assignment | None]:
        """Assignments of all services for which something may have changed; None where there is nothing to say."""
        keys, self._dirty = self._dirty, {}
        has_changes = bool(keys)
        if self._pools_changed:
            self._pools_changed = False
            settle_conflicts(self.pools.values())
            self._ordered = sorted(self.pools.values(), key=lambda each: each.row.age_key)
            keys = dict.fromkeys(self._services)
        changed = sorted(
            (self._services[key] for key in keys if key in self._services),
            key=lambda each: (not each.request.shown, each.request.age_key),  # who loses an address before who had none
        )
        for service in changed:  # who has or shows an address keeps it, before anybody gets a new one
            self._keep(service)
        results = {service.request.key: self._assign(service) for service in changed}
        if has_changes or self._has_freed:
            for key in [key for key in self._unsatisfied if key not in results and self._may_hope(key)]:
                results[key] = self._assign(self._services[key])
        self._has_freed = False
        return results

    def _may_hope(self, key: ServiceKey) -> bool:
        """Whether what has changed may help an unsatisfied service: a free address, or somebody who shares now."""
        request = self._services[key].request
        return self._has_freed or bool(request.requested and request.sharing_key)

    def uses(self) -> list[PoolUse]:
        """State of every pool."""
        return [
            PoolUse(
                name=pool.row.name,
                generation=pool.row.generation,
                total=sum(each.span.size for each in pool.ranges),
                used=sum(each.used for each in pool.ranges),
                conflict=pool.conflict,
                fault=pool.fault,
            )
            for pool in self.pools.values()
        ]

    @property
    def matching(self) -> int:
        """Services whose addresses are ours to give."""
        return sum(1 for service in self._services.values() if service.request.wanted)

    @property
    def unsatisfied(self) -> int:
        """Services that did not get all that they asked for."""
        return len(self._unsatisfied)

    # ---- one service

    def _keep(self, service: _Service) -> None:
        """Drop what it may not have any longer, and adopt what it shows.

        A service that has something adopts only what it asks for by address: what it shows beside that is on its way out.
        """
        request = service.request
        adopts_all = not service.has
        dropped = [
            addr
            for addr, origin in service.has.items()
            if not (self._fits(request, addr) and self._stands(service, addr, origin))
        ]
        for addr in dropped:
            self._release(service, addr)
        for addr in dict.fromkeys((*dropped, *request.shown)):
            is_candidate = adopts_all or addr in dropped or addr in request.requested
            if addr in service.has or not is_candidate or not self._fits(request, addr):
                continue
            origin = self._range_of(request, addr, must_give=True) or self._range_of(request, addr, must_give=False)
            if origin is not None and not self._strangers(addr, service):
                self._take(service, addr, origin)

    @staticmethod
    def _fits(request: ServiceRequest, addr: Addr) -> bool:
        """Whether the service asks for it."""
        if not request.wanted:
            return False
        return addr in request.requested if request.requested else addr.family in request.families

    def _stands(self, service: _Service, addr: Addr, origin: Range) -> bool:
        """Whether its pool still has it for this service, and whoever shares it still may."""
        pool = self.pools.get(origin.pool.row.name)
        has_range = pool is origin.pool and any(origin is each for each in pool.ranges)
        return has_range and origin.pool.selects(service.request.labels) and not self._strangers(addr, service)

    def _assign(self, service: _Service) -> Assignment | None:
        request = service.request
        self._unsatisfied.pop(request.key, None)
        if not request.wanted:
            return Assignment(request.key, request.version) if request.is_marked else None
        service.is_judged = service.is_judged or bool(self.pools)
        if not service.is_judged:
            return None
        fault = self._satisfy(service)
        if fault is not None:
            self._unsatisfied[request.key] = None
        kept = (addr for addr in request.shown if addr in service.has)
        reason, message = fault or SATISFIED
        return Assignment(
            request.key,
            request.version,
            tuple(dict.fromkeys((*kept, *service.has))),
            fault is None,
            reason,
            message,
            request.generation,
        )

    def _satisfy(self, service: _Service) -> Fault | None:
        """Give it what it lacks; the last thing that it cannot have, if there is one."""
        request, fault = service.request, None
        for addr in request.requested:
            if addr not in service.has:
                fault = self._give_requested(service, addr) or fault
        if not request.requested:
            present = {addr.family for addr in service.has}
            for family in request.families:
                if family not in present:
                    fault = self._give_any(service, family) or fault
        return fault

    def _give_requested(self, service: _Service, addr: Addr) -> Fault | None:
        request = service.request
        origin = self._range_of(request, addr, must_give=True)
        if origin is None:
            if any(each.span.first <= addr <= each.span.last for each in self._giving()):
                return (
                    "pool_selector_mismatch",
                    f"The pool with the CIDR containing '{addr}', doesn't select this service",
                )
            return "no_pool", f"No pool exists with a CIDR containing '{addr}'"
        others = [key for key in self._claimants.get(addr, ()) if key != request.key]
        if addr in origin.reserved or (others and not request.sharing_key):
            return "already_allocated", f"The IP '{addr}' is already allocated to another service"
        for key in others:
            reason = self._obstacle(service, self._services[key], addr)
            if reason:
                return (
                    "already_allocated_incompatible_service",
                    f"The IP '{addr}' is already allocated to an incompatible service. Reason: {reason}",
                )
        self._take(service, addr, origin)
        return None

    def _give_any(self, service: _Service, family: int) -> Fault | None:
        request = service.request
        for addr, origin in self._shareable(service, family):
            self._take(service, addr, origin)
            return None
        fault = NO_POOL
        for origin in self._giving():
            if origin.span.first.family == family and origin.pool.selects(request.labels):
                free = origin.next_free(self._claimants.__contains__)
                if free is not None:
                    self._take(service, free, origin)
                    return None
                fault = OUT_OF_IPS
        return fault

    def _shareable(self, service: _Service, family: int) -> Iterator[tuple[Addr, Range]]:
        """Addresses of services with the same sharing key that this one may share."""
        request = service.request
        if not request.sharing_key:
            return
        for key in self._by_sharing_key[request.sharing_key]:
            for addr, origin in self._services[key].has.items():
                others = (self._services[other] for other in self._claimants[addr] if other != request.key)
                if (
                    addr.family == family
                    and key != request.key
                    and origin.pool.selects(request.labels)
                    and not any(self._obstacle(service, other, addr) for other in others)
                ):
                    yield addr, origin

    # ---- addresses

    def _giving(self) -> Iterator[Range]:
        """Ranges that give out addresses, those of older pools first."""
        for pool in self._ordered:
            if pool.gives:
                yield from pool.ranges

    def _range_of(self, request: ServiceRequest, addr: Addr, *, must_give: bool) -> Range | None:
        """The range of a pool that selects the service; the oldest pool's."""
        for pool in self._ordered:
            if (pool.gives or not must_give) and pool.selects(request.labels):
                for each in pool.ranges:
                    if each.span.first <= addr <= each.span.last:
                        return each
        return None

    def _owners(self, addr: Addr, but: _Service) -> Iterator[_Service]:
        """Other services that have the address."""
        for key in self._claimants.get(addr, ()):
            other = self._services[key]
            if other is not but and addr in other.has:
                yield other

    def _strangers(self, addr: Addr, service: _Service) -> bool:
        """Whether somebody has it with whom the service may not share."""
        return any(incompatibility(other.request, service.request) for other in self._owners(addr, service))

    @staticmethod
    def _obstacle(service: _Service, other: _Service, addr: Addr) -> str:
        """Why the service cannot share an address that another one claims."""
        if addr not in other.has:
            return "different sharing key"  # about to lose it
        return incompatibility(other.request, service.request)

    def _take(self, service: _Service, addr: Addr, origin: Range) -> None:
        service.has[addr] = origin
        origin.take(addr)
        self._claim(service)

    def _release(self, service: _Service, addr: Addr) -> None:
        service.has.pop(addr).release(addr)
        self._claim(service)

    def _index(self, service: _Service, sharing_key: str) -> None:
        """List the service under a sharing key instead of the one that it had; none when empty."""
        key, before = service.request.key, service.request.sharing_key
        if before and before != sharing_key:
            listed = self._by_sharing_key[before]
            listed.pop(key, None)
            if not listed:
                del self._by_sharing_key[before]
        if sharing_key:
            self._by_sharing_key.setdefault(sharing_key, {})[key] = None

    def _claim(self, service: _Service) -> None:
        """Bring its claims up to date; who loses the last one on an address frees it."""
        claims = frozenset().union(service.has, service.request.shown, *service.attempts.values())
        before, service.claims = service.claims, claims
        key = service.request.key
        for addr in claims - before:
            self._claimants.setdefault(addr, {})[key] = None
        for addr in before - claims:
            claimants = self._claimants[addr]
            del claimants[key]
            if not claimants:
                del self._claimants[addr]
                self._free(addr)

    def _free(self, addr: Addr) -> None:
        self._has_freed = True
        for pool in self.pools.values():
            for each in pool.ranges:
                each.free(addr)


def _is_older(version: str, than: str) -> bool:
    """Resource versions are numbers that grow; texts that are none say nothing."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def _is_current(version: str, known: str) -> bool:
    """Whether an object may still be of this version when a later observation says `known`."""
    return version == known or _is_older(known, version)
