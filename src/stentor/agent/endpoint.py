"""Life of endpoints: made for CNI ADD, restored at start, ended by DEL, GC, or the end of their device."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import msgspec

from stentor.agent import link
from stentor.agent.cni import Attachment, Request
from stentor.agent.errors import CniError, PoolEmpty, TryAgainLater, UnknownContainer
from stentor.agent.link import LinkRequest, PodLink
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools
from stentor.ipam.errors import AlreadyAllocated, PoolExhausted, PoolMissing
from stentor.net.address import Addr
from stentor.state import Database, Table
from stentor.sys.netlink import Message
from stentor.tables.endpoint import Endpoint, EndpointState

T = TypeVar("T")

MAX_ID: Final = 65535
_DELETION_PAUSE_S: Final = 0.2

log = logging.getLogger(__name__)


class LinkSettings(msgspec.Struct, frozen=True):
    """What is the same for all pods' devices."""

    mtu: int
    route_mtu: int
    sources: tuple[Addr, ...]
    attach: Callable[[int], Iterable[Message]]


class Endpoints:
    """The only writer of endpoints' existence, addresses and devices. `settings` is None until the datapath is loaded."""

    def __init__(
        self,
        database: Database,
        table: Table[int, Endpoint],
        pools: NodePools,
        store: StateDirectory,
        families: tuple[int, ...],
        link_thread: Executor,
    ) -> None:
        self.settings: LinkSettings | None = None
        self.table = table
        self.pools = pools
        self._database = database
        self._store = store
        self._families = families
        self._thread = link_thread
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._next_id = 1
        self._dead: list[Endpoint] = []
        self._death = asyncio.Event()
        table.expect("restore")

    def find(self, container_id: str, ifname: str) -> Endpoint | None:
        """By what the runtime calls it."""
        rows = self.table.by("container", (container_id, ifname))
        return rows[0] if rows else None

    async def add(self, request: Request) -> Endpoint:
        """The endpoint of an ADD: a repeated one is answered with what is there. CniError when it cannot be made."""
        key = (request.container_id, request.ifname)
        async with self._lock(*key):
            known = self.find(*key)
            if known is not None and await self._blocking(link.is_present, known.host_ifname, known.ifindex):
                return known
            if known is not None:
                self._forget(known)
            return await self._create(request)

    def _lock(self, container_id: str, ifname: str) -> asyncio.Lock:
        """One call at a time for each attachment: a runtime that lost patience with ADD sends DEL while it is under way."""
        return self._locks.setdefault((container_id, ifname), asyncio.Lock())

    async def _create(self, request: Request) -> Endpoint:
        settings = self.settings
        if settings is None:
            raise TryAgainLater("try again later", "the agent is still starting")
        owner = _owner(*request.pod, request.container_id)
        addresses = self._allocate(owner)
        wanted = LinkRequest(
            netns=request.netns,
            ifname=request.ifname,
            addresses=addresses,
            sources=settings.sources,
            mtu=settings.mtu,
            route_mtu=settings.route_mtu,
        )
        if any((dead.netns, dead.container_ifname) == (request.netns, request.ifname) for dead in self._dead):
            self._bury_now()  # the same thread does it first: the old device still has the name
        making = self._submit(link.create_link, wanted, settings.attach)
        try:
            await _end_of(making)
            endpoint = self._endpoint_of(request, addresses, _result(making))
            self._store.save(endpoint)
        except BaseException:
            # A cancelled call too gives its addresses back only when no device has them any more.
            if making.exception() is None:
                await self._remove(making.result())
            self._release(addresses, owner)
            raise
        self._database.put(self.table, endpoint)
        # Written behind the answer, if that needs no further turn of the loop.
        asyncio.get_running_loop().call_soon(lambda: log.info("Created endpoint", extra=_words(endpoint)))
        return endpoint

    async def _remove(self, made: PodLink) -> None:
        """Delete a device that is nobody's, though the caller is being cancelled."""
        try:
            removing = self._submit(link.remove_links, [made.ifindex])
        except RuntimeError:  # the agent is ending, and its thread has ended already
            link.remove_links([made.ifindex])
        else:
            await _end_of(removing)

    def _endpoint_of(self, request: Request, addresses: tuple[Addr, ...], made: PodLink) -> Endpoint:
        namespace, pod = request.pod
        return Endpoint(
            id=self._take_id(),
            container_id=request.container_id,
            container_ifname=request.ifname,
            netns=request.netns,
            namespace=namespace,
            pod=pod,
            pod_uid=request.arguments.get("K8S_POD_UID", ""),
            host_ifname=made.host_ifname,
            ifindex=made.ifindex,
            mac=made.mac,
            ipv4=next((addr for addr in addresses if addr.family == 4), None),
            ipv6=next((addr for addr in addresses if addr.family == 6), None),
            state=EndpointState.WAITING_FOR_IDENTITY,
            created_at=time.time(),
        )

    async def delete(self, container_id: str, ifname: str) -> None:
        """End an endpoint; one that is not there is no error. The device goes later: the kernel takes its time for it."""
        async with self._lock(container_id, ifname):
            known = self.find(container_id, ifname)
            if known is not None:
                self._forget(known)

    async def collect(self, valid: Iterable[Attachment]) -> int:
        """End every endpoint that the runtime no longer knows; returns how many."""
        kept = {(each.container_id, each.ifname) for each in valid}
        stale = [row for row in self.table if (row.container_id, row.container_ifname) not in kept]
        for row in stale:
            self._forget(row)
        return len(stale)

    async def check(self, request: Request) -> None:
        """CniError unless the attachment is whole."""
        known = self.find(request.container_id, request.ifname)
        if known is None:
            raise UnknownContainer("no such attachment", f"{request.container_id} {request.ifname}")
        await self._blocking(link.check_link, request.netns, request.ifname, known.addresses)
        if not await self._blocking(link.is_present, known.host_ifname, known.ifindex):
            raise UnknownContainer("host end of the interface is missing", known.host_ifname)

    async def restore(self) -> int:
        """Take over the predecessor's endpoints whose devices still are there; returns how many. Devices that it left without
        an endpoint go, before any that this agent makes: it was killed while an ADD was under way, or right after a DEL."""
        restored = []
        present = await self._blocking(link.devices)
        for endpoint in self._store.load():
            if present.get(endpoint.host_ifname) != endpoint.ifindex:
                log.info("Discarded endpoint without device", extra=_words(endpoint))
                self._store.forget(endpoint.id)
                continue
            try:
                for addr in endpoint.addresses:
                    self.pools.reserve(addr, _owner_of(endpoint))
            except AlreadyAllocated as e:
                log.warning("Address of a restored endpoint is taken", extra=_words(endpoint) | {"error": str(e)})
            restored.append(msgspec.structs.replace(endpoint, state=EndpointState.RESTORING))
        self._database.put(self.table, *restored)
        self._next_id = max((row.id for row in restored), default=0) % MAX_ID + 1
        self.table.synced("restore")
        strays = await self._blocking(link.remove_strays, {row.ifindex for row in restored})
        if strays:
            log.info("Deleted devices without an endpoint", extra={"devices": ",".join(strays)})
        return len(restored)

    def update(self, endpoint: Endpoint) -> None:
        """Replace a row, on disk too: identity, labels or state changed."""
        before = self.table.get(endpoint.id)
        if before is None or before == endpoint:
            return
        self._database.put(self.table, endpoint)
        if (before.identity, before.labels) != (endpoint.identity, endpoint.labels):
            self._store.save(endpoint)

    async def bury(self) -> None:
        """A job: deletes the devices of ended endpoints, many in one grace period; what is left at its end goes then."""
        try:
            while True:
                await self._death.wait()
                await asyncio.sleep(_DELETION_PAUSE_S)
                self._death.clear()
                burying = self._bury_now()
                await asyncio.wait((burying,))  # goes on when this job is cancelled
                burying.result()
        finally:
            if self._dead:
                self._bury_now()

    def _bury_now(self) -> asyncio.Future[None]:
        dead, self._dead = self._dead, []
        return self._submit(link.remove_links, [endpoint.ifindex for endpoint in dead])

    def _bury_later(self, endpoint: Endpoint) -> None:
        self._dead.append(endpoint)
        self._death.set()

    def _forget(self, endpoint: Endpoint) -> None:
        self._database.delete(self.table, endpoint.id)
        self._store.forget(endpoint.id)
        self._release(endpoint.addresses, _owner_of(endpoint))
        for addr in endpoint.addresses:  # two restored endpoints may say that an address is theirs
            for other in self.table.by("address", addr):
                with suppress(AlreadyAllocated):
                    self.pools.reserve(addr, _owner_of(other))
        self._bury_later(endpoint)
        log.info("Deleted endpoint", extra=_words(endpoint))

    def _allocate(self, owner: str) -> tuple[Addr, ...]:
        taken: list[Addr] = []
        try:
            for family in self._families:
                pool = self.pools.pool(family)
                taken.append(pool.allocate(owner))
        except PoolMissing as e:
            self._release(taken, owner)
            raise TryAgainLater("try again later", str(e)) from e
        except PoolExhausted as e:
            self._release(taken, owner)
            raise PoolEmpty("no address is free", str(e)) from e
        return tuple(taken)

    def _release(self, addresses: Iterable[Addr], owner: str) -> None:
        for addr in addresses:
            self.pools.release(addr, owner)

    def _take_id(self) -> int:
        for _ in range(MAX_ID):
            candidate, self._next_id = self._next_id, self._next_id % MAX_ID + 1
            if candidate not in self.table:
                return candidate
        raise PoolEmpty("no endpoint id is free", f"{MAX_ID} are in use")

    async def _blocking(self, call: Callable[..., T], *arguments: object) -> T:
        working = self._submit(call, *arguments)
        try:
            await asyncio.wait((working,))
        finally:
            working.cancel()  # one that has not begun need not begin any more
        return _result(working)

    def _submit(self, call: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


async def _end_of(working: asyncio.Future[T]) -> None:
    """Return when a thread's call has ended, well or not. Being cancelled counts only then: the call cannot be stopped."""
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait((working,))
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is not None:
        raise cancelled


def _result(working: asyncio.Future[T]) -> T:
    """Of a call that has ended; CniError when a system call failed."""
    try:
        return working.result()
    except CniError:
        raise
    except OSError as e:
        raise CniError("system call failed", str(e)) from e


def _owner(namespace: str, pod: str, container_id: str) -> str:
    """Whose an address is: the pod's, as CiliumNode's status shows it, or the container's when the runtime names no pod."""
    return f"{namespace}/{pod}" if pod else container_id


def _owner_of(endpoint: Endpoint) -> str:
    return _owner(endpoint.namespace, endpoint.pod, endpoint.container_id)


def _words(endpoint: Endpoint) -> dict[str, str]:
    return {
        "endpointID": str(endpoint.id),
        "pod": f"{endpoint.namespace}/{endpoint.pod}",
        "containerID": endpoint.container_id[:12],
        "ips": ",".join(map(str, endpoint.addresses)),
    }
