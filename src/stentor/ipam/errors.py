"""What can go wrong with addresses."""

from __future__ import annotations

from stentor.net.address import Addr, Prefix


class PoolExhausted(Exception):
    """No address or prefix is free; `pool` says of which pool."""

    def __init__(self, pool: str, size: int) -> None:
        super().__init__(f"no free addresses in {pool}: all {size} are allocated")
        self.pool = pool
        self.size = size


class PoolMissing(Exception):
    """The node has no prefix of a family yet: try again when the operator has given it one."""

    def __init__(self, family: int) -> None:
        super().__init__(f"no IPv{family} pod CIDR has been allocated to this node yet")
        self.family = family


class AlreadyAllocated(Exception):
    """An address or prefix belongs to somebody else."""

    def __init__(self, item: Addr | Prefix, owner: str) -> None:
        super().__init__(f"{item} is already allocated to {owner}")
        self.item = item
        self.owner = owner
