"""Addresses of services under any order of events: late ones, lost answers, stale writes, crashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from balancing.addresses import ADDRESSES, KEYS, World, blocks
from stentor.api.lbipam import CiliumLoadBalancerIPPoolBlock, CiliumLoadBalancerIPPoolSpec
from stentor.api.meta import LabelSelector

ports = st.sampled_from([frozenset({("TCP", 80)}), frozenset({("TCP", 443)}), frozenset({("UDP", 80)})])
services = st.fixed_dictionaries(
    {
        "wanted": st.sampled_from([True, True, True, True, True, False]),
        "labels": st.sampled_from([{"color": "red"}, {"color": "blue"}]),
        "families": st.sampled_from([(4,), (6,), (4, 6)]),
        "requested": st.one_of(st.just(()), st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple)),
        "sharing_key": st.sampled_from(["", "", "k"]),
        "sharing_namespaces": st.sampled_from([(), ("*",), ("default",)]),
        "ports": ports,
        "external_local": st.booleans(),
        "selector": st.sampled_from([(), (("app", "a"),)]),
    }
)
pool_blocks = st.sampled_from(
    [
        CiliumLoadBalancerIPPoolBlock(cidr="10.0.0.0/30"),
        CiliumLoadBalancerIPPoolBlock(cidr="10.0.0.0/29"),
        CiliumLoadBalancerIPPoolBlock(start="10.0.0.2", stop="10.0.0.5"),
        CiliumLoadBalancerIPPoolBlock(start="10.0.0.6"),
        CiliumLoadBalancerIPPoolBlock(cidr="fd00::1/128"),
    ]
)
pools = st.builds(
    CiliumLoadBalancerIPPoolSpec,
    service_selector=st.sampled_from([None, None, LabelSelector(match_labels={"color": "red"})]),
    allow_first_last_ips=st.sampled_from([None, "No"]),
    blocks=st.lists(pool_blocks, min_size=1, max_size=2).map(tuple),
    disabled=st.sampled_from([False, False, True]),
)
steps = st.one_of(
    st.tuples(st.just("put_service"), st.sampled_from(KEYS), services),
    st.tuples(st.just("put_service"), st.sampled_from(KEYS), services),
    st.tuples(st.just("delete_service"), st.sampled_from(KEYS)),
    st.tuples(st.just("put_pool"), st.sampled_from("pq"), pools),
    st.tuples(st.just("put_pool"), st.sampled_from("pq"), pools),
    st.tuples(st.just("delete_pool"), st.just("q")),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("begin_write"), st.sampled_from(KEYS)),
    st.tuples(st.just("begin_write"), st.sampled_from(KEYS)),
    st.tuples(st.just("end_write"), st.integers(0, 9), st.booleans(), st.booleans()),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
    st.tuples(st.just("start")),
)


@settings(max_examples=300, deadline=None)
@given(script=st.lists(steps, min_size=40, max_size=100))
def test_no_address_is_given_twice(script: Sequence[tuple[Any, ...]]) -> None:
    world = World()
    world.put_pool("p", blocks("10.0.0.0/30"))
    for name, *arguments in script:
        if name == "end_write":
            index, arrives, is_answered = arguments
            world.end_write(index, arrives=arrives, is_answered=is_answered)
        else:
            getattr(world, name)(*arguments)
    world.finish()
    world.check_rest()
