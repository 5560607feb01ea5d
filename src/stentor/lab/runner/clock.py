"""Times as Kubernetes writes them (RFC 3339, UTC) from and to nanoseconds since 1970."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ns() -> int:
    return time.time_ns()


def stamp(ns: int) -> str:
    """metav1.Time: whole seconds."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(ns: int) -> str:
    """metav1.MicroTime."""
    return datetime.fromtimestamp(ns // 1_000 / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> int:
    """Nanoseconds of any RFC 3339 time; ValueError when it is none."""
    moment, dot, rest = text.partition(".")
    if not dot:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    whole = datetime.fromisoformat(moment + rest[len(digits) :])
    return int(whole.timestamp()) * 1_000_000_000 + int(digits[:9].ljust(9, "0"))
