"""Numbers of identities, and their garbage collection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.identity.allocation import NumberSource, plan_collection
from stentor.identity.errors import IdentitiesExhausted


def test_a_number_just_given_up_is_the_last_to_come_back() -> None:
    source = NumberSource(range(256, 260))
    used = {source.take(()), source.take(())}
    assert used == {256, 257}
    used.discard(256)
    assert source.take(used) == 258
    assert source.take(used | {258}) == 259
    assert source.take(used | {258, 259}) == 256


def test_exhaustion_is_an_error() -> None:
    with pytest.raises(IdentitiesExhausted, match="all 4"):
        NumberSource(range(256, 260)).take(range(256, 260))


def test_a_new_operator_goes_on_after_what_is_in_use() -> None:
    source = NumberSource(range(256, 300))
    source.skip_to([258, 9])
    assert source.take({258}) == 259


@given(st.sets(st.integers(256, 300)), st.integers(0, 60))
def test_numbers_are_free_and_in_range(used: set[int], count: int) -> None:
    source = NumberSource(range(256, 301))
    for _ in range(min(count, 45 - len(used))):
        number = source.take(used)
        assert number in range(256, 301)
        assert number not in used
        used.add(number)


def test_two_phases() -> None:
    first = plan_collection({1: None, 2: None}, {2}, now=100.0, grace_s=50.0)
    assert (first.mark, first.unmark, first.delete) == ((1,), (), ())
    early = plan_collection({1: 100.0, 2: None}, {2}, now=149.0, grace_s=50.0)
    assert (early.mark, early.unmark, early.delete) == ((), (), ())
    late = plan_collection({1: 100.0}, (), now=150.0, grace_s=50.0)
    assert late.delete == (1,)
    saved = plan_collection({1: 100.0}, {1}, now=500.0, grace_s=50.0)
    assert (saved.unmark, saved.delete) == ((1,), ())
