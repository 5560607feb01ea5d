"""Label selectors in the text form of kubectl: ``a=b,c!=d,e in (x,y),f notin (z),g,!h``."""

from __future__ import annotations

import re

from stentor.api.meta import LabelRequirement, LabelSelector

_KEY = r"(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)"
_FORMS = tuple(
    (re.compile(pattern), operator)
    for pattern, operator in (
        (rf"{_KEY}\s*!=\s*(?P<value>[-\w.]*)", "NotIn"),
        (rf"{_KEY}\s*==?\s*(?P<value>[-\w.]*)", "In"),
        (rf"{_KEY}\s+in\s*\((?P<values>[-\w.,\s]*)\)", "In"),
        (rf"{_KEY}\s+notin\s*\((?P<values>[-\w.,\s]*)\)", "NotIn"),
        (rf"!\s*{_KEY}", "DoesNotExist"),
        (_KEY, "Exists"),
    )
)
_COMMA = re.compile(r",(?![^(]*\))")


def parse_selector(text: str) -> LabelSelector:
    """ValueError names the part that is no requirement. An empty text selects everything."""
    parts = [part.strip() for part in _COMMA.split(text)] if text.strip() else []
    return LabelSelector(match_expressions=tuple(_requirement(part) for part in parts))


def _requirement(part: str) -> LabelRequirement:
    for form, operator in _FORMS:
        match = form.fullmatch(part)
        if match:
            groups = match.groupdict()
            listed = groups.get("values")
            values = [v.strip() for v in listed.split(",")] if listed is not None else [groups.get("value", "")]
            exact = operator in ("In", "NotIn")
            return LabelRequirement(key=groups["key"], operator=operator, values=tuple(values) if exact else ())
    raise ValueError(f"{part!r} is not a label requirement")
