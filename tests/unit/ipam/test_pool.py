"""Address pools of nodes and of the cluster: nothing is given out twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.ipam.address import AddressPool, NodePools
from stentor.ipam.cluster import ClusterPool, assign
from stentor.ipam.errors import AlreadyAllocated, PoolExhausted, PoolMissing
from stentor.net.address import Addr, Prefix


@pytest.mark.parametrize(
    ("text", "capacity", "first", "last"),
    [
        ("10.0.0.0/30", 2, "10.0.0.1", "10.0.0.2"),
        ("10.0.0.0/24", 254, "10.0.0.1", "10.0.0.254"),
        ("10.0.0.8/32", 1, "10.0.0.8", "10.0.0.8"),
        ("fd00::/126", 3, "fd00::1", "fd00::3"),
    ],
)
def test_edges_are_left_out(text: str, capacity: int, first: str, last: str) -> None:
    pool = AddressPool(Prefix.parse(text))
    given_out = [pool.allocate("x") for _ in range(capacity)]
    assert pool.capacity == capacity
    assert (str(given_out[0]), str(given_out[-1])) == (first, last)
    with pytest.raises(PoolExhausted, match=f"all {capacity} are allocated"):
        pool.allocate("x")


def test_an_address_given_back_rests_longest() -> None:
    pool = AddressPool(Prefix.parse("10.0.0.0/29"))
    first = pool.allocate("a")
    pool.release(first, "a")
    assert [str(pool.allocate("b")) for _ in range(6)] == [f"10.0.0.{n}" for n in (2, 3, 4, 5, 6, 1)]


def test_a_reserved_address_is_kept_from_others() -> None:
    pool = AddressPool(Prefix.parse("10.0.0.0/24"))
    addr = Addr.parse("10.0.0.9")
    pool.reserve(addr, "a")
    pool.reserve(addr, "a")
    with pytest.raises(AlreadyAllocated, match="allocated to a"):
        pool.reserve(addr, "b")


@given(st.lists(st.one_of(st.just(-1), st.integers(0, 20)), max_size=80))
def test_pools_agree_with_a_set(steps: list[int]) -> None:
    pool, held = AddressPool(Prefix.parse("10.0.0.0/28")), []
    for step in steps:
        if step < 0:
            if len(held) == pool.capacity:
                with pytest.raises(PoolExhausted):
                    pool.allocate("x")
                continue
            addr = pool.allocate("x")
            assert addr not in held
            assert pool.prefix.covers(addr)
            held.append(addr)
        elif held:
            pool.release(held.pop(step % len(held)), "x")
    assert set(pool.owners) == set(held)


def test_a_changed_prefix_keeps_what_is_in_use() -> None:
    pools = NodePools()
    with pytest.raises(PoolMissing, match="no IPv4 pod CIDR"):
        pools.pool(4)
    pools.set_prefixes([Prefix.parse("10.0.0.0/24"), Prefix.parse("fd00::/120")])
    old = pools.pool(4).allocate("a")
    pools.set_prefixes([Prefix.parse("10.9.0.0/24"), Prefix.parse("fd00::/120")])
    assert str(pools.pool(4).allocate("b")) == "10.9.0.1"
    assert pools.usage()[str(old)] == "a"
    pools.release(old, "b")
    assert pools.usage()[str(old)] == "a"
    pools.release(old, "a")
    assert str(old) not in pools.usage()


def test_restored_addresses_outside_all_prefixes_are_remembered() -> None:
    pools = NodePools()
    pools.set_prefixes([Prefix.parse("10.0.0.0/24")])
    pools.reserve(Addr.parse("10.5.5.5"), "old")
    assert pools.usage() == {"10.5.5.5": "old"}
    pools.release(Addr.parse("10.5.5.5"), "old")
    assert pools.usage() == {}


def cluster_pool(text: str = "10.0.0.0/22", length: int = 24) -> ClusterPool:
    return ClusterPool([Prefix.parse(text)], length)


def test_a_node_keeps_what_it_has_and_gets_what_is_missing() -> None:
    pools = [cluster_pool(), cluster_pool("fd00::/118", 120)]
    present = [Prefix.parse("10.0.2.0/24")]
    prefixes, faults = assign(pools, "n1", present)
    assert [str(prefix) for prefix in prefixes] == ["10.0.2.0/24", "fd00::/120"]
    assert faults == []


def test_a_prefix_of_another_node_is_refused_and_replaced() -> None:
    pools = [cluster_pool()]
    assign(pools, "n1", [Prefix.parse("10.0.0.0/24")])
    prefixes, faults = assign(pools, "n2", [Prefix.parse("10.0.0.0/25")])
    assert [str(prefix) for prefix in prefixes] == ["10.0.1.0/24"]
    assert faults == ["10.0.0.0/25 is already allocated to n1"]


def test_an_exhausted_pool_is_told() -> None:
    pools = [cluster_pool("10.0.0.0/24")]
    assign(pools, "n1", [])
    prefixes, faults = assign(pools, "n2", [])
    assert prefixes == ()
    assert faults == ["no free addresses in 10.0.0.0/24: all 1 are allocated"]
    pools[0].release("n1")
    assert assign(pools, "n2", []) == ((Prefix.parse("10.0.0.0/24"),), [])


def test_prefixes_of_another_length_block_what_they_overlap() -> None:
    pool = cluster_pool("10.0.0.0/23")
    pool.occupy(Prefix.parse("10.0.0.128/25"), "old")
    assert str(pool.allocate("new")) == "10.0.1.0/24"
    with pytest.raises(PoolExhausted):
        pool.allocate("further")


def test_several_prefixes_are_one_pool() -> None:
    pool = ClusterPool([Prefix.parse("10.0.0.0/24"), Prefix.parse("10.8.0.0/23")], 24)
    assert [str(pool.allocate(f"n{i}")) for i in range(3)] == ["10.0.0.0/24", "10.8.0.0/24", "10.8.1.0/24"]
    assert (pool.used, pool.capacity) == (3, 3)


@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from([26, 28, 30]), st.sampled_from("abc")), max_size=12))
def test_no_two_nodes_hold_overlapping_prefixes(steps: list[tuple[int, int, str]]) -> None:
    pool = ClusterPool([Prefix.parse("10.0.0.0/24")], 28)
    held: list[tuple[Prefix, str]] = []
    for number, length, owner in steps:
        prefix = Prefix.parse(f"10.0.0.{number * 16}/{length}")
        is_taken = any(other != owner and used.overlaps(prefix) for used, other in held)
        try:
            pool.occupy(prefix, owner)
        except AlreadyAllocated:
            assert is_taken
        else:
            assert not is_taken
            held.append((prefix, owner))
