"""Identifiers out of a pool: unique, kept, and none too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stentor.bgp.resource.routerid import allocate
from stentor.net.address import Addr, Prefix

POOL = Prefix.parse("10.0.0.0/30")
KEYS = [(node, instance) for node in ("n1", "n2", "n3") for instance in ("a", "b")]
ADDRESSES = [Addr.parse(f"10.0.0.{n}") for n in range(6)]


def test_who_has_one_keeps_it() -> None:
    present = {KEYS[1]: ADDRESSES[0], KEYS[2]: ADDRESSES[5]}
    found = allocate(POOL, KEYS[:3], present, ())
    assert found == {KEYS[0]: ADDRESSES[1], KEYS[1]: ADDRESSES[0], KEYS[2]: ADDRESSES[2]}


def test_zero_is_no_identifier() -> None:
    found = allocate(Prefix.parse("0.0.0.0/30"), KEYS[:4], {}, ())
    assert [str(addr) for addr in found.values()] == ["0.0.0.1", "0.0.0.2", "0.0.0.3"]


@given(
    st.lists(st.sampled_from(KEYS), unique=True),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ADDRESSES)),
    st.sets(st.sampled_from(ADDRESSES)),
)
def test_identifiers_are_unique_and_of_the_pool(
    wanted: list[tuple[str, str]], present: dict[tuple[str, str], Addr], others: set[Addr]
) -> None:
    found = allocate(POOL, wanted, present, others)
    assert len(set(found.values())) == len(found)
    assert not others & set(found.values())
    assert all(POOL.covers(addr) for addr in found.values())
    free = POOL.size - len({addr for addr in others if POOL.covers(addr)})
    assert len(found) == min(len(wanted), free)
    assert allocate(POOL, wanted, found, others) == found
