"""Conditions of custom resources: metav1.Condition, all fields always written, and how a list of them changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

_REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_TYPE = rf"^({_LABEL}(\.{_LABEL})*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"


class StatusCondition(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Condition is one observation about the object."""

    type: Annotated[
        str,
        Meta(
            description="What is observed, unique in the list", extra_json_schema={"maxLength": 316, "pattern": _TYPE}
        ),
    ]
    status: Annotated[
        str,
        Meta(description="True, False or Unknown", extra_json_schema={"enum": ["True", "False", "Unknown"]}),
    ]
    reason: Annotated[
        str,
        Meta(
            description="Why the condition has this status, for programs",
            extra_json_schema={"minLength": 1, "maxLength": 1024, "pattern": _REASON},
        ),
    ]
    message: Annotated[str, Meta(description="The same for people", extra_json_schema={"maxLength": 32768})]
    last_transition_time: Annotated[
        str, Meta(description="When the status changed last", extra_json_schema={"format": "date-time"})
    ]
    observed_generation: Annotated[
        int,
        Meta(
            description="Generation of the object that was judged",
            extra_json_schema={"format": "int64", "minimum": 0},
        ),
    ] = 0


Conditions = Annotated[
    tuple[StatusCondition, ...],
    Meta(
        description="What was observed about this object",
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


def settle(
    present: Iterable[StatusCondition], wanted: Iterable[StatusCondition], ours: Collection[str]
) -> tuple[StatusCondition, ...]:
    """The list with all of `ours` replaced by `wanted`, sorted by type; a condition whose status stays keeps its time."""
    known = {condition.type: condition for condition in present}
    kept = {name: condition for name, condition in known.items() if name not in ours}
    for condition in wanted:
        before = known.get(condition.type)
        same = before is not None and before.status == condition.status
        kept[condition.type] = (
            msgspec.structs.replace(condition, last_transition_time=before.last_transition_time)
            if same and before is not None
            else condition
        )
    return tuple(kept[name] for name in sorted(kept))
