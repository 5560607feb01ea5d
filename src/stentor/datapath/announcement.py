"""What the datapath answers on links: until when leases are good, and how often each address was asked for."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping

import msgspec

from stentor.datapath.maps import L2_KEY, L2_LEASE, L2_RESPONDER, LONG_NUMBER
from stentor.datapath.row import lease_id
from stentor.net.address import Addr
from stentor.sys.bpf import Map


def boot_ns() -> int:
    """The clock of leases: it runs on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Leases:
    """The map that says how long answers may be given. Written with each renewal, so not by a reconciler."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._map = maps["l2_leases"]

    def hold(self, name: str, until_ns: int) -> None:
        """Answer for what hangs on this lease until then, a time of the boot clock."""
        self._map[LONG_NUMBER.pack(lease_id(name))] = L2_LEASE.pack(until_ns)

    def drop(self, name: str) -> None:
        """Answer no more, from now on."""
        try:
            del self._map[LONG_NUMBER.pack(lease_id(name))]
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise

    def collect(self) -> None:
        """Remove leases that have run out: a predecessor's, or of services that are gone."""
        now = boot_ns()
        self._map.delete_batch([key for key, value in self._map.items() if L2_LEASE.unpack(value)[0] <= now])


class Responder(msgspec.Struct, frozen=True, kw_only=True):
    """An announced address as the kernel has it; `left_s` is how long its lease is good, 0 when it is not."""

    addr: Addr
    ifindex: int
    mac: bytes
    left_s: float
    responses: int


def responders(maps: Mapping[str, Map]) -> Iterator[Responder]:
    """Every row, answered for or not."""
    until = {LONG_NUMBER.unpack(key)[0]: L2_LEASE.unpack(value)[0] for key, value in maps["l2_leases"].items()}
    now = boot_ns()
    for key, value in maps["l2_responder"].items():
        addr, ifindex = L2_KEY.unpack(key)
        lease, mac, responses = L2_RESPONDER.unpack(value)
        left_s = max(0, until.get(lease, 0) - now) / 1e9
        yield Responder(addr=addr, ifindex=ifindex, mac=mac, left_s=left_s, responses=responses)
