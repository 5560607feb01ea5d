"""What the kernel holds by now: written by recording targets, read by derivations that must not run ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

from stentor.state import Table

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Realized(msgspec.Struct, Generic[K, R], frozen=True):
    """This row is in place."""

    key: K
    row: R


def realized(
    name: str, *, indexes: Mapping[str, Callable[[Realized[K, R]], Iterable[Hashable]]] | None = None
) -> Table[K, Realized[K, R]]:
    """By the key of the table whose rows are meant."""
    return Table(f"realized-{name}", lambda row: row.key, indexes=indexes)
