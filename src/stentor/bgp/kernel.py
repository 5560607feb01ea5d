"""Installation of BGP routes in the kernel: off unless an instance asks for it.

A thread of its own holds the netlink sockets, because a full table takes the kernel seconds. The speaker states routes with
``set``; the thread writes what changed, latest state only, and compares with the kernel's table at the start and whenever a
link or address changes: the kernel drops routes with their link and does not bring them back. Routes of a former process
are adopted: they stay until ``set`` replaces them or ``sweep`` says that the speaker knows all it wants.
"""

import asyncio
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from stentor.bgp import fib
from stentor.bgp.fib import Hop, Selection
from stentor.bgp.nlri import Family, Prefix, format_address, format_prefix

Key = tuple[Family, Prefix]

_SOL_NETLINK, _EXTENDED_ACK, _CAPPED_ACK, _STRICT_CHECK = 270, 11, 10, 12
_LINK_GROUP, _IPV4_ADDRESS_GROUP, _IPV6_ADDRESS_GROUP = 0x1, 0x10, 0x100
_ERROR, _DONE = 2, 3
_BATCH = 512
_RECEIVE_BUFFER = 4 << 20
_SETTLE_S = 0.1
_RETRY_S = 1.0
_REPLY_DEADLINE_S = 10
_JOIN_DEADLINE_S = 30


class KernelRoutes:
    """Routes of one table and metric. Every method returns at once; ``on_error`` is called in ``loop`` with the reason.

    Only our own routes are touched: where another one holds the same prefix and metric, ours is refused and reported.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, table: int, metric: int, on_error: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._selection = Selection(table, metric)
        self._on_error = on_error
        self._lock = threading.Lock()
        self._desired: dict[Key, tuple[Hop, ...]] = {}
        self._changed: dict[Key, None] = {}
        self._sweeping = self._closing = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._route = _open(0)
        self._route.settimeout(_REPLY_DEADLINE_S)
        self._monitor = _open(_LINK_GROUP | _IPV4_ADDRESS_GROUP | _IPV6_ADDRESS_GROUP)
        self._monitor.setblocking(False)
        self._installed: dict[Key, int] = {}  # the thread's alone, with the number of hops
        self._indexes: dict[str, int] = {}
        self._sequence = 0
        self._thread = threading.Thread(target=self._run, name="kernel-routes", daemon=True)
        self._thread.start()

    def set(self, family: Family, prefix: Prefix, hops: tuple[Hop, ...]) -> None:
        """This route from now on; without hops: none."""
        key = (family, prefix)
        with self._lock:
            if hops:
                self._desired[key] = tuple(sorted(hops))
            else:
                self._desired.pop(key, None)
            self._changed[key] = None
        os.eventfd_write(self._wake, 1)

    def sweep(self) -> None:
        """Remove what a former process left and ``set`` did not name since."""
        with self._lock:
            self._sweeping = True
        os.eventfd_write(self._wake, 1)

    def close(self, *, remove: bool = False) -> None:
        """Write what is pending and end; the routes stay unless told to ``remove`` them. Blocks while the kernel works."""
        with self._lock:
            if remove:
                self._changed.update(dict.fromkeys(self._desired))
                self._desired.clear()
                self._sweeping = True
            self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(_JOIN_DEADLINE_S)
        os.close(self._wake)
        self._route.close()
        self._monitor.close()

    # -- the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        compare = True
        while True:
            pause_s = None
            try:
                if compare:
                    self._compare()
                self._write()
            except OSError as error:
                self._report(f"netlink: {error}")
                pause_s = _RETRY_S
            with self._lock:
                if self._closing and (not self._changed or pause_s):
                    return
            compare = self._wait(pause_s)

    def _wait(self, pause_s: float | None) -> bool:
        """Sleep until there is work or the pause is over; whether to look at the kernel's table again."""
        ready, _, _ = select.select([self._wake, self._monitor.fileno()], [], [], pause_s)
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if self._monitor.fileno() not in ready:
            return pause_s is not None
        # One event seldom comes alone: let a link's addresses follow before looking.
        while select.select([self._monitor.fileno()], [], [], _SETTLE_S)[0]:
            try:
                self._monitor.recv(1 << 16)
            except OSError:
                break
        return True

    def _compare(self) -> None:
        """Learn what the kernel has; what differs from the wanted state is written again."""
        self._indexes = {name: index for index, name in socket.if_nameindex()}
        found: dict[Key, int] = {}
        for family in Family:
            for route in self._dump(family):
                found[route.family, route.prefix] = route.hops
        self._installed = found
        with self._lock:
            for key, hops in self._desired.items():
                if found.get(key) != len(hops):
                    self._changed[key] = None

    def _dump(self, family: Family) -> list[fib.Found]:
        self._sequence += 1
        body = fib.encode_dump(self._selection, family)
        self._route.send(fib.frame(fib.GET_ROUTE, fib.DUMP, self._sequence, body))
        routes: list[fib.Found] = []
        while True:
            for kind, sequence, reply in fib.split(self._route.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return routes
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", reply)[0]
                    raise OSError(code, os.strerror(code))
                route = fib.decode_route(self._selection, reply)
                if route is not None:
                    routes.append(route)

    def _write(self) -> None:
        while True:
            with self._lock:
                if self._sweeping:
                    self._changed.update(dict.fromkeys(key for key in self._installed if key not in self._desired))
                    self._sweeping = False
                keys = [key for key, _ in zip(self._changed, range(_BATCH), strict=False)]
                for key in keys:
                    del self._changed[key]
                batch = [(key, self._desired.get(key, ())) for key in keys]
            if not batch:
                return
            self._send(batch)

    def _send(self, batch: Sequence[tuple[Key, tuple[Hop, ...]]]) -> None:
        first = self._sequence + 1
        sent: list[tuple[Key, tuple[Hop, ...]]] = []
        data = bytearray()
        for key, hops in batch:
            known = key in self._installed
            if not known and not hops:
                continue
            try:
                body = fib.encode_route(self._selection, *key, hops, self._indexes)
            except KeyError as error:
                self._report(f"{format_prefix(*key)}: no interface {error}")
                continue
            kind = fib.NEW_ROUTE if hops else fib.DELETE_ROUTE
            flags = (fib.CREATE | (fib.REPLACE if known else fib.EXCLUSIVE)) if hops else 0
            data += fib.frame(kind, flags | fib.ACK, first + len(sent), body)
            sent.append((key, hops))
        self._sequence += len(sent)
        if sent:
            self._route.send(data)
            self._collect(first, sent)

    def _collect(self, first: int, sent: Sequence[tuple[Key, tuple[Hop, ...]]]) -> None:
        missing = len(sent)
        while missing:
            for kind, sequence, reply in fib.split(self._route.recv(1 << 18)):
                if kind == _ERROR and sequence >= first:
                    missing -= 1
                    self._acknowledge(*sent[sequence - first], -struct.unpack_from("=i", reply)[0])

    def _acknowledge(self, key: Key, hops: tuple[Hop, ...], code: int) -> None:
        gone = not hops and code in (0, errno.ESRCH)
        if gone:
            self._installed.pop(key, None)
        elif not code:
            self._installed[key] = len(hops)
        else:
            via = ", ".join(format_address(hop.address) for hop in hops)
            self._report(f"{format_prefix(*key)} via {via}: {os.strerror(code)}")

    def _report(self, reason: str) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_error, reason)


def _open(groups: int) -> socket.socket:
    """A NETLINK_ROUTE socket of this thread's network namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    for option in (_CAPPED_ACK, _EXTENDED_ACK, _STRICT_CHECK):
        opened.setsockopt(_SOL_NETLINK, option, 1)
    opened.bind((0, groups))
    return opened
