"""Which identities to create and which to give up. Pure: the operator acts on what is decided here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from stentor.identity.errors import IdentitiesExhausted
from stentor.net.identity import Identity


class NumberSource:
    """Free identity numbers of a cluster, in rising order and then from the start again: a number just given up is the
    last to be used anew, so that packets still under way are not taken for another workload's."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        self._next = numbers.start

    def skip_to(self, used: Iterable[int]) -> None:
        """Go on after the highest number in use, at start."""
        highest = max((number for number in used if number in self._numbers), default=self._numbers.start - 1)
        self._next = max(self._next, highest + 1)

    def take(self, used: Container[int]) -> Identity:
        """The next number that is not used; IdentitiesExhausted when there is none."""
        for _ in range(len(self._numbers)):
            if self._next not in self._numbers:
                self._next = self._numbers.start
            candidate = self._next
            self._next += 1
            if candidate not in used:
                return Identity(candidate)
        raise IdentitiesExhausted(len(self._numbers))


class CollectionPlan(msgspec.Struct, frozen=True):
    """One round of garbage collection over identities, by number."""

    mark: tuple[int, ...] = ()
    unmark: tuple[int, ...] = ()
    delete: tuple[int, ...] = ()


def plan_collection(
    identities: Mapping[int, float | None], in_use: Container[int], *, now: float, grace_s: float
) -> CollectionPlan:
    """Two phases: what nobody uses is marked, and deleted when the mark is `grace_s` old; use takes the mark away.

    `identities` maps each number to the time of its mark, None without one.
    """
    mark, unmark, delete = [], [], []
    for number, marked_at in identities.items():
        if number in in_use:
            if marked_at is not None:
                unmark.append(number)
        elif marked_at is None:
            mark.append(number)
        elif now - marked_at >= grace_s:
            delete.append(number)
    return CollectionPlan(tuple(mark), tuple(unmark), tuple(delete))
