"""One connection's state machine (RFC 4271 §8) as a pure function: ``step(machine, event) -> (machine, actions)``.

    Idle ──Start──► Connect ──Connected──► OpenSent ──OPEN──► OpenConfirm ──KEEPALIVE──► Established
      ▲               │  ▲ ConnectRetry       │ Failed              │                        │
      │            Failed │                   ▼                     │                        │
      │               └► Active ◄─────────────┘                     │                        │
      └────────────── any fault, Stop, hold timer: actions Close and, unless stopped, Arm(IDLE_HOLD) ──┘

Timers are passed in: the machine only says ``Arm`` and ``Disarm`` and is told ``Expired``. It never sees UPDATE contents; a
message of the wrong kind is an FSM error (RFC 6608). Deviation: a failed connect goes to Active and tries again after the
connect-retry time instead of Idle, which all current implementations do.
"""

from collections.abc import Callable
from enum import Enum, IntEnum

import msgspec

from stentor.bgp.capability import Open, Session, negotiate
from stentor.bgp.errors import Cease, Code, PeerFault
from stentor.bgp.wire import Keepalive, Kind, Notification

OPEN_HOLD_S = 240.0
MAX_IDLE_HOLD_S = 60.0
_LASTING = frozenset((Cease.MAX_PREFIXES, Cease.SHUTDOWN, Cease.DECONFIGURED))


class State(IntEnum):
    """RFC 4271 §8.2.2; the values are those of the BGP4-MIB."""

    IDLE = 1
    CONNECT = 2
    ACTIVE = 3
    OPEN_SENT = 4
    OPEN_CONFIRM = 5
    ESTABLISHED = 6


class Timer(Enum):
    """Timers that a machine arms. CONNECT_RETRY and KEEPALIVE are to be jittered (§10)."""

    CONNECT_RETRY = "connect-retry"
    HOLD = "hold"
    KEEPALIVE = "keepalive"
    IDLE_HOLD = "idle-hold"


class Settings(msgspec.Struct, frozen=True):
    """What the configuration says about a peer. ``peer_as`` 0 accepts any number, ``external`` any but ours."""

    local: Open
    peer_as: int = 0
    is_external_only: bool = False
    is_passive: bool = False
    connect_retry_s: float = 5.0
    keepalive_s: float | None = None
    idle_hold_s: float = 1.0
    open_hold_s: float = OPEN_HOLD_S


class Closed(msgspec.Struct, frozen=True):
    """Why a connection ended: a NOTIFICATION in either direction, or ``reason`` alone."""

    reason: str
    sent: Notification | None = None
    received: Notification | None = None


class Machine(msgspec.Struct, frozen=True):
    """The whole state of one connection. ``failures`` counts attempts since the last session, for the idle-hold time."""

    settings: Settings
    state: State = State.IDLE
    is_enabled: bool = False
    failures: int = 0
    session: Session | None = None


# Events


class Start(msgspec.Struct, frozen=True):
    """Begin to try (ManualStart, AutomaticStart, with or without PassiveTcpEstablishment)."""


class Stop(msgspec.Struct, frozen=True):
    """End the connection and stay idle; without a notification silently, so that a restart is graceful (RFC 4724 §4)."""

    notification: Notification | None = None


class Reset(msgspec.Struct, frozen=True):
    """End the connection and try again: BFD said down, a limit was exceeded, a restart was asked for."""

    notification: Notification | None
    reason: str


class Connected(msgspec.Struct, frozen=True):
    """A TCP connection is up, whoever began it."""


class Failed(msgspec.Struct, frozen=True):
    """The TCP connection could not be made, or ended."""

    reason: str


class Received(msgspec.Struct, frozen=True):
    """A well-formed message; ``message`` for OPEN and NOTIFICATION only."""

    kind: Kind
    message: Open | Notification | None = None


class Faulted(msgspec.Struct, frozen=True):
    """The peer broke the protocol below the state machine."""

    fault: PeerFault


class Expired(msgspec.Struct, frozen=True):
    """A timer ran out."""

    timer: Timer


Event = Start | Stop | Reset | Connected | Failed | Received | Faulted | Expired

# Actions


class Connect(msgspec.Struct, frozen=True):
    """Begin a TCP connection."""


class Close(msgspec.Struct, frozen=True):
    """Close the TCP connection or give up the attempt, after what was sent."""


class Send(msgspec.Struct, frozen=True):
    """Send this message."""

    message: Open | Keepalive | Notification


class Arm(msgspec.Struct, frozen=True):
    """(Re)start a timer."""

    timer: Timer
    seconds: float


class Disarm(msgspec.Struct, frozen=True):
    """Stop a timer."""

    timer: Timer


class Up(msgspec.Struct, frozen=True):
    """The session is established."""

    session: Session


class Down(msgspec.Struct, frozen=True):
    """The session or the attempt ended; ``was_up`` tells which."""

    closed: Closed
    was_up: bool


Action = Connect | Close | Send | Arm | Disarm | Up | Down
Result = tuple[Machine, list[Action]]


def step(machine: Machine, event: Event) -> Result:
    """The next state and what to do now, in order. Total: an event that a state does not expect has its defined answer."""
    handler = _TABLE.get((machine.state, type(event))) or _ANY[type(event)]
    return handler(machine, event)


def check_open(settings: Settings, message: Open) -> Session:
    """The session with this peer; PeerFault when its OPEN does not fit the configuration (§6.2)."""
    wanted, local = settings.peer_as, settings.local
    is_wrong = (wanted and message.asn != wanted) or (settings.is_external_only and message.asn == local.asn)
    if is_wrong:
        raise PeerFault(Code.OPEN, 2, (message.asn & 0xFFFF).to_bytes(2, "big"), f"peer is AS {message.asn}")
    if message.asn == local.asn and message.identifier == local.identifier:
        raise PeerFault(Code.OPEN, 3, message.identifier.to_bytes(4, "big"), "peer has our BGP identifier")
    session = negotiate(local, message, settings.keepalive_s)
    if not session.families:
        raise PeerFault(Code.OPEN, 7, _missing_families(local), "no address family in common")
    return session


def _missing_families(local: Open) -> bytes:
    return b"".join(bytes((1, 4, 0, f.afi, 0, f.safi)) for f in local.capabilities.families)


def is_ours_kept(local: Open, peer: Open) -> bool:
    """Collision (§6.8, RFC 6286 §2.3): whether the connection which we began survives."""
    return (local.identifier, local.asn) > (peer.identifier, peer.asn)


def _idle(machine: Machine, closed: Closed, *actions: Action, is_enabled: bool | None = None) -> Result:
    was_up = machine.state is State.ESTABLISHED
    keep = machine.is_enabled if is_enabled is None else is_enabled
    failures = machine.failures + 1
    after: list[Action] = [Disarm(timer) for timer in Timer if timer is not Timer.IDLE_HOLD]
    after += [*actions, Close(), Down(closed, was_up)]
    if keep:
        wait_s = machine.settings.idle_hold_s * 2.0 ** min(failures - 1, 10)
        after.append(Arm(Timer.IDLE_HOLD, min(wait_s, max(MAX_IDLE_HOLD_S, machine.settings.idle_hold_s))))
    else:
        after.append(Disarm(Timer.IDLE_HOLD))
    idle = Machine(machine.settings, State.IDLE, keep, failures if keep else 0)
    return idle, after


def _notify(machine: Machine, notification: Notification, reason: str) -> Result:
    """Send a NOTIFICATION if there is anybody to read it and go idle."""
    if machine.state < State.OPEN_SENT:
        return _idle(machine, Closed(reason))
    told = _harden(machine, notification)
    return _idle(machine, Closed(reason, sent=told), Send(told))


def _harden(machine: Machine, notification: Notification) -> Notification:
    """An end that lasts is a Hard Reset where both set the N bit: else the peer waits for our return (RFC 8538 §5.1)."""
    if machine.session is None or notification.code != Code.CEASE or notification.subcode not in _LASTING:
        return notification
    ours, theirs = machine.settings.local.capabilities.graceful, machine.session.peer.capabilities.graceful
    if ours is None or theirs is None or not (ours.notification and theirs.notification):
        return notification
    data = bytes((notification.code, notification.subcode)) + notification.data
    return Notification(Code.CEASE, Cease.HARD_RESET, data)


def _start(machine: Machine, _event: Event) -> Result:
    enabled = msgspec.structs.replace(machine, is_enabled=True)
    if machine.settings.is_passive:
        return msgspec.structs.replace(enabled, state=State.ACTIVE), [Disarm(Timer.IDLE_HOLD)]
    return _connect(enabled, Disarm(Timer.IDLE_HOLD))


def _connect(machine: Machine, *before: Action) -> Result:
    retry = Arm(Timer.CONNECT_RETRY, machine.settings.connect_retry_s)
    return msgspec.structs.replace(machine, state=State.CONNECT), [*before, retry, Connect()]


def _retry(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Expired)
    if event.timer is not Timer.CONNECT_RETRY:
        return machine, []
    return _connect(machine, Close()) if machine.state is State.CONNECT else _connect(machine)


def _connected(machine: Machine, _event: Event) -> Result:
    if not machine.is_enabled:
        return machine, [Close()]
    opened = msgspec.structs.replace(machine, state=State.OPEN_SENT)
    return opened, [
        Disarm(Timer.CONNECT_RETRY),
        Disarm(Timer.IDLE_HOLD),
        Send(machine.settings.local),
        Arm(Timer.HOLD, machine.settings.open_hold_s),
    ]


def _wait(machine: Machine, event: Event) -> Result:
    """No connection: be open for the peer's, try again later."""
    assert isinstance(event, Failed)
    waiting = msgspec.structs.replace(machine, state=State.ACTIVE, session=None)
    actions: list[Action] = [Close(), Disarm(Timer.HOLD), Down(Closed(event.reason), was_up=False)]
    if not machine.settings.is_passive:
        actions.append(Arm(Timer.CONNECT_RETRY, machine.settings.connect_retry_s))
    return waiting, actions


def _opened(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Received)
    if not isinstance(event.message, Open):
        return _unexpected(machine, event)
    try:
        session = check_open(machine.settings, event.message)
    except PeerFault as fault:
        return _faulted(machine, Faulted(fault))
    confirmed = msgspec.structs.replace(machine, state=State.OPEN_CONFIRM, session=session)
    if not session.hold_s:
        return confirmed, [Send(Keepalive()), Disarm(Timer.HOLD)]
    timers = [Arm(Timer.HOLD, session.hold_s), Arm(Timer.KEEPALIVE, session.keepalive_s)]
    return confirmed, [Send(Keepalive()), *timers]


def _confirmed(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Received)
    if event.kind is not Kind.KEEPALIVE or machine.session is None:
        return _unexpected(machine, event)
    up = msgspec.structs.replace(machine, state=State.ESTABLISHED, failures=0)
    return up, [*_rearm(machine), Up(machine.session)]


def _rearm(machine: Machine) -> list[Action]:
    session = machine.session
    return [Arm(Timer.HOLD, session.hold_s)] if session is not None and session.hold_s else []


def _established(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Received)
    if event.kind is Kind.OPEN or event.kind is Kind.NOTIFICATION:
        return _unexpected(machine, event)
    return machine, _rearm(machine)


def _unexpected(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Received)
    if isinstance(event.message, Notification):
        return _idle(machine, Closed(event.message.describe(), received=event.message))
    subcode = max(machine.state - State.CONNECT - 1, 0)
    reason = f"{event.kind.name} in state {machine.state.name}"
    return _notify(machine, Notification(Code.FSM, subcode, bytes((event.kind,))), reason)


def _expired(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Expired)
    if event.timer is Timer.HOLD and machine.state >= State.OPEN_SENT:
        return _notify(machine, Notification(Code.HOLD_TIMER), "Hold Timer Expired")
    if event.timer is Timer.KEEPALIVE and machine.state >= State.OPEN_CONFIRM and machine.session is not None:
        return machine, [Send(Keepalive()), Arm(Timer.KEEPALIVE, machine.session.keepalive_s)]
    return machine, []


def _wake(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Expired)
    return _start(machine, event) if event.timer is Timer.IDLE_HOLD and machine.is_enabled else (machine, [])


def _faulted(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Faulted)
    fault = event.fault
    return _notify(machine, Notification(fault.code, fault.subcode, fault.data), str(fault))


def _stopped(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Stop)
    told = event.notification if machine.state >= State.OPEN_SENT else None
    told = _harden(machine, told) if told is not None else None
    closed = Closed("stopped", sent=told)
    return _idle(machine, closed, *((Send(told),) if told else ()), is_enabled=False)


def _reset(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Reset)
    if event.notification is None:
        return _idle(machine, Closed(event.reason))
    return _notify(machine, event.notification, event.reason)


def _lost(machine: Machine, event: Event) -> Result:
    assert isinstance(event, Failed)
    return _idle(machine, Closed(event.reason))


def _stay(machine: Machine, _event: Event) -> Result:
    return machine, []


def _refuse(machine: Machine, _event: Event) -> Result:
    raise AssertionError(f"a second connection for a machine in {machine.state.name}")


Handler = Callable[[Machine, Event], Result]

_ANY: dict[type, Handler] = {
    Start: _stay,
    Stop: _stopped,
    Reset: _reset,
    Connected: _refuse,
    Failed: _lost,
    Received: _unexpected,
    Faulted: _faulted,
    Expired: _expired,
}
_TABLE: dict[tuple[State, type], Handler] = {
    (State.IDLE, Start): _start,
    (State.IDLE, Reset): _stay,
    (State.IDLE, Connected): _connected,
    (State.IDLE, Failed): _stay,
    (State.IDLE, Received): _stay,
    (State.IDLE, Faulted): _stay,
    (State.IDLE, Expired): _wake,
    (State.CONNECT, Connected): _connected,
    (State.CONNECT, Failed): _wait,
    (State.CONNECT, Expired): _retry,
    (State.ACTIVE, Connected): _connected,
    (State.ACTIVE, Failed): _stay,
    (State.ACTIVE, Expired): _retry,
    (State.OPEN_SENT, Failed): _wait,
    (State.OPEN_SENT, Received): _opened,
    (State.OPEN_CONFIRM, Received): _confirmed,
    (State.ESTABLISHED, Received): _established,
}
