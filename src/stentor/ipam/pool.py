"""Pools of addresses for services: ranges out of a pool's blocks, the next free address, pools that overlap. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stentor.api.lbipam import CiliumLoadBalancerIPPoolBlock, CiliumLoadBalancerIPPoolSpec
from stentor.api.meta import LabelSelector
from stentor.net.address import Addr, Prefix
from stentor.tables.bgp import LoadBalancerPool


class Span(NamedTuple):
    """Addresses from `first` to `last` of one family; of a `cidr` the ends may be reserved."""

    first: Addr
    last: Addr
    is_cidr: bool

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def overlaps(self, other: Span) -> bool:
        return self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return f"{self.first} - {self.last}"


class Range:
    """The addresses of a span that a pool gives out, each again as late as possible."""

    def __init__(self, pool: Pool, span: Span) -> None:
        self.pool = pool
        self.span = span
        self.reserved: frozenset[Addr] = frozenset()
        self.holders: dict[Addr, int] = {}
        """Addresses that services have from this range, and how many services."""
        self._next = int(span.first)
        self._freed: deque[Addr] = deque()
        self._is_queued: set[Addr] = set()

    def reserve(self, ends: bool) -> None:
        """Keep the first and last address back, or give them out again."""
        span = self.span
        before, self.reserved = self.reserved, frozenset()
        if ends and span.is_cidr and span.size > 2:
            self.reserved = frozenset((span.first, span.last))
        for addr in before - self.reserved:
            self.free(addr)

    def next_free(self, is_taken: Callable[[Addr], bool]) -> Addr | None:
        """An address that is neither taken nor reserved; None when there is none."""
        while self._next <= self.span.last:
            addr = Addr(self._next)
            self._next += 1
            if not (addr in self.reserved or is_taken(addr)):
                return addr
        while self._freed:
            addr = self._freed.popleft()
            self._is_queued.discard(addr)
            if not (addr in self.reserved or is_taken(addr)):
                return addr
        return None

    def free(self, addr: Addr) -> None:
        """An address may be given out again."""
        if self.span.first <= addr < self._next and addr not in self._is_queued:
            self._freed.append(addr)
            self._is_queued.add(addr)

    def take(self, addr: Addr) -> None:
        self.holders[addr] = self.holders.get(addr, 0) + 1

    def release(self, addr: Addr) -> None:
        left = self.holders[addr] - 1
        if left:
            self.holders[addr] = left
        else:
            del self.holders[addr]

    @property
    def used(self) -> int:
        """Addresses that are given out or kept back."""
        return len(self.holders) + sum(1 for addr in self.reserved if addr not in self.holders)


class Pool:
    """A CiliumLoadBalancerIPPool with its ranges. `conflict` says why it gives nothing out, `fault` what is wrong with it."""

    def __init__(self, row: LoadBalancerPool) -> None:
        self.row = row
        self.conflict = ""
        self.fault = ""
        self.ranges: list[Range] = []
        self.repeated: Span | None = None
        """A block that is there twice."""
        self.update(row)

    @property
    def gives(self) -> bool:
        """Whether new addresses come from it."""
        return not (self.row.spec.disabled or self.conflict)

    def selects(self, labels: dict[str, str]) -> bool:
        selector: LabelSelector | None = self.row.spec.service_selector
        return selector is None or selector.matches(labels)

    def update(self, row: LoadBalancerPool) -> None:
        """A new specification; ranges that stay keep their state."""
        self.row = row
        spans, faults = spans_of(row.spec)
        self.fault = "; ".join(faults)
        present = {each.span: each for each in self.ranges}
        self.ranges = [present.get(span) or Range(self, span) for span in dict.fromkeys(spans)]
        self.repeated = next((span for index, span in enumerate(spans) if span in spans[:index]), None)
        for each in self.ranges:
            each.reserve(row.spec.allow_first_last_ips == "No")


def spans_of(spec: CiliumLoadBalancerIPPoolSpec) -> tuple[list[Span], list[str]]:
    """Spans of the blocks that can be used, and what is wrong with the others."""
    spans: list[Span] = []
    faults: list[str] = []
    for index, block in enumerate(spec.blocks):
        try:
            spans.append(_span(block, f"spec.blocks[{index}]"))
        except ValueError as e:
            faults.append(str(e))
    return spans, faults


def _span(block: CiliumLoadBalancerIPPoolBlock, where: str) -> Span:
    if block.cidr:
        if block.start or block.stop:
            raise ValueError(f"{where}: cidr excludes start and stop")
        try:
            prefix = Prefix.parse(block.cidr)
        except ValueError as e:
            raise ValueError(f"{where}.cidr: {e}") from e
        return Span(prefix.addr, prefix.last, is_cidr=True)
    if not block.start:
        raise ValueError(f"{where}: needs cidr or start")
    first = _address(block.start, f"{where}.start")
    last = _address(block.stop, f"{where}.stop") if block.stop else first
    if first.family != last.family:
        raise ValueError(f"{where}.stop: {last} is not of the family of start")
    if last < first:
        raise ValueError(f"{where}.stop: {last} is below start {first}")
    return Span(first, last, is_cidr=False)


def _address(text: str, where: str) -> Addr:
    try:
        return Addr.parse(text)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e


def settle_conflicts(pools: Iterable[Pool]) -> None:
    """Set `conflict` of each: the newer of two pools that overlap gives out nothing, nor does one that overlaps itself.

    A pool that is in conflict itself disables no other.
    """
    sound: list[Pool] = []
    for pool in sorted(pools, key=lambda each: each.row.age_key):
        pool.conflict = _conflict(pool, sound)
        if not pool.conflict:
            sound.append(pool)


def _conflict(pool: Pool, sound: Sequence[Pool]) -> str:
    if pool.repeated:
        return _overlap(pool.repeated, pool.repeated, pool)
    for index, each in enumerate(pool.ranges):
        own = (other for other in pool.ranges[index + 1 :])
        others = (other for older in sound for other in older.ranges)
        for other in (*own, *others):
            if each.span.overlaps(other.span):
                return _overlap(each.span, other.span, other.pool)
    return ""


def _overlap(span: Span, other: Span, of: Pool) -> str:
    return f"Pool conflicts since range '{span}' overlaps range '{other}' from IP Pool '{of.row.name}'"
