"""The programs' clock (bpf/lib/clock.h): ticks of 2^30 ns of the monotonic clock, in 32 bits that wrap."""

from __future__ import annotations

import time
from typing import Final

from stentor.datapath.config import TICK_SHIFT

_GRACE_TICKS: Final = 2
"""An entry is removed only when it has been expired for a while: the programs may be renewing it right now."""


def now_ticks() -> int:
    """This moment."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> TICK_SHIFT & 0xFFFFFFFF


def left_s(expires: int, now: int) -> float:
    """Seconds that an entry has left, negative when it has expired; both times are ticks."""
    return _left(expires, now) * (1 << TICK_SHIFT) / 1e9


def is_over(expires: int, now: int) -> bool:
    """Whether an entry may be removed."""
    return _left(expires, now) < -_GRACE_TICKS


def _left(expires: int, now: int) -> int:
    return (expires - now + 0x80000000 & 0xFFFFFFFF) - 0x80000000
