"""Derivations: output rows as pure functions of input rows, recomputed only where an input changed.

A derivation's output falls into groups (one a service, one an address, …). Each input says which groups a row takes part in;
`compute` yields the rows of one group from the tables as they are. When a row changes, the groups that its old and its new
form name are computed again, and nothing else: incremental by construction, and equal to computing everything from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from stentor.state.table import Database, Table, Tracker

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Input:
    """One input table of a derivation; `groups` maps a row to the output groups that it takes part in.

    When the groups of a row depend on other tables as well, those tables are inputs too and name the same groups.
    """

    def __init__(self, table: Table[Any, Any], groups: Callable[[Any], Iterable[Hashable]]) -> None:
        self.table = table
        self.groups = groups


class Derivation(Generic[G, K, R]):
    """Keeps `output` equal to the union of ``compute(group)`` over all groups that the inputs name.

    `compute` is pure: it reads tables and returns rows. Two groups never yield the same key.
    """

    def __init__(
        self, name: str, output: Table[K, R], compute: Callable[[G], Iterable[R]], inputs: Sequence[Input]
    ) -> None:
        self.name = name
        self.output = output
        self.compute = compute
        self.inputs = tuple(inputs)
        self._trackers: list[Tracker[Any, Any]] = []
        self._members: dict[Hashable, frozenset[K]] = {}
        output.expect(name)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to track the inputs; every present row counts as changed."""
        self._trackers = [each.table.track(wake=wake) for each in self.inputs]

    def run(self, database: Database) -> int:
        """Bring the output up to date in one transaction; returns how many groups were computed."""
        stale: dict[Hashable, None] = {}
        for each, tracker in zip(self.inputs, self._trackers, strict=True):
            for change in tracker.drain():
                for row in (change.old, change.new):
                    if row is not None:
                        stale.update(dict.fromkeys(each.groups(row)))
        if stale:
            with database.write() as txn:
                for group in stale:
                    self._refresh(group, txn.put, txn.delete)
        if all(each.table.is_synced for each in self.inputs):
            self.output.synced(self.name)
        return len(stale)

    def _refresh(
        self, group: Any, put: Callable[[Table[K, R], R], None], delete: Callable[[Table[K, R], K], None]
    ) -> None:
        rows = {self.output.key(row): row for row in self.compute(group)}
        for key in self._members.get(group, frozenset()) - rows.keys():
            delete(self.output, key)
        for row in rows.values():
            put(self.output, row)
        if rows:
            self._members[group] = frozenset(rows)
        else:
            self._members.pop(group, None)


class Graph:
    """All derivations of a process, in an order in which every input is ready before its reader.

    `schedule` runs a function soon (an event loop's ``call_soon``): commits of one turn are settled together.
    """

    def __init__(self, database: Database, schedule: Callable[[Callable[[], object]], object]) -> None:
        self._database = database
        self._schedule = schedule
        self._derivations: list[Derivation[Any, Any, Any]] = []
        self._scheduled = False

    def add(self, derivation: Derivation[Any, Any, Any]) -> None:
        """Append; ValueError when an earlier derivation already reads its output, which would need a second pass."""
        for earlier in self._derivations:
            if any(each.table is derivation.output for each in earlier.inputs):
                raise ValueError(
                    f"derivation {earlier.name} reads {derivation.output.name}: add {derivation.name} before it"
                )
        self._derivations.append(derivation)
        derivation.start(self.wake)
        self.wake()

    def wake(self) -> None:
        """Settle in the next turn; many calls before it count as one."""
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self.settle)

    def settle_for(self, table: Table[Any, Any]) -> int:
        """Run only what `table` depends on, for somebody who waits for its rows; the others have their turn later."""
        needed, wanted = [], {id(table)}
        for derivation in reversed(self._derivations):
            if id(derivation.output) in wanted:
                needed.append(derivation)
                wanted.update(id(each.table) for each in derivation.inputs)
        return sum(derivation.run(self._database) for derivation in reversed(needed))

    def settle(self) -> int:
        """Run every derivation once, in order; returns how many groups were computed."""
        self._scheduled = True  # commits made by derivations need no further turn
        try:
            return sum(derivation.run(self._database) for derivation in self._derivations)
        finally:
            self._scheduled = False
