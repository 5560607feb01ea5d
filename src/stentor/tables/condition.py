"""Conditions of custom resources: what the API shows, and what it should."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stentor.api.condition import StatusCondition
from stentor.state import Table


class ResourceKey(NamedTuple):
    """An object of a cluster-scoped kind."""

    plural: str
    name: str

    def __str__(self) -> str:
        return f"{self.plural}/{self.name}"


class Observed(msgspec.Struct, frozen=True):
    """An object's conditions in the API, and which object of the name it is."""

    key: ResourceKey
    uid: str = ""
    version: str = ""
    conditions: tuple[StatusCondition, ...] = ()


class Verdict(NamedTuple):
    """A condition that should be there; `status` None is Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


class Judged(msgspec.Struct, frozen=True):
    """All conditions of `ours` that an object should have; those of other writers are left alone."""

    key: ResourceKey
    ours: frozenset[str]
    verdicts: tuple[Verdict, ...] = ()
    generation: int = 0


def observed() -> Table[ResourceKey, Observed]:
    """By key."""
    return Table("conditions", lambda row: row.key)


def judged() -> Table[ResourceKey, Judged]:
    """By key."""
    return Table("conditions-wanted", lambda row: row.key)
