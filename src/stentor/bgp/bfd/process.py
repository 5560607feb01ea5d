"""The BFD process: sessions with their timers, sockets and the clients that want them.

Everything runs in callbacks of one event loop; nothing here takes longer than a few packets. A session runs while an owner
wants it; an owner whose client went away keeps its sessions for ``grace_s``. A session that nobody wants any more says
AdminDown for a detection time before it goes, so that the neighbour does not take it for a failure (RFC 5880 §6.8.16).
"""

import asyncio
import logging
import random
import socket
import time
from collections import Counter

import msgspec

from stentor.bgp.bfd.errors import BadRequest, Malformed
from stentor.bgp.bfd.member import Member
from stentor.bgp.bfd.message import (
    MAX_LINE,
    Endpoint,
    Report,
    Request,
    Show,
    Status,
    Want,
    check,
    decode_ask,
    encode_line,
)
from stentor.bgp.bfd.packet import Packet, State, decode
from stentor.bgp.bfd.port import Arrival, Listener
from stentor.bgp.bfd.session import SLOW_US, Session

_MOST_UNSENT = 8 << 20
_SINGLE_HOP_TTL = 255

log = logging.getLogger(__name__)


def now_us() -> int:
    """The monotonic clock in the unit of BFD."""
    return time.monotonic_ns() // 1000


class Process:
    """All sessions of a machine. ``open`` binds the ports, ``close`` leaves nothing behind but the neighbours' memory."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grace_s: float) -> None:
        self.discards: Counter[str] = Counter()
        self._loop = loop
        self._grace_s = grace_s
        self._listeners: list[Listener] = []
        self._members: dict[Endpoint, Member] = {}
        self._by_discriminator: dict[int, Member] = {}
        self._by_peer: dict[str, list[Member]] = {}
        self._clients: set[Client] = set()
        self._orphans: dict[str, asyncio.TimerHandle] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def open(self) -> None:
        """Bind the well-known ports; OSError when another BFD implementation holds them."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for multihop in (False, True):
                try:
                    listener = Listener(family, multihop=multihop)
                except OSError:
                    self.close()
                    raise
                self._listeners.append(listener)
                self._loop.add_reader(listener, self._read, listener)

    def close(self) -> None:
        """End every session with AdminDown and free the sockets."""
        for member in list(self._members.values()):
            member.session.disable(now_us())
            self._step(member)
            self._forget(member)
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for handle in self._orphans.values():
            handle.cancel()

    # -- clients --------------------------------------------------------------------------------------------------------------

    def join(self, client: "Client") -> None:
        self._clients.add(client)
        self._settle()

    def leave(self, client: "Client") -> None:
        """A client's connection ended; its owner's sessions live on for the grace time, unless it came back already."""
        self._clients.discard(client)
        owner = client.owner
        if owner and not any(other.owner == owner for other in self._clients):
            self._orphans[owner] = self._loop.call_later(self._grace_s, self._abandon, owner)
        self._settle()

    def want(self, owner: str, requests: tuple[Request, ...]) -> tuple[Status, ...]:
        """Make ``owner``'s set exactly this one; the statuses are in the order of the requests."""
        if (handle := self._orphans.pop(owner, None)) is not None:
            handle.cancel()
        statuses, keep = [], set()
        for request in requests:
            try:
                member = self._admit(owner, check(request))
            except BadRequest as error:
                statuses.append(Status(endpoint=request.endpoint, error=str(error)))
            else:
                keep.add(member.request.endpoint)
                statuses.append(member.status())
        for endpoint, member in list(self._members.items()):
            if owner in member.owners and endpoint not in keep:
                self._release(owner, member)
        self._settle()
        return tuple(statuses)

    def show(self) -> tuple[Status, ...]:
        """Every session, by peer."""
        return tuple(member.status() for _, member in sorted(self._members.items(), key=lambda item: str(item[0])))

    def _admit(self, owner: str, request: Request) -> Member:
        now = now_us()
        member = self._members.get(request.endpoint)
        if member is None:
            session = Session(request.settings, self._new_discriminator(), random.random, now)
            member = self._members[request.endpoint] = Member(request, session)
            self._by_discriminator[session.discriminator] = member
            self._by_peer.setdefault(request.endpoint.peer, []).append(member)
        member.request = request
        member.owners.add(owner)
        member.leave_us = 0
        member.session.enable(now)
        if member.session.settings != request.settings:
            member.session.change(request.settings, now)
        self._step(member)
        return member

    def _release(self, owner: str, member: Member) -> None:
        member.owners.discard(owner)
        if not member.owners and not member.leave_us:
            now = now_us()
            member.leave_us = now + max(member.session.detection_time_us, SLOW_US)
            member.session.disable(now)
            self._step(member)

    def _abandon(self, owner: str) -> None:
        log.info("Client did not come back: its sessions end", extra={"owner": owner})
        self.want(owner, ())

    def _forget(self, member: Member) -> None:
        if member.timer is not None:
            member.timer.cancel()
        member.close()
        endpoint = member.request.endpoint
        self._members.pop(endpoint, None)
        self._by_discriminator.pop(member.session.discriminator, None)
        if peers := self._by_peer.get(endpoint.peer):
            peers.remove(member)
            if not peers:
                del self._by_peer[endpoint.peer]
        self._settle()

    def _settle(self) -> None:
        if self._members or self._clients or self._orphans:
            self.idle.clear()
        else:
            self.idle.set()

    def _new_discriminator(self) -> int:
        while (number := random.randrange(1, 1 << 32)) in self._by_discriminator:
            pass
        return number

    # -- packets and timers ---------------------------------------------------------------------------------------------------

    def _read(self, listener: Listener) -> None:
        for arrival in listener.drain():
            try:
                self._receive(arrival)
            except Malformed as error:
                self.discards[error.reason] += 1

    def _receive(self, arrival: Arrival) -> None:
        if not arrival.multihop and arrival.hops != _SINGLE_HOP_TTL:
            raise Malformed("TTL is not 255")
        packet = decode(arrival.data)
        member = self._find(packet, arrival)
        if member.leave_us:
            return
        member.received += 1
        member.independent = packet.independent
        before = member.session.state
        answer = member.session.receive(packet, now_us())
        if answer is not None:
            member.send(answer)
        self._step(member, before)

    def _find(self, packet: Packet, arrival: Arrival) -> Member:
        """The session of a packet (§6.3): by our discriminator, or for the first packets by where they come from."""
        if packet.your_discriminator:
            member = self._by_discriminator.get(packet.your_discriminator)
            if member is not None and member.accepts(arrival):
                return member
            raise Malformed("no such session")
        for member in self._by_peer.get(arrival.source, ()):
            if member.accepts(arrival):
                return member
        raise Malformed("no such neighbour")

    def _fire(self, member: Member) -> None:
        member.timer = None
        if member.session.is_expired(now_us()):
            # If this process was kept from running, the proof of life waits in the sockets.
            for listener in self._listeners:
                self._read(listener)
        self._step(member)

    def _step(self, member: Member, before: State | None = None) -> None:
        """Send what is due, set the timer, tell clients of a change since ``before``."""
        session = member.session
        before = session.state if before is None else before
        now = now_us()
        if member.leave_us and now >= member.leave_us:
            self._forget(member)
            return
        packet = session.tick(now)
        if packet is not None:
            member.send(packet)
        self._arm(member, now)
        if session.state is not before:
            self._tell(member, before)

    def _arm(self, member: Member, now: int) -> None:
        times = (member.session.deadline_us, member.leave_us or None)
        deadline = min((each for each in times if each is not None), default=None)
        if member.timer is not None:
            # A timer that comes too early only sets itself again: cheaper than a new one for every packet.
            if deadline is not None and member.armed_us <= deadline:
                return
            member.timer.cancel()
            member.timer = None
        if deadline is not None:
            member.armed_us = deadline
            member.timer = self._loop.call_later(max(0, deadline - now) / 1e6, self._fire, member)

    def _tell(self, member: Member, before: State) -> None:
        session = member.session
        member.changed = time.time()
        member.flaps += before is State.UP
        log.info(
            "Session changed",
            extra={
                "neighbor": str(member.request.endpoint),
                "from": before.name,
                "to": session.state.name,
                "diagnostic": int(session.diagnostic),
            },
        )
        report = Report((member.status(),))
        for client in self._clients:
            if client.owner in member.owners:
                client.tell(report)


class Client(asyncio.Protocol):
    """One connection of the control socket."""

    def __init__(self, process: Process) -> None:
        self.owner = ""
        self._process = process
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._process.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._process.leave(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                self._answer(decode_ask(line))
            except msgspec.DecodeError as error:
                self._refuse(str(error))
                return
        if len(self._buffer) > MAX_LINE:
            self._refuse("line too long")

    def tell(self, report: Report) -> None:
        """Send; a client that does not read is cut off rather than kept in memory."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(encode_line(report))
        if self._transport.get_write_buffer_size() > _MOST_UNSENT:
            self._refuse("it does not read")

    def _answer(self, ask: Want | Show) -> None:
        if isinstance(ask, Show):
            self.tell(Report(self._process.show(), complete=True))
            return
        self.owner = ask.owner
        self.tell(Report(self._process.want(ask.owner, ask.sessions), complete=True))

    def _refuse(self, reason: str) -> None:
        log.warning("Client cut off", extra={"owner": self.owner, "reason": reason})
        if self._transport is not None:
            self._transport.abort()
