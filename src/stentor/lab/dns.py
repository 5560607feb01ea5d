"""Cluster DNS of a lab as upstream installs it: Deployment `coredns` behind the Service `kube-dns` in kube-system."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

NAMESPACE = "kube-system"
SERVICE = "kube-dns"
_NAME = "coredns"
_LABELS = {"k8s-app": "kube-dns"}


def manifests(addresses: Sequence[str], machines: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Objects to apply; `addresses` are the Service's, one a family at most, `machines` the lab's, with theirs."""
    families = [f"IPv{ipaddress.ip_address(address).version}" for address in addresses]
    return [
        _object("v1", "ServiceAccount", _NAME),
        _object("apps/v1", "Deployment", _NAME, spec=_deployment(machines)),
        _object(
            "v1",
            "Service",
            SERVICE,
            spec={
                "clusterIP": addresses[0],
                "clusterIPs": list(addresses),
                "ipFamilies": families,
                "ipFamilyPolicy": "RequireDualStack" if len(families) > 1 else "SingleStack",
                "selector": _LABELS,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                ],
            },
        ),
    ]


def _object(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {**_LABELS, "kubernetes.io/name": "CoreDNS"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _deployment(machines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    container = {
        "name": _NAME,
        "image": "registry.k8s.io/coredns/coredns:v1.12.0",
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8181}, "periodSeconds": 10, "failureThreshold": 5},
    }
    pod = {
        "serviceAccountName": _NAME,
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists"}],
        "hostAliases": [
            {"ip": address, "hostnames": [name]} for name, addresses in machines.items() for address in addresses
        ],
        "containers": [container],
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _LABELS},
        "template": {"metadata": {"labels": _LABELS}, "spec": pod},
    }
