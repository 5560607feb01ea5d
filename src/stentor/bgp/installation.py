"""From the tables to the kernel: which learned routes an instance installs, with which next hops (ECMP)."""

import asyncio
from collections.abc import Collection
from itertools import islice

from stentor.bgp.config import Kernel
from stentor.bgp.decision import Path, Scope, find_equal
from stentor.bgp.fib import Hop
from stentor.bgp.instance import Instance
from stentor.bgp.kernel import KernelRoutes
from stentor.bgp.nlri import Family, Prefix

SLICE = 5000
SETTLE_S = 60.0


class Installation:
    """Feeds one instance's best learned paths to the kernel, a slice a turn; our own routes are not installed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, instance: Instance, config: Kernel) -> None:
        self.config = config
        self._loop = loop
        self._instance = instance
        self._kernel = KernelRoutes(loop, config.table, config.metric, self._failed)
        self._dirty: dict[tuple[Family, Prefix], None] = {}
        self._is_scheduled = False
        # Routes of the process before us go when the peers had time to announce theirs again.
        self._settled = loop.call_later(SETTLE_S, self._kernel.sweep)
        for family, table in instance.tables.items():
            self.touch(family, list(table.best))

    def touch(self, family: Family, prefixes: Collection[Prefix]) -> None:
        """Candidates of these prefixes changed."""
        self._dirty.update(dict.fromkeys((family, prefix) for prefix in prefixes))
        if self._dirty and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def close(self, *, remove: bool) -> None:
        """Stop; the kernel keeps the routes unless they are to be removed."""
        self._settled.cancel()
        self._kernel.close(remove=remove)

    def _flush(self) -> None:
        self._is_scheduled = False
        taken = list(islice(self._dirty, SLICE))
        for key in taken:
            del self._dirty[key]
            family, prefix = key
            self._kernel.set(family, prefix, self._hops(family, prefix))
        self.touch(Family.IPV4, ())

    def _hops(self, family: Family, prefix: Prefix) -> tuple[Hop, ...]:
        candidates = self._instance.tables[family].candidates(prefix)
        if not candidates:
            return ()
        paths = find_equal(candidates, self.config.maximum_paths)
        if paths[0].source.scope is Scope.LOCAL:
            return ()
        return tuple(dict.fromkeys(self._hop(path) for path in paths))

    def _hop(self, path: Path) -> Hop:
        """A link-local next hop is on the interface of its peer; 32 octets carry it behind the global one (RFC 2545)."""
        address = path.attributes.next_hop
        if len(address) == 32:
            address = address[:16] if any(address[:16]) and address[:2] != b"\xfe\x80" else address[16:]
        is_link_local = len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
        neighbour = self._instance.neighbours.get(path.source.name) if is_link_local else None
        return Hop(address, (neighbour.config.interface or "") if neighbour is not None else "")

    def _failed(self, reason: str) -> None:
        self._instance.note("", f"kernel: {reason}")
