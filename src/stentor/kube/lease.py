"""Leader election by a Lease (coordination.k8s.io/v1), as client-go does it: others interoperate.

The holder renews; anybody may take the lease over when its record has not changed for its duration, measured by the
observer's own clock: machines' clocks need not agree.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from stentor.api.core import LEASES, Lease, LeaseSpec
from stentor.api.meta import ObjectMeta
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, Conflict, NotFound

log = logging.getLogger(__name__)


class LeaseTimes(msgspec.Struct, frozen=True):
    """client-go's defaults, as upstream's operator uses them; all in seconds."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


class Election:
    """One candidate for one lease."""

    def __init__(
        self,
        client: Client,
        name: str,
        identity: str,
        *,
        namespace: str = "kube-system",
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.holder = ""
        self._client = client
        self._namespace = namespace
        self._times = times or LeaseTimes()
        self._clock = clock
        self._rng = rng or random.Random()
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0

    async def acquire(self) -> None:
        """Return once this candidate leads."""
        while not await self._try():
            await asyncio.sleep(self._times.retry_s * (0.9 + 0.2 * self._rng.random()))
        log.info("Leading", extra={"lease": self.name, "identity": self.identity})

    async def renew(self) -> None:
        """Keep the lease; returns when it is lost: another holder, or no renewal within the deadline."""
        renewed = self._clock()
        while self._clock() - renewed < self._times.renew_deadline_s:
            await asyncio.sleep(self._times.retry_s)
            if await self._try():
                renewed = self._clock()
            elif self.holder and self.holder != self.identity:
                break
        log.warning("Lost the lease", extra={"lease": self.name, "holder": self.holder})

    async def release(self) -> None:
        """Give the lease up, so that the next candidate need not wait for it to expire."""
        try:
            async with asyncio.timeout(5):
                lease = await self._client.get(LEASES, self.name, self._namespace)
                if lease.spec.holder_identity == self.identity:
                    spec = msgspec.structs.replace(
                        lease.spec, holder_identity="", lease_duration_seconds=1, renew_time=now()
                    )
                    await self._client.update(LEASES, msgspec.structs.replace(lease, spec=spec))
        except (ApiError, TimeoutError) as e:
            log.info("Could not release the lease", extra={"lease": self.name, "error": str(e)})

    async def _try(self) -> bool:
        try:
            async with asyncio.timeout(self._times.renew_deadline_s):
                return await self._take_or_renew()
        except (ApiError, TimeoutError) as e:
            if not isinstance(e, Conflict):
                log.warning("Lease not reachable", extra={"lease": self.name, "error": str(e)})
            return False

    async def _take_or_renew(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self.name, self._namespace)
        except NotFound:
            stamp = now()
            spec = self._record(stamp, stamp, 0)
            meta = ObjectMeta(name=self.name, namespace=self._namespace)
            await self._client.create(LEASES, Lease(metadata=meta, spec=spec))
            self.holder = self.identity
            return True
        spec = lease.spec
        if spec != self._seen:
            self._seen, self._seen_at = spec, self._clock()
        self.holder = spec.holder_identity or ""
        mine = self.holder == self.identity
        expires = self._seen_at + (spec.lease_duration_seconds or 0)
        if self.holder and not mine and self._clock() < expires:
            return False
        stamp = now()
        transitions = (spec.lease_transitions or 0) + (not mine)
        record = self._record(spec.acquire_time or stamp if mine else stamp, stamp, transitions)
        await self._client.update(LEASES, msgspec.structs.replace(lease, spec=record))
        self.holder = self.identity
        return True

    def _record(self, acquired: str, renewed: str, transitions: int) -> LeaseSpec:
        return LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=max(1, round(self._times.duration_s)),
            acquire_time=acquired,
            renew_time=renewed,
            lease_transitions=transitions,
        )


def now() -> str:
    """This moment as MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
