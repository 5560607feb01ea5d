"""Which labels are part of a security identity (upstream docs: "Limiting Identity-Relevant Labels").

A filter is a list of patterns, matched at the start of a label's key. A label counts unless a pattern with ``!`` matches it
that is at least as long as the longest including match. As soon as somebody configures an including pattern, labels that no
including pattern matches do not count either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from stentor.net.label import Label, Labels, canonical

DEFAULT_PATTERNS: Final = (
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!annotation.*",
    r"!controller-uid",
    r"!etcd_node",
)


class Pattern(msgspec.Struct, frozen=True):
    """One entry: ``[!][source:]regular expression``. `source` "" is any source."""

    excludes: bool
    source: str
    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """ValueError names the text whose expression is broken or empty."""
        excludes = text.startswith("!")
        body = text.removeprefix("!")
        source, colon, expression = body.partition(":")
        if not colon:
            source, expression = "", body
        if not expression:
            raise ValueError(f"label pattern {text!r} has no expression")
        try:
            return cls(excludes, source, re.compile(expression))
        except re.error as e:
            raise ValueError(f"label pattern {text!r}: {e}") from e

    def match_length(self, label: Label) -> int:
        """Characters of the key that the pattern covers, 0 without a match."""
        if self.source and self.source != label.source:
            return 0
        match = self.expression.match(label.key)
        return match.end() if match else 0


class LabelFilter:
    """Decides about labels; `extra` is the text of the `labels` value: patterns separated by spaces."""

    def __init__(self, extra: str = "") -> None:
        added = tuple(Pattern.parse(text) for text in extra.split())
        self._patterns = tuple(Pattern.parse(text) for text in DEFAULT_PATTERNS) + added
        self._only_included = any(not pattern.excludes for pattern in added)

    def is_relevant(self, label: Label) -> bool:
        """Whether a label is part of the identity."""
        included, excluded = 0, 0
        for pattern in self._patterns:
            length = pattern.match_length(label)
            if not length:
                continue
            if pattern.excludes:
                excluded = min(excluded, length) if excluded else length
            else:
                included = max(included, length)
        return (included > 0 or not self._only_included) and (excluded == 0 or included > excluded)

    def relevant(self, labels: Iterable[Label]) -> Labels:
        """The labels that count, in canonical form."""
        return canonical(label for label in labels if self.is_relevant(label))
