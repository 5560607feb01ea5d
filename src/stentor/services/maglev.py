"""Maglev look-up tables (Eisenbud et al., NSDI 2016, section 3.4): every node chooses the same backend for a flow, and a
backend that leaves moves few flows of the others.

A table holds, for each of `size` (a prime) buckets, the position of a backend in its set. Backends fill the buckets in
turns, each in an order of its own that depends on nothing but its address and the seed.
"""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Sequence
from typing import Final

from stentor.tables.service import Backend

DEFAULT_SIZE: Final = 16381
DEFAULT_SEED: Final = "JLfvgnHc2kaSUFaI"


def parse_seed(text: str) -> bytes:
    """12 bytes in base64; ValueError otherwise."""
    try:
        seed = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{text!r} is not base64") from error
    if len(seed) != 12:
        raise ValueError(f"{text!r} has {len(seed)} bytes, not 12")
    return seed


def order(backend: Backend, size: int, seed: bytes) -> tuple[int, int]:
    """Where a backend begins, and how far apart its buckets are."""
    name = backend.addr.packed16 + backend.port.to_bytes(2, "big")
    digest = hashlib.blake2b(name, key=seed, digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:], "big") % (size - 1) + 1


def table(backends: Sequence[Backend], size: int, seed: bytes) -> array[int]:
    """Positions in `backends` by bucket. Which backend owns a bucket does not depend on the order of `backends`."""
    if not backends:
        return array("I")
    ranked = sorted(range(len(backends)), key=lambda position: backends[position])
    orders = [order(backends[position], size, seed) for position in ranked]
    following, steps = [start for start, _ in orders], [step for _, step in orders]
    owners = [-1] * size
    free = size
    turns = range(len(ranked))
    while True:
        for turn in turns:
            bucket, step = following[turn], steps[turn]
            while owners[bucket] >= 0:
                bucket += step
                if bucket >= size:
                    bucket -= size
            owners[bucket] = ranked[turn]
            free -= 1
            if not free:
                return array("I", owners)
            bucket += step
            following[turn] = bucket - size if bucket >= size else bucket
