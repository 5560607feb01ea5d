"""How long something took, as a histogram."""

from __future__ import annotations

import pytest

from stentor.runtime.duration import Durations


def test_durations() -> None:
    found = Durations()
    for seconds in (0.001, 0.002, 20.0):
        found.add(seconds)
    buckets = dict(found.buckets())
    assert (buckets["0.001"], buckets["0.0025"], buckets["10.0"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert found.sum_s == 20.003
    found.add(0.002, 10)
    assert dict(found.buckets())["0.0025"] == 12
    assert found.sum_s == pytest.approx(20.023)
