"""Objects of the API as rows of tables: the typed edge between `api` and `tables`. Pure; ValueError names a bad field."""

from __future__ import annotations

import math
from typing import Final

from stentor.api.cilium import CiliumIdentity, CiliumNode
from stentor.api.core import Namespace as ApiNamespace
from stentor.api.meta import ObjectMeta
from stentor.api.pod import PodSummary
from stentor.net.address import Addr, Prefix
from stentor.net.label import Label, canonical
from stentor.tables.identity import IdentityRow
from stentor.tables.node import Node
from stentor.tables.pod import KubeLabels, Namespace, Pod

UNUSED_SINCE: Final = "stentor.io/unused-since"
"""Annotation of a CiliumIdentity that no pod uses: Unix time in seconds."""

CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"
"""Annotation of a mirror pod: the uid that the kubelet gave to the static pod (its `kubernetes.io/config.hash`), which is
K8S_POD_UID to the runtime."""

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}


def kube_labels(labels: dict[str, str]) -> KubeLabels:
    """Sorted pairs."""
    return tuple(sorted(labels.items()))


def pod_row(pod: PodSummary) -> Pod:
    """Of a pod; a missing service account is `default`, as the API server would fill in."""
    ports = (
        (port.name, PROTOCOLS.get(port.protocol, 0), port.container_port)
        for container in pod.spec.containers
        for port in container.ports
        if port.name
    )
    return Pod(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        static_uid=pod.metadata.annotations.get(CONFIG_MIRROR, ""),
        node=pod.spec.node_name,
        labels=kube_labels(pod.metadata.labels),
        service_account=pod.spec.service_account_name or "default",
        host_network=pod.spec.host_network,
        is_finished=pod.is_finished,
        named_ports=tuple(sorted(ports)),
    )


def namespace_row(namespace: ApiNamespace) -> Namespace:
    """Of a namespace."""
    return Namespace(namespace.metadata.name, kube_labels(namespace.metadata.labels))


def identity_row(identity: CiliumIdentity) -> IdentityRow:
    """Of a CiliumIdentity: its name is the number, its labels are ``source:key`` → value."""
    name = identity.metadata.name
    if not name.isdecimal():
        raise ValueError(f"metadata.name: {name!r} is no number")
    labels = canonical(_label(key, value) for key, value in identity.security_labels.items())
    return IdentityRow(int(name), labels, unused_since=_time(identity.metadata.annotations.get(UNUSED_SINCE, "")))


def _time(mark: str) -> float | None:
    """None for a mark that is no time: it must not hide the identity, and collection makes a new one when it is due."""
    try:
        time = float(mark)
    except ValueError:
        return None
    return time if math.isfinite(time) else None


def identity_object(row: IdentityRow) -> CiliumIdentity:
    """The object of an identity; labels of source k8s are its own labels too, so that people can select by them."""
    own = {label.key: label.value for label in row.labels if label.source == "k8s"}
    annotations = {} if row.unused_since is None else {UNUSED_SINCE: repr(row.unused_since)}
    return CiliumIdentity(
        metadata=ObjectMeta(name=str(row.id), labels=own, annotations=annotations),
        security_labels={f"{label.source}:{label.key}": label.value for label in row.labels},
    )


def _label(key: str, value: str) -> Label:
    source, colon, name = key.partition(":")
    return Label(source, name, value) if colon else Label("unspec", key, value)


def node_row(node: CiliumNode, cluster: str, local: str) -> Node:
    """Of a CiliumNode; `local` is this node's name, "" where there is none."""
    addresses = []
    for index, address in enumerate(node.spec.addresses):
        try:
            addresses.append((address.type, Addr.parse(address.ip)))
        except ValueError as e:
            raise ValueError(f"spec.addresses[{index}].ip: {e}") from e
    return Node(
        name=node.metadata.name,
        cluster=cluster,
        addresses=tuple(addresses),
        pod_cidrs=pod_cidrs(node),
        encrypt_key=node.spec.encryption.key,
        is_local=node.metadata.name == local,
        operator_error=node.status.ipam.operator_status.error,
    )


def pod_cidrs(node: CiliumNode) -> tuple[Prefix, ...]:
    """The node's prefixes; ValueError names the wrong one."""
    prefixes = []
    for index, text in enumerate(node.spec.ipam.pod_cidrs):
        try:
            prefixes.append(Prefix.parse(text))
        except ValueError as e:
            raise ValueError(f"spec.ipam.podCIDRs[{index}]: {e}") from e
    return tuple(prefixes)
