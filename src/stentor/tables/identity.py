"""Security identities: a number for a set of labels."""

from __future__ import annotations

import msgspec

from stentor.net.label import Labels
from stentor.state import Column, Table


class IdentityRow(msgspec.Struct, frozen=True):
    """An allocated identity. Two numbers may carry the same labels for a while; the lower one wins."""

    id: int
    labels: Labels
    source: str = "custom-resource"


def identities() -> Table[int, IdentityRow]:
    """By number."""
    return Table(
        "identities",
        lambda row: row.id,
        indexes={"labels": lambda row: (row.labels,)},
        columns=(
            Column("ID", lambda row: row.id),
            Column("LABELS", lambda row: "\n".join(str(label) for label in row.labels)),
        ),
    )
