"""Addresses of LoadBalancer services: Services and CiliumLoadBalancerIPPools → assignments → their statuses.

Decisions are `ipam.loadbalancer`'s. Every write names the version of the Service on which it was decided.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from stentor.api import core, l2, lbipam
from stentor.api.bgp import LOAD_BALANCER_CLASS as BGP_CLASS
from stentor.api.core import SERVICES, LoadBalancerIngress, ServiceCondition, ServiceStatus
from stentor.api.lbipam import LB_IP_POOLS, REQUEST_SATISFIED
from stentor.ipam.loadbalancer import LoadBalancerIPAM
from stentor.ipam.request import Scope, parse_request
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.source import table_source
from stentor.kube.target import ObjectTarget
from stentor.net.address import Addr
from stentor.operator.condition import resource_source
from stentor.runtime.config import Values
from stentor.runtime.duration import Durations
from stentor.state import Database, Reconciler, Table
from stentor.tables.bgp import LoadBalancerPool, lb_pools
from stentor.tables.condition import Judged, Observed, ResourceKey, Verdict
from stentor.tables.loadbalancer import (
    Assignment,
    PoolUse,
    ServiceKey,
    ServiceRequest,
    assignments,
    pool_uses,
    service_requests,
)

MANAGER: Final = "cilium-operator-lb-ipam"
INVALID: Final = "stentor.io/InvalidConfiguration"
_OURS: Final = frozenset((lbipam.POOL_CONFLICT, lbipam.IPS_TOTAL, lbipam.IPS_AVAILABLE, lbipam.IPS_USED, INVALID))

log = logging.getLogger(__name__)


def scope_of(values: Values) -> Scope:
    """Which services are ours."""
    families = tuple(family for family, on in ((4, values.ipv4.enabled), (6, values.ipv6.enabled)) if on)
    classes = ((BGP_CLASS, values.bgp_control_plane.enabled), (l2.LOAD_BALANCER_CLASS, values.l2announcements.enabled))
    return Scope(families, frozenset(name for name, on in classes if on), values.default_lb_service_ipam == "lbipam")


def request_of(service: core.Service, scope: Scope) -> ServiceRequest | None:
    """The row of a Service, if it has one."""
    request, faults = parse_request(service, scope)
    for fault in faults:
        log.warning("Ignored a requested address", extra={"service": str(service.key), "error": fault})
    return request


class LoadBalancers:
    """The part of the operator that gives addresses to services: its tables, sources and reconcilers."""

    def __init__(
        self,
        values: Values,
        client: Client,
        database: Database,
        conditions: Table[ResourceKey, Observed],
        judged: Table[ResourceKey, Judged],
    ) -> None:
        scope = scope_of(values)
        add = database.add
        self.pools = add(lb_pools())
        self.requests = add(service_requests())
        self.assignments = add(assignments())
        self.uses = add(pool_uses())
        self.assigner = AddressAssigner(database, self.pools, self.requests, self.assignments, self.uses, judged)
        self.sources: tuple[Reflector[Any], ...] = (
            resource_source(client, LB_IP_POOLS, database, self.pools, conditions, lambda pool: pool.spec),
            table_source(
                client,
                SERVICES,
                database,
                self.requests,
                row_of=lambda service: request_of(service, scope),
                key_of=lambda key: (key.namespace, key.name),
            ),
        )
        target = AssignmentTarget(client, database, scope, self.requests, self.assignments, self.assigner.ipam.attempt)
        self.reconciler: Reconciler[Any, Any] = Reconciler("lb-addresses", self.assignments, target)

    def follow(self, follow: Callable[[Table[Any, Any], Callable[[], None]], None]) -> None:
        """Settle after each change."""
        follow(self.pools, self.assigner.settle)
        follow(self.requests, self.assigner.settle)


class AddressAssigner:
    """Keeps assignments and conditions of pools at what services and pools come to. `durations` are those from taking in an
    event to its decision, by (event, resource) in upstream's words."""

    def __init__(
        self,
        database: Database,
        pools: Table[str, LoadBalancerPool],
        requests: Table[ServiceKey, ServiceRequest],
        assignments: Table[ServiceKey, Assignment],
        uses: Table[str, PoolUse],
        judged: Table[ResourceKey, Judged],
    ) -> None:
        self.ipam = LoadBalancerIPAM()
        self.durations: defaultdict[tuple[str, str], Durations] = defaultdict(Durations)
        self._database = database
        self._pools = pools
        self._requests = requests
        self._assignments = assignments
        self._uses = uses
        self._judged = judged
        self._pool_changes = pools.track()
        self._request_changes = requests.track()
        assignments.expect("assigner")

    def settle(self) -> None:
        """Take in what changed. Nothing is given before all services are known: an address could belong to one unseen."""
        if not (self._pools.is_synced and self._requests.is_synced):
            return
        began = time.monotonic()
        pools, requests = self._pool_changes.drain(), self._request_changes.drain()
        gone = [change.key for change in pools if self._take_pool(change.key, change.new)]
        removed = [change.key for change in requests if self._take_request(change.key, change.new)]
        results = self.ipam.settle()
        with self._database.write() as txn:
            for key in removed:
                txn.delete(self._assignments, key)
            for key, assignment in results.items():
                if assignment is None:
                    txn.delete(self._assignments, key)
                else:
                    txn.put(self._assignments, assignment)
            for name in gone:
                txn.delete(self._uses, name)
                txn.delete(self._judged, ResourceKey(LB_IP_POOLS.plural, name))
            for use in self.ipam.uses():
                txn.put(self._uses, use)
                txn.put(self._judged, judge(use))
        self._assignments.synced("assigner")
        took_s = time.monotonic() - began
        for resource, total, deleted in (("pool", len(pools), len(gone)), ("service", len(requests), len(removed))):
            for event, count in (("upsert", total - deleted), ("delete", deleted)):
                if count:
                    self.durations[event, resource].add(took_s, count)

    def _take_pool(self, name: str, row: LoadBalancerPool | None) -> bool:
        """Whether it is gone."""
        if row is None:
            self.ipam.remove_pool(name)
        else:
            self.ipam.set_pool(row)
        return row is None

    def _take_request(self, key: ServiceKey, row: ServiceRequest | None) -> bool:
        """Whether it is gone."""
        if row is None:
            self.ipam.remove_service(key)
        else:
            self.ipam.set_service(row)
        return row is None


def judge(use: PoolUse) -> Judged:
    """Conditions of a pool; counts stand in their messages, as upstream has it."""
    conflict = (
        Verdict(lbipam.POOL_CONFLICT, True, "cidr_overlap", use.conflict)
        if use.conflict
        else Verdict(lbipam.POOL_CONFLICT, False, "resolved")
    )
    counts = ((lbipam.IPS_TOTAL, use.total), (lbipam.IPS_AVAILABLE, use.available), (lbipam.IPS_USED, use.used))
    verdicts = [conflict, *(Verdict(name, None, "noreason", str(count)) for name, count in counts)]
    if use.fault:
        verdicts.append(Verdict(INVALID, True, "InvalidBlock", use.fault))
    return Judged(ResourceKey(LB_IP_POOLS.plural, use.name), _OURS, tuple(verdicts), use.generation)


class AssignmentTarget(ObjectTarget[ServiceKey, Assignment]):
    """Writes assignments into the status of Services. What is there is what the table of requests says."""

    def __init__(
        self,
        client: Client,
        database: Database,
        scope: Scope,
        requests: Table[ServiceKey, ServiceRequest],
        assignments: Table[ServiceKey, Assignment],
        attempt: Callable[[ServiceKey, str, tuple[Addr, ...]], None],
    ) -> None:
        super().__init__()
        self._client = client
        self._database = database
        self._scope = scope
        self._requests = requests
        self._assignments = assignments
        self._attempt = attempt

    async def write(self, row: Assignment) -> None:
        """Patch the status if it differs, provided that the Service has not changed meanwhile."""
        request = self._requests.get(row.key)
        if request is None:
            return
        wanted = wanted_status(request, row, datetime.now(UTC))
        if wanted == request.status:
            return
        self._attempt(row.key, request.version, row.addresses)
        namespace, name = row.key
        change = patch.merge(
            {
                "metadata": {"resourceVersion": request.version},
                "status": {
                    "loadBalancer": {"ingress": wanted.load_balancer.ingress or None},
                    "conditions": wanted.conditions or None,
                },
            },
            manager=MANAGER,
        )
        changed = await self._client.patch(SERVICES, name, change, namespace, subresource="status")
        row_now = request_of(changed, self._scope)
        if row_now is None:
            self._database.delete(self._requests, row.key)
        else:
            self._database.put(self._requests, row_now)

    async def remove(self, key: ServiceKey) -> None:
        """A service that is gone, or never was ours, needs nothing."""

    async def dump(self) -> Mapping[ServiceKey, Assignment]:
        """Rows as the API has them: equal to the wanted ones exactly if there is nothing to write."""
        now = datetime.now(UTC)
        result = {}
        for key, row in self._assignments.items():
            request = self._requests.get(key)
            if request is None or wanted_status(request, row, now) == request.status:
                result[key] = row
        return result


def wanted_status(request: ServiceRequest, row: Assignment, now: datetime) -> ServiceStatus:
    """The status that a service should have; what others wrote beside ours stays."""
    present = {each.ip: each for each in request.status.load_balancer.ingress}
    ingress = tuple(present.get(str(addr)) or LoadBalancerIngress(ip=str(addr)) for addr in row.addresses)
    before = next((each for each in request.status.conditions if each.type == REQUEST_SATISFIED), None)
    conditions = [each for each in request.status.conditions if each.type != REQUEST_SATISFIED]
    if row.reason:
        status = "True" if row.satisfied else "False"
        is_same = before is not None and before.status == status
        conditions.append(
            ServiceCondition(
                type=REQUEST_SATISFIED,
                status=status,
                reason=row.reason,
                message=row.message,
                observed_generation=row.generation,
                last_transition_time=before.last_transition_time
                if before is not None and is_same
                else now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
    balancer = msgspec.structs.replace(request.status.load_balancer, ingress=ingress)
    return msgspec.structs.replace(request.status, load_balancer=balancer, conditions=tuple(conditions))
