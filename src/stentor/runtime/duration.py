"""Go's duration texts (``1h30m``, ``250ms``), as Helm values and manifests write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


def parse_duration_s(text: str) -> float:
    """Seconds; ValueError names the text. ``0`` needs no unit."""
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 5s, 250ms or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
