"""Identities: label sets in use → numbers → CiliumIdentity objects, and their garbage collection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec

from stentor.api.cilium import CILIUM_IDENTITIES
from stentor.identity.allocation import NumberSource, plan_collection
from stentor.identity.errors import IdentitiesExhausted
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import AlreadyExists
from stentor.kube.rows import UNUSED_SINCE, identity_object, identity_row
from stentor.kube.target import ObjectTarget
from stentor.net.label import Labels
from stentor.state import Database, Table
from stentor.tables.identity import IdentityRow
from stentor.tables.pod import WantedLabels

log = logging.getLogger(__name__)


class IdentityAllocator:
    """Keeps `allocations` at the identities that should exist: those in the API, and one for every label set in use."""

    def __init__(
        self,
        database: Database,
        wanted: Table[Labels, WantedLabels],
        identities: Table[int, IdentityRow],
        allocations: Table[int, IdentityRow],
        numbers: range,
    ) -> None:
        self.fault = ""
        self.on_drift: Callable[[], None] = lambda: None
        self._database = database
        self._wanted = wanted
        self._identities = identities
        self._allocations = allocations
        self._source = NumberSource(numbers)
        self._identity_changes = identities.track()
        self._wanted_changes = wanted.track()
        self._missing: dict[Labels, None] = {}
        allocations.expect("allocator")

    def settle(self) -> None:
        """Take in what changed; waits until both inputs are complete, so that no label set gets a second number."""
        if not (self._wanted.is_synced and self._identities.is_synced):
            return
        self._adopt()
        for change in self._wanted_changes.drain():
            if change.new is not None:
                self._missing[change.key] = None
            else:
                self._missing.pop(change.key, None)
        self._allocate()
        self._allocations.synced("allocator")

    def _adopt(self) -> None:
        """What the API has is so: a number that somebody else took moves our labels to another."""
        changes = self._identity_changes.drain()
        rows = [change.new for change in changes if change.new is not None]
        if any(change.new is None and change.key in self._allocations for change in changes):
            self.on_drift()  # somebody deleted an identity that is still needed
        self._source.skip_to(row.id for row in rows)
        for row in rows:
            ours = self._allocations.get(row.id)
            if ours is None:
                self._database.put(self._allocations, row)
            elif ours.labels != row.labels:
                self._database.put(self._allocations, row)
                self._missing[ours.labels] = None

    def _allocate(self) -> None:
        self.fault = ""
        for labels in list(self._missing):
            rows = self._allocations.by("labels", labels)
            if not rows and labels in self._wanted:
                try:
                    number = self._source.take(self._allocations)
                except IdentitiesExhausted as e:
                    self.fault = str(e)
                    return
                self._database.put(self._allocations, IdentityRow(number, labels))
            for row in rows:
                if row.unused_since is not None:
                    self._database.put(self._allocations, msgspec.structs.replace(row, unused_since=None))
            self._missing.pop(labels)

    def collect(self, now: float, grace_s: float) -> tuple[int, int]:
        """One round of garbage collection; returns (alive, deleted)."""
        if not self._allocations.is_synced:
            return 0, 0
        in_use = {row.id for row in self._allocations if row.labels in self._wanted}
        plan = plan_collection(
            {row.id: row.unused_since for row in self._allocations}, in_use, now=now, grace_s=grace_s
        )
        with self._database.write() as txn:
            for number in plan.mark:
                txn.put(self._allocations, msgspec.structs.replace(self._allocations[number], unused_since=now))
            for number in plan.unmark:
                txn.put(self._allocations, msgspec.structs.replace(self._allocations[number], unused_since=None))
            for number in plan.delete:
                txn.delete(self._allocations, number)
        self.settle()
        return len(in_use), len(plan.delete)


class IdentityTarget(ObjectTarget[int, IdentityRow]):
    """Creates, marks and deletes CiliumIdentities. What is there is what the identities table says."""

    def __init__(self, client: Client, identities: Table[int, IdentityRow]) -> None:
        super().__init__()
        self._client = client
        self._identities = identities

    async def write(self, row: IdentityRow) -> None:
        present = self._identities.get(row.id)
        if present == row:
            return
        if present is not None and present.labels == row.labels:
            mark = None if row.unused_since is None else repr(row.unused_since)
            change = patch.merge({"metadata": {"annotations": {UNUSED_SINCE: mark}}})
            await self._client.patch(CILIUM_IDENTITIES, str(row.id), change)
            return
        try:
            await self._client.create(CILIUM_IDENTITIES, identity_object(row))
        except AlreadyExists:
            there = identity_row(await self._client.get(CILIUM_IDENTITIES, str(row.id)))
            if there.labels != row.labels:
                raise

    async def remove(self, key: int) -> None:
        await self._client.delete(CILIUM_IDENTITIES, str(key))

    async def dump(self) -> Mapping[int, IdentityRow]:
        """From the identities table, which mirrors the API."""
        return dict(self._identities.items())
