"""Pods and namespaces as networking sees them, and the security labels that follow from both."""

from __future__ import annotations

import msgspec

from stentor.net.label import Labels
from stentor.state import Column, Table

KubeLabels = tuple[tuple[str, str], ...]
"""Kubernetes labels, sorted: a value that can be compared and hashed."""

PodKey = tuple[str, str]
"""(namespace, name)."""


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """One pod. `is_finished`: it has ended and given up its addresses. Named ports are (name, protocol, port).

    `static_uid` is the kubelet's uid of a static pod, of which the API has a mirror with a uid of its own.
    """

    namespace: str
    name: str
    uid: str
    static_uid: str = ""
    node: str = ""
    labels: KubeLabels = ()
    service_account: str = ""
    host_network: bool = False
    is_finished: bool = False
    named_ports: tuple[tuple[str, int, int], ...] = ()

    @property
    def key(self) -> PodKey:
        return (self.namespace, self.name)

    @property
    def uids(self) -> tuple[str, ...]:
        """What a runtime may call it, the surest first."""
        return (self.static_uid, self.uid) if self.static_uid else (self.uid,)


def is_same_pod(uids: tuple[str, ...], uid: str) -> bool:
    """Whether `uid` is of the pod that `uids` mean, and not of an earlier or later one of its name. Not every runtime says a
    uid: an empty one is anybody's."""
    return not uid or not uids or uid in uids


class Namespace(msgspec.Struct, frozen=True):
    """A namespace and its labels."""

    name: str
    labels: KubeLabels = ()


class PodLabels(msgspec.Struct, frozen=True):
    """The identity-relevant labels of a pod that needs an identity. `uids` are the pod's."""

    namespace: str
    pod: str
    labels: Labels
    uids: tuple[str, ...] = ()


class WantedLabels(msgspec.Struct, frozen=True):
    """A label set that pods carry now."""

    labels: Labels


def pods() -> Table[PodKey, Pod]:
    """By (namespace, name)."""
    return Table(
        "pods",
        lambda row: row.key,
        indexes={"namespace": lambda row: (row.namespace,)},
        columns=(
            Column("NAMESPACE", lambda row: row.namespace),
            Column("NAME", lambda row: row.name),
            Column("NODE", lambda row: row.node),
            Column("SERVICE ACCOUNT", lambda row: row.service_account),
        ),
    )


def namespaces() -> Table[str, Namespace]:
    """By name."""
    return Table(
        "namespaces",
        lambda row: row.name,
        columns=(
            Column("NAME", lambda row: row.name),
            Column("LABELS", lambda row: ",".join(f"{key}={value}" for key, value in row.labels)),
        ),
    )


def pod_labels() -> Table[PodKey, PodLabels]:
    """By (namespace, name)."""
    return Table(
        "pod-labels",
        lambda row: (row.namespace, row.pod),
        indexes={"labels": lambda row: (row.labels,)},
        columns=(
            Column("POD", lambda row: f"{row.namespace}/{row.pod}"),
            Column("LABELS", lambda row: "\n".join(str(label) for label in row.labels)),
        ),
    )


def wanted_labels() -> Table[Labels, WantedLabels]:
    """By label set."""
    return Table("wanted-labels", lambda row: row.labels)
