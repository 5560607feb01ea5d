"""One BFD session against packets by hand: states, timers and polls of RFC 5880 §6.8."""

from __future__ import annotations

import msgspec
import pytest

from stentor.bgp.bfd.packet import Diagnostic, Packet, State
from stentor.bgp.bfd.session import SLOW_US, Session, Settings

FAST = Settings(transmit_us=50_000, receive_us=60_000, multiplier=3)
PEER = Packet(
    state=State.DOWN,
    multiplier=4,
    my_discriminator=7,
    your_discriminator=0,
    desired_min_tx_us=SLOW_US,
    required_min_rx_us=20_000,
)


def peer(state: State, **fields: object) -> Packet:
    return msgspec.structs.replace(PEER, state=state, your_discriminator=1, **fields)


def fresh(settings: Settings = FAST, jitter: float = 0.0) -> Session:
    return Session(settings, 1, lambda: jitter, 0)


def bring_up(session: Session, now_us: int = 0) -> None:
    """Through Init to Up, both polls confirmed, the neighbour at 50 ms."""
    session.receive(peer(State.DOWN), now_us)
    session.receive(peer(State.UP), now_us)
    session.tick(now_us)
    session.receive(peer(State.UP, desired_min_tx_us=50_000, final=True), now_us)


@pytest.mark.parametrize(
    ("own", "received", "following"),
    [
        (State.DOWN, State.ADMIN_DOWN, State.DOWN),
        (State.DOWN, State.DOWN, State.INIT),
        (State.DOWN, State.INIT, State.UP),
        (State.DOWN, State.UP, State.DOWN),
        (State.INIT, State.ADMIN_DOWN, State.DOWN),
        (State.INIT, State.DOWN, State.INIT),
        (State.INIT, State.INIT, State.UP),
        (State.INIT, State.UP, State.UP),
        (State.UP, State.ADMIN_DOWN, State.DOWN),
        (State.UP, State.DOWN, State.DOWN),
        (State.UP, State.INIT, State.UP),
        (State.UP, State.UP, State.UP),
        *((State.ADMIN_DOWN, received, State.ADMIN_DOWN) for received in State),
    ],
)
def test_transitions_of_section_6_2(own: State, received: State, following: State) -> None:
    session = fresh()
    if own is State.ADMIN_DOWN:
        session.disable(0)
    if own in (State.INIT, State.UP):
        session.receive(peer(State.DOWN), 0)
    if own is State.UP:
        session.receive(peer(State.UP), 0)
    assert session.state is own
    session.receive(peer(received), 1)
    assert session.state is following


def test_neighbour_down_is_the_diagnostic_until_up_again() -> None:
    session = fresh()
    bring_up(session)
    assert session.diagnostic is Diagnostic.NONE
    session.receive(peer(State.DOWN), 1)
    assert session.diagnostic is Diagnostic.NEIGHBOR_DOWN
    session.receive(peer(State.DOWN), 2)
    assert session.diagnostic is Diagnostic.NEIGHBOR_DOWN
    session.receive(peer(State.UP), 3)
    assert session.diagnostic is Diagnostic.NONE


def test_announces_one_second_until_up_then_polls_with_the_settings() -> None:
    session = fresh()
    first = session.tick(0)
    assert first is not None
    assert (first.desired_min_tx_us, first.required_min_rx_us, first.poll) == (SLOW_US, 60_000, False)
    session.receive(peer(State.INIT), 10)
    packet = session.tick(10)
    assert packet is not None
    assert (packet.state, packet.desired_min_tx_us, packet.poll) == (State.UP, 50_000, True)
    session.receive(peer(State.UP, final=True), 20)
    packet = session.tick(100_000)
    assert packet is not None
    assert not packet.poll


def test_a_poll_is_answered_with_final_and_without_poll() -> None:
    session = fresh()
    session.receive(peer(State.DOWN), 0)
    answer = session.receive(peer(State.INIT, poll=True), 1)
    assert answer is not None
    assert (answer.final, answer.poll, answer.state) == (True, False, State.UP)


def test_transmits_at_the_slower_of_both_wishes() -> None:
    session = fresh()
    bring_up(session)
    assert session.transmit_interval_us == 50_000
    session.receive(peer(State.UP, required_min_rx_us=80_000), 1)
    assert session.transmit_interval_us == 80_000


def test_silent_towards_a_neighbour_that_wants_nothing() -> None:
    session = fresh()
    bring_up(session)
    session.receive(peer(State.UP, required_min_rx_us=0), 1)
    assert session.tick(10_000) is None
    assert session.deadline_us == 1 + 4 * SLOW_US


@pytest.mark.parametrize(
    ("multiplier", "jitter", "gap_us"), [(3, 0, 37_500), (3, 1, 50_000), (1, 0, 37_500), (1, 1, 45_000)]
)
def test_jitter(multiplier: int, jitter: float, gap_us: int) -> None:
    session = fresh(msgspec.structs.replace(FAST, multiplier=multiplier), jitter)
    bring_up(session)
    session.tick(100_000)
    assert session.tick(100_000 + gap_us - 1) is None
    assert session.tick(100_000 + gap_us) is not None


def test_detection_time_is_the_neighbours_multiplier_of_the_slower_wish() -> None:
    session = fresh()
    bring_up(session)
    assert session.detection_time_us == 4 * 60_000
    session.receive(peer(State.UP, desired_min_tx_us=70_000), 5)
    session.tick(5 + 4 * 70_000 - 1)
    assert session.state is State.UP
    session.tick(5 + 4 * 70_000)
    assert (session.state, session.diagnostic) == (State.DOWN, Diagnostic.DETECTION_EXPIRED)


def test_after_detection_the_neighbours_discriminator_is_forgotten_and_told_at_once() -> None:
    session = fresh()
    bring_up(session)
    packet = session.tick(10_000_000)
    assert packet is not None
    assert (packet.state, packet.your_discriminator, packet.desired_min_tx_us) == (State.DOWN, 0, SLOW_US)


def test_a_slower_transmission_waits_for_the_neighbours_consent() -> None:
    session = fresh()
    bring_up(session)
    session.change(Settings(200_000, 60_000, 3), 100)
    assert session.transmit_interval_us == 50_000
    packet = session.tick(100)
    assert packet is not None
    assert (packet.poll, packet.desired_min_tx_us) == (True, 200_000)
    session.receive(peer(State.UP, desired_min_tx_us=50_000, final=True), 200)
    assert session.transmit_interval_us == 200_000


def test_a_shorter_detection_waits_for_the_neighbours_consent() -> None:
    session = fresh()
    bring_up(session)
    session.receive(peer(State.UP, desired_min_tx_us=10_000), 50)
    session.change(Settings(50_000, 20_000, 3), 100)
    assert session.detection_time_us == 4 * 60_000
    session.receive(peer(State.UP, desired_min_tx_us=10_000, final=True), 200)
    assert session.detection_time_us == 4 * 20_000


def test_a_change_during_a_poll_gets_a_poll_of_its_own() -> None:
    session = fresh()
    bring_up(session)
    session.change(Settings(200_000, 60_000, 3), 100)
    session.change(Settings(300_000, 60_000, 3), 110)
    packet = session.tick(110)
    assert packet is not None
    assert packet.desired_min_tx_us == 200_000
    session.receive(peer(State.UP, final=True), 200)
    assert session.transmit_interval_us == 200_000
    packet = session.tick(200)
    assert packet is not None
    assert (packet.poll, packet.desired_min_tx_us) == (True, 300_000)


def test_passive_waits_for_the_first_packet() -> None:
    session = fresh(msgspec.structs.replace(FAST, passive=True))
    assert session.deadline_us is None
    assert session.tick(5_000_000) is None
    session.receive(peer(State.DOWN), 5_000_000)
    assert session.tick(5_000_000) is not None


def test_demand_of_the_neighbour_silences_us_while_both_are_up_and_polls_are_still_answered() -> None:
    session = fresh()
    bring_up(session)
    session.receive(peer(State.UP, demand=True, desired_min_tx_us=50_000), 1)
    assert session.tick(10_000) is None
    answer = session.receive(peer(State.UP, demand=True, poll=True), 2)
    assert answer is not None
    assert answer.final
    session.change(Settings(200_000, 60_000, 3), 3)
    assert session.tick(3) is not None


def test_admin_down_says_so_and_answers_nothing() -> None:
    session = fresh()
    bring_up(session)
    session.disable(1)
    packet = session.tick(1)
    assert packet is not None
    assert (packet.state, packet.diagnostic) == (State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN)
    assert session.receive(peer(State.UP, poll=True), 2) is None
    session.enable(3)
    assert session.state is State.DOWN


def test_every_packet_has_the_c_bit() -> None:
    packet = fresh().tick(0)
    assert packet is not None
    assert packet.independent
