"""Identities and states of endpoints.

An endpoint takes the identity of its pod's labels as soon as both are known. Until then it waits and nothing passes. When its
labels change, the new identity is taken after a grace period, so that other nodes have heard of it by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from stentor.agent.endpoint import Endpoints
from stentor.net.address import Addr
from stentor.net.label import Labels
from stentor.policy.compile import policy_id
from stentor.state import Table
from stentor.tables.endpoint import Endpoint, EndpointEntry, EndpointState
from stentor.tables.identity import IdentityRow
from stentor.tables.pod import Pod, PodKey, PodLabels, is_same_pod
from stentor.tables.realized import Realized

_GOING_ON = (EndpointState.REGENERATING, EndpointState.RESTORING, EndpointState.CREATING)


class Resolver:
    """Follows pods, labels, identities and the datapath; updates endpoints through `Endpoints`."""

    def __init__(
        self,
        endpoints: Endpoints,
        pods: Table[PodKey, Pod],
        pod_labels: Table[PodKey, PodLabels],
        identities: Table[int, IdentityRow],
        realized: Table[Addr, Realized[Addr, EndpointEntry]],
        *,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.regenerations = 0
        self._endpoints = endpoints
        self._pods = pods
        self._pod_labels = pod_labels
        self._identities = identities
        self._realized = realized
        self._grace_s = grace_s
        self._clock = clock
        self._due: dict[int, float] = {}
        self._waiting: dict[int, asyncio.Event] = {}
        self._wake = asyncio.Event()
        wake = self._wake.set
        self._own = endpoints.table.track(wake=wake)
        self._labels = pod_labels.track(wake=wake)
        self._numbers = identities.track(wake=wake)
        self._written = realized.track(wake=wake)

    async def run(self) -> None:
        """A job: settle whenever something changed or a grace period is over."""
        while True:
            self._wake.clear()
            self.settle()
            pause = max(0.0, self.next_due - self._clock()) if self.next_due is not None else None
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    @property
    def next_due(self) -> float | None:
        """The clock's time at which the next grace period is over."""
        return min(self._due.values(), default=None)

    def has_identity(self, endpoint: Endpoint) -> bool:
        """Whether a new endpoint's labels have a number; it takes it if so."""
        self.settle()
        return self._state(endpoint.id) not in (EndpointState.WAITING_FOR_IDENTITY, None)

    async def in_force(self, endpoint: Endpoint, limit_s: float = 2.0) -> None:
        """Return once an endpoint has its policy, or at once when its identity is not known yet, or after the limit."""
        self.settle()
        event = self._waiting.setdefault(endpoint.id, asyncio.Event())
        try:
            if self._state(endpoint.id) in _GOING_ON:
                async with asyncio.timeout(limit_s):
                    await event.wait()
        except TimeoutError:
            return
        finally:
            self._waiting.pop(endpoint.id, None)

    def _state(self, endpoint_id: int) -> EndpointState | None:
        row = self._endpoints.table.get(endpoint_id)
        return row.state if row is not None else None

    def settle(self) -> None:
        """Bring every endpoint that may be affected up to date."""
        now = self._clock()
        for endpoint_id in self._stale(now):
            endpoint = self._endpoints.table.get(endpoint_id)
            if endpoint is None:
                self._due.pop(endpoint_id, None)
            else:
                self._settle_one(endpoint, now)

    def _stale(self, now: float) -> dict[int, None]:
        stale = {change.key: None for change in self._own.drain()}
        for labels in self._labels.drain():
            stale.update(dict.fromkeys(self._of_pod(labels.key)))
        for number in self._numbers.drain():
            for row in (number.old, number.new):
                if row is not None:
                    stale.update(dict.fromkeys(self._with_labels(row.labels)))
        for written in self._written.drain():
            stale.update({row.id: None for row in self._endpoints.table.by("address", written.key)})
        stale.update({key: None for key, due in self._due.items() if due <= now})
        return stale

    def _of_pod(self, key: PodKey) -> Iterable[int]:
        return (endpoint.id for endpoint in self._endpoints.table.by("pod", key))

    def _with_labels(self, labels: Labels) -> Iterable[int]:
        for row in self._pod_labels.by("labels", labels):
            yield from self._of_pod((row.namespace, row.pod))

    def _settle_one(self, endpoint: Endpoint, now: float) -> None:
        labels, identity = self._identify(endpoint, now)
        pod = self._pods.get((endpoint.namespace, endpoint.pod))
        if pod is not None and not is_same_pod(pod.uids, endpoint.pod_uid):
            pod = None
        changed = msgspec.structs.replace(
            endpoint,
            labels=labels,
            identity=identity,
            pod_uid=endpoint.pod_uid or (pod.uids[0] if pod is not None else ""),
            named_ports=pod.named_ports if pod is not None else endpoint.named_ports,
        )
        changed = msgspec.structs.replace(changed, state=self._next_state(changed))
        if (changed.identity, changed.labels) != (endpoint.identity, endpoint.labels):
            self.regenerations += 1
        self._endpoints.update(changed)
        if changed.state not in _GOING_ON and endpoint.id in self._waiting:
            self._waiting[endpoint.id].set()

    def _identify(self, endpoint: Endpoint, now: float) -> tuple[Labels, int]:
        """Labels and number from now on. What is in force stays so until something better is known and due."""
        wanted = self._pod_labels.get((endpoint.namespace, endpoint.pod))
        if wanted is not None and not is_same_pod(wanted.uids, endpoint.pod_uid):
            wanted = None
        numbers = [row.id for row in self._identities.by("labels", wanted.labels)] if wanted is not None else []
        if wanted is None or (endpoint.identity and not numbers):
            self._due.pop(endpoint.id, None)
            return endpoint.labels, endpoint.identity
        if not endpoint.identity or endpoint.identity in numbers:  # two numbers for the same labels: it keeps its own
            self._due.pop(endpoint.id, None)
            return wanted.labels, endpoint.identity or min(numbers, default=0)
        if now < self._due.setdefault(endpoint.id, now + self._grace_s):
            return endpoint.labels, endpoint.identity
        self._due.pop(endpoint.id)
        return wanted.labels, min(numbers)

    def _next_state(self, endpoint: Endpoint) -> EndpointState:
        if not endpoint.identity:
            return EndpointState.WAITING_FOR_IDENTITY
        entries = [self._realized.get(addr) for addr in endpoint.addresses]
        wanted = (endpoint.identity, policy_id(endpoint.identity))
        if all(entry is not None and (entry.row.identity, entry.row.policy_id) == wanted for entry in entries):
            return EndpointState.READY
        return EndpointState.RESTORING if endpoint.state is EndpointState.RESTORING else EndpointState.REGENERATING
