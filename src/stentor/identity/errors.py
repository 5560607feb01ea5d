"""What can go wrong with identities."""

from __future__ import annotations


class IdentitiesExhausted(Exception):
    """Every number of the cluster's range is in use; garbage collection or a larger range helps."""

    def __init__(self, size: int) -> None:
        super().__init__(f"all {size} identities of the cluster are in use")
        self.size = size
