"""Memory that a process does not need any more."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Return free memory to the kernel, which the C library keeps otherwise. Blocks for some milliseconds: for the end of a
    start, whose buffers (the verifier's logs above all) are never needed again."""
    gc.collect()
    with suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
