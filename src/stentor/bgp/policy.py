"""Import and export policies: ordered statements that match, change and decide, for many prefixes of one path at a time.

Most statements look at a path's properties, which thousands of prefixes share; only prefix sets look at each prefix. ``apply``
therefore takes one path with all its prefixes and splits them only where a statement asks for it.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from operator import itemgetter

import msgspec

from stentor.bgp.attribute import Attributes, first_as, path_length, prepend, weigh
from stentor.bgp.cache import Cache
from stentor.bgp.decision import Path, Scope
from stentor.bgp.nlri import Family, Prefix

CACHE_WORDS = 2_000_000
_FIRST = itemgetter(0)


class PrefixRange(msgspec.Struct, frozen=True):
    """All prefixes inside ``prefix`` with a length of ``shortest`` to ``longest``."""

    family: Family
    prefix: Prefix
    shortest: int
    longest: int


class PrefixSet:
    """A set of prefix ranges; membership costs one dictionary look-up a distinct base length in octets."""

    def __init__(self, ranges: Iterable[PrefixRange]) -> None:
        self.ranges = tuple(ranges)
        self._levels: dict[Family, dict[int, dict[bytes, list[tuple[int, int]]]]] = {}
        for each in self.ranges:
            level = self._levels.setdefault(each.family, {}).setdefault((each.prefix[0] + 7) // 8, {})
            for base in _expand(each.prefix):
                level.setdefault(base, []).append((each.shortest, each.longest))

    def __contains__(self, item: tuple[Family, Prefix]) -> bool:
        family, prefix = item
        return any(
            low <= prefix[0] <= high
            for octets, level in self._levels.get(family, {}).items()
            for low, high in level.get(prefix[1 : 1 + octets], ())
        )

    def split(self, family: Family, prefixes: Sequence[Prefix]) -> tuple[list[Prefix], list[Prefix]]:
        """(inside, outside)."""
        levels = self._levels.get(family, {})
        if not levels:
            return [], list(prefixes)
        if len(levels) == 1:
            ((octets, level),) = levels.items()
            bounds = {pair for pairs in level.values() for pair in pairs}
            if len(bounds) == 1:
                ((low, high),) = bounds
                end = 1 + octets
                lengths = set(map(_FIRST, prefixes))
                if low <= min(lengths, default=0) and max(lengths, default=0) <= high:
                    bases = set(map(itemgetter(slice(1, end)), prefixes))
                    if bases <= level.keys():
                        return list(prefixes), []
                inside = [p for p in prefixes if p[1:end] in level and low <= p[0] <= high]
                if len(inside) == len(prefixes):
                    return inside, []
                known = set(inside)
                return inside, [p for p in prefixes if p not in known]
        within = [(family, p) in self for p in prefixes]
        pairs = list(zip(prefixes, within, strict=True))
        return [p for p, is_in in pairs if is_in], [p for p, is_in in pairs if not is_in]


def _expand(prefix: Prefix) -> list[bytes]:
    """The octet-aligned bases that together are ``prefix``."""
    spare = -prefix[0] % 8
    body = prefix[1:]
    return [body[:-1] + bytes((body[-1] + extra,)) for extra in range(1 << spare)] if spare else [body]


class NextHop(Enum):
    """Next hop that a policy or a peer asks for, besides an address."""

    SELF = "self"
    UNCHANGED = "unchanged"


class Match(msgspec.Struct, frozen=True):
    """Conditions; all that are set must hold, any member of a set is enough."""

    families: frozenset[Family] = frozenset()
    prefixes: PrefixSet | None = None
    scopes: frozenset[Scope] = frozenset()
    tags: frozenset[str] = frozenset()
    communities: frozenset[int] = frozenset()
    large_communities: frozenset[tuple[int, int, int]] = frozenset()
    path_contains: frozenset[int] = frozenset()
    neighbour_as: frozenset[int] = frozenset()
    longest_path: int | None = None

    def holds(self, family: Family, path: Path, attributes: Attributes) -> bool:
        """Whether everything but the prefix set holds."""
        return (
            (not self.families or family in self.families)
            and (not self.scopes or path.source.scope in self.scopes)
            and (not self.tags or not self.tags.isdisjoint(path.tags))
            and (not self.communities or not self.communities.isdisjoint(attributes.communities))
            and (not self.large_communities or not self.large_communities.isdisjoint(attributes.large_communities))
            and (not self.path_contains or any(a in self.path_contains for s in attributes.as_path for a in s.asns))
            and (not self.neighbour_as or first_as(attributes.as_path) in self.neighbour_as)
            and (self.longest_path is None or path_length(attributes.as_path) <= self.longest_path)
        )


class Change(msgspec.Struct, frozen=True):
    """What an accepted or continuing statement does to the attributes; ``prepend_as`` 0 is the local AS."""

    local_pref: int | None = None
    med: int | None = None
    prepend: int = 0
    prepend_as: int = 0
    next_hop: NextHop | bytes | None = None
    add_communities: tuple[int, ...] = ()
    remove_communities: tuple[int, ...] = ()
    add_large_communities: tuple[tuple[int, int, int], ...] = ()
    remove_large_communities: tuple[tuple[int, int, int], ...] = ()
    add_extended_communities: tuple[bytes, ...] = ()

    def apply(self, old: Attributes, local_as: int) -> Attributes:
        """``old`` with the changes. A next hop of NextHop is the neighbour's to resolve and does not appear here."""
        communities = (set(old.communities) | set(self.add_communities)) - set(self.remove_communities)
        large = (set(old.large_communities) | set(self.add_large_communities)) - set(self.remove_large_communities)
        return msgspec.structs.replace(
            old,
            local_pref=old.local_pref if self.local_pref is None else self.local_pref,
            med=old.med if self.med is None else self.med,
            as_path=prepend(old.as_path, self.prepend_as or local_as, self.prepend),
            next_hop=self.next_hop if isinstance(self.next_hop, bytes) else old.next_hop,
            communities=tuple(sorted(communities)),
            large_communities=tuple(sorted(large)),
            extended_communities=tuple(sorted({*old.extended_communities, *self.add_extended_communities})),
        )


class Statement(msgspec.Struct, frozen=True):
    """One step of a policy. ``accepts`` None changes and goes on with the next statement."""

    name: str
    match: Match = Match()
    change: Change | None = None
    accepts: bool | None = True


class Verdict(msgspec.Struct, frozen=True):
    """What became of some prefixes: attributes, or None when rejected, the asked next hop, and the statement that decided."""

    attributes: Attributes | None
    next_hop: NextHop | bytes | None
    prefixes: Sequence[Prefix]
    statement: str


class Policy:
    """Statements in order and what happens when none decides."""

    def __init__(self, name: str, statements: Sequence[Statement], *, accepts: bool) -> None:
        self.name = name
        self.statements = tuple(statements)
        self.accepts = accepts
        self._changed: Cache[tuple[int, int, Attributes], Attributes] = Cache(CACHE_WORDS)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and (self.name, self.statements, self.accepts) == (
            other.name,
            other.statements,
            other.accepts,
        )

    __hash__ = None  # type: ignore[assignment]

    def apply(
        self, family: Family, path: Path, attributes: Attributes, prefixes: Sequence[Prefix], local_as: int
    ) -> list[Verdict]:
        """Every prefix appears in exactly one verdict."""
        verdicts: list[Verdict] = []
        self._run(0, family, path, Verdict(attributes, None, prefixes, ""), local_as, verdicts)
        return verdicts

    def _run(
        self, index: int, family: Family, path: Path, state: Verdict, local_as: int, verdicts: list[Verdict]
    ) -> None:
        attributes, left = state.attributes, state.prefixes
        assert attributes is not None
        for position in range(index, len(self.statements)):
            statement = self.statements[position]
            match = statement.match
            if not match.holds(family, path, attributes):
                continue
            hit = left
            left = []
            if match.prefixes is not None:
                hit, left = match.prefixes.split(family, hit)
            if hit:
                decided = self._decide(position, statement, Verdict(attributes, state.next_hop, hit, ""), local_as)
                if statement.accepts is None:
                    self._run(position + 1, family, path, decided, local_as, verdicts)
                else:
                    verdicts.append(decided)
            if not left:
                return
        verdicts.append(Verdict(attributes if self.accepts else None, state.next_hop, left, "default"))

    def _decide(self, position: int, statement: Statement, state: Verdict, local_as: int) -> Verdict:
        if statement.accepts is False:
            return Verdict(None, None, state.prefixes, statement.name)
        change, attributes = statement.change, state.attributes
        if change is None or attributes is None:
            return Verdict(attributes, state.next_hop, state.prefixes, statement.name)
        key = (position, local_as, attributes)
        changed = self._changed.get(key)
        if changed is None:
            changed = change.apply(attributes, local_as)
            self._changed.keep(key, changed, 2 * weigh(attributes))
        asked = change.next_hop if change.next_hop is not None else state.next_hop
        return Verdict(changed, asked, state.prefixes, statement.name)


ACCEPT_ALL = Policy("accept", (), accepts=True)
REJECT_ALL = Policy("reject", (), accepts=False)
LOCAL_ONLY = Policy("local", (Statement("local", Match(scopes=frozenset((Scope.LOCAL,)))),), accepts=False)
