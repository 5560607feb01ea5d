"""Label and field selectors (apimachinery labels.Parse and fields.ParseSelector)."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from stentor.apiserver.errors import BadRequest


class Operator(enum.Enum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "!"
    GREATER = ">"
    LESS = "<"


class Requirement(msgspec.Struct, frozen=True):
    """One term of a label selector."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def accepts(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.ABSENT:
                return value is None
        try:
            number, bound = int(value or ""), int(next(iter(self.values)))
        except ValueError:
            return False
        return number > bound if self.operator is Operator.GREATER else number < bound


class FieldTerm(msgspec.Struct, frozen=True):
    """One term of a field selector: `path=value` or `path!=value`."""

    path: str
    value: str
    equal: bool


class Selector(msgspec.Struct, frozen=True):
    """What a list or watch is limited to."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.labels and not self.fields

    def accepts(self, labels: Mapping[str, str], field: Callable[[str], str]) -> bool:
        return all(r.accepts(labels) for r in self.labels) and all(
            (field(t.path) == t.value) is t.equal for t in self.fields
        )

    @property
    def name(self) -> str | None:
        """The one name that `metadata.name=` asks for."""
        return next((t.value for t in self.fields if t.path == "metadata.name" and t.equal), None)


_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUALITY = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)\s*")
_ORDER = re.compile(rf"\s*({_KEY})\s*(>|<)\s*(-?\d+)\s*")
_PRESENCE = re.compile(rf"\s*(!?)\s*({_KEY})\s*")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Terms of a label selector. Raises BadRequest."""
    return tuple(_parse_requirement(term) for term in _split(text) if term.strip())


def _split(text: str) -> list[str]:
    """Terms between commas that stand outside parentheses."""
    return re.split(r",(?![^()]*\))", text) if text.strip() else []


def _parse_requirement(term: str) -> Requirement:
    if m := _SET.fullmatch(term):
        values = frozenset(v.strip() for v in m[4].split(","))
        return Requirement(m[1], Operator(m[3]), values)
    if m := _EQUALITY.fullmatch(term):
        return Requirement(m[1], Operator.NOT_IN if m[3] == "!=" else Operator.IN, frozenset((m[4],)))
    if m := _ORDER.fullmatch(term):
        return Requirement(m[1], Operator(m[3]), frozenset((m[4],)))
    if m := _PRESENCE.fullmatch(term):
        return Requirement(m[2], Operator.ABSENT if m[1] else Operator.EXISTS)
    raise BadRequest(f"unable to parse requirement: found '{term.strip()}', expected: a key with an operator")


def parse_fields(text: str, known: tuple[str, ...]) -> tuple[FieldTerm, ...]:
    """Terms of a field selector whose paths are in `known` or are metadata.name, metadata.namespace."""
    terms = []
    for term in filter(None, re.split(r"(?<!\\),", text)):
        m = re.fullmatch(r"\s*([^=!]+?)\s*(==|=|!=)(.*)", term, re.S)
        if m is None:
            raise BadRequest(f"invalid selector: '{text}'; can't understand '{term}'")
        if m[1] not in ("metadata.name", "metadata.namespace") and m[1] not in known:
            raise BadRequest(f"field label not supported: {m[1]}")
        terms.append(FieldTerm(m[1], re.sub(r"\\(.)", r"\1", m[3]), m[2] != "!="))
    return tuple(terms)


def from_label_selector(selector: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """Requirements of a meta/v1 LabelSelector object."""
    operators = {
        "In": Operator.IN,
        "NotIn": Operator.NOT_IN,
        "Exists": Operator.EXISTS,
        "DoesNotExist": Operator.ABSENT,
    }
    simple = [Requirement(k, Operator.IN, frozenset((v,))) for k, v in (selector.get("matchLabels") or {}).items()]
    expressions = [
        Requirement(e["key"], operators[e["operator"]], frozenset(e.get("values") or ()))
        for e in selector.get("matchExpressions") or ()
    ]
    return (*simple, *expressions)
