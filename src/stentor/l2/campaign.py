"""Leases by which nodes agree who answers for which addresses: one machine for all of them, without I/O.

    observe, gone ─┐                       ┌─► next ──► a request to the API ──► done, failed
    want ──────────┴─► state of each lease ┴─► until: how long this node may answer

The rules, from which it follows that no two nodes answer at once:

1. A holder answers until `hold_s` after it *sent* its last successful renewal, and not a moment longer. It says so in the
   lease, in an annotation.
2. Another candidate counts from when it *saw* the last renewal, which is later, and takes the lease after `hold_s` and a bit
   for clocks that run at different speeds. Machines' clocks need not agree.
3. Every write names the version that it replaces, so of two candidates one wins, and a renewal beats both.
4. A lease that disappears is as good as one just renewed: its candidates wait, its holder makes it again.

A holder that says nothing of `hold_s` is upstream's: then its whole lease duration is waited for.

Compared with `kube.lease` a renewal is one request instead of two, and waiting costs none: a watch tells what others do.
Times are seconds of the boot clock, which goes on while the machine sleeps.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection
from enum import Enum
from typing import Final

import msgspec

from stentor.api.core import Lease, LeaseSpec
from stentor.api.meta import ObjectMeta

NAMESPACE: Final = "kube-system"
ANSWERS_FOR: Final = "stentor.io/answers-for"
"""Annotation: the holder, and how many seconds after a renewal it answers: ``node-1 2.7``. It counts only while that node holds
the lease, as others keep the annotation when they take it over."""

_HOLD_PART: Final = 0.9
_PATIENCE: Final = 1.02
_FORGET_AFTER_S: Final = 60.0
_NEVER: Final = float("inf")


class Timing(msgspec.Struct, frozen=True):
    """Of all leases of a cluster. A lease says its duration in whole seconds."""

    duration_s: float
    renew_deadline_s: float
    retry_s: float

    @property
    def duration_seconds(self) -> int:
        return max(1, int(self.duration_s))

    @property
    def hold_s(self) -> float:
        """How long after a renewal the holder answers."""
        return self.duration_seconds * _HOLD_PART

    @property
    def renew_s(self) -> float:
        """From one renewal to the next; what is left of a hold after it is for further attempts."""
        return min(self.renew_deadline_s, self.hold_s / 2)


class Verb(Enum):
    """A request about a lease; the values are labels of `cilium_l2_lease_requests_total`."""

    CREATE = "create"
    UPDATE = "update"
    READ = "get"
    DELETE = "delete"


class Request(msgspec.Struct, frozen=True):
    """What to ask of the API. `lease` is the object to write, or to delete in just this version; None for READ."""

    name: str
    verb: Verb
    lease: Lease | None = None


class _State(msgspec.Struct):
    """One lease. `known` is its newest version, None when there is none; `take_at` when this node may take it; `until` how
    long this node answers; `due` when something has to be done, not before `not_before` after a failure."""

    take_at: float
    known: Lease | None = None
    until: float = 0.0
    renew_at: float = 0.0
    not_before: float = 0.0
    due: float = _NEVER
    is_wanted: bool = False
    is_busy: bool = False
    is_stale: bool = False


class Campaign:
    """This node's part in the election of all leases."""

    def __init__(self, identity: str, timing: Timing, rng: random.Random | None = None) -> None:
        self.identity = identity
        self.timing = timing
        self._rng = rng or random.Random()
        self._states: dict[str, _State] = {}
        self._queue: list[tuple[float, str]] = []
        self._existing: Collection[str] | None = None
        self._touched: set[str] = set()

    # ---- what others ask

    def until(self, name: str) -> float:
        """How long this node may answer for what hangs on a lease; 0 when it may not at all."""
        state = self._states.get(name)
        return state.until if state is not None else 0.0

    def holder(self, name: str) -> str | None:
        """Who has a lease as far as it is known; None for one that is nowhere."""
        state = self._states.get(name)
        return _holder(state.known) if state is not None and state.known is not None else None

    def is_wanted(self, name: str) -> bool:
        state = self._states.get(name)
        return state is not None and state.is_wanted

    @property
    def is_at_work(self) -> bool:
        """Whether the API has been asked for something that it has not answered yet."""
        return any(state.is_busy for state in self._states.values())

    def drain(self) -> set[str]:
        """Leases whose holder or `until` may have changed since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def pause_s(self, now: float) -> float:
        """Until something is due."""
        while self._queue and not self._is_current(*self._queue[0]):
            heapq.heappop(self._queue)
        return max(0.0, self._queue[0][0] - now) if self._queue else _NEVER

    # ---- what happens

    def want(self, names: Collection[str], existing: Collection[str] | None, now: float) -> None:
        """Campaign for these leases and for no others. `existing` names the leases of all services that there are: others are
        deleted; None as long as not all is known, when nothing is let go."""
        self._existing = existing
        for name in names:
            if name not in self._states:
                self._states[name] = _State(now + self._jitter())
            self._states[name].is_wanted = True
        for name, state in list(self._states.items()):
            if state.is_wanted and name not in names:
                state.is_wanted = False
                self._stop(name, state)
            self._plan(name, state, now)

    def observe(self, lease: Lease, now: float) -> None:
        """The watch, or a look, has told of a version of a lease."""
        name = lease.metadata.name
        state = self._states.setdefault(name, _State(now))
        state.is_stale = False
        if state.known is None or not _is_older(lease, state.known):
            before, state.known = state.known, lease
            if before is None or before.spec != lease.spec:
                self._follow(name, state, lease, now)
        self._plan(name, state, now)

    def gone(self, name: str, now: float) -> None:
        """The lease is no more. Its holder may still answer and makes it again: others wait as after a renewal."""
        state = self._states.get(name)
        if state is None:
            return
        if state.known is not None and _holder(state.known) == self.identity:
            state.take_at = now
        elif state.known is not None and _holder(state.known):
            state.take_at = now + _patience_s(state.known) + self._jitter()
        state.known, state.is_stale = None, False
        self._touched.add(name)
        self._plan(name, state, now)

    # ---- requests

    def next(self, now: float, stamp: str) -> Request | None:
        """Something that is due; it counts as being done until one of the calls below. `stamp` is the wall clock's time as
        MicroTime, for people to read."""
        while self._queue and self._queue[0][0] <= now:
            due, name = heapq.heappop(self._queue)
            if not self._is_current(due, name):
                continue
            state = self._states[name]
            state.due = _NEVER
            self._expire(name, state, now)
            request = self._decide(name, state, stamp)
            if request is not None:
                state.is_busy = True
                return request
            self._plan(name, state, now)
        return None

    def done(self, request: Request, answer: Lease | None, sent: float, now: float) -> None:
        """The API has done it; `answer` is the lease as it is now, None after a deletion."""
        name, state = request.name, self._finish(request)
        if answer is None:
            self.gone(name, now)
            return
        if request.verb is Verb.READ:
            state.not_before = now + self.timing.retry_s / 10  # whatever the conflict was, it does not make us spin
            self.observe(answer, now)
            return
        state.known = answer
        self._touched.add(name)
        state.take_at = now
        if state.is_wanted and _holder(answer) == self.identity:
            state.until, state.renew_at = sent + self.timing.hold_s, sent + self.timing.renew_s
            self._expire(name, state, now)
        self._plan(name, state, now)

    def conflicted(self, request: Request, now: float) -> None:
        """Somebody else was faster: look at what is there now."""
        state = self._finish(request)
        state.is_stale = True
        self._plan(request.name, state, now)

    def vanished(self, request: Request, now: float) -> None:
        """There is no such lease."""
        self._finish(request)
        self.gone(request.name, now)

    def failed(self, request: Request, now: float) -> None:
        """No answer, or a refusal: try again after a while."""
        state = self._finish(request)
        state.not_before = now + self.timing.retry_s * (0.9 + 0.2 * self._rng.random())
        self._expire(request.name, state, now)
        self._plan(request.name, state, now)

    # ---- inside

    def _finish(self, request: Request) -> _State:
        state = self._states[request.name]
        state.is_busy, state.not_before = False, 0.0
        return state

    def _follow(self, name: str, state: _State, lease: Lease, now: float) -> None:
        """Somebody took, renewed or released it."""
        self._touched.add(name)
        holder = _holder(lease)
        if holder == self.identity:
            state.take_at = now
            return
        self._stop(name, state)
        state.take_at = now + (_patience_s(lease) if holder else 0.0) + self._jitter()

    def _plan(self, name: str, state: _State, now: float) -> None:
        """Decide when something has to be done next."""
        if state.is_busy:
            return
        if not state.is_wanted and state.known is None and state.take_at <= now:
            del self._states[name]
            return
        due = max(self._next_move(name, state, now), state.not_before)
        if due != state.due:
            state.due = due
            if due != _NEVER:
                heapq.heappush(self._queue, (due, name))

    def _next_move(self, name: str, state: _State, now: float) -> float:
        if state.is_stale:
            return now
        if state.is_wanted:
            return state.renew_at if state.until else state.take_at
        if state.known is None:
            return state.take_at  # to forget it
        if self._existing is None:
            return _NEVER
        if _holder(state.known) == self.identity:
            return now
        # Somebody has died and the service is gone: whoever comes first removes what is left.
        return _NEVER if name in self._existing else state.take_at + _FORGET_AFTER_S

    def _decide(self, name: str, state: _State, stamp: str) -> Request | None:
        if state.is_stale:
            return Request(name, Verb.READ)
        if not state.is_wanted:
            return self._let_go(name, state, stamp)
        known = state.known
        promise = {ANSWERS_FOR: f"{self.identity} {self.timing.hold_s:g}"}
        if known is None:
            meta = ObjectMeta(name=name, namespace=NAMESPACE, annotations=promise)
            return Request(name, Verb.CREATE, Lease(metadata=meta, spec=self._record(LeaseSpec(), stamp)))
        meta = msgspec.structs.replace(known.metadata, annotations=known.metadata.annotations | promise)
        return Request(name, Verb.UPDATE, Lease(metadata=meta, spec=self._record(known.spec, stamp)))

    def _record(self, before: LeaseSpec, stamp: str) -> LeaseSpec:
        is_ours, is_new = before.holder_identity == self.identity, before.renew_time is None
        return LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=self.timing.duration_seconds,
            acquire_time=before.acquire_time or stamp if is_ours else stamp,
            renew_time=stamp,
            lease_transitions=(before.lease_transitions or 0) + (not is_ours and not is_new),
        )

    def _let_go(self, name: str, state: _State, stamp: str) -> Request | None:
        known = state.known
        if known is None or self._existing is None:
            return None
        if name not in self._existing:
            return Request(name, Verb.DELETE, known)
        if _holder(known) != self.identity:
            return None
        spec = msgspec.structs.replace(known.spec, holder_identity="", lease_duration_seconds=1, renew_time=stamp)
        return Request(name, Verb.UPDATE, msgspec.structs.replace(known, spec=spec))

    def _expire(self, name: str, state: _State, now: float) -> None:
        if state.until <= now:
            self._stop(name, state)

    def _stop(self, name: str, state: _State) -> None:
        if state.until:
            state.until = 0.0
            self._touched.add(name)

    def _is_current(self, due: float, name: str) -> bool:
        state = self._states.get(name)
        return state is not None and not state.is_busy and state.due == due

    def _jitter(self) -> float:
        """Spreads leases over the candidates, all of which see the same at the same time."""
        return self.timing.retry_s / 4 * self._rng.random()


def _holder(lease: Lease) -> str:
    return lease.spec.holder_identity or ""


def _patience_s(lease: Lease) -> float:
    """How long another holder's lease is good without a renewal, by our clock."""
    duration_s = float(lease.spec.lease_duration_seconds or 0)
    holder, _, promised = lease.metadata.annotations.get(ANSWERS_FOR, "").rpartition(" ")
    try:
        hold_s = float(promised)
    except ValueError:
        return duration_s
    is_good = holder == _holder(lease) and 0 < hold_s <= duration_s
    return hold_s * _PATIENCE if is_good else duration_s


def _is_older(one: Lease, other: Lease) -> bool:
    """By resource version, where both are numbers; the same one is no news either."""
    a, b = one.metadata.resource_version, other.metadata.resource_version
    return int(a) <= int(b) if a.isdecimal() and b.isdecimal() else a == b
