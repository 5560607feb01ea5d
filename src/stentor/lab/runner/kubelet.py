"""The runner's wiring: what feeds what, and which jobs keep it going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from stentor.api.core import NODES, SERVICES, Service
from stentor.api.meta import ObjectKey
from stentor.api.pod import PODS
from stentor.kube.client import Client
from stentor.kube.event import reference
from stentor.kube.reflector import Reflector
from stentor.lab.images.catalogue import Catalogue
from stentor.lab.images.warm import WarmParent
from stentor.lab.runner import node
from stentor.lab.runner.cni import Invoker
from stentor.lab.runner.context import Context
from stentor.lab.runner.errors import CniError
from stentor.lab.runner.event import EventQueue
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.mirror import MirrorSet
from stentor.lab.runner.network import NetworkWatch
from stentor.lab.runner.node import NodeReporter
from stentor.lab.runner.roster import Roster
from stentor.lab.runner.server import KubeletServer
from stentor.lab.runner.token import TokenCache
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup

_NETWORK_POLL_S: Final = 0.1
_NETWORK_CALM_S: Final = 5.0
_MIRROR_S: Final = 0.5
_STATUS_S: Final = 10.0

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """From the flags."""

    machine: Machine
    catalogue: Catalogue
    invoker: Invoker
    cni_conf_dir: Path
    manifest_dir: Path | None
    tls_cert: str
    tls_key: str
    client_ca: str


class Kubelet:
    """All parts of one node's runner."""

    def __init__(self, settings: Settings, client: Client, probes: aiohttp.ClientSession, warm: WarmParent) -> None:
        machine = settings.machine
        self._settings = settings
        self._jobs = JobGroup(Health())
        self._network = NetworkWatch(settings.cni_conf_dir, settings.invoker)
        self._events = EventQueue(client, machine.node_name)
        self._reporter = NodeReporter(client, machine, self._network)
        self._services: dict[ObjectKey, Service] = {}
        context = Context(
            machine=machine,
            catalogue=settings.catalogue,
            warm=warm,
            client=client,
            invoker=settings.invoker,
            network=lambda: self._network.network,
            services=self._services,
            events=self._events,
            tokens=TokenCache(client),
            jobs=self._jobs,
            probes=probes,
        )
        self._mirrors = MirrorSet(client, machine, settings.manifest_dir)
        self._roster = Roster(context, self._mirrors)
        self._server = KubeletServer(context, self._roster, self._mirrors)
        self._service_reflector = Reflector(client, SERVICES, self._take_services)
        self._pod_reflector = Reflector(
            client,
            PODS,
            self._roster.take,
            field_selector=f"spec.nodeName={machine.node_name}",
            on_synced=self._roster.adopt_orphans,
        )

    async def run_until(self, ended: asyncio.Event) -> None:
        """Serves until `ended`; pods stay."""
        async with self._jobs as jobs:
            if self._settings.tls_cert:
                files = (self._settings.tls_cert, self._settings.tls_key, self._settings.client_ca)
                await self._server.start(self._settings.machine.addresses, *files)
            await self._network.look()
            jobs.keep("events", self._events.drain)
            jobs.keep("node", self._keep_node)
            jobs.every("mirror pods", _MIRROR_S, self._mirror)
            jobs.every("lease", node.HEARTBEAT_S, self._reporter.renew)
            jobs.keep("network", self._watch_network)
            jobs.keep("services", self._service_reflector.run)
            jobs.keep("pods", self._run_pods)
            await ended.wait()
            self._roster.release()
            await self._server.stop()

    async def _keep_node(self) -> None:
        registered = await self._reporter.register()
        self._events.tell_of(reference(NODES, registered), "Starting", "Starting kubelet.")
        while True:
            await asyncio.sleep(_STATUS_S)
            await self._reporter.report()

    async def _mirror(self) -> None:
        if self._reporter.node is not None:
            await self._mirrors.reconcile(self._reporter.node)

    async def _run_pods(self) -> None:
        """Pods wait for services, whose addresses are part of their environment."""
        await self._service_reflector.synced.wait()
        await self._pod_reflector.run()

    async def _watch_network(self) -> None:
        while True:
            changed = await self._network.look()
            if changed and self._network.is_ready:
                for worker in self._roster.workers:
                    worker.hurry()
            if changed and self._reporter.node is not None:
                await self._reporter.report()
                if self._network.network is not None:
                    await self._collect_garbage()
            await asyncio.sleep(_NETWORK_CALM_S if self._network.is_ready else _NETWORK_POLL_S)

    async def _collect_garbage(self) -> None:
        """The plugins learn which attachments are still valid (CNI GC)."""
        network = self._network.network
        boxes = [worker.sandbox for worker in self._roster.workers]
        valid = [box.attachment for box in boxes if box is not None and box.attachment is not None]
        try:
            if network is not None and self._pod_reflector.synced.is_set() and self._roster.is_adopted:
                await self._settings.invoker.collect(network, valid)
        except CniError as e:
            log.info("Plugins did not collect garbage", extra={"problem": str(e)})

    def _take_services(self, changed: Sequence[Service], gone: Sequence[ObjectKey]) -> None:
        self._services.update((service.key, service) for service in changed)
        for key in gone:
            self._services.pop(key, None)
