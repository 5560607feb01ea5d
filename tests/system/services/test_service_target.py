"""The target of load-balancing entries against real maps: what is written is read back, shared, repaired and adopted."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from balancing.balancer import MAGLEV_SIZE, Balancer, backend, entry, key, lookup_table
from stentor.datapath.errors import MapFull
from stentor.datapath.maps import LB_SERVICE, LB_SLOT_KEY
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr, Prefix
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

PARTS = -(-MAGLEV_SIZE // 64)


def sets(most: int = 4) -> st.SearchStrategy[tuple[Backend, ...]]:
    one = st.builds(Backend, st.integers(1, most).map(lambda n: Addr.parse(f"10.0.0.{n}")), st.just(80), st.booleans())
    return st.lists(one, max_size=most, unique_by=lambda each: each.addr).map(
        lambda found: tuple(sorted(found, key=lambda each: (each.is_terminating, each)))
    )


KEYS = st.integers(1, 5).map(lambda n: FrontendKey(Addr.parse(f"10.96.0.{n}"), 80, Protocol.TCP))
ENTRIES = st.builds(
    LBEntry,
    key=KEYS,
    internal=sets(),
    external=sets(),
    flags=st.sampled_from([EntryFlag.NONE, EntryFlag.EXTERNAL, EntryFlag.EXTERNAL | EntryFlag.SOURCE_RANGES]),
    affinity_s=st.sampled_from([0, 60, 10800]),
    source_ranges=st.sampled_from(
        [(), (Prefix.parse("10.0.0.0/8"),), (Prefix.parse("10.0.0.0/8"), Prefix.parse("::/0"))]
    ).map(lambda found: tuple(sorted(found))),
)


@given(st.lists(st.one_of(ENTRIES, KEYS), max_size=25), st.booleans())
@settings(max_examples=60)
async def test_what_was_written_is_read_back_by_us_and_by_a_successor(
    events: list[LBEntry | FrontendKey], adopt: bool
) -> None:
    balancer, wanted = Balancer("sock"), {}
    for event in events:
        if isinstance(event, LBEntry):
            wanted[event.key] = event
            await balancer.put(event)
        else:
            wanted.pop(event, None)
            await balancer.drop(event)
    if adopt:
        balancer.target = ServiceTarget(balancer.maps, lambda backends: None, 1)  # type: ignore[arg-type,return-value]
    assert await balancer.target.dump() == wanted
    used = {each for row in wanted.values() for each in (row.internal, row.external) if each}
    assert balancer.rows() == {
        "lb_services": len(wanted),
        "lb_slots": sum(map(len, used)),
        "lb_members": sum(map(len, used)),
        "lb_sources": sum(len(row.source_ranges) for row in wanted.values()),
        "lb_maglev": 0,
    }
    await balancer.drop(*wanted)
    assert set(balancer.rows().values()) == {0}


async def test_equal_backends_share_a_set_and_a_table() -> None:
    balancer = Balancer("sock")
    both = (backend("10.0.0.1:80"), backend("10.0.0.2:80"))
    flags = EntryFlag.EXTERNAL | EntryFlag.MAGLEV
    rows = [LBEntry(key=key(f"10.96.0.{n}:80"), internal=both, external=both, flags=flags) for n in range(1, 9)]
    await balancer.put(*rows)
    assert balancer.rows() == {"lb_services": 8, "lb_slots": 2, "lb_members": 2, "lb_sources": 0, "lb_maglev": PARTS}
    assert balancer.target.maglev.rows == PARTS
    await balancer.drop(*(row.key for row in rows))
    assert set(balancer.rows().values()) == {0}


async def test_a_look_up_table_without_room_is_left_out_and_counted() -> None:
    balancer = Balancer("sock", sizes={"lb_maglev": PARTS})
    flags = EntryFlag.EXTERNAL | EntryFlag.MAGLEV
    rows = [LBEntry(key=key(f"10.96.0.{n}:80"), external=(backend(f"10.0.0.{n}:80"),), flags=flags) for n in (1, 2)]
    await balancer.put(*rows)
    assert (balancer.target.maglev.pressure, balancer.target.maglev.refused) == (1.0, 1)
    in_kernel = [EntryFlag(LB_SERVICE.unpack(value)[1]) for _, value in balancer.maps["lb_services"].items()]
    assert sorted(bool(each & EntryFlag.MAGLEV) for each in in_kernel) == [False, True]
    assert await balancer.target.dump() == {row.key: row for row in rows}


async def test_a_full_map_refuses_the_new_row_and_keeps_the_old_ones_right() -> None:
    balancer = Balancer("sock", sizes={"lb_services": 2, "lb_slots": 3, "lb_members": 3})
    first, second = entry("10.96.0.1:80", "10.0.0.1:80"), entry("10.96.0.2:80", "10.0.0.2:80")
    await balancer.put(first, second)
    third = entry("10.96.0.3:80", "10.0.0.1:80")
    failed = await balancer.target.apply([(third.key, third)], [])
    assert [type(error) for error in failed.values()] == [MapFull]
    larger = entry("10.96.0.1:80", "10.0.0.3:80", "10.0.0.4:80")
    failed = await balancer.target.apply([(larger.key, larger)], [])
    assert [type(error) for error in failed.values()] == [MapFull]
    assert await balancer.target.dump() == {first.key: first, second.key: second}


async def test_damage_is_seen_and_repaired() -> None:
    balancer, rng = Balancer("sock"), random.Random(1)
    rows = [entry(f"10.96.0.{n}:80", "10.0.0.1:80", f"10.0.0.{n}:80") for n in range(2, 6)]
    await balancer.put(*rows)
    wanted = {row.key: row for row in rows}
    for name in ("lb_slots", "lb_members", "lb_services"):
        raw = rng.choice([key for key, _ in balancer.maps[name].items()])
        del balancer.maps[name][raw]
        found = await balancer.target.dump()
        wrong = [row for row in rows if found.get(row.key) != row]
        assert len(wrong) == 1, name
        await balancer.put(*wrong)
        assert await balancer.target.dump() == wanted


async def test_a_successor_goes_on_with_the_numbers_of_rows_and_sets() -> None:
    balancer = Balancer("sock")
    rows = [entry(f"10.96.0.{n}:80", f"10.0.0.{n}:80", affinity_s=60) for n in range(1, 4)]
    await balancer.put(*rows)
    before = dict(balancer.maps["lb_services"].items())
    balancer.target = ServiceTarget(balancer.maps, lookup_table, MAGLEV_SIZE)
    await balancer.put(*reversed(rows))
    assert dict(balancer.maps["lb_services"].items()) == before
    assert [balancer.target.id(row.key) for row in rows] == [1, 2, 3]


async def test_sets_that_nothing_names_are_removed() -> None:
    balancer = Balancer("sock")
    await balancer.put(entry("10.96.0.1:80", "10.0.0.1:80"))
    slot = next(value for _, value in balancer.maps["lb_slots"].items())
    balancer.maps["lb_slots"][LB_SLOT_KEY.pack(77, 0)] = slot
    await balancer.target.dump()
    assert balancer.rows()["lb_slots"] == 1
