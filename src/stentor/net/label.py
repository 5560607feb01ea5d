"""Labels with their source: ``k8s:app=web``, ``reserved:host``, ``cidr:10.0.0.0/8``.

An identity is a set of labels; its canonical form is the sorted tuple of their texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
POLICY_CLUSTER: Final = "io.cilium.k8s.policy.cluster"
POLICY_SERVICE_ACCOUNT: Final = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABELS: Final = "io.cilium.k8s.namespace.labels"
SERVICE_NAME: Final = "io.kubernetes.service.name"
SERVICE_NAMESPACE: Final = "io.kubernetes.service.namespace"


def selectable_service_labels(labels: Mapping[str, str], namespace: str, name: str) -> dict[str, str]:
    """A service's labels with those by which `serviceSelector`s name it and its namespace, as upstream's do."""
    return {**labels, SERVICE_NAME: name, SERVICE_NAMESPACE: namespace}


class Label(msgspec.Struct, frozen=True, order=True):
    """One label. ``source`` is k8s, reserved, cidr, fqdn, container, any or unspec."""

    source: str
    key: str
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Label:
        """From ``source:key=value``; without a source it is ``unspec``. A colon after the first equals sign is value."""
        head, equals, value = text.partition("=")
        source, colon, key = head.partition(":")
        if not colon:
            source, key = "unspec", head
        if not key:
            raise ValueError(f"label {text!r} has no key")
        return cls(source, key, value if equals else "")

    def __str__(self) -> str:
        # Reserved and CIDR labels have no value; all others print the equals sign even before an empty value.
        if not self.value and self.source in ("reserved", "cidr"):
            return f"{self.source}:{self.key}"
        return f"{self.source}:{self.key}={self.value}"


Labels = tuple[Label, ...]


def canonical(labels: Iterable[Label]) -> Labels:
    """Sorted, without repetition: equal sets are equal tuples."""
    return tuple(sorted(set(labels)))
