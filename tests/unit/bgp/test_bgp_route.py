"""Decision, policies, tables and what a peer is told, by example."""

from __future__ import annotations

import pytest

from stentor.bgp.attribute import (
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_LLGR,
    Attributes,
    Origin,
    Segment,
    SegmentKind,
)
from stentor.bgp.capability import AddPath, Capabilities, Open, Session, negotiate
from stentor.bgp.compile import compile_policy, compile_route, parse_range
from stentor.bgp.config import PolicyConfig, Route, convert, parse
from stentor.bgp.decision import Path, Scope, Source, explain, find_equal, rank, select
from stentor.bgp.errors import ConfigError
from stentor.bgp.exchange import next_slice
from stentor.bgp.nlri import DEFAULT_ROUTE, Family, Prefix, format_prefix, parse_prefix
from stentor.bgp.outbound import Export, Outbound
from stentor.bgp.policy import ACCEPT_ALL, LOCAL_ONLY, NextHop, Policy
from stentor.bgp.rib import Import, Inbound, Local, Paths, Table
from stentor.bgp.update import UpdateDecoder
from stentor.bgp.wire import HEADER

OURS = bytes((10, 0, 0, 1))
PREFIX = parse_prefix("192.0.2.0/24")[1]
OTHER = parse_prefix("198.51.100.0/24")[1]


def attributes(*asns: int, **fields: object) -> Attributes:
    path = (Segment(SegmentKind.SEQUENCE, asns),) if asns else ()
    return Attributes(as_path=path, **{"next_hop": bytes((10, 0, 0, 9)), **fields})  # type: ignore[arg-type]


def source(name: str, scope: Scope = Scope.EXTERNAL, asn: int = 65002, identifier: int = 2, last: int = 2) -> Source:
    return Source(name, scope, asn, identifier, bytes((10, 0, 0, last)))


def agreed(*, ebgp: bool = True, add_path: bool = False) -> Session:
    mode = {Family.IPV4: AddPath.SEND | AddPath.RECEIVE} if add_path else {}
    ours = Capabilities(families=tuple(Family), four_octet_as=65001, add_path=mode)
    asn = 65009 if ebgp else 65001
    theirs = Capabilities(families=tuple(Family), four_octet_as=asn, add_path=mode)
    return negotiate(Open(65001, 90, 1, ours), Open(asn, 90, 9, theirs))


class Peer:
    """A peer that reads what an Outbound says; ``knows`` is its Adj-RIB-In."""

    def __init__(self, table: Table, *, policy: Policy = ACCEPT_ALL, ebgp: bool = True, **rules: object) -> None:
        session = agreed(ebgp=ebgp, add_path=bool(rules.get("paths", 1) != 1))
        own = Source("peer", Scope.EXTERNAL)
        self.outbound = Outbound(table, Export(policy, own, session, OURS, **rules))  # type: ignore[arg-type]
        mirrored = negotiate(session.peer, Open(65001, 90, 1, session.peer.capabilities))
        self._decoder = UpdateDecoder(
            Session(
                local_as=session.peer.asn,
                peer=Open(65001, 90, 1),
                hold_s=90,
                keepalive_s=30,
                families=session.families,
                add_path_in=mirrored.add_path_in,
            )
        )
        self.knows: dict[bytes, Attributes] = {}
        self.outbound.refresh()

    def listen(self) -> int:
        """Read all messages; their number."""
        count = 0
        while not self.outbound.is_idle:
            for message in self.outbound.take(1000):
                count += 1
                update = self._decoder.decode(message[HEADER:])
                assert not update.faults
                for routes in update.withdrawn:
                    for key in routes.prefixes:
                        del self.knows[key]
                for routes in update.announced:
                    assert routes.attributes is not None
                    self.knows.update(dict.fromkeys(routes.prefixes, routes.attributes))
        return count

    def hears(self, *prefixes: Prefix) -> int:
        self.outbound.touch(prefixes)
        return self.listen()


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        (attributes(1, 2, local_pref=200), attributes(1), "lower local preference"),
        (attributes(1, 2), attributes(1, communities=(LLGR_STALE,)), "long-lived stale"),
        (attributes(1), attributes(1, 2), "longer AS path"),
        (attributes(1), attributes(1, origin=Origin.EGP), "worse origin"),
        (attributes(1, med=5), attributes(1, med=6), "higher MED"),
        (attributes(1), attributes(1, med=6), "higher MED"),
        (attributes(1, originator_id=b"\0\0\0\1"), attributes(1), "higher BGP identifier"),
    ],
)
def test_decision_steps(better: Attributes, worse: Attributes, reason: str) -> None:
    a, b = Path(source("a", identifier=5), better), Path(source("b", identifier=5), worse)
    assert select((a, b)) is a
    assert select((b, a)) is a
    assert explain(a, b) == reason


def test_decision_by_source() -> None:
    local = Path(source("local", Scope.LOCAL), attributes())
    external = Path(source("e"), attributes(1))
    internal = Path(source("i", Scope.INTERNAL), attributes(1))
    assert rank((internal, external, local), 3) == [local, external, internal]
    assert explain(external, internal) == "iBGP, not eBGP"
    assert explain(local, external) == "learned, not our own"


def test_med_counts_only_within_an_as() -> None:
    cheap_far = Path(source("a", identifier=3), attributes(2, med=1))
    dear = Path(source("b", identifier=1), attributes(1, med=100))
    assert select((cheap_far, dear)) is dear


def test_equal_paths_for_ecmp() -> None:
    one = Path(source("a", identifier=1), attributes(1))
    two = Path(source("b", identifier=2), attributes(7))
    longer = Path(source("c", identifier=3), attributes(1, 2))
    assert find_equal((two, longer, one), 8) == [one, two]
    assert find_equal((two, longer, one), 1) == [one]


def test_table_prefers_and_falls_back() -> None:
    table = Table(Family.IPV4)
    a, b = source("a", identifier=1), source("b", identifier=2)
    good, bad = Path(a, attributes(1)), Path(b, attributes(1, 2))
    assert list(table.announce(good, {PREFIX: good})) == [PREFIX]
    assert list(table.announce(bad, {PREFIX: bad})) == [PREFIX]
    assert table.best[PREFIX] is good
    assert table.withdraw(a, [PREFIX]) == [PREFIX]
    assert table.best[PREFIX] is bad
    assert table.withdraw(b, [PREFIX, OTHER]) == [PREFIX]
    assert table.best == {}
    assert table.rivals == {}


def make_inbound(table: Table, policy: Policy = ACCEPT_ALL, **rules: object) -> Inbound:
    fields = {"local_as": 65001, "identifier": 1, "is_external": True, **rules}
    return Inbound(table, source("p"), Import(policy, **fields), has_path_ids=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (attributes(65002, 65001), "our AS is in the path"),
        (attributes(65003), "the path does not begin with the peer's AS"),
        (attributes(65002, originator_id=b"\0\0\0\1"), "we are the originator"),
        (attributes(65002, cluster_list=(b"\0\0\0\1",)), "our cluster is in the path"),
        (attributes(65002, next_hop=OURS), "the next hop is ourselves"),
    ],
)
def test_loops_are_refused(received: Attributes, reason: str) -> None:
    table = Table(Family.IPV4)
    inbound = make_inbound(table, own_addresses=frozenset((OURS,)))
    assert list(inbound.announce(received, [PREFIX])) == []
    assert inbound.verdict(received) == reason
    assert inbound.routes.keys() == {PREFIX}


def test_stale_routes_go_at_end_of_rib_unless_announced_again() -> None:
    table = Table(Family.IPV4)
    inbound = make_inbound(table)
    inbound.announce(attributes(65002), [PREFIX, OTHER])
    inbound.mark_stale()
    assert set(table.best) == {PREFIX, OTHER}
    inbound.announce(attributes(65002), [OTHER])
    assert inbound.sweep() == [PREFIX]
    assert set(table.best) == {OTHER}


def test_long_lived_stale_routes_lose_and_those_that_object_go() -> None:
    table = Table(Family.IPV4)
    inbound = make_inbound(table)
    inbound.announce(attributes(65002), [PREFIX])
    inbound.announce(attributes(65002, communities=(NO_LLGR,)), [OTHER])
    inbound.mark_stale()
    assert set(inbound.make_long_lived()) == {PREFIX, OTHER}
    assert set(table.best) == {PREFIX}
    assert table.best[PREFIX].attributes.communities == (LLGR_STALE,)
    inbound.announce(attributes(65002), [PREFIX])
    assert table.best[PREFIX].attributes.communities == ()
    assert inbound.sweep() == []


def test_graceful_shutdown_makes_routes_least_preferred() -> None:
    table = Table(Family.IPV4)
    make_inbound(table).announce(attributes(65002, communities=(GRACEFUL_SHUTDOWN,)), [PREFIX])
    assert table.best[PREFIX].attributes.local_pref == 0


def originate(table: Table, *prefixes: Prefix, **fields: object) -> Local:
    local = Local(table, Source("config", Scope.LOCAL))
    local.announce(Attributes(**fields), (), prefixes)  # type: ignore[arg-type]
    return local


def test_what_an_external_peer_is_told() -> None:
    table = Table(Family.IPV4)
    originate(table, PREFIX, med=7, local_pref=300)
    make_inbound(table).announce(attributes(65002, med=9), [OTHER])
    peer = Peer(table)
    peer.listen()
    assert peer.knows[PREFIX] == attributes(65001, next_hop=OURS, med=7)
    assert peer.knows[OTHER] == attributes(65001, 65002, next_hop=OURS)


def test_what_an_internal_peer_is_told() -> None:
    table = Table(Family.IPV4)
    originate(table, PREFIX)
    make_inbound(table).announce(attributes(65002, med=9), [OTHER])
    peer = Peer(table, ebgp=False)
    peer.listen()
    assert peer.knows[PREFIX] == attributes(next_hop=OURS, local_pref=100)
    assert peer.knows[OTHER] == attributes(65002, med=9, local_pref=100)


@pytest.mark.parametrize(
    ("communities", "ebgp", "is_told"),
    [
        ((NO_EXPORT,), True, False),
        ((NO_EXPORT,), False, True),
        ((NO_ADVERTISE,), False, False),
        ((LLGR_STALE,), True, False),
    ],
)
def test_well_known_communities(communities: tuple[int, ...], ebgp: bool, is_told: bool) -> None:
    """They bind whoever receives them; our own routes carry them to the peer."""
    table = Table(Family.IPV4)
    make_inbound(table).announce(attributes(65002, communities=communities), [PREFIX])
    originate(table, OTHER, communities=communities)
    peer = Peer(table, ebgp=ebgp)
    peer.listen()
    assert (PREFIX in peer.knows) == is_told
    assert peer.knows[OTHER].communities == communities


def test_non_transitive_extended_communities_stay_inside_the_as() -> None:
    table = Table(Family.IPV4)
    bandwidth, target = b"\x40\x04\xfd\xe9\0\0\0\0", b"\0\2\xfd\xe9\0\0\0\1"
    make_inbound(table).announce(attributes(65002, extended_communities=(target, bandwidth)), [PREFIX])
    outside, inside = Peer(table), Peer(table, ebgp=False)
    for peer in (outside, inside):
        peer.listen()
    assert outside.knows[PREFIX].extended_communities == (target,)
    assert inside.knows[PREFIX].extended_communities == (target, bandwidth)


def test_interning_looks_at_all_routes_rarely_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full table has more attribute sets than any fixed limit: a look at all routes for each more would take for ever."""
    monkeypatch.setattr("stentor.bgp.rib.INTERN_WORDS", 200)

    class Counted(dict[bytes, Path]):
        looks = 0

        def values(self) -> object:  # type: ignore[override]
            self.looks += 1
            return super().values()

    routes = Counted()
    paths = Paths(source("p"))
    for number in range(1000):
        routes[number.to_bytes(4, "big")] = paths.get(routes, attributes(65002, 100 + number))
    assert routes.looks < 10
    assert paths.get(routes, attributes(65002, 100)) is routes[bytes(4)]
    routes.clear()
    for number in range(2000):
        paths.get(routes, attributes(65002, 5000 + number))
    assert len(paths._known) <= 2000  # what no route uses is forgotten


def test_nothing_is_said_twice_and_policies_change_in_place() -> None:
    table = Table(Family.IPV4)
    originate(table, PREFIX, OTHER)
    peer = Peer(table)
    assert peer.listen() == 1
    assert peer.hears(PREFIX, OTHER) == 0
    only = compile_policy(
        PolicyConfig("p", convert_statements([{"match": {"prefixes": ["192.0.2.0/24"]}}])), "policies[0]"
    )
    peer.outbound.change(Export(only, peer.outbound.rules.source, peer.outbound.rules.session, OURS))
    assert peer.listen() == 1
    assert set(peer.knows) == {PREFIX}
    peer.outbound.change(Export(ACCEPT_ALL, peer.outbound.rules.source, peer.outbound.rules.session, OURS))
    assert peer.listen() == 1
    assert set(peer.knows) == {PREFIX, OTHER}


def test_default_originate_comes_and_goes() -> None:
    table = Table(Family.IPV4)
    peer = Peer(table, policy=LOCAL_ONLY, originates_default=True)
    peer.listen()
    assert set(peer.knows) == {DEFAULT_ROUTE}
    rules = peer.outbound.rules
    peer.outbound.change(Export(rules.policy, rules.source, rules.session, OURS))
    peer.listen()
    assert peer.knows == {}


def test_draining_adds_the_community() -> None:
    table = Table(Family.IPV4)
    originate(table, PREFIX)
    peer = Peer(table, ebgp=False, is_draining=True)
    peer.listen()
    assert peer.knows[PREFIX].communities == (GRACEFUL_SHUTDOWN,)
    assert peer.knows[PREFIX].local_pref == 0
    assert peer.outbound.explain(PREFIX).endswith(" accepts; draining: with GRACEFUL_SHUTDOWN")
    originating = Peer(Table(Family.IPV4), is_draining=True, originates_default=True)
    assert (
        originating.outbound.explain(DEFAULT_ROUTE) == "advertised: default originate; draining: with GRACEFUL_SHUTDOWN"
    )
    assert "GRACEFUL_SHUTDOWN" not in Peer(table).outbound.explain(PREFIX)


def test_next_hop_modes() -> None:
    table = Table(Family.IPV4)
    make_inbound(table).announce(attributes(65002), [OTHER])
    for mode, wanted in ((NextHop.UNCHANGED, bytes((10, 0, 0, 9))), (NextHop.SELF, OURS), (bytes(4), bytes(4))):
        told = Peer(table, next_hop_mode=mode)
        if mode != bytes(4):
            told.listen()
            assert told.knows[OTHER].next_hop == wanted


def test_additional_paths_are_told_and_taken_back_one_by_one() -> None:
    table = Table(Family.IPV4)
    paths = [Path(source(name, identifier=number), attributes(number)) for number, name in enumerate("abc", 1)]
    for path in paths:
        table.announce(path, {PREFIX: path})
    peer = Peer(table, paths=2)
    peer.listen()
    assert [each.as_path[0].asns for each in peer.knows.values()] == [(65001, 1), (65001, 2)]
    table.withdraw(paths[0].source, [PREFIX])
    peer.hears(PREFIX)
    assert sorted(each.as_path[0].asns for each in peer.knows.values()) == [(65001, 2), (65001, 3)]
    assert all(key[4:] == PREFIX for key in peer.knows)


def test_path_identifiers_are_small_whatever_the_peers_use() -> None:
    """Some routers number all their paths anew: ours are counted a prefix, so that a prefix costs what it has."""
    table = Table(Family.IPV4)
    inbound = Inbound(table, source("p"), Import(ACCEPT_ALL, 65001, 1, True), has_path_ids=True)
    prefixes = [bytes((32, 198, 18, 0, number)) for number in range(50)]
    for number, prefix in enumerate(prefixes):
        inbound.announce(attributes(65002), [(1000 + number).to_bytes(4, "big") + prefix])
    peer = Peer(table, paths=4)
    peer.listen()
    assert {key[:4] for key in peer.knows} == {b"\0\0\0\1"}
    peer.hears(*inbound.announce(attributes(65002, 65003), [b"\0\0\0\7" + prefixes[0]]))
    assert {key[:4] for key in peer.knows if key[4:] == prefixes[0]} == {b"\0\0\0\1", b"\0\0\0\2"}
    peer.hears(*inbound.withdraw([(1000).to_bytes(4, "big") + prefixes[0], b"\0\0\0\7" + prefixes[0]]))
    assert {key[4:] for key in peer.knows} == set(prefixes[1:])


def test_slices_shrink_when_they_become_too_much_to_write() -> None:
    assert next_slice(512, 4_000) == 1024
    assert next_slice(16384, 100_000) == 16384
    assert next_slice(16384, 64 << 20) == 256
    assert next_slice(3, 1 << 30) == 1


def test_attributes_too_long_for_a_message_are_not_told() -> None:
    table = Table(Family.IPV4)
    originate(table, PREFIX)
    peer = Peer(table)
    peer.listen()
    segments = tuple(Segment(SegmentKind.SEQUENCE, tuple(range(1, 256))) for _ in range(5))
    huge = Path(source("a"), Attributes(as_path=segments, next_hop=OURS, local_pref=500))
    table.announce(huge, {PREFIX: huge, OTHER: huge})
    peer.hears(PREFIX, OTHER)
    assert peer.knows == {}


def convert_statements(raw: list[dict[str, object]]) -> tuple[object, ...]:
    return convert({"policies": [{"name": "p", "statements": raw}]}).policies[0].statements  # type: ignore[return-value]


POLICY = """
policies:
- name: p
  statements:
  - {name: deny, match: {prefixes: [10.0.0.0/8 le 32]}, action: reject}
  - {name: mark, match: {communities: ["65002:1"]}, set: {localPreference: 50, addCommunities: ["65001:7"]}, action: continue}
  - {name: long, match: {maxASPathLength: 1}, set: {prepend: 2}}
  - {name: rest, match: {asPathContains: [7]}, set: {removeCommunities: ["65001:7"], med: 3}}
"""


def test_policy_statements() -> None:
    policy = compile_policy(parse(POLICY).policies[0], "policies[0]")
    table = Table(Family.IPV4)
    inbound = make_inbound(table, policy)
    ten = parse_prefix("10.1.0.0/16")[1]
    inbound.announce(attributes(65002, communities=(65002 << 16 | 1,)), [PREFIX, ten])
    assert set(table.best) == {PREFIX}
    got = table.best[PREFIX].attributes
    assert got.local_pref == 50
    assert got.communities == (65001 << 16 | 7, 65002 << 16 | 1)
    assert got.as_path[0].asns == (65001, 65001, 65002)
    inbound.announce(attributes(65002, 7), [PREFIX])
    assert table.best[PREFIX].attributes.med == 3
    inbound.announce(attributes(65002, 8), [PREFIX])
    assert table.best == {}


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"], ["10.0.0.0/9", "11.0.0.0/8"]),
        ("10.0.0.0/8 le 24", ["10.0.0.0/8", "10.1.2.0/24"], ["10.1.2.0/25"]),
        ("10.0.0.0/8 ge 24", ["10.1.2.0/24", "10.1.2.3/32"], ["10.0.0.0/8"]),
        ("172.16.0.0/12 ge 16 le 24", ["172.31.0.0/16"], ["172.32.0.0/16", "172.16.0.0/12"]),
        ("0.0.0.0/0 le 32", ["0.0.0.0/0", "1.2.3.4/32"], ["::/0"]),
        ("2001:db8::/33 le 48", ["2001:db8:1::/48"], ["2001:db8:8000::/48"]),
    ],
)
def test_prefix_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    policy = PolicyConfig("p", convert_statements([{"match": {"prefixes": [text]}}]))  # type: ignore[arg-type]
    matched = compile_policy(policy, "policies[0]").statements[0].match.prefixes
    assert matched is not None
    assert [each for each in inside if parse_prefix(each) not in matched] == []
    assert [each for each in outside if parse_prefix(each) in matched] == []
    for family in Family:
        of_family = [p for f, p in map(parse_prefix, inside + outside) if f is family]
        hit, miss = matched.split(family, of_family)
        assert sorted(hit + miss) == sorted(of_family)
        assert {format_prefix(family, p) for p in hit} <= set(inside)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0/8 le", "10.0.0.0/8 le 4", "10.0.0.0/8 ge 24 le 16", "10.0.0.1/8", "x", "::/0 le 129"]
)
def test_wrong_prefix_ranges(text: str) -> None:
    with pytest.raises(ValueError):
        parse_range(text)


def test_routes_from_a_file(tmp_path: object) -> None:
    file = f"{tmp_path}/routes"
    with open(file, "w") as out:
        out.write("192.0.2.0/24\n2001:db8::/32\n198.51.100.0/25\n")
    route = compile_route(Route(file=file, tags=("t",)), "routes[0]")
    assert route.tags == ("t",)
    assert {family: len(members) for family, members in route.prefixes.items()} == {Family.IPV4: 2, Family.IPV6: 1}


INSTANCE = "instances: [{name: a, localASN: 65001, routerID: 10.0.0.1, %s}]"
WRONG = [
    ("instances: [{name: a, localASN: 0, routerID: 10.0.0.1}]", "instances[0].localASN"),
    ("instances: [{name: a, routerID: 10.0.0.1}]", "instances[0]"),
    ("instances: [{name: a, localASN: 1, routerID: x}]", "instances[0].routerID"),
    ("instances: [{name: a, localASN: 1, routerID: 1.1.1.1, colour: red}]", "instances[0]"),
    (INSTANCE % "peers: [{name: p}]", "instances[0].peers[0].peerAddress"),
    (INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.256}]", "instances[0].peers[0].peerAddress"),
    (INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.0/24}]", "instances[0].peers[0].peerAddress"),
    (INSTANCE % "peers: [{name: p, peerAddress: 'fe80::1'}]", "instances[0].peers[0].interface"),
    (
        INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, timers: {holdTimeSeconds: 2}}]",
        "instances[0].peers[0].timers.holdTimeSeconds",
    ),
    (
        INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, transport: {localAddress: '::1'}}]",
        "instances[0].peers[0].transport.localAddress",
    ),
    (
        INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, families: [{afi: ipv4, export: nope}]}]",
        "instances[0].peers[0].families[0].export",
    ),
    (INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2}, {name: p, peerAddress: 10.0.0.3}]", "instances[0].peers"),
    (
        INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, ttlSecurity: {}, ebgpMultihop: 3}]",
        "instances[0].peers[0].ttlSecurity",
    ),
    ("policies: [{name: p}, {name: p}]", "policies"),
    ("policies: [{name: accept}]", "policies[0].name"),
    ("hello", "configuration"),
    (INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, families: []}]", "instances[0].peers[0].families"),
    (INSTANCE % "peers: [{name: p, peerAddress: 224.0.0.5}]", "instances[0].peers[0].peerAddress"),
    (INSTANCE % "peers: [{name: p, peerAddress: '::'}]", "instances[0].peers[0].peerAddress"),
    (INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2}, {name: q, peerAddress: 10.0.0.2/32}]", "instances[0].peers"),
    (
        INSTANCE % "peers: [{name: p, peerAddress: 10.0.0.2, families: [{afi: ipv6, nextHop: 10.0.0.1}]}]",
        "instances[0].peers[0].families[0].nextHop",
    ),
]


@pytest.mark.parametrize(("text", "field"), WRONG, ids=[case[1] + str(i) for i, case in enumerate(WRONG)])
def test_configuration_errors_name_the_field(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ({"match": {"prefixes": ["10.0.0.0/33"]}}, "policies[0].statements[0].match.prefixes[0]"),
        ({"match": {"communities": ["65001:70000"]}}, "policies[0].statements[0].match.communities[0]"),
        ({"set": {"addLargeCommunities": ["1:2"]}}, "policies[0].statements[0].set.addLargeCommunities[0]"),
        ({"set": {"nextHop": "me"}}, "policies[0].statements[0].set.nextHop"),
    ],
)
def test_policy_errors_name_the_field(statement: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_policy(PolicyConfig("p", convert_statements([statement])), "policies[0]")  # type: ignore[arg-type]
    assert caught.value.field == field
