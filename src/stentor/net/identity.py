"""Numeric security identities and their ranges, as Cilium defines them (docs: "Reserved and well-known identities").

``cluster id << shift | number`` for workloads; the top byte holds the scope of identities that only one node knows.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NewType

Identity = NewType("Identity", int)

FIRST_CLUSTER_LOCAL: Final = 256


class Reserved(IntEnum):
    """Identities whose meaning is fixed. The labels are ``reserved:<name>``."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10

    @property
    def label(self) -> str:
        return "reserved:" + self.name.lower().replace("_", "-")


def cluster_shift(max_connected_clusters: int) -> int:
    """Bits below the cluster id: 16 for 255 clusters, 15 for 511; ValueError for anything else."""
    try:
        return {255: 16, 511: 15}[max_connected_clusters]
    except KeyError:
        raise ValueError(f"maxConnectedClusters is 255 or 511, not {max_connected_clusters}") from None


def cluster_range(cluster_id: int, shift: int = 16) -> range:
    """Numeric identities that a cluster may allocate for its workloads."""
    base = cluster_id << shift
    return range(base | FIRST_CLUSTER_LOCAL, base + (1 << shift))
