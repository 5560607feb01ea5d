"""A world for load-balancer addresses: an API with resource versions, a queue of events that the operator has not seen yet,
writes under way, and an operator that may be replaced at any moment by one that knows only what the API holds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stentor.api.lbipam import CiliumLoadBalancerIPPoolBlock, CiliumLoadBalancerIPPoolSpec
from stentor.ipam.loadbalancer import LoadBalancerIPAM
from stentor.ipam.request import incompatibility
from stentor.net.address import Addr
from stentor.tables.bgp import Configured, LoadBalancerPool
from stentor.tables.loadbalancer import Assignment, ServiceKey, ServiceRequest

KEYS = [("default", name) for name in "abcd"] + [("other", "e")]
ADDRESSES = [Addr.parse(f"10.0.0.{n}") for n in range(8)] + [Addr.parse("fd00::1")]


class World:
    def __init__(self) -> None:
        self.version = 0
        self.services: dict[ServiceKey, ServiceRequest] = {}
        self.pools: dict[str, LoadBalancerPool] = {}
        self.events: list[tuple[ServiceKey, ServiceRequest | None]] = []
        self.writes: list[tuple[ServiceRequest, Assignment]] = []
        self.start()

    # ---- users

    def put_service(self, key: ServiceKey, fields: dict[str, Any]) -> None:
        before = self.services.get(key)
        shown = before.shown if before else ()
        created = before.created if before else f"{self.version:06}"
        marked = before.is_marked if before else False
        self.store(
            ServiceRequest(key, version=self.next_version(), created=created, shown=shown, is_marked=marked, **fields)
        )

    def delete_service(self, key: ServiceKey) -> None:
        if self.services.pop(key, None) is not None:
            self.next_version()
            self.events.append((key, None))

    def put_pool(self, name: str, spec: CiliumLoadBalancerIPPoolSpec) -> None:
        before = self.pools.get(name)
        created = before.created if before else f"{self.version:06}"
        self.pools[name] = Configured(name, spec, created=created)
        self.ipam.set_pool(self.pools[name])
        self.next_version()

    def delete_pool(self, name: str) -> None:
        if self.pools.pop(name, None) is not None:
            self.ipam.remove_pool(name)

    # ---- the API

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def store(self, request: ServiceRequest) -> None:
        self.services[request.key] = request
        self.events.append((request.key, request))

    # ---- the operator

    def start(self) -> None:
        """A new operator: its predecessor is dead, and what that had sent has arrived or never will."""
        self.ipam = LoadBalancerIPAM()
        self.known: dict[ServiceKey, ServiceRequest] = dict(self.services)
        self.wanted: dict[ServiceKey, Assignment] = {}
        self.events.clear()
        self.writes.clear()
        for pool in self.pools.values():
            self.ipam.set_pool(pool)
        for request in self.services.values():
            self.ipam.set_service(request)

    def deliver(self, count: int) -> None:
        for key, request in self.events[:count]:
            if request is None:
                self.known.pop(key, None)
                self.wanted.pop(key, None)
                self.ipam.remove_service(key)
            else:
                self.known[key] = request
                self.ipam.set_service(request)
        del self.events[:count]

    def settle(self) -> None:
        for key, assignment in self.ipam.settle().items():
            if assignment is None:
                self.wanted.pop(key, None)
            else:
                self.wanted[key] = assignment

    def begin_write(self, key: ServiceKey) -> None:
        known, assignment = self.known.get(key), self.wanted.get(key)
        if known is None or assignment is None or any(busy.key == key for busy, _ in self.writes):
            return
        if (assignment.addresses, bool(assignment.reason)) != (known.shown, known.is_marked):
            self.ipam.attempt(key, known.version, assignment.addresses)
            self.writes.append((known, assignment))

    def end_write(self, index: int, *, arrives: bool, is_answered: bool) -> None:
        if not self.writes:
            return
        base, assignment = self.writes.pop(index % len(self.writes))
        there = self.services.get(base.key)
        if not arrives or there is None or there.version != base.version:
            return
        self.check_write(there, assignment)
        after = msgspec.structs.replace(
            there, shown=assignment.addresses, is_marked=bool(assignment.reason), version=self.next_version()
        )
        self.store(after)
        if is_answered:
            self.known[base.key] = after
            self.ipam.set_service(after)

    def turn(self) -> None:
        """All that is known is acted on; no answer comes yet."""
        self.deliver(len(self.events))
        self.settle()
        for key in KEYS:
            self.begin_write(key)

    # ---- what must hold

    def check_write(self, service: ServiceRequest, assignment: Assignment) -> None:
        """No write may add an address that another service shows, unless both said that they share."""
        for addr in set(assignment.addresses) - set(service.shown):
            for other in self.services.values():
                if other.key != service.key and addr in other.shown:
                    assert service.sharing_key, f"{addr} is given to {service.key}, but {other.key} has it"

    def finish(self) -> None:
        """Let everything arrive."""
        for _ in range(40):
            self.turn()
            if not (self.writes or self.events):
                return
            while self.writes:
                self.end_write(0, arrives=True, is_answered=True)
        raise AssertionError("never comes to rest")

    def check_rest(self) -> None:
        """In the end: no two services with one address that do not share it, and nobody lacks what is free."""
        taken: dict[Addr, list[ServiceRequest]] = {}
        for service in self.services.values():
            for addr in service.shown:
                taken.setdefault(addr, []).append(service)
        for addr, holders in taken.items():
            for index, one in enumerate(holders):
                for other in holders[index + 1 :]:
                    assert not incompatibility(one, other), f"{addr}: {one.key} and {other.key}"
        giving = [pool for pool in self.ipam.pools.values() if pool.gives]
        for service in self.services.values():
            if not service.wanted or not self.pools:
                continue
            assignment = self.wanted[service.key]
            wanted = [addr for addr in service.requested if addr not in service.shown]
            families = {addr.family for addr in service.shown}
            lacking = [] if service.requested else [each for each in service.families if each not in families]
            assert assignment.satisfied == (not wanted and not lacking)
            for pool in giving:
                for each in pool.ranges if pool.selects(service.labels) else ():
                    free = [
                        addr
                        for addr in ADDRESSES
                        if each.span.first <= addr <= each.span.last and addr not in taken and addr not in each.reserved
                    ]
                    assert not [addr for addr in free if addr in wanted or addr.family in lacking]


def blocks(*texts: str) -> CiliumLoadBalancerIPPoolSpec:
    """A specification of `10.0.0.0/30` or `10.0.0.1-10.0.0.5`."""
    made = []
    for text in texts:
        start, dash, stop = text.partition("-")
        made.append(
            CiliumLoadBalancerIPPoolBlock(start=start, stop=stop) if dash else CiliumLoadBalancerIPPoolBlock(cidr=text)
        )
    return CiliumLoadBalancerIPPoolSpec(blocks=tuple(made))
