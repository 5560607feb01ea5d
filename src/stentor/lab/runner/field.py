"""The downward API: fields of a pod, and amounts of its resources, as text.

https://kubernetes.io/docs/concepts/workloads/pods/downward-api/
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from stentor.api.pod import Container, FieldSelector, Pod, ResourceFieldSelector
from stentor.lab.runner import machine

_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")
_QUANTITY: Final = re.compile(r"([+-]?\d+(?:\.\d*)?|\.\d+)([a-zA-Z]*)")
_SUFFIXES: Final = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    **{f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", 1)},
}


def _lines(values: Mapping[str, str]) -> str:
    """The form of whole maps in volumes: sorted, one a line, values quoted as Go does."""
    return "\n".join(f'{key}="{_escape(value)}"' for key, value in sorted(values.items()))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_FIELDS: Final[Mapping[str, Callable[[Pod], str]]] = {
    "metadata.name": lambda pod: pod.metadata.name,
    "metadata.namespace": lambda pod: pod.metadata.namespace,
    "metadata.uid": lambda pod: pod.metadata.uid,
    "metadata.labels": lambda pod: _lines(pod.metadata.labels),
    "metadata.annotations": lambda pod: _lines(pod.metadata.annotations),
    "spec.nodeName": lambda pod: pod.spec.node_name,
    "spec.serviceAccountName": lambda pod: pod.spec.service_account_name,
    "status.hostIP": lambda pod: pod.status.host_ip,
    "status.hostIPs": lambda pod: ",".join(entry.ip for entry in pod.status.host_ips),
    "status.podIP": lambda pod: pod.status.pod_ip,
    "status.podIPs": lambda pod: ",".join(entry.ip for entry in pod.status.pod_ips),
}


def field_text(pod: Pod, selector: FieldSelector) -> str:
    """ValueError for a path that the downward API does not have."""
    subscript = _SUBSCRIPT.fullmatch(selector.field_path)
    if subscript:
        values = pod.metadata.labels if subscript[1] == "labels" else pod.metadata.annotations
        return values.get(subscript[2], "")
    read = _FIELDS.get(selector.field_path)
    if read is None:
        raise ValueError(f"fieldPath: unsupported: {selector.field_path}")
    return read(pod)


def resource_text(pod: Pod, own: Container | None, selector: ResourceFieldSelector) -> str:
    """An amount, divided and rounded up; without a limit what the node has. ValueError when it cannot be read."""
    container = own
    if selector.container_name:
        containers = (*pod.spec.containers, *pod.spec.init_containers)
        container = next((entry for entry in containers if entry.name == selector.container_name), None)
    if container is None:
        raise ValueError(f"resourceFieldRef.containerName: no container {selector.container_name!r}")
    kind, _, resource = selector.resource.partition(".")
    amounts = {"limits": container.resources.limits, "requests": container.resources.requests}.get(kind)
    if amounts is None:
        raise ValueError(f"resourceFieldRef.resource: unsupported: {selector.resource}")
    default: float = 0.0
    if kind == "limits":
        default = {"cpu": float(os.cpu_count() or 1), "memory": float(machine.memory_bytes())}.get(resource, 0.0)
    amount = quantity(amounts[resource]) if resource in amounts else default
    divisor = quantity(selector.divisor or 1) or 1.0
    return str(math.ceil(round(amount / divisor, 6)))


def quantity(text: str | float) -> float:
    """Value of a Kubernetes quantity such as `100m` or `64Mi`; ValueError when it is none."""
    if not isinstance(text, str):
        return float(text)
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _SUFFIXES:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"not a quantity: {text!r}") from None
    return float(match[1]) * _SUFFIXES[match[2]]
