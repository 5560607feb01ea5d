"""One BFD session (RFC 5880 §6) as a pure machine: times in µs come in, packets go out.

    Down ──Down──► Init ──Init,Up──► Up          received state on the arrows
     └─────Init──────────────────────►┘           Init, Up ──AdminDown──► Down,  Up ──Down──► Down
    Init, Up ──detection time over──► Down

The owner calls ``receive`` for every packet and ``tick`` when ``deadline_us`` has come; both may be called too early or too
late. Intervals live in three forms: *wanted* follows from settings and state (1 s at least until Up, §6.8.3), *announced* is
in our packets, *active* drives our own timers. A change is announced with a Poll Sequence; a longer transmission or a shorter
reception interval becomes active only when the neighbour has confirmed it (§6.8.3): until then it counts on the old one.
"""

from collections.abc import Callable

import msgspec

from stentor.bgp.bfd.packet import Diagnostic, Packet, State

SLOW_US = 1_000_000

_TRANSITIONS = {
    (State.DOWN, State.DOWN): State.INIT,
    (State.DOWN, State.INIT): State.UP,
    (State.INIT, State.INIT): State.UP,
    (State.INIT, State.UP): State.UP,
    (State.UP, State.DOWN): State.DOWN,
    (State.INIT, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.ADMIN_DOWN): State.DOWN,
}


class Settings(msgspec.Struct, frozen=True):
    """What an operator chooses. A passive session is silent until the neighbour speaks (§6.1)."""

    transmit_us: int = 300_000
    receive_us: int = 300_000
    multiplier: int = 3
    passive: bool = False


class Timing(msgspec.Struct, frozen=True):
    """Desired Min TX and Required Min RX."""

    transmit_us: int
    receive_us: int


class Session:
    """``jitter`` returns numbers in [0, 1); ``discriminator`` is unique among the sessions of a machine and not 0."""

    def __init__(self, settings: Settings, discriminator: int, jitter: Callable[[], float], now_us: int) -> None:
        self.settings = settings
        self.discriminator = discriminator
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.remote: Packet | None = None
        self._jitter = jitter
        self._announced = self._active = self._wanted()
        self._polling = False
        self._heard_us = 0
        self._sent_us = now_us
        self._next_us = now_us
        self._interval_us = self.transmit_interval_us

    @property
    def transmit_interval_us(self) -> int:
        """Between our packets before jitter (§6.8.2); 0 while the neighbour wants none."""
        if self.remote is None:
            return self._active.transmit_us
        return max(self._active.transmit_us, self.remote.required_min_rx_us) if self.remote.required_min_rx_us else 0

    @property
    def detection_time_us(self) -> int:
        """The silence after which the neighbour is dead (§6.8.4); 0 while it was never heard."""
        if self.remote is None:
            return 0
        return self.remote.multiplier * max(self._active.receive_us, self.remote.desired_min_tx_us)

    @property
    def deadline_us(self) -> int | None:
        """When ``tick`` has something to do; None for a passive session that waits."""
        times = [self._next_us] if self._may_transmit() else []
        if self.remote is not None:
            times.append(self._heard_us + self.detection_time_us)
        return min(times, default=None)

    def is_expired(self, now_us: int) -> bool:
        """Whether the detection time is over; the owner reads its sockets once more before it lets ``tick`` act on that."""
        return self.remote is not None and now_us >= self._heard_us + self.detection_time_us

    def receive(self, packet: Packet, now_us: int) -> Packet | None:
        """Reception (§6.8.6) of a packet that belongs here; the answer to a Poll has to be sent at once."""
        self.remote = packet
        self._heard_us = now_us
        if packet.final and self._polling:
            self._polling = False
            self._active = self._announced
        following = _TRANSITIONS.get((self.state, packet.state), self.state)
        if following is not self.state:
            self._enter(following, Diagnostic.NEIGHBOR_DOWN, now_us)
        self._negotiate(now_us)
        if packet.poll and self.state is not State.ADMIN_DOWN:
            return self._build(final=True)
        return None

    def tick(self, now_us: int) -> Packet | None:
        """Declares a silent neighbour dead; returns the periodic packet if it is due."""
        if self.is_expired(now_us):
            self.remote = None
            self._polling = False
            if self.state in (State.INIT, State.UP):
                self._enter(State.DOWN, Diagnostic.DETECTION_EXPIRED, now_us)
            self._negotiate(now_us)
        if now_us < self._next_us or not self._may_transmit():
            return None
        self._sent_us = now_us
        self._next_us = now_us + self._jittered()
        return self._build(final=False)

    def change(self, settings: Settings, now_us: int) -> None:
        """New settings; an Up session stays Up and tells its neighbour with a Poll Sequence."""
        self.settings = settings
        self._negotiate(now_us)

    def disable(self, now_us: int) -> None:
        """Administratively down (§6.8.16): the neighbour learns that this is no failure of the path."""
        self._enter(State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, now_us)
        self._negotiate(now_us)

    def enable(self, now_us: int) -> None:
        """Undo ``disable``."""
        if self.state is State.ADMIN_DOWN:
            self._enter(State.DOWN, Diagnostic.NONE, now_us)
            self._negotiate(now_us)

    def _enter(self, state: State, diagnostic: Diagnostic, now_us: int) -> None:
        self.state = state
        if state is State.UP:
            self.diagnostic = Diagnostic.NONE
        elif state is not State.INIT:
            self.diagnostic = diagnostic
        self._polling = False
        self._next_us = now_us  # tell the neighbour without waiting for the interval (§6.8.7)

    def _wanted(self) -> Timing:
        slowest = 0 if self.state is State.UP else SLOW_US
        return Timing(max(self.settings.transmit_us, slowest), self.settings.receive_us)

    def _negotiate(self, now_us: int) -> None:
        wanted = self._wanted()
        if wanted != self._announced and not self._polling:
            self._announced = wanted
            if self.state is State.UP:
                self._active = Timing(
                    min(self._active.transmit_us, wanted.transmit_us), max(self._active.receive_us, wanted.receive_us)
                )
            else:
                self._active = wanted
            if self.remote is not None:
                self._polling = True
                self._next_us = now_us
        if self.transmit_interval_us != self._interval_us:
            self._interval_us = self.transmit_interval_us
            if self._next_us > now_us:
                self._next_us = max(now_us, self._sent_us + self._jittered())

    def _jittered(self) -> int:
        """75 to 100 % of the interval; 90 % at most where one lost packet is a failure (§6.8.7)."""
        span = 0.25 if self.settings.multiplier > 1 else 0.15
        return int(self._interval_us * (0.75 + span * self._jitter()))

    def _may_transmit(self) -> bool:
        if self.remote is None:
            return not self.settings.passive or self.state is State.ADMIN_DOWN
        demanded = self.remote.demand and self.state is self.remote.state is State.UP and not self._polling
        return self.transmit_interval_us > 0 and not demanded

    def _build(self, *, final: bool) -> Packet:
        return Packet(
            state=self.state,
            multiplier=self.settings.multiplier,
            my_discriminator=self.discriminator,
            your_discriminator=self.remote.my_discriminator if self.remote is not None else 0,
            desired_min_tx_us=self._announced.transmit_us,
            required_min_rx_us=self._announced.receive_us,
            diagnostic=self.diagnostic,
            poll=self._polling and not final,
            final=final,
            independent=True,
        )
