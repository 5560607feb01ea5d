"""Security identities: a number for a set of labels."""

from __future__ import annotations

import msgspec

from stentor.net.label import Labels
from stentor.state import Column, Table


class IdentityRow(msgspec.Struct, frozen=True):
    """An allocated identity. Two numbers may carry the same labels for a while; the lower one wins.

    `unused_since` (Unix time) is garbage collection's mark: no pod has carried these labels since then.
    """

    id: int
    labels: Labels
    source: str = "custom-resource"
    unused_since: float | None = None


def identities(name: str = "identities") -> Table[int, IdentityRow]:
    """By number."""
    return Table(
        name,
        lambda row: row.id,
        indexes={"labels": lambda row: (row.labels,)},
        columns=(
            Column("ID", lambda row: row.id),
            Column("LABELS", lambda row: "\n".join(str(label) for label in row.labels)),
        ),
    )
