"""Two BFD sessions over a line that loses and delays packets, in made-up time.

Whatever the line did before: on a good line both come up and stay up; on a dead one both go down within their detection time.
"""

from __future__ import annotations

import heapq
import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.bgp.bfd.packet import Packet, State, decode, encode
from stentor.bgp.bfd.session import Session, Settings

SECOND = 1_000_000
SETTINGS = st.builds(
    Settings,
    transmit_us=st.sampled_from((10_000, 50_000, 300_000, 2_000_000)),
    receive_us=st.sampled_from((10_000, 50_000, 300_000, 2_000_000)),
    multiplier=st.integers(2, 5),
)


class Line:
    """Sessions 0 and 1, and what flies between them. ``loss`` is per direction, in [0, 1]."""

    def __init__(self, left: Settings, right: Settings, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_us = 0
        self.sessions = [Session(each, index + 1, self.random.random, 0) for index, each in enumerate((left, right))]
        self.loss = [0.0, 0.0]
        self.delay_us = 1_000
        self.spread_us = 0
        self.downs = 0
        self.sent: list[list[int]] = [[], []]
        self._flying: list[tuple[int, int, int, bytes]] = []
        self._count = 0

    def _send(self, source: int, packet: Packet | None) -> None:
        if packet is None:
            return
        assert not (packet.poll and packet.final)
        self.sent[source].append(self.now_us)
        if self.random.random() >= self.loss[source]:
            self._count += 1
            arrival = self.now_us + self.delay_us + int(self.random.random() * self.spread_us)
            heapq.heappush(self._flying, (arrival, self._count, 1 - source, encode(packet)))

    def run(self, duration_us: int) -> None:
        end = self.now_us + duration_us
        while True:
            times = [t for t in (session.deadline_us for session in self.sessions) if t is not None]
            times += [self._flying[0][0]] if self._flying else []
            following = min(times, default=end)
            if following >= end:
                self.now_us = end
                return
            self.now_us = max(self.now_us, following)
            before = [session.state for session in self.sessions]
            if self._flying and self._flying[0][0] <= self.now_us:
                _, _, target, data = heapq.heappop(self._flying)
                self._send(target, self.sessions[target].receive(decode(data), self.now_us))
            for index, session in enumerate(self.sessions):
                self._send(index, session.tick(self.now_us))
            self.downs += sum(
                old is State.UP and new.state is not State.UP for old, new in zip(before, self.sessions, strict=True)
            )

    @property
    def states(self) -> list[State]:
        return [session.state for session in self.sessions]


@settings(max_examples=40)
@given(SETTINGS, SETTINGS, st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1), st.integers(0, 20_000))
def test_comes_up_after_any_line_stays_up_and_goes_down_with_it(
    left: Settings, right: Settings, seed: int, loss_left: float, loss_right: float, spread_us: int
) -> None:
    line = Line(left, right, seed)
    line.loss = [loss_left, loss_right]
    line.spread_us = spread_us
    line.run(10 * SECOND)

    line.loss, line.spread_us = [0.0, 0.0], 0
    line.run(30 * SECOND)
    assert line.states == [State.UP, State.UP]

    line.downs = 0
    line.run(30 * SECOND)
    assert line.downs == 0
    for mine, other in (line.sessions, line.sessions[::-1]):
        assert mine.transmit_interval_us == max(mine.settings.transmit_us, other.settings.receive_us)
        assert mine.detection_time_us == other.settings.multiplier * max(
            mine.settings.receive_us, other.settings.transmit_us
        )

    line.loss = [1.0, 1.0]
    line.run(max(session.detection_time_us for session in line.sessions) + 2 * line.delay_us)
    assert line.states == [State.DOWN, State.DOWN]


@settings(max_examples=20)
@given(SETTINGS, SETTINGS, st.integers(0, 2**32))
def test_a_change_of_settings_never_takes_a_session_down(left: Settings, right: Settings, seed: int) -> None:
    line = Line(left, left, seed)
    line.run(20 * SECOND)
    assert line.states == [State.UP, State.UP]
    line.downs = 0
    line.sessions[0].change(right, line.now_us)
    line.run(10 * SECOND)
    line.sessions[1].change(right, line.now_us)
    line.run(20 * SECOND)
    assert (line.downs, line.states) == (0, [State.UP, State.UP])


@settings(max_examples=20)
@given(SETTINGS, SETTINGS, st.integers(0, 2**32))
def test_loss_in_one_direction_takes_both_down(left: Settings, right: Settings, seed: int) -> None:
    line = Line(left, right, seed)
    line.run(30 * SECOND)
    line.loss = [1.0, 0.0]
    line.run(line.sessions[1].detection_time_us + line.sessions[0].detection_time_us + SECOND)
    assert State.UP not in line.states


@settings(max_examples=20)
@given(SETTINGS, st.integers(0, 2**32))
def test_paces_its_packets(each: Settings, seed: int) -> None:
    """Never faster than 75 % of the interval agreed on, but for packets that tell a change or answer a poll."""
    line = Line(each, each, seed)
    line.run(20 * SECOND)
    line.sent = [[], []]
    line.run(20 * SECOND)
    least = int(line.sessions[0].transmit_interval_us * 0.75)
    for times in line.sent:
        assert all(later - earlier >= least for earlier, later in itertools.pairwise(times))
