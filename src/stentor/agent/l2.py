"""L2 announcements in the agent: what is watched, how leases are kept, and the map in which it ends.

CiliumL2AnnouncementPolicies, services ─► l2-wanted ─► campaign ◄─► Leases
l2-wanted, l2-leases, l2-links ─► l2-announce ─► kernel, neighbours
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

from stentor.agent.neighbour import Announcer, read_links
from stentor.api.core import LEASES, Lease
from stentor.api.l2 import L2_POLICIES
from stentor.api.meta import ObjectKey
from stentor.datapath import announcement, targets
from stentor.datapath.loader import Datapath
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, Conflict, NotFound
from stentor.kube.lease import now as wall_time
from stentor.kube.reflector import Reflector
from stentor.kube.source import table_source
from stentor.l2 import selection
from stentor.l2.campaign import NAMESPACE, Campaign, Request, Timing, Verb
from stentor.l2.policy import parse_policy
from stentor.l2.selection import LEASE_PREFIX, AnnouncementTables, lease_name
from stentor.runtime.config import Values
from stentor.runtime.duration import parse_duration_s
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.services.claim import ServiceTables
from stentor.state import Database, Graph, Reconciler, Table
from stentor.tables import announcement as tables
from stentor.tables.announcement import L2Lease
from stentor.tables.node import Node

_WORKERS: Final = 8
"""Requests about leases at a time."""

_LINKS_INTERVAL_S: Final = 5.0
_COLLECT_INTERVAL_S: Final = 60.0
_FIRST_ROUND: Final = "l2-leases/first-round"
_FIRST_LOOK: Final = "l2-links/first-look"

log = logging.getLogger(__name__)


def make_tables(database: Database, services: ServiceTables, nodes: Table[tuple[str, str], Node]) -> AnnouncementTables:
    """The tables of L2 announcements, registered."""
    add = database.add
    return AnnouncementTables(
        policies=add(tables.l2_policies()),
        links=add(tables.l2_links()),
        leases=add(tables.l2_leases()),
        wanted=add(tables.wanted_announcements()),
        announcements=add(tables.announcements()),
        services=services.services,
        slices=services.slices,
        frontends=services.frontends,
        local_nodes=services.nodes,
        nodes=nodes,
    )


def timing_of(values: Values) -> Timing:
    """As configured."""
    leases = values.l2announcements
    return Timing(
        parse_duration_s(leases.lease_duration),
        parse_duration_s(leases.lease_renew_deadline),
        parse_duration_s(leases.lease_retry_period),
    )


def boot_s() -> float:
    """The clock of campaigns."""
    return announcement.boot_ns() / 1e9


class Announcements:
    """This subject's parts in an agent."""

    def __init__(
        self,
        client: Client,
        database: Database,
        own: AnnouncementTables,
        values: Values,
        node_name: str,
        health: Health,
    ) -> None:
        self.tables = own
        self.requests: dict[tuple[str, str], int] = {}
        self.announcer: Announcer | None = None
        self._client = client
        self._database = database
        self._values = values
        self._health = health
        self._timing = timing_of(values)
        self._campaign = Campaign(node_name, self._timing)
        self._kernel: announcement.Leases | None = None
        self._changed = asyncio.Event()
        self._is_scheduled = False
        self._is_informed = False
        own.leases.expect(_FIRST_ROUND)
        own.links.expect(_FIRST_LOOK)
        self._leases = Reflector(client, LEASES, self._take, namespace=NAMESPACE, on_synced=self._schedule)
        policies = table_source(
            client, L2_POLICIES, database, own.policies, row_of=parse_policy, key_of=lambda key: key.name
        )
        self.sources: tuple[Reflector[Any], ...] = (policies, self._leases)

    def derive(self, graph: Graph) -> None:
        """Add what keeps the tables up to date."""
        selection.derive(graph, self.tables, external_ips=self._values.external_ips.enabled)

    def reconciler(self, datapath: Datapath) -> Reconciler[Any, Any]:
        """Keeps the map at what `l2-announce` says."""
        self._kernel = announcement.Leases(datapath.maps)
        self.announcer = Announcer(targets.announcements(datapath.maps), self.tables.announcements)
        return Reconciler("l2-announce", self.tables.announcements, self.announcer)

    def start(self, jobs: JobGroup, link_thread: Executor, devices: Sequence[str]) -> None:
        """Campaign, and follow the links."""
        for table in (self.tables.wanted, self.tables.services):
            table.track(replay=False, wake=self._schedule)
        self._schedule()
        for number in range(1, _WORKERS + 1):
            jobs.keep(f"l2-leases-{number}", self._work)
        jobs.every("l2-links", _LINKS_INTERVAL_S, partial(self._read_links, link_thread, devices))
        jobs.every("l2-collect", _COLLECT_INTERVAL_S, self._collect)

    def close(self) -> None:
        """Leases are kept: a successor that comes in time goes on with them, and otherwise they run out."""
        if self.announcer is not None:
            self.announcer.close()

    # ---- what happens outside

    def _take(self, upserts: Sequence[Lease], gone: Sequence[ObjectKey]) -> None:
        now = boot_s()
        for lease in upserts:
            if lease.metadata.name.startswith(LEASE_PREFIX):
                self._campaign.observe(lease, now)
        for key in gone:
            self._campaign.gone(key.name, now)
        self._settle()
        self._wake()

    def _schedule(self) -> None:
        """Look at what is wanted in the next turn, once."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._want)

    def _want(self) -> None:
        self._is_scheduled = False
        own = self.tables
        if self._kernel is None or not (
            self._leases.synced.is_set() and own.wanted.is_synced and own.services.is_synced
        ):
            return
        existing = {lease_name(service.key) for service in own.services}
        self._campaign.want({row.lease for row in own.wanted}, existing, boot_s())
        self._is_informed = True
        self._settle()
        self._wake()

    async def _read_links(self, link_thread: Executor, devices: Sequence[str]) -> None:
        """MAC addresses change: bonds do that."""
        links = await asyncio.get_running_loop().run_in_executor(link_thread, read_links, devices)
        with self._database.write() as txn:
            for name in {name for name, _ in self.tables.links.items()} - {link.name for link in links}:
                txn.delete(self.tables.links, name)
            for link in links:
                txn.put(self.tables.links, link)
        self.tables.links.synced(_FIRST_LOOK)

    async def _collect(self) -> None:
        if self._kernel is not None:
            self._kernel.collect()

    # ---- leases

    def _settle(self) -> None:
        """Let the kernel and the tables know of what has changed."""
        if self._kernel is None:
            return
        touched = self._campaign.drain()
        with self._database.write() as txn:
            for name in touched:
                until = self._campaign.until(name)
                self._tell_kernel(name, until)
                holder = self._campaign.holder(name)
                if holder is None and not until:
                    txn.delete(self.tables.leases, name)
                else:
                    txn.put(self.tables.leases, L2Lease(name=name, holder=holder or "", is_ours=bool(until)))

    def _wake(self) -> None:
        """Workers look again what is due, and how long they may wait."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _tell_kernel(self, name: str, until: float) -> None:
        assert self._kernel is not None
        was_ours = (row := self.tables.leases.get(name)) is not None and row.is_ours
        if bool(until) != was_ours:
            log.info("Leading" if until else "Leading no more", extra={"lease": name})
        is_predecessors = self._campaign.holder(name) == self._campaign.identity and not was_ours
        if until:
            try:
                self._kernel.hold(name, int(until * 1e9))
            except OSError as e:
                self._health.degraded("l2-leases", f"{name}: {e.strerror}")
        elif not is_predecessors:  # that one is about to be renewed
            self._kernel.drop(name)

    async def _work(self) -> None:
        """One worker: does what is due, and waits for what comes."""
        while True:
            now = boot_s()
            request = self._campaign.next(now, wall_time())
            self._settle()
            if request is not None:
                await self._perform(request)
                continue
            if self._is_informed and not self._campaign.is_at_work:
                self.tables.leases.synced(_FIRST_ROUND)  # what a predecessor announced and we do not may go
            pause_s = self._campaign.pause_s(now)
            changed = self._changed
            try:
                async with asyncio.timeout(pause_s if pause_s != float("inf") else None):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _perform(self, request: Request) -> None:
        if not self._campaign.is_wanted(request.name):
            assert self._kernel is not None
            self._kernel.drop(request.name)  # before others hear that they may have it
        sent = boot_s()
        finish: Callable[[Request, float], None] = self._campaign.failed
        answer: Lease | None = None
        outcome = "error"
        try:
            async with asyncio.timeout(self._timing.renew_deadline_s):
                answer = await self._ask(request)
            outcome = "success"
        except Conflict:
            finish, outcome = self._campaign.conflicted, "conflict"
        except NotFound:
            if request.verb is not Verb.CREATE:  # there is no such namespace
                finish, outcome = self._campaign.vanished, "not-found"
        except (ApiError, TimeoutError) as e:
            log.info("Lease not reachable", extra={"lease": request.name, "error": str(e) or type(e).__name__})
        finally:
            key = (request.verb.value, outcome)
            self.requests[key] = self.requests.get(key, 0) + 1
            if outcome == "success":
                self._campaign.done(request, answer, sent, boot_s())
            else:
                finish(request, boot_s())
            self._settle()

    async def _ask(self, request: Request) -> Lease | None:
        client, lease = self._client, request.lease
        if lease is None:
            return await client.get(LEASES, request.name, NAMESPACE)
        if request.verb is Verb.CREATE:
            return await client.create(LEASES, lease)
        if request.verb is Verb.UPDATE:
            return await client.update(LEASES, lease)
        meta = lease.metadata
        await client.delete(LEASES, request.name, NAMESPACE, uid=meta.uid, resource_version=meta.resource_version)
        return None
