"""Durations: Go's texts (``1h30m``, ``250ms``), as Helm values and manifests write them, and how long something took."""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import accumulate
from typing import Final

_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


def parse_duration_s(text: str) -> float:
    """Seconds; ValueError names the text. ``0`` needs no unit."""
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 5s, 250ms or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class Durations:
    """How long something took each time, as a histogram."""

    _BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self.sum_s = 0.0
        self._counts = [0] * (len(self._BOUNDS_S) + 1)

    def add(self, seconds: float, times: int = 1) -> None:
        self.sum_s += seconds * times
        self._counts[bisect_left(self._BOUNDS_S, seconds)] += times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with how often it took at most so long."""
        bounds = [*map(str, self._BOUNDS_S), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
