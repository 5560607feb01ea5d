"""Campaigns of several nodes against one API server, in simulated time: messages are late or lost, clocks run at different
speeds, agents die and come back, people delete and annotate leases. At no moment do two nodes answer; and once all is well
again, one does."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.api.core import Lease
from stentor.l2.campaign import Campaign, Request, Timing, Verb

LEASES = ("cilium-l2announce-default-a", "cilium-l2announce-default-b")
TIMEOUT_S = 1.0
RUN_S = 25.0


@dataclass
class Faults:
    """Probabilities a message, and mean seconds between events of each kind (0: never)."""

    lost: float = 0.0
    slow: float = 0.0
    crash_s: float = 0.0
    toggle_s: float = 0.0
    delete_s: float = 0.0
    annotate_s: float = 0.0


@dataclass
class Node:
    """A machine. `kernel` outlives the agent: until when it answers, by the machine's clock."""

    name: str
    rate: float
    offset: float
    campaign: Campaign | None = None
    kernel: dict[str, float] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=lambda: set(LEASES))
    life: int = 0
    watch_at: float = 0.0


class World:
    """Discrete events: (time, order, what)."""

    def __init__(self, rng: random.Random, nodes: int, timing: Timing, faults: Faults) -> None:
        self.rng, self.timing, self.faults = rng, timing, faults
        self.now = 0.0
        self.version = itertools.count(1)
        self.store: dict[str, Lease] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.answered = 0
        self.nodes = [Node(f"node-{n}", 1 + rng.uniform(-0.004, 0.004), rng.uniform(0, 1e6)) for n in range(nodes)]
        for node in self.nodes:
            self.at(rng.uniform(0, 1), lambda node=node: self.boot(node))  # type: ignore[misc]
            for mean, act in ((faults.crash_s, self.crash), (faults.toggle_s, self.toggle)):
                self.repeat(mean, lambda node=node, act=act: act(node))  # type: ignore[misc]
        self.at(3.0, lambda: self.repeat(faults.delete_s, self.delete))  # when all agents are there
        self.repeat(faults.annotate_s, self.annotate)

    # ---- time

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), what))

    def repeat(self, mean_s: float, what: Callable[[], None]) -> None:
        def again() -> None:
            if self.now < RUN_S:
                what()
                self.at(self.rng.expovariate(1 / mean_s), again)

        if mean_s:
            self.at(self.rng.expovariate(1 / mean_s), again)

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, what = heapq.heappop(self.events)
            what()
            self.check()

    def clock(self, node: Node) -> float:
        return node.offset + node.rate * self.now

    def answering(self, name: str) -> list[str]:
        return [node.name for node in self.nodes if node.kernel.get(name, 0.0) > self.clock(node)]

    def check(self) -> None:
        for name in LEASES:
            nodes = self.answering(name)
            assert len(nodes) <= 1, (self.now, name, nodes)
            self.answered += len(nodes)

    # ---- the API server

    def write(self, name: str, lease: Lease | None) -> Lease | None:
        version = str(next(self.version))
        if lease is None:
            self.store.pop(name)
        else:
            meta = msgspec.structs.replace(lease.metadata, resource_version=version)
            lease = self.store[name] = msgspec.structs.replace(lease, metadata=meta)
        for node in self.nodes:
            self.tell(node, name, lease)
        return lease

    def tell(self, node: Node, name: str, lease: Lease | None) -> None:
        """A watch is late, but keeps the order."""
        node.watch_at = max(node.watch_at, self.now + self.delay())
        life = node.life

        def arrive() -> None:
            if node.campaign is not None and node.life == life:
                if lease is None:
                    node.campaign.gone(name, self.clock(node))
                else:
                    node.campaign.observe(lease, self.clock(node))
                self.work(node)

        self.at(node.watch_at - self.now, arrive)

    def delay(self) -> float:
        is_slow = self.now < RUN_S and self.rng.random() < self.faults.slow
        return self.rng.uniform(0, self.rng.choice((0.9, 5.0))) if is_slow else self.rng.uniform(0.001, 0.02)

    def serve(self, request: Request) -> tuple[str, Lease | None]:
        stored, given_ = self.store.get(request.name), request.lease
        if request.verb is Verb.READ:
            return ("done", stored) if stored is not None else ("vanished", None)
        assert given_ is not None
        if request.verb is Verb.CREATE:
            return ("conflicted", None) if stored is not None else ("done", self.write(request.name, given_))
        if stored is None:
            return "vanished", None
        if stored.metadata.resource_version != given_.metadata.resource_version:
            return "conflicted", None
        return "done", self.write(request.name, given_ if request.verb is Verb.UPDATE else None)

    # ---- agents

    def boot(self, node: Node) -> None:
        node.life += 1
        node.campaign = Campaign(node.name, self.timing, random.Random(self.rng.random()))
        for lease in self.store.values():
            node.campaign.observe(lease, self.clock(node))
        self.want(node)

    def want(self, node: Node) -> None:
        if node.campaign is not None:
            node.campaign.want(set(node.wanted), LEASES, self.clock(node))
            self.work(node)

    def work(self, node: Node) -> None:
        campaign, life, now = node.campaign, node.life, self.clock(node)
        assert campaign is not None
        for name in campaign.drain():
            until = campaign.until(name)
            node.kernel[name] = until
            assert not until or until <= now + self.timing.hold_s
        while request := campaign.next(now, f"{self.now:.6f}"):
            self.send(node, request)
        for name in campaign.drain():
            node.kernel[name] = campaign.until(name)
        pause = campaign.pause_s(now)
        if pause != float("inf"):
            self.at(pause / node.rate + 1e-4, lambda: self.work(node) if node.life == life and node.campaign else None)

    def send(self, node: Node, request: Request) -> None:
        sent, life = self.clock(node), node.life
        is_lossy = self.now < RUN_S
        outcome: list[tuple[str, Lease | None]] = []

        def arrive() -> None:
            outcome.append(self.serve(request))
            if not (is_lossy and self.rng.random() < self.faults.lost):
                self.at(self.delay(), finish)

        def finish() -> None:
            campaign = node.campaign
            if campaign is None or node.life != life or finished:
                return
            finished.append(True)
            kind, answer = outcome[0] if outcome and self.clock(node) - sent < TIMEOUT_S else ("failed", None)
            now = self.clock(node)
            if kind == "done":
                campaign.done(request, answer, sent, now)
            else:
                getattr(campaign, kind)(request, now)
            self.work(node)

        finished: list[bool] = []
        if not (is_lossy and self.rng.random() < self.faults.lost):
            self.at(self.delay(), arrive)
        self.at(TIMEOUT_S * 1.01 / node.rate, finish)

    # ---- faults

    def crash(self, node: Node) -> None:
        if node.campaign is not None:
            node.campaign = None
            node.life += 1
            self.at(self.rng.uniform(0.1, 8), lambda: self.boot(node) if node.campaign is None else None)

    def toggle(self, node: Node) -> None:
        node.wanted ^= {self.rng.choice(LEASES)}
        self.want(node)

    def delete(self) -> None:
        if self.store:
            self.write(self.rng.choice(sorted(self.store)), None)

    def annotate(self) -> None:
        if self.store:
            name = self.rng.choice(sorted(self.store))
            lease = self.store[name]
            notes = lease.metadata.annotations | {"note": str(self.now)}
            meta = msgspec.structs.replace(lease.metadata, annotations=notes)
            self.write(name, msgspec.structs.replace(lease, metadata=meta))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(2, 4),
    timing=st.sampled_from((Timing(3, 1, 0.2), Timing(15, 5, 2), Timing(2.5, 2, 0.5), Timing(1, 0.5, 0.1))),
    faults=st.builds(
        Faults,
        lost=st.sampled_from((0.0, 0.05, 0.5)),
        slow=st.sampled_from((0.0, 0.1, 0.5)),
        toggle_s=st.sampled_from((0.0, 2.0, 10.0)),
        annotate_s=st.sampled_from((0.0, 0.3, 5.0)),
    ),
    deaths=st.sampled_from(((0.0, 0.0), (3.0, 0.0), (15.0, 0.0), (0.0, 2.0), (0.0, 8.0))),
)
def test_never_two_and_in_the_end_one(
    seed: int, nodes: int, timing: Timing, faults: Faults, deaths: tuple[float, float]
) -> None:
    """Who deletes a lease takes away what the election rests on. Agents that know of it still do not answer at once; one that
    has just started, or hears late of what happens, does not know."""
    faults.crash_s, faults.delete_s = deaths
    if faults.delete_s:
        faults.slow = 0.0
    world = World(random.Random(seed), nodes, timing, faults)
    world.run(RUN_S + 40.0)
    assert world.answered
    for name in LEASES:
        assert len(world.answering(name)) == any(name in node.wanted for node in world.nodes)


def test_a_dead_holder_is_followed_within_the_duration() -> None:
    """The longest that an address is without an answer, from the last renewal on: shorter than the lease's duration."""
    for seed in range(30):
        world = World(random.Random(seed), 3, Timing(3, 1, 0.2), Faults())
        world.run(10.0 + seed / 10)
        (holder,) = world.answering(LEASES[0])
        dead = next(node for node in world.nodes if node.name == holder)
        dead.campaign, dead.life = None, dead.life + 1
        died = world.now
        while not (set(world.answering(LEASES[0])) - {holder}):
            world.run(world.now + 0.01 if not world.events else world.events[0][0])
        assert world.now - died < 3.0
