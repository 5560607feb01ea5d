"""A session in the process: the pure machine with its sender, timer, owners and counters."""

import asyncio
import time

from stentor.bgp.bfd.message import Request, Status
from stentor.bgp.bfd.packet import Packet, State, encode
from stentor.bgp.bfd.port import Arrival, Sender
from stentor.bgp.bfd.session import Session


class Member:
    """A session with what runs it: its sender, its timer, who wants it, its counters."""

    def __init__(self, request: Request, session: Session) -> None:
        self.request = request
        self.session = session
        self.owners: set[str] = set()
        self.sender: Sender | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.armed_us = 0
        self.leave_us = 0
        self.error = ""
        self.changed = time.time()
        self.independent = False
        self.flaps = self.received = self.sent = 0

    def send(self, packet: Packet) -> None:
        """Hand over to the kernel; a refusal is remembered, not raised: it is a lost packet."""
        endpoint = self.request.endpoint
        try:
            if self.sender is None:
                self.sender = Sender(endpoint.peer, endpoint.local, endpoint.interface, multihop=endpoint.multihop)
            self.sender.send(encode(packet))
        except OSError as error:
            self.error = error.strerror or str(error)
            self.close()
        else:
            self.sent += 1
            self.error = ""

    def close(self) -> None:
        if self.sender is not None:
            self.sender.close()
            self.sender = None

    def accepts(self, arrival: Arrival) -> bool:
        """Whether a packet came the way this session's packets come."""
        endpoint = self.request.endpoint
        if arrival.multihop != endpoint.multihop or arrival.source != endpoint.peer:
            return False
        if endpoint.local and arrival.local != endpoint.local:
            return False
        if endpoint.multihop:
            return arrival.hops >= self.request.least_hops
        return self.sender is None or self.sender.interface_index in (0, arrival.interface_index)

    def status(self) -> Status:
        """The session as clients see it."""
        session, remote = self.session, self.session.remote
        return Status(
            endpoint=self.request.endpoint,
            state=session.state,
            diagnostic=session.diagnostic,
            neighbor_state=remote.state if remote is not None else State.DOWN,
            neighbor_diagnostic=remote.diagnostic if remote is not None else 0,
            independent=self.independent,
            discriminator=session.discriminator,
            neighbor_discriminator=remote.my_discriminator if remote is not None else 0,
            transmit_interval_us=session.transmit_interval_us,
            detection_time_us=session.detection_time_us,
            changed=self.changed,
            flaps=self.flaps,
            received=self.received,
            sent=self.sent,
            error=self.error,
        )
