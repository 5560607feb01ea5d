"""Drives one state machine: gives it events from its socket and timers, carries out its actions."""

import asyncio
import os
import random
import socket
from collections.abc import Callable
from typing import Protocol

from stentor.bgp.capability import Open, Session
from stentor.bgp.connection import Connection
from stentor.bgp.errors import PeerFault
from stentor.bgp.fsm import (
    Action,
    Arm,
    Close,
    Closed,
    Connect,
    Connected,
    Disarm,
    Down,
    Event,
    Expired,
    Failed,
    Faulted,
    Machine,
    Received,
    Send,
    Settings,
    State,
    Timer,
    Up,
    check_open,
    step,
)
from stentor.bgp.wire import (
    KEEPALIVE,
    Kind,
    Message,
    Notification,
    Refresh,
    decode_message,
    encode_notification,
    encode_open,
)

SEND_HOLD_S = 480.0
_JITTERED = frozenset((Timer.CONNECT_RETRY, Timer.KEEPALIVE))


class Owner(Protocol):
    """Whom an attempt belongs to."""

    def open_target(self) -> tuple[socket.socket, object]:
        """A socket ready to connect and the address; OSError when there is none."""

    def opened(self, attempt: "Attempt", message: Open) -> bool:
        """The peer's OPEN came; False when this connection lost a collision and was ended."""

    def up(self, attempt: "Attempt", session: Session) -> None: ...

    def down(self, attempt: "Attempt", closed: Closed, was_up: bool) -> None: ...

    def update(self, body: bytes) -> None:
        """An UPDATE of the established session; may raise PeerFault."""

    def settle(self) -> None:
        """Everything given to ``update`` must be in the tables now; may raise PeerFault."""

    def refresh(self, message: Refresh) -> None: ...

    def room(self) -> None: ...

    def changed(self, attempt: "Attempt", before: State) -> None: ...


class Attempt:
    """One connection, made by us or accepted, from Idle to Established and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, settings: Settings) -> None:
        self.machine = Machine(settings)
        self.connection: Connection | None = None
        self.is_outgoing = True
        self.messages_in = self.messages_out = 0
        self._loop = loop
        self._owner = owner
        self._connecting: socket.socket | None = None
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._deadlines: dict[Timer, float] = {}

    @property
    def state(self) -> State:
        return self.machine.state

    def feed(self, event: Event) -> None:
        """One step of the machine with all that follows."""
        before = self.machine.state
        self.machine, actions = step(self.machine, event)
        for action in actions:
            _ACTIONS[type(action)](self, action)
        if self.machine.state is not before:
            self._owner.changed(self, before)

    def change(self, settings: Settings) -> None:
        """New settings for the next connection; the current one keeps what it has negotiated."""
        self.machine = Machine(
            settings, self.machine.state, self.machine.is_enabled, self.machine.failures, self.machine.session
        )

    def accept(self, sock: socket.socket) -> None:
        """Take over a connection that the peer made."""
        self._abandon()
        self.is_outgoing = False
        self._adopt(sock)

    def write(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.write(data)

    def _adopt(self, sock: socket.socket) -> None:
        self.connection = Connection(
            self._loop,
            sock,
            on_messages=self._messages,
            on_fault=self._fault,
            on_closed=self._ended,
            on_room=self._owner.room,
        )
        self.feed(Connected())

    def _connect(self, _action: Action) -> None:
        self.is_outgoing = True
        try:
            sock, target = self._owner.open_target()
        except OSError as error:
            reason = error.strerror or str(error)
            self._loop.call_soon(self._failed, reason)
            return
        self._connecting = sock
        try:
            sock.connect(target)  # type: ignore[arg-type]
        except BlockingIOError:
            self._loop.add_writer(sock.fileno(), self._connected, sock)
        except OSError as error:
            self._abandon()
            self._loop.call_soon(self._failed, error.strerror or "connect failed")
        else:
            self._loop.call_soon(self._connected, sock)

    def _failed(self, reason: str) -> None:
        if self.state is State.CONNECT:
            self.feed(Failed(reason))

    def _connected(self, sock: socket.socket) -> None:
        if sock is not self._connecting:
            return
        self._loop.remove_writer(sock.fileno())
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._abandon()
            self.feed(Failed(os.strerror(error)))
            return
        self._connecting = None
        self._adopt(sock)

    def _abandon(self) -> None:
        if self._connecting is not None:
            self._loop.remove_writer(self._connecting.fileno())
            self._connecting.close()
            self._connecting = None

    def _close(self, _action: Action) -> None:
        self._abandon()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _send(self, action: Action) -> None:
        assert isinstance(action, Send)
        message = action.message
        self.messages_out += 1
        if isinstance(message, Open):
            self.write(encode_open(message))
        elif isinstance(message, Notification):
            self.write(encode_notification(message))
        elif self._is_unread():
            self._loop.call_soon(self._ended, "send hold timer expired: the peer does not read")
        else:
            self.write(KEEPALIVE)

    def _is_unread(self) -> bool:
        """RFC 9687: nothing of what waits could be sent for twice the hold time, eight minutes at least."""
        connection, session = self.connection, self.machine.session
        if connection is None or session is None or not connection.is_stuck:
            return False
        return self._loop.time() - connection.sent_at > max(SEND_HOLD_S, 2 * session.hold_s)

    def _arm(self, action: Action) -> None:
        """Only the deadline moves while a timer runs: a message then costs no timer of its own."""
        assert isinstance(action, Arm)
        seconds = action.seconds * random.uniform(0.75, 1.0) if action.timer in _JITTERED else action.seconds
        deadline = self._loop.time() + seconds
        handle = self._timers.get(action.timer)
        if handle is not None and handle.when() > deadline:
            handle.cancel()
            handle = None
        self._deadlines[action.timer] = deadline
        if handle is None:
            self._timers[action.timer] = self._loop.call_at(deadline, self._expire, action.timer)

    def _disarm(self, action: Action) -> None:
        assert isinstance(action, Disarm)
        handle = self._timers.pop(action.timer, None)
        if handle is not None:
            handle.cancel()

    def _expire(self, timer: Timer) -> None:
        deadline = self._deadlines[timer]
        if deadline > self._loop.time() + 0.001:
            self._timers[timer] = self._loop.call_at(deadline, self._expire, timer)
            return
        del self._timers[timer]
        self.feed(Expired(timer))

    def _up(self, action: Action) -> None:
        assert isinstance(action, Up)
        if self.connection is not None:
            self.connection.limit = action.session.max_message
        self._owner.up(self, action.session)

    def _down(self, action: Action) -> None:
        assert isinstance(action, Down)
        self._owner.down(self, action.closed, action.was_up)

    def _ended(self, reason: str) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.feed(Failed(reason))

    def _fault(self, fault: PeerFault) -> None:
        self.feed(Faulted(fault))

    def _messages(self, messages: list[tuple[Kind, bytes]]) -> None:
        """All that one read brought. The state machine hears of any number of UPDATEs once: they only restart a timer."""
        self.messages_in += len(messages)
        connection = self.connection
        has_update = False
        try:
            for kind, body in messages:
                if kind is Kind.UPDATE and self.state is State.ESTABLISHED:
                    self._owner.update(body)
                    has_update = True
                elif kind is Kind.UPDATE:
                    self.feed(Received(kind))
                else:
                    self._owner.settle()
                    self._control(kind, decode_message(kind, body))
                if self.connection is not connection:
                    return
            if has_update:
                self._owner.settle()
                self.feed(Received(Kind.UPDATE))
        except PeerFault as fault:
            self._fault(fault)

    def _control(self, kind: Kind, message: Message | None) -> None:
        if isinstance(message, Open) and self.state is State.OPEN_SENT and self._is_acceptable(message):
            if not self._owner.opened(self, message):
                return
            if self.connection is not None and message.capabilities.extended_message:
                # Extended messages may follow at once if both sides offered them (RFC 8654 §4).
                self._raise_limit()
        self.feed(Received(kind, message if isinstance(message, Open | Notification) else None))
        if isinstance(message, Refresh) and self.state is State.ESTABLISHED:
            self._owner.refresh(message)

    def _is_acceptable(self, message: Open) -> bool:
        """An OPEN that will be refused must not win a collision against a session that is up."""
        try:
            check_open(self.machine.settings, message)
        except PeerFault:
            return False
        return True

    def _raise_limit(self) -> None:
        if self.connection is not None and self.machine.settings.local.capabilities.extended_message:
            self.connection.limit = 65535


_ACTIONS: dict[type, Callable[[Attempt, Action], None]] = {
    Connect: Attempt._connect,
    Close: Attempt._close,
    Send: Attempt._send,
    Arm: Attempt._arm,
    Disarm: Attempt._disarm,
    Up: Attempt._up,
    Down: Attempt._down,
}
