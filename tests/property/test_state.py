"""The state machinery: any order of events gives the from-scratch result, and a reconciler converges under faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.state import Backoff, Database, Derivation, Graph, Input, Reconciler, RowState, Table


class Service(msgspec.Struct, frozen=True):
    name: str
    ports: tuple[int, ...]


class Backend(msgspec.Struct, frozen=True):
    address: int
    service: str
    ready: bool


class Frontend(msgspec.Struct, frozen=True):
    service: str
    port: int
    backends: tuple[int, ...]


NAMES = st.sampled_from("abcd")
EVENTS = st.lists(
    st.one_of(
        st.builds(Service, NAMES, st.lists(st.integers(1, 4), max_size=3, unique=True).map(tuple)),
        st.builds(Backend, st.integers(1, 6), NAMES, st.booleans()),
        st.tuples(st.just("drop service"), NAMES),
        st.tuples(st.just("drop backend"), st.integers(1, 6)),
        st.just("settle"),
    ),
    max_size=60,
)


class World:
    """Services and backends in, frontends out."""

    def __init__(self) -> None:
        self.database = Database()
        self.services: Table[str, Service] = Table("services", lambda row: row.name)
        self.backends: Table[int, Backend] = Table(
            "backends", lambda row: row.address, indexes={"service": lambda row: (row.service,)}
        )
        self.frontends: Table[tuple[str, int], Frontend] = Table("frontends", lambda row: (row.service, row.port))
        self.graph = Graph(self.database, schedule=lambda work: None)
        self.graph.add(
            Derivation(
                "frontends",
                self.frontends,
                self.compute,
                [Input(self.services, lambda row: (row.name,)), Input(self.backends, lambda row: (row.service,))],
            )
        )

    def compute(self, name: str) -> Iterable[Frontend]:
        service = self.services.get(name)
        if service is None:
            return ()
        ready = tuple(sorted(b.address for b in self.backends.by("service", name) if b.ready))
        return (Frontend(name, port, ready) for port in service.ports)

    def feed(self, event: object) -> None:
        match event:
            case Service():
                self.database.put(self.services, event)
            case Backend():
                self.database.put(self.backends, event)
            case ("drop service", str(name)):
                self.database.delete(self.services, name)
            case ("drop backend", int(address)):
                self.database.delete(self.backends, address)
            case _:
                self.graph.settle()


@given(EVENTS)
@settings(max_examples=400)
def test_incremental_equals_from_scratch(events: list[object]) -> None:
    world = World()
    for event in events:
        world.feed(event)
    world.graph.settle()

    scratch = World()
    scratch.database.put(scratch.services, *world.services)
    scratch.database.put(scratch.backends, *world.backends)
    scratch.graph.settle()
    assert dict(world.frontends.items()) == dict(scratch.frontends.items())


@given(EVENTS)
def test_indexes_agree_with_a_scan(events: list[object]) -> None:
    world = World()
    for event in events:
        world.feed(event)
    for name in "abcd":
        found = {row.address for row in world.backends.by("service", name)}
        assert found == {row.address for row in world.backends if row.service == name}


def test_a_change_computes_only_its_groups() -> None:
    world = World()
    world.database.put(world.services, *(Service(name, (80,)) for name in "abcd"))
    world.graph.settle()
    world.database.put(world.backends, Backend(1, "b", True))
    assert world.graph.settle() == 1
    world.database.put(world.backends, Backend(1, "c", True))  # moves: the group it left and the one it joined
    assert world.graph.settle() == 2


@given(EVENTS)
def test_what_one_table_needs_is_settled_without_the_rest(events: list[object]) -> None:
    world = World()
    by_port: Table[tuple[int, str], tuple[int, str]] = Table("by-port", lambda row: row)
    computed: list[str] = []

    def aside(name: str) -> Iterable[Service]:
        computed.append(name)
        return ()

    def sort(name: str) -> Iterable[tuple[int, str]]:
        return ((key[1], name) for key, _ in world.frontends.items() if key[0] == name)

    idle: Table[str, Service] = Table("idle", lambda row: row.name)
    world.graph.add(Derivation("idle", idle, aside, [Input(world.services, lambda row: (row.name,))]))
    world.graph.add(Derivation("by-port", by_port, sort, [Input(world.frontends, lambda row: (row.service,))]))
    for event in events:
        world.feed(event)
        before = len(computed)
        world.graph.settle_for(by_port)
        assert set(by_port) == {(port, row.name) for row in world.services for port in row.ports}
        assert len(computed) == before


def test_an_exception_drops_the_whole_transaction() -> None:
    world = World()
    try:
        with world.database.write() as txn:
            txn.put(world.services, Service("a", (80,)))
            raise KeyError
    except KeyError:
        pass
    assert len(world.services) == 0


def test_an_output_is_synced_when_all_inputs_are() -> None:
    world = World()
    world.services.expect("kube")
    world.graph.settle()
    assert not world.frontends.is_synced
    world.services.synced("kube")
    world.graph.settle()
    assert world.frontends.is_synced


class FlakyTarget:
    """Rows in a dict, behind calls that fail as told; what happened to each key is remembered in order."""

    def __init__(self, faults: random.Random, rate: float) -> None:
        self.rows: dict[tuple[str, int], Frontend] = {}
        self.deleted: list[tuple[str, int]] = []
        self._faults = faults
        self.rate = rate

    async def apply(
        self, upserts: Sequence[tuple[tuple[str, int], Frontend]], deletes: Sequence[tuple[str, int]]
    ) -> Mapping[tuple[str, int], Exception]:
        if self._faults.random() < self.rate / 2:
            raise OSError("everything failed")
        failed: dict[tuple[str, int], Exception] = {}
        for key, row in upserts:
            if self._faults.random() < self.rate:
                failed[key] = OSError("this one failed")
            else:
                self.rows[key] = row
        for key in deletes:
            if self._faults.random() < self.rate:
                failed[key] = OSError("this one failed")
            else:
                self.deleted.append(key)
                self.rows.pop(key, None)
        return failed

    async def dump(self) -> Mapping[tuple[str, int], Frontend]:
        if self._faults.random() < self.rate / 2:
            raise OSError("unreadable")
        return dict(self.rows)


class SlowTarget(FlakyTarget):
    """Takes turns of the event loop before it writes what it was given, and before it tells what there was."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, rate=0.0)
        self._rng = rng

    async def apply(
        self, upserts: Sequence[tuple[tuple[str, int], Frontend]], deletes: Sequence[tuple[str, int]]
    ) -> Mapping[tuple[str, int], Exception]:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        return await super().apply(upserts, deletes)

    async def dump(self) -> Mapping[tuple[str, int], Frontend]:
        found = await super().dump()
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        return found


def reconciler_for(
    world: World, target: FlakyTarget, now: list[float], seed: int
) -> Reconciler[tuple[str, int], Frontend]:
    return Reconciler(
        "frontends", world.frontends, target, clock=lambda: now[0], rng=random.Random(seed), backoff=Backoff(0.1, 1.0)
    )


@given(EVENTS, st.integers(0, 1 << 30))
@settings(max_examples=100)
async def test_a_row_that_is_waited_for_is_never_overtaken(events: list[object], seed: int) -> None:
    """Flushes while a step is at work: what a step read before is not written over what a flush wrote."""
    world, now, rng = World(), [0.0], random.Random(seed)
    target = SlowTarget(rng)
    reconciler = reconciler_for(world, target, now, seed)
    working: list[asyncio.Task[None]] = []
    for event in events:
        world.feed(event)
        world.graph.settle()
        now[0] += rng.choice((0.1, 61.0))  # a comparison is due after a minute
        working.append(asyncio.create_task(rng.choice((reconciler.step, reconciler.flush))()))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    await asyncio.gather(*working)
    await reconciler.flush()
    assert target.rows == dict(world.frontends.items())
    assert reconciler.counters.drift_repairs == 0


@given(
    EVENTS, st.integers(0, 1 << 30), st.dictionaries(st.tuples(NAMES, st.integers(1, 4)), st.integers(0, 9), max_size=5)
)
@settings(max_examples=200)
async def test_a_reconciler_converges_under_faults(
    events: list[object], seed: int, left_over: dict[tuple[str, int], int]
) -> None:
    world, now = World(), [0.0]
    target = FlakyTarget(random.Random(seed), rate=0.3)
    target.rows = {key: Frontend(*key, (n,)) for key, n in left_over.items()}
    reconciler = reconciler_for(world, target, now, seed)
    for event in events:
        world.feed(event)
        now[0] += 0.05
        await reconciler.step()
    world.graph.settle()
    target.rate = 0.0
    for _ in range(5):
        now[0] += 100.0
        await reconciler.step()
    assert target.rows == dict(world.frontends.items())
    assert reconciler.is_settled
    assert all(reconciler.status(key).state is RowState.DONE for key in target.rows)  # type: ignore[union-attr]


async def test_drift_is_repaired_and_counted() -> None:
    world, now = World(), [0.0]
    target = FlakyTarget(random.Random(1), rate=0.0)
    reconciler = reconciler_for(world, target, now, 1)
    world.feed(Service("a", (80, 81)))
    world.graph.settle()
    await reconciler.step()
    target.rows[("a", 80)] = Frontend("a", 80, (66,))
    del target.rows[("a", 81)]
    now[0] += 100.0
    await reconciler.step()
    assert target.rows == dict(world.frontends.items())
    assert reconciler.counters.drift_repairs == 2


async def test_nothing_is_pruned_before_the_table_is_synced_and_nothing_live_ever() -> None:
    world, now = World(), [0.0]
    live, stale = Frontend("a", 80, ()), Frontend("z", 1, (1,))
    target = FlakyTarget(random.Random(1), rate=0.0)
    target.rows = {("a", 80): live, ("z", 1): stale}
    world.services.expect("kube")
    reconciler = reconciler_for(world, target, now, 1)
    await reconciler.step()
    assert target.rows == {("a", 80): live, ("z", 1): stale}
    world.feed(Service("a", (80,)))
    world.services.synced("kube")
    world.graph.settle()
    await reconciler.step()
    assert target.rows == {("a", 80): live}
    assert target.deleted == [("z", 1)]


async def test_nothing_is_settled_while_rows_are_being_written() -> None:
    world, now, seen = World(), [0.0], []

    class Asked(FlakyTarget):
        async def apply(
            self, upserts: Sequence[tuple[tuple[str, int], Frontend]], deletes: Sequence[tuple[str, int]]
        ) -> Mapping[tuple[str, int], Exception]:
            seen.append(reconciler.is_settled)
            return await super().apply(upserts, deletes)

    reconciler = reconciler_for(world, Asked(random.Random(1), rate=0.0), now, 1)
    world.graph.settle()
    await reconciler.step()
    world.feed(Service("a", (80,)))
    world.graph.settle()
    await reconciler.step()
    assert (seen, reconciler.is_settled) == ([False], True)


async def test_one_failing_row_holds_nobody_up() -> None:
    world, now = World(), [0.0]

    class Picky(FlakyTarget):
        async def apply(
            self, upserts: Sequence[tuple[tuple[str, int], Frontend]], deletes: Sequence[tuple[str, int]]
        ) -> Mapping[tuple[str, int], Exception]:
            bad = {key: OSError("no room") for key, _ in upserts if key == ("a", 81)}
            await super().apply([(key, row) for key, row in upserts if key not in bad], deletes)
            return bad

    target = Picky(random.Random(1), rate=0.0)
    reconciler = reconciler_for(world, target, now, 1)
    world.feed(Service("a", (80, 81, 82)))
    world.graph.settle()
    await reconciler.step()
    assert set(target.rows) == {("a", 80), ("a", 82)}
    status = reconciler.failing[("a", 81)]
    assert (status.state, status.attempts, status.error) == (RowState.ERROR, 1, "OSError: no room")
    now[0] += 0.2
    await reconciler.step()
    assert reconciler.failing[("a", 81)].attempts == 2
