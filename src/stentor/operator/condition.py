"""Custom resources that the operator judges: their specifications into tables, its verdicts into their conditions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from stentor.api.condition import StatusCondition, settle
from stentor.api.meta import Kind, ObjectKey, Resource
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.target import ObjectTarget
from stentor.state import Database, Table
from stentor.tables.bgp import Configured, configured
from stentor.tables.condition import Judged, Observed, ResourceKey

_STATUS = {True: "True", False: "False", None: "Unknown"}

S = TypeVar("S")
R = TypeVar("R", bound=Resource)

log = logging.getLogger(__name__)


class Conditioned(Protocol):
    """A status with conditions."""

    @property
    def conditions(self) -> tuple[StatusCondition, ...]: ...


def resource_source(
    client: Client,
    kind: Kind[R],
    database: Database,
    specs: Table[str, Configured[S]],
    conditions: Table[ResourceKey, Observed],
    spec_of: Callable[[R], S | None],
) -> Reflector[R]:
    """A reflector that keeps `specs` at what users want, and `conditions` at what the API says of it."""
    name = f"kube/{kind}"
    specs.expect(name)
    conditions.expect(name)

    def sink(upserts: Sequence[R], gone: Sequence[ObjectKey]) -> None:
        with database.write() as txn:
            for key in gone:
                txn.delete(specs, key.name)
                txn.delete(conditions, ResourceKey(kind.plural, key.name))
            for obj in upserts:
                spec = spec_of(obj)
                if spec is None:
                    txn.delete(specs, obj.metadata.name)
                else:
                    txn.put(specs, configured(obj.metadata, spec))
                txn.put(conditions, observe(kind, obj))

    def on_synced() -> None:
        specs.synced(name)
        conditions.synced(name)

    return Reflector(client, kind, sink, on_synced=on_synced)


def observe(kind: Kind[Any], obj: Resource) -> Observed:
    """The conditions of an object; kinds without status have none."""
    status: Conditioned | None = getattr(obj, "status", None)
    return Observed(
        ResourceKey(kind.plural, obj.metadata.name),
        obj.metadata.uid,
        obj.metadata.resource_version,
        status.conditions if status is not None else (),
    )


class ConditionTarget(ObjectTarget[ResourceKey, Judged]):
    """Writes conditions. What is there is what the table of observed ones says."""

    def __init__(
        self,
        client: Client,
        database: Database,
        kinds: Sequence[Kind[Any]],
        conditions: Table[ResourceKey, Observed],
        judged: Table[ResourceKey, Judged],
    ) -> None:
        super().__init__()
        self._client = client
        self._database = database
        self._kinds = {kind.plural: kind for kind in kinds}
        self._conditions = conditions
        self._judged = judged

    async def write(self, row: Judged) -> None:
        """Patch the status if it differs; an object that is gone needs nothing."""
        there = self._conditions.get(row.key)
        if there is None:
            return
        wanted = wanted_conditions(there.conditions, row, datetime.now(UTC))
        if wanted == there.conditions:
            return
        kind = self._kinds[row.key.plural]
        # The version guards what others write into the same list.
        change = patch.merge(
            {
                "metadata": {"uid": there.uid, "resourceVersion": there.version},
                "status": {"conditions": wanted},
            }
        )
        changed = await self._client.patch(kind, row.key.name, change, subresource="status")
        self._database.put(self._conditions, observe(kind, changed))

    async def remove(self, key: ResourceKey) -> None:
        """Conditions go with their object."""

    async def dump(self) -> Mapping[ResourceKey, Judged]:
        """Rows as the API has them: equal to the wanted ones exactly if there is nothing to write."""
        now = datetime.now(UTC)
        result = {}
        for key, row in self._judged.items():
            there = self._conditions.get(key)
            if there is None or wanted_conditions(there.conditions, row, now) == there.conditions:
                result[key] = row
        return result


def wanted_conditions(present: Sequence[StatusCondition], row: Judged, now: datetime) -> tuple[StatusCondition, ...]:
    """What the list should be."""
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        StatusCondition(
            type=verdict.type,
            status=_STATUS[verdict.status],
            reason=verdict.reason,
            message=verdict.message,
            last_transition_time=time,
            observed_generation=row.generation,
        )
        for verdict in row.verdicts
    ]
    return settle(present, conditions, row.ours)
