"""Tables, decision and Adj-RIB-Out against models that compute everything anew."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.bgp.attribute import Attributes, Origin, Segment, SegmentKind, first_as, path_length
from stentor.bgp.capability import Open, Session
from stentor.bgp.decision import Path, Scope, Source, rank, select
from stentor.bgp.nlri import Family
from stentor.bgp.outbound import Export, Outbound
from stentor.bgp.policy import ACCEPT_ALL, Match, Policy, PrefixRange, PrefixSet, Statement
from stentor.bgp.rib import Import, Inbound, Local, Table
from stentor.bgp.update import UpdateDecoder
from stentor.bgp.wire import HEADER

small_paths = st.lists(st.sampled_from([11, 12, 13]), max_size=3).map(
    lambda asns: (Segment(SegmentKind.SEQUENCE, tuple(asns)),) if asns else ()
)
some_attributes = st.builds(
    Attributes,
    origin=st.sampled_from(list(Origin)),
    as_path=small_paths,
    next_hop=st.just(bytes((10, 0, 0, 9))),
    med=st.sampled_from([None, 0, 1, 2]),
    local_pref=st.sampled_from([None, 100, 200]),
    cluster_list=st.sampled_from([(), (b"abcd",)]),
    originator_id=st.sampled_from([None, b"\0\0\0\1"]),
)


@st.composite
def rivals(draw: st.DrawFn) -> list[Path]:
    count = draw(st.integers(1, 5))
    return [
        Path(
            Source(str(i), draw(st.sampled_from(list(Scope))), 1, draw(st.integers(1, 3)), bytes((10, 0, 0, i))),
            draw(some_attributes),
        )
        for i in range(count)
    ]


def brute_force(paths: list[Path]) -> Path:
    """RFC 4271 §9.1.2.2 word by word: each step removes paths from consideration."""

    def keep_lowest(left: list[Path], key: object) -> list[Path]:
        lowest = min(key(each) for each in left)  # type: ignore[operator]
        return [each for each in left if key(each) == lowest]  # type: ignore[operator]

    left = list(paths)
    left = keep_lowest(left, lambda p: -(100 if p.attributes.local_pref is None else p.attributes.local_pref))
    left = keep_lowest(left, lambda p: p.source.scope is not Scope.LOCAL)
    left = keep_lowest(left, lambda p: path_length(p.attributes.as_path))
    left = keep_lowest(left, lambda p: p.attributes.origin)
    doomed = [
        m
        for m in left
        for n in left
        if first_as(m.attributes.as_path) == first_as(n.attributes.as_path)
        and (n.attributes.med or 0) < (m.attributes.med or 0)
    ]
    left = [each for each in left if each not in doomed]
    left = keep_lowest(left, lambda p: p.source.scope is Scope.INTERNAL)
    left = keep_lowest(
        left,
        lambda p: (
            p.source.identifier
            if p.attributes.originator_id is None
            else int.from_bytes(p.attributes.originator_id, "big")
        ),
    )
    left = keep_lowest(left, lambda p: len(p.attributes.cluster_list))
    left = keep_lowest(left, lambda p: p.source.address)
    (best,) = left
    return best


@settings(max_examples=100)
@given(rivals())
def test_decision_agrees_with_the_text(paths: list[Path]) -> None:
    best = brute_force(paths)
    assert all(select(order) is best for order in permutations(paths[:4] + paths[4:][:1]) if len(paths) <= 4)
    assert select(paths) is best
    assert rank(paths, len(paths))[0] is best
    assert sorted(map(id, rank(paths, 9))) == sorted(map(id, paths))


PREFIXES = [bytes((8, number)) for number in range(1, 7)]
keys = st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=6, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("announce"), st.sampled_from([0, 1, 2]), keys, some_attributes),
        st.tuples(st.just("withdraw"), st.sampled_from([0, 1, 2]), keys, st.just(Attributes())),
        st.tuples(st.just("local"), st.just(0), keys, some_attributes),
        st.tuples(st.just("unlocal"), st.just(0), keys, st.just(Attributes())),
        st.tuples(st.just("stale"), st.sampled_from([0, 1, 2]), keys, st.just(Attributes())),
        st.tuples(st.just("sweep"), st.sampled_from([0, 1, 2]), keys, st.just(Attributes())),
        st.tuples(st.just("policy"), st.sampled_from([0, 1]), keys, st.just(Attributes())),
        st.tuples(st.just("import"), st.integers(0, 5), keys, st.just(Attributes())),
        st.tuples(st.just("send"), st.integers(1, 4), keys, st.just(Attributes())),
        st.tuples(st.just("refresh"), st.just(0), keys, st.just(Attributes())),
    ),
    min_size=5,
    max_size=45,
)
lonely = st.lists(
    st.one_of(
        st.tuples(st.just("announce"), st.just(0), keys, some_attributes),
        st.tuples(st.just("announce"), st.just(0), keys, some_attributes),
        st.tuples(st.just("withdraw"), st.just(0), keys, st.just(Attributes())),
        st.tuples(st.just("import"), st.sampled_from([0, 1]), keys, st.just(Attributes())),
        st.tuples(st.just("send"), st.just(9), keys, st.just(Attributes())),
    ),
    min_size=2,
    max_size=9,
)
HALF = PrefixSet([PrefixRange(Family.IPV4, bytes((8, number)), 8, 32) for number in (1, 2, 3)])
POLICIES = [ACCEPT_ALL, Policy("half", (Statement("half", Match(prefixes=HALF)),), accepts=False)]


def import_rules(policy: Policy) -> Import:
    return Import(policy, 65001, 0xFF, True, enforce_first_as=False)


class World:
    """Three peers that send, our own routes, and one peer that listens; beside them the naive truth."""

    def __init__(self, *, add_path: bool) -> None:
        self.table = Table(Family.IPV4)
        self.sources = [Source(f"p{i}", Scope.EXTERNAL, 11 + i, i + 1, bytes((10, 0, 0, i))) for i in range(3)]
        self.inbound = [
            Inbound(self.table, each, import_rules(ACCEPT_ALL), has_path_ids=False) for each in self.sources
        ]
        self.local = Local(self.table, Source("local", Scope.LOCAL))
        self.truth: dict[tuple[str, bytes], Attributes] = {}
        self.stale: set[tuple[str, bytes]] = set()
        ids = frozenset((Family.IPV4,)) if add_path else frozenset()
        self.session = Session(65001, Open(65009, 90, 9), 90, 30, frozenset(Family), add_path_out=ids, add_path_in=ids)
        self.paths = 2 if add_path else 1
        self.policy = ACCEPT_ALL
        self.outbound = Outbound(self.table, self._export())
        self.decoder = UpdateDecoder(Session(65009, Open(65001, 90, 9), 90, 30, frozenset(Family), add_path_in=ids))
        self.heard: dict[bytes, Attributes] = {}
        self.outbound.refresh()

    def _export(self) -> Export:
        own = Source("listener", Scope.EXTERNAL)
        return Export(self.policy, own, self.session, bytes((10, 0, 0, 1)), paths=self.paths)

    def step(self, action: str, number: int, prefixes: list[bytes], attributes: Attributes) -> None:
        touched: object = ()
        if action == "announce":
            touched = self.inbound[number].announce(attributes, prefixes)
            for prefix in prefixes:
                self.truth[f"p{number}", prefix] = attributes
                self.stale.discard((f"p{number}", prefix))
        elif action == "withdraw":
            touched = self.inbound[number].withdraw(prefixes)
            self._forget((f"p{number}", prefix) for prefix in prefixes)
        elif action == "local":
            touched = self.local.announce(attributes, (), prefixes)
            self.truth.update({("local", prefix): attributes for prefix in prefixes})
        elif action == "unlocal":
            touched = self.local.withdraw(prefixes)
            self._forget(("local", prefix) for prefix in prefixes)
        elif action == "stale":
            self.inbound[number].mark_stale()
            self.stale |= {key for key in self.truth if key[0] == f"p{number}"}
        elif action == "sweep":
            touched = self.inbound[number].sweep()
            self._forget([key for key in self.stale if key[0] == f"p{number}"])
        elif action == "policy":
            self.policy = POLICIES[number]
            self.outbound.change(self._export())
        elif action == "import":
            touched = self.inbound[number // 2].reconsider(import_rules(POLICIES[number % 2]))
        elif action == "refresh":
            self.outbound.refresh(forget=True)
        elif action == "send":
            self.listen(number)
        self.outbound.touch(touched)  # type: ignore[arg-type]

    def _forget(self, keys: object) -> None:
        for key in keys:  # type: ignore[attr-defined]
            self.truth.pop(key, None)
            self.stale.discard(key)

    def listen(self, limit: int) -> None:
        for message in self.outbound.take(limit):
            update = self.decoder.decode(message[HEADER:])
            assert update.faults == ()
            for routes in update.withdrawn:
                for key in routes.prefixes:
                    del self.heard[key]
            for routes in update.announced:
                assert routes.attributes is not None
                self.heard.update(dict.fromkeys(routes.prefixes, routes.attributes))

    def accepted(self) -> dict[tuple[str, bytes], Attributes]:
        """The truth that the import policies let pass."""
        closed = {each.source.name for each in self.inbound if each.rules.policy is not ACCEPT_ALL}
        return {key: found for key, found in self.truth.items() if key[0] not in closed or key[1][1] in (1, 2, 3)}

    def expected(self) -> dict[bytes, list[tuple[tuple[int, ...], int | None]]]:
        """By prefix what the listener should know: paths and MEDs, best first."""
        result = {}
        named = {source.name: source for source in [*self.sources, self.local.source]}
        accepted = self.accepted()
        for prefix in {prefix for _, prefix in accepted}:
            candidates = [Path(named[name], found) for (name, p), found in accepted.items() if p == prefix]
            is_allowed = self.policy is ACCEPT_ALL or prefix[1] in (1, 2, 3)
            if is_allowed:
                result[prefix] = [view(path) for path in rank(candidates, self.paths)]
        return result


def view(path: Path) -> tuple[tuple[int, ...], int | None]:
    asns = tuple(asn for segment in path.attributes.as_path for asn in segment.asns)
    return (65001, *asns), path.attributes.med if path.source.scope is Scope.LOCAL else None


@settings(max_examples=300)
@given(st.tuples(lonely, st.one_of(st.just([]), steps)).map(lambda parts: parts[0] + parts[1]), st.booleans())
def test_a_listener_knows_what_it_should(taken: list[tuple[str, int, list[bytes], Attributes]], add_path: bool) -> None:
    """First with one peer alone, whose routes may be the table itself, then with all."""
    world = World(add_path=add_path)
    for step in taken:
        world.step(*step)
    while not world.outbound.is_idle:
        world.listen(3)
    heard: dict[bytes, list[tuple[tuple[int, ...], int | None]]] = {}
    for key, attributes in world.heard.items():
        asns = tuple(asn for segment in attributes.as_path for asn in segment.asns)
        heard.setdefault(key[4:] if add_path else key, []).append((asns, attributes.med))
    expected = world.expected()
    assert {prefix: sorted(found, key=str) for prefix, found in heard.items()} == {
        prefix: sorted(found, key=str) for prefix, found in expected.items()
    }
    for prefix, path in world.table.best.items():
        assert path is select(world.table.candidates(prefix))
    assert set(world.table.best) == {prefix for _, prefix in world.accepted()}
    for inbound in world.inbound:
        received = {p: found for (name, p), found in world.truth.items() if name == inbound.source.name}
        assert {prefix: path.attributes for prefix, path in inbound.routes.items()} == received


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 32)), max_size=6), st.data())
def test_prefix_sets_agree_with_a_linear_scan(rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    from stentor.bgp.nlri import pack_prefix

    ranges = []
    for address, length, extra in rows:
        low = max(length, min(extra, 32))
        ranges.append(PrefixRange(Family.IPV4, pack_prefix(address.to_bytes(4, "big"), length), low, 32))
    probes = [
        pack_prefix(address.to_bytes(4, "big"), length)
        for address, length in data.draw(
            st.lists(st.tuples(st.sampled_from([r[0] for r in rows] or [0]), st.integers(0, 32)), max_size=20)
        )
    ]

    def inside(prefix: bytes) -> bool:
        value = int.from_bytes(prefix[1:].ljust(4, b"\0"), "big")
        return any(
            each.shortest <= prefix[0] <= each.longest
            and value >> (32 - each.prefix[0])
            == int.from_bytes(each.prefix[1:].ljust(4, b"\0"), "big") >> (32 - each.prefix[0])
            for each in ranges
        )

    found = PrefixSet(ranges)
    hit, miss = found.split(Family.IPV4, probes)
    assert sorted(hit) == sorted(prefix for prefix in probes if inside(prefix))
    assert sorted(miss) == sorted(prefix for prefix in probes if not inside(prefix))
