"""A cache bounded by what it holds, not by how many: a hostile peer's attributes may be a thousand times as large as usual."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V], Generic[K, V]):
    """A dictionary that forgets everything when ``keep`` would take it beyond ``limit`` words; reading is a dict's."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._weight = 0

    def keep(self, key: K, value: V, weight: int) -> bool:
        """Remember ``value``, which with its key weighs about this many words; whether everything else was forgotten."""
        is_full = self._weight + weight > self._limit and bool(self)
        if is_full:
            self.clear()
        self[key] = value
        self._weight += weight
        return is_full

    def clear(self) -> None:
        super().clear()
        self._weight = 0
