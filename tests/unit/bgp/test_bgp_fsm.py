"""The state machine: the paths of RFC 4271 §8, and every sequence of events to a depth."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from stentor.bgp.capability import Capabilities, Graceful, Open
from stentor.bgp.errors import Cease, PeerFault
from stentor.bgp.fsm import (
    Action,
    Arm,
    Close,
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
    Reset,
    Send,
    Settings,
    Start,
    State,
    Stop,
    Timer,
    Up,
    is_ours_kept,
    step,
)
from stentor.bgp.nlri import Family
from stentor.bgp.wire import Keepalive, Kind, Notification, shutdown

CAPABILITIES = Capabilities(families=(Family.IPV4,), four_octet_as=65001)
LOCAL = Open(65001, 90, 1, CAPABILITIES)
PEER = Open(65002, 30, 2, Capabilities(families=(Family.IPV4,), four_octet_as=65002))
SETTINGS = Settings(LOCAL, peer_as=65002)
OPEN, UPDATE = Received(Kind.OPEN, PEER), Received(Kind.UPDATE)
KEEPALIVE, NOTIFIED = Received(Kind.KEEPALIVE), Received(Kind.NOTIFICATION, Notification(6, 2))
TO_ESTABLISHED: list[Event] = [Start(), Connected(), OPEN, KEEPALIVE]


def run(events: list[Event], settings: Settings = SETTINGS) -> tuple[Machine, list[Action]]:
    """The machine after all events, and the last one's actions."""
    machine, actions = Machine(settings), []
    for event in events:
        machine, actions = step(machine, event)
    return machine, actions


def sent(actions: list[Action]) -> list[object]:
    return [action.message for action in actions if isinstance(action, Send)]


def test_the_way_up() -> None:
    machine, actions = run([Start()])
    assert machine.state is State.CONNECT
    assert Connect() in actions
    machine, actions = run([Start(), Connected()])
    assert machine.state is State.OPEN_SENT
    assert sent(actions) == [LOCAL]
    machine, actions = run([Start(), Connected(), OPEN])
    assert machine.state is State.OPEN_CONFIRM
    assert sent(actions) == [Keepalive()]
    assert Arm(Timer.HOLD, 30) in actions
    assert Arm(Timer.KEEPALIVE, 10) in actions
    machine, actions = run(TO_ESTABLISHED)
    assert machine.state is State.ESTABLISHED
    assert any(isinstance(action, Up) for action in actions)


def test_passive_waits() -> None:
    machine, actions = run([Start()], Settings(LOCAL, is_passive=True))
    assert machine.state is State.ACTIVE
    assert Connect() not in actions


def test_hold_time_zero_arms_no_timers() -> None:
    silent = Open(65002, 0, 2, PEER.capabilities)
    _, actions = run([Start(), Connected(), Received(Kind.OPEN, silent)])
    assert not [action for action in actions if isinstance(action, Arm)]
    _, actions = run([Start(), Connected(), Received(Kind.OPEN, silent), KEEPALIVE])
    assert not [action for action in actions if isinstance(action, Arm)]


@pytest.mark.parametrize(
    ("peer", "settings", "code"),
    [
        (PEER, Settings(LOCAL, peer_as=65003), (2, 2)),
        (Open(65001, 90, 2, CAPABILITIES), Settings(LOCAL, is_external_only=True), (2, 2)),
        (Open(65001, 90, 1, CAPABILITIES), Settings(LOCAL), (2, 3)),
        (Open(65002, 90, 2, Capabilities(families=(Family.IPV6,))), SETTINGS, (2, 7)),
    ],
    ids=["wrong AS", "internal for external", "our identifier", "no common family"],
)
def test_refused_opens(peer: Open, settings: Settings, code: tuple[int, int]) -> None:
    machine, actions = run([Start(), Connected(), Received(Kind.OPEN, peer)], settings)
    (notification,) = [each for each in sent(actions) if isinstance(each, Notification)]
    assert (notification.code, notification.subcode) == code
    assert machine.state is State.IDLE


@pytest.mark.parametrize(
    ("before", "event", "code"),
    [
        ([Start(), Connected()], KEEPALIVE, (5, 1)),
        ([Start(), Connected(), OPEN], UPDATE, (5, 2)),
        (TO_ESTABLISHED, OPEN, (5, 3)),
        (TO_ESTABLISHED, Expired(Timer.HOLD), (4, 0)),
        ([Start(), Connected()], Expired(Timer.HOLD), (4, 0)),
        (TO_ESTABLISHED, Faulted(PeerFault(3, 10)), (3, 10)),
        (TO_ESTABLISHED, Reset(Notification(6, 4), "asked"), (6, 4)),
        (TO_ESTABLISHED, Stop(Notification(6, 2)), (6, 2)),
    ],
)
def test_endings_with_a_notification(before: list[Event], event: Event, code: tuple[int, int]) -> None:
    machine, actions = run([*before, event])
    (notification,) = [each for each in sent(actions) if isinstance(each, Notification)]
    assert (notification.code, notification.subcode) == code
    assert actions.index(Send(notification)) < actions.index(Close())
    assert machine.state is State.IDLE


NOTIFYING = msgspec.structs.replace(CAPABILITIES, graceful=Graceful(60, notification=True))


@pytest.mark.parametrize(
    ("event", "enclosed"),
    [
        (Stop(shutdown(Cease.SHUTDOWN, "bye")), shutdown(Cease.SHUTDOWN, "bye")),
        (Stop(Notification(6, Cease.DECONFIGURED)), Notification(6, Cease.DECONFIGURED)),
        (Faulted(PeerFault(6, Cease.MAX_PREFIXES, b"xyz")), Notification(6, Cease.MAX_PREFIXES, b"xyz")),
    ],
)
def test_an_end_that_lasts_is_a_hard_reset_where_both_know_it(event: Event, enclosed: Notification) -> None:
    peer = Received(Kind.OPEN, Open(65002, 30, 2, NOTIFYING))
    settings = Settings(Open(65001, 90, 1, NOTIFYING))
    _, actions = run([Start(), Connected(), peer, KEEPALIVE, event], settings)
    (told,) = [each for each in sent(actions) if isinstance(each, Notification)]
    assert (told.subcode, told.inner) == (Cease.HARD_RESET, enclosed)
    _, actions = run([Start(), Connected(), peer, KEEPALIVE, Reset(Notification(6, 4), "asked")], settings)
    assert Notification(6, 4) in sent(actions)
    _, actions = run([*TO_ESTABLISHED, event])  # the peer does not know it
    assert enclosed in sent(actions)


def test_a_silent_stop_sends_nothing() -> None:
    _, actions = run([*TO_ESTABLISHED, Stop()])
    assert sent(actions) == []
    assert Close() in actions


def test_idle_hold_grows_and_a_session_resets_it() -> None:
    waits = []
    machine, _ = step(Machine(SETTINGS), Start())
    for _ in range(8):
        for event in (Connected(), NOTIFIED):
            machine, actions = step(machine, event)
        waits += [action.seconds for action in actions if isinstance(action, Arm)]
        machine, _ = step(machine, Expired(Timer.IDLE_HOLD))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    for event in (Connected(), OPEN, KEEPALIVE):
        machine, _ = step(machine, event)
    machine, actions = step(machine, Failed("gone"))
    assert [action.seconds for action in actions if isinstance(action, Arm)] == [1]


def test_collision_keeps_the_connection_of_the_higher_identifier() -> None:
    assert is_ours_kept(Open(1, 90, 9), Open(2, 90, 8))
    assert not is_ours_kept(Open(1, 90, 8), Open(2, 90, 9))
    assert is_ours_kept(Open(2, 90, 8), Open(1, 90, 8))  # RFC 6286: then the higher AS


EVENTS: list[Event] = [
    Start(),
    Stop(Notification(6, 2)),
    Stop(),
    Reset(Notification(6, 4), "asked"),
    Reset(None, "asked"),
    Connected(),
    Failed("lost"),
    OPEN,
    Received(Kind.OPEN, Open(65099, 30, 2, PEER.capabilities)),
    KEEPALIVE,
    UPDATE,
    Received(Kind.ROUTE_REFRESH),
    NOTIFIED,
    Faulted(PeerFault(1, 1)),
    *(Expired(timer) for timer in Timer),
]
Armed = frozenset[Timer]


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, Settings(LOCAL, 65002, is_passive=True), Settings(Open(65001, 0, 1, CAPABILITIES), 65002)],
    ids=["active", "passive", "hold time 0"],
)
def test_every_sequence_to_a_depth(settings: Settings) -> None:
    """From every reachable state, any event: the machine answers, what it says fits what it said before, and it never hangs."""
    depth = 9
    frontier: list[tuple[Machine, Armed]] = [(Machine(settings), frozenset())]
    seen = {key(machine, armed) for machine, armed in frontier}
    for _ in range(depth):
        following = []
        for (machine, armed), event in product(frontier, EVENTS):
            if isinstance(event, Connected) and machine.state not in (State.IDLE, State.CONNECT, State.ACTIVE):
                continue  # the driver has one connection a machine
            if isinstance(event, Expired) and event.timer not in armed:
                continue
            after, actions = step(machine, event)
            check(machine, after, actions)
            left = run_timers(armed - {event.timer} if isinstance(event, Expired) else armed, actions)
            check_timers(after, left)
            if key(after, left) not in seen:
                seen.add(key(after, left))
                following.append((after, left))
        frontier = following
    assert not frontier, "no state is further away than the depth"
    reached = {state for state, *_ in seen}
    assert reached == set(State) - ({State.CONNECT} if settings.is_passive else set())


def key(machine: Machine, armed: Armed) -> tuple[State, bool, int, bool, Armed]:
    """What a machine's future depends on; more failures than three only lengthen a pause."""
    return machine.state, machine.is_enabled, min(machine.failures, 3), machine.session is not None, armed


def run_timers(armed: Armed, actions: list[Action]) -> Armed:
    """The timers that run after the actions."""
    for action in actions:
        if isinstance(action, Arm):
            armed |= {action.timer}
        elif isinstance(action, Disarm):
            armed -= {action.timer}
    return armed


def check_timers(machine: Machine, armed: Armed) -> None:
    """Whatever a machine waits for, a timer ends the waiting; a machine that is off waits for nothing."""
    has_hold = machine.session is not None and machine.session.hold_s > 0
    needed = {
        State.IDLE: {Timer.IDLE_HOLD} if machine.is_enabled else set(),
        State.CONNECT: {Timer.CONNECT_RETRY},
        State.ACTIVE: set() if machine.settings.is_passive else {Timer.CONNECT_RETRY},
        State.OPEN_SENT: {Timer.HOLD},
        State.OPEN_CONFIRM: {Timer.HOLD, Timer.KEEPALIVE} if has_hold else set(),
        State.ESTABLISHED: {Timer.HOLD, Timer.KEEPALIVE} if has_hold else set(),
    }
    assert armed == needed[machine.state], machine


def check(before: Machine, after: Machine, actions: list[Action]) -> None:
    """Invariants of one step."""
    was_up, is_up = before.state is State.ESTABLISHED, after.state is State.ESTABLISHED
    ups = [action for action in actions if isinstance(action, Up)]
    downs = [action for action in actions if isinstance(action, Down)]
    assert len(ups) == (not was_up and is_up)
    assert [down.was_up for down in downs if down.was_up] == [True] * (was_up and not is_up)
    if before.state >= State.OPEN_SENT and after.state < State.OPEN_SENT:
        assert Close() in actions
    if any(isinstance(action, Send) for action in actions):
        assert before.state >= State.OPEN_SENT or after.state is State.OPEN_SENT
    for index, action in enumerate(actions):
        if isinstance(action, Close):
            assert not any(isinstance(later, Send) for later in actions[index:])
    if not after.is_enabled:
        assert after.state is State.IDLE
    assert (after.session is not None) == (after.state >= State.OPEN_CONFIRM)


def test_a_failed_connect_says_why_and_tries_again() -> None:
    machine, actions = run([Start(), Failed("Connection refused")])
    assert machine.state is State.ACTIVE
    (down,) = [action for action in actions if isinstance(action, Down)]
    assert (down.closed.reason, down.was_up) == ("Connection refused", False)
    machine, actions = step(machine, Expired(Timer.CONNECT_RETRY))
    assert machine.state is State.CONNECT
    assert Connect() in actions
