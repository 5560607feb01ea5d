"""The load-balancing maps through an agent's life: it is killed between any two writes, starts otherwise configured, finds
maps full or changed by somebody else. What is in the kernel in the end is what a plain model says."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing.balancer import SEED, Balancer
from balancing.kernel import Reading, expected
from stentor.datapath.maps import LB_KEY, LB_SERVICE, LB_SOURCE_KEY, NUMBER
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr, Prefix
from stentor.services import maglev
from stentor.state import Database, Reconciler
from stentor.sys.bpf import Map
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol, lb_entries

SIZES = (67, 251)
LIKE_RANGES = tuple(map(Prefix.parse, ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "::/0")))


class Killed(BaseException):
    """Not an error to be handled: the process is no more."""


class Mortal:
    """A map that ends its owner's life at one of its writes, of which it does a part."""

    def __init__(self, inner: Map, count_down: Callable[[], bool]) -> None:
        self._inner, self._is_last = inner, count_down
        self.spec = inner.spec

    def update_batch(self, rows: Mapping[bytes, bytes]) -> dict[bytes, OSError]:
        if self._is_last():
            self._inner.update_batch(dict(list(rows.items())[: len(rows) // 2]))
            raise Killed
        return self._inner.update_batch(rows)

    def delete_batch(self, keys: Iterable[bytes]) -> dict[bytes, OSError]:
        if self._is_last():
            found = list(keys)
            self._inner.delete_batch(found[: len(found) // 2])
            raise Killed
        return self._inner.delete_batch(keys)

    def items(self) -> Any:
        return self._inner.items()


class Node:
    """Maps that outlive agents, what the API says, and the agent that is at work now."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.balancer = Balancer("sock", sizes=sizes)
        self.maps = self.balancer.maps
        self.wanted: dict[FrontendKey, LBEntry] = {}
        self.writes_left = -1
        self.now = 0.0
        self.size = SIZES[0]
        self.restart(self.size)

    def _is_last_write(self) -> bool:
        self.writes_left -= 1
        return self.writes_left == 0

    def lookup_table(self, backends: tuple[Backend, ...]) -> Any:
        return maglev.table(backends, self.size, SEED)

    def restart(self, size: int) -> None:
        """An agent that knows nothing but the maps and the API."""
        self.size, self.writes_left = size, -1
        self.database, self.table = Database(), lb_entries()
        mortal: Any = {name: Mortal(each, self._is_last_write) for name, each in self.maps.items()}
        make = functools.partial(maglev.table, size=size, seed=SEED)
        self.target = ServiceTarget(mortal, make, size)
        self.reconciler = Reconciler("services", self.table, self.target, clock=lambda: self.now)
        self.database.put(self.table, *self.wanted.values())

    async def step(self, *changes: LBEntry | FrontendKey) -> None:
        for each in changes:
            if isinstance(each, LBEntry):
                self.wanted[each.key] = each
                self.database.put(self.table, each)
            else:
                self.wanted.pop(each, None)
                self.database.delete(self.table, each)
        await self.reconciler.step()

    async def retry(self) -> None:
        """What failed is tried again."""
        self.now += 60
        await self.reconciler.step()

    async def compare(self) -> None:
        self.reconciler.compare_soon()
        await self.reconciler.step()

    def read(self) -> Reading:
        return Reading(self.maps, self.size)

    def check(self) -> None:
        """Everything that is wanted, nothing else, and no row that leads nowhere."""
        found = self.read()
        model = {
            (each.key.addr, each.key.port, int(each.key.protocol)): expected(each, self.lookup_table)
            for each in self.wanted.values()
        }
        assert found.services == model
        assert not any(found.unnamed.values()), found.unnamed
        assert found.repeated == []


BACKENDS = st.lists(
    st.builds(Backend, st.integers(1, 5).map(lambda n: Addr.parse(f"10.0.0.{n}")), st.just(80), st.booleans()),
    max_size=5,
    unique_by=lambda each: each.addr,
).map(lambda found: tuple(sorted(found, key=lambda each: (each.is_terminating, each))))
KEYS = st.builds(
    FrontendKey,
    st.sampled_from(["10.96.0.1", "10.96.0.2", "fd00:96::1"]).map(Addr.parse),
    st.sampled_from([80, 443]),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
)


@st.composite
def entries(draw: st.DrawFn) -> LBEntry:
    ranges = tuple(sorted(draw(st.sets(st.sampled_from(LIKE_RANGES), max_size=3))))
    flags = EntryFlag.EXTERNAL | (EntryFlag.SOURCE_RANGES if ranges else EntryFlag.NONE)
    if draw(st.booleans()):
        flags |= EntryFlag.MAGLEV
    return LBEntry(
        key=draw(KEYS),
        internal=draw(BACKENDS),
        external=draw(BACKENDS),
        flags=flags,
        affinity_s=draw(st.sampled_from([0, 60])),
        source_ranges=ranges,
    )


CHANGES = st.lists(st.one_of(entries(), entries(), KEYS), max_size=6)
LIVES = st.lists(st.tuples(st.lists(CHANGES, max_size=4), st.integers(1, 40), st.sampled_from(SIZES)), max_size=4)


def without_maglev(node: Node) -> None:
    """`loadBalancer.algorithm: random` from now on."""
    for key, each in node.wanted.items():
        node.wanted[key] = LBEntry(
            key=key,
            internal=each.internal,
            external=each.external,
            flags=each.flags & ~EntryFlag.MAGLEV,
            affinity_s=each.affinity_s,
            source_ranges=each.source_ranges,
        )


@given(LIVES, CHANGES, st.booleans())
@settings(max_examples=150)
async def test_an_agent_killed_between_any_two_writes_leaves_nothing_that_its_successor_does_not_put_right(
    lives: list[tuple[list[list[LBEntry | FrontendKey]], int, int]], meanwhile: list[LBEntry | FrontendKey], plain: bool
) -> None:
    node = Node()
    for batches, writes, size in lives:
        node.writes_left = writes
        try:
            for batch in batches:
                await node.step(*batch)
        except Killed:
            pass
        node.restart(size)
    for each in meanwhile:  # while no agent was there
        if isinstance(each, LBEntry):
            node.wanted[each.key] = each
        else:
            node.wanted.pop(each, None)
    if plain:
        without_maglev(node)
    node.restart(node.size)
    await node.step()
    await node.compare()
    assert node.reconciler.failing == {}
    node.check()


def damage(node: Node, rng: random.Random) -> None:
    """Somebody else removes a row, changes one, or adds one."""
    name = rng.choice(["lb_services", "lb_slots", "lb_members", "lb_sources", "lb_maglev"])
    found = node.maps[name]
    rows = list(found.items())
    what = rng.choice(["remove", "change", "add"])
    if what == "add" or not rows:
        key = bytearray(rows[0][0] if rows else bytes(found.spec.key_size))
        if name == "lb_services":
            key = bytearray(LB_KEY.pack(Addr.parse("10.96.9.9"), rng.randrange(1, 65536), rng.choice([6, 17, 99])))
        elif name == "lb_sources":
            key[0:4] = (64).to_bytes(4, "little")
            key[8:12] = rng.randbytes(4)
        else:
            key[4:8] = rng.randrange(100).to_bytes(4, "little")
        value = rows[0][1] if rows else bytes(found.spec.value_size)
        found.update_batch({bytes(key): value})
    elif what == "remove":
        del found[rng.choice(rows)[0]]
    else:
        key_bytes, value = rng.choice(rows)
        at = rng.randrange(len(value))
        found[key_bytes] = value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]


@pytest.mark.parametrize("seed", range(40))
async def test_what_somebody_else_does_to_the_maps_is_put_right(seed: int) -> None:
    rng = random.Random(seed)
    node = Node()
    both = tuple(Backend(Addr.parse(f"10.0.0.{n}"), 80) for n in (1, 2, 3))
    flags = EntryFlag.EXTERNAL | EntryFlag.MAGLEV | EntryFlag.SOURCE_RANGES
    rows = [
        LBEntry(
            key=FrontendKey(Addr.parse(f"10.96.0.{n}"), 80, Protocol.TCP),
            internal=both[: n % 3 + 1],
            external=both[: n % 2 + 1],
            flags=flags,
            source_ranges=LIKE_RANGES[: n % 3 + 1],
        )
        for n in range(1, 7)
    ]
    await node.step(*rows)
    node.check()
    for _ in range(rng.randrange(1, 4)):
        damage(node, rng)
    if rng.random() < 0.5:
        node.restart(rng.choice(SIZES))
    for _ in range(3):
        await node.compare()
    node.check()


async def test_a_row_of_the_highest_numbers_does_not_use_them_up() -> None:
    node = Node()
    most = 0xFFFFFFFF
    alien = LB_KEY.pack(Addr.parse("10.96.9.9"), 80, Protocol.TCP)
    node.maps["lb_services"][alien] = LB_SERVICE.pack(most, 0, most, 1, most, 1, 0)
    node.maps["lb_sources"][LB_SOURCE_KEY.pack(64, most, Addr(0))] = NUMBER.pack(1)
    both = (Backend(Addr.parse("10.0.0.1"), 80), Backend(Addr.parse("10.0.0.2"), 80))
    key = FrontendKey(Addr.parse("10.96.0.1"), 80, Protocol.TCP)
    await node.step(
        LBEntry(key=key, internal=both, external=both, flags=EntryFlag.EXTERNAL, source_ranges=LIKE_RANGES[:1])
    )
    await node.compare()
    assert node.reconciler.failing == {}
    node.check()


@pytest.mark.parametrize("plain", [False, True])
async def test_another_algorithm_or_table_size_after_a_restart_leaves_no_old_table(plain: bool) -> None:
    node = Node()
    node.size = max(SIZES)
    node.restart(node.size)
    both = (Backend(Addr.parse("10.0.0.1"), 80), Backend(Addr.parse("10.0.0.2"), 80))
    key = FrontendKey(Addr.parse("10.96.0.1"), 80, Protocol.TCP)
    await node.step(LBEntry(key=key, internal=both, external=both, flags=EntryFlag.EXTERNAL | EntryFlag.MAGLEV))
    if plain:
        without_maglev(node)
    node.restart(min(SIZES))
    await node.step()
    await node.compare()
    node.check()


FULL = {"lb_services": 3, "lb_slots": 6, "lb_members": 6, "lb_sources": 3, "lb_maglev": 5}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("seed", range(5))
async def test_a_full_map_harms_nothing_that_is_in_it_and_takes_the_rest_when_there_is_room(
    name: str, seed: int
) -> None:
    rng = random.Random(f"{name} {seed}")
    node = Node(sizes={name: FULL[name]})
    written: dict[FrontendKey, LBEntry] = {}
    refusals = 0
    for number in range(60):
        key = FrontendKey(Addr.parse(f"10.96.0.{rng.randrange(6)}"), 80, Protocol.UDP)
        await node.step(key if rng.random() < 0.3 else random_entry(rng, key))
        if not number % 10:
            await node.retry()
        failing = node.reconciler.failing
        assert all(f"map {name} is full ({FULL[name]} rows)" in each.error for each in failing.values())
        refusals += len(failing) + node.target.maglev.refused
        written = {each: node.wanted[each] if each not in failing else written.get(each) for each in node.wanted}
        check_written(node, {each: entry for each, entry in written.items() if entry is not None})
    assert refusals
    for key in list(node.wanted)[1:]:
        await node.step(key)
    await node.retry()
    assert (node.reconciler.failing, node.target.maglev.refused) == ({}, 0)
    node.check()


def random_entry(rng: random.Random, key: FrontendKey) -> LBEntry:
    backends = tuple(
        Backend(Addr.parse(f"10.0.0.{n}"), 80) for n in sorted(rng.sample(range(1, 9), rng.randrange(1, 4)))
    )
    ranges = tuple(sorted(rng.sample(LIKE_RANGES, rng.randrange(3))))
    flags = EntryFlag.EXTERNAL | EntryFlag.MAGLEV | (EntryFlag.SOURCE_RANGES if ranges else EntryFlag.NONE)
    return LBEntry(key=key, internal=backends, external=backends, flags=flags, source_ranges=ranges)


def check_written(node: Node, written: Mapping[FrontendKey, LBEntry]) -> None:
    """These and no others; one without room for its table is balanced at random."""
    found = node.read()
    for key, entry in written.items():
        seen = found.services.pop((key.addr, key.port, int(key.protocol)))
        right = expected(entry, node.lookup_table)
        assert seen in (right, right._replace(flags=right.flags & ~int(EntryFlag.MAGLEV), table=()))
    assert found.services == {}
    assert not any(found.unnamed.values()), found.unnamed
