"""A target that also tells what the kernel holds by now, for derivations that must not run ahead of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from stentor.state import Database, Table, Target
from stentor.tables.realized import Realized

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Recorded(Generic[K, R]):
    """Passes everything on to `target`; rows that are in place are in `realized`."""

    def __init__(
        self, target: Target[K, R], desired: Table[K, R], database: Database, realized: Table[K, Realized[K, R]]
    ) -> None:
        self._target = target
        self._desired = desired
        self._database = database
        self._realized = realized

    async def apply(self, upserts: Sequence[tuple[K, R]], deletes: Sequence[K]) -> Mapping[K, Exception]:
        """As the target's."""
        failed = await self._target.apply(upserts, deletes)
        with self._database.write() as txn:
            for key, row in upserts:
                if key not in failed:
                    txn.put(self._realized, Realized(key, row))
            for key in deletes:
                txn.delete(self._realized, key)
        return failed

    async def dump(self) -> Mapping[K, R]:
        """As the target's; rows that an earlier agent wrote and that are right need not be written again."""
        found = await self._target.dump()
        with self._database.write() as txn:
            for key, row in found.items():
                if self._desired.get(key) == row:
                    txn.put(self._realized, Realized(key, row))
        return found
