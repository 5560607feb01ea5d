"""The cluster as the controllers see it: one store a kind, one client, one way to tell events."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from stentor.api.core import (
    ENDPOINT_SLICES,
    LEASES,
    NODES,
    SERVICES,
    EndpointSlice,
    Lease,
    Node,
    ObjectReference,
    Service,
)
from stentor.api.meta import Kind
from stentor.api.pod import PODS, Pod
from stentor.api.workload import DAEMON_SETS, DEPLOYMENTS, REPLICA_SETS, DaemonSet, Deployment, ReplicaSet
from stentor.kube.client import Client
from stentor.kube.event import EventRecorder
from stentor.kube.reflector import Reflector
from stentor.lab.controllers.store import Store
from stentor.runtime.job import JobGroup

_EVENT_LIMIT: Final = 5000

_Told = tuple[str, ObjectReference, str, str, bool]


class Cluster:
    """Stores are complete once `synced` has returned; controllers start after that."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.pods: Store[Pod] = Store()
        self.nodes: Store[Node] = Store()
        self.services: Store[Service] = Store()
        self.slices: Store[EndpointSlice] = Store()
        self.deployments: Store[Deployment] = Store()
        self.replica_sets: Store[ReplicaSet] = Store()
        self.daemon_sets: Store[DaemonSet] = Store()
        self.leases: Store[Lease] = Store()
        self._reflectors: list[Reflector[Any]] = [
            self._reflect(PODS, self.pods),
            self._reflect(NODES, self.nodes),
            self._reflect(SERVICES, self.services),
            self._reflect(ENDPOINT_SLICES, self.slices),
            self._reflect(DEPLOYMENTS, self.deployments),
            self._reflect(REPLICA_SETS, self.replica_sets),
            self._reflect(DAEMON_SETS, self.daemon_sets),
            Reflector(client, LEASES, self.leases.take, namespace="kube-node-lease"),
        ]
        self._recorders: dict[str, EventRecorder] = {}
        self._events: asyncio.Queue[_Told] = asyncio.Queue(_EVENT_LIMIT)

    def start(self, jobs: JobGroup) -> None:
        """Watching and the writing of events."""
        for reflector in self._reflectors:
            jobs.keep(f"watch {reflector.kind}", reflector.run)
        jobs.keep("events", self._write_events)

    async def synced(self) -> None:
        for reflector in self._reflectors:
            await reflector.synced.wait()

    def tell(self, about: ObjectReference, reason: str, message: str, *, component: str, warning: bool = False) -> None:
        """An event, written in the background."""
        if not self._events.full():
            self._events.put_nowait((component, about, reason, message, warning))

    def _reflect(self, kind: Kind[Any], store: Store[Any]) -> Reflector[Any]:
        return Reflector(self.client, kind, store.take)

    async def _write_events(self) -> None:
        while True:
            component, about, reason, message, warning = await self._events.get()
            recorder = self._recorders.setdefault(component, EventRecorder(self.client, component))
            await recorder.record(about, reason, message, warning=warning)
