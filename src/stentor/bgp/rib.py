"""Routes: Adj-RIB-In and Adj-RIB-Out of each session and the Loc-RIB between them (RFC 4271 §3.2), one set a family.

    UPDATE ─► Inbound (as received) ─ import policy ─► Table (candidates, best) ─ export policy ─► Outbound (as sent) ─► UPDATE

While a table's routes all come from one session, as received, its Adj-RIB-In and the Loc-RIB are one dictionary.

Keys are wire-form prefixes, values interned paths, so that a message is handled by a few dictionary operations in C, not by
a step a prefix. A change only marks prefixes dirty in each Outbound; the messages are made when the peer can take them, from
what is true then: a slow peer costs a set of prefixes, never a queue of messages.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from stentor.bgp.attribute import GRACEFUL_SHUTDOWN, LLGR_STALE, NO_LLGR, Attributes, weigh
from stentor.bgp.decision import Path, Source, rank, select
from stentor.bgp.nlri import Family, Prefix
from stentor.bgp.policy import Policy, Verdict

INTERN_WORDS = 1_500_000


class Table:
    """The Loc-RIB of one family: the best path of each prefix and, where there are several, all candidates."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.best: dict[Prefix, Path] = {}
        self.rivals: dict[Prefix, tuple[Path, ...]] = {}
        self._is_shared = False

    def share(self, routes: dict[Prefix, Path]) -> None:
        """Let ``routes`` be ``best`` while they are the same: all come from one source, unchanged. The table must be empty."""
        self.best = routes
        self._is_shared = True

    def part(self) -> None:
        """From now on ``best`` is the table's own; every change but that of its only source needs this first."""
        if self._is_shared:
            self.best = self.best.copy()
            self._is_shared = False

    def candidates(self, prefix: Prefix) -> tuple[Path, ...]:
        """All accepted paths of a prefix, in no order."""
        several = self.rivals.get(prefix)
        if several is not None:
            return several
        one = self.best.get(prefix)
        return () if one is None else (one,)

    def announce(self, path: Path, routes: Mapping[Prefix, Path]) -> Collection[Prefix]:
        """Set ``path``, the value of all ``routes``, as its source's path (of its path id); the prefixes with any change."""
        self.part()
        best = self.best
        if best.keys().isdisjoint(routes):
            best.update(routes)
            return routes
        touched = []
        rivals = self.rivals
        source, path_id = path.source, path.path_id
        winners: dict[Path, Path] = {}
        for prefix in routes:
            old = best.get(prefix)
            if old is path:
                continue
            if prefix in rivals:
                if path in rivals[prefix]:
                    continue
                self._replace(prefix, source, path_id, path)
            elif old is None or (old.source is source and old.path_id == path_id):
                best[prefix] = path
            else:
                rivals[prefix] = (old, path)
                winner = winners.get(old)
                if winner is None:
                    winner = winners[old] = select((old, path))
                best[prefix] = winner
            touched.append(prefix)
        return touched

    def withdraw(self, source: Source, prefixes: Iterable[Prefix], path_id: int = 0) -> list[Prefix]:
        """Remove the source's path to each prefix; the prefixes with any change."""
        self.part()
        touched = []
        best, rivals = self.best, self.rivals
        for prefix in prefixes:
            if prefix in rivals:
                if self._replace(prefix, source, path_id, None):
                    touched.append(prefix)
                continue
            old = best.get(prefix)
            if old is not None and old.source is source and old.path_id == path_id:
                del best[prefix]
                touched.append(prefix)
        return touched

    def _replace(self, prefix: Prefix, source: Source, path_id: int, path: Path | None) -> bool:
        before = self.rivals[prefix]
        left = tuple(p for p in before if p.source is not source or p.path_id != path_id)
        if path is not None:
            left = (*left, path)
        elif len(left) == len(before):
            return False
        if len(left) == 1:
            del self.rivals[prefix]
        else:
            self.rivals[prefix] = left
        self.best[prefix] = select(left)
        return True


class Import(msgspec.Struct, frozen=True):
    """What decides on received routes.

    ``own_as_limit`` is how often our AS may appear in a path, ``own_addresses`` what no next hop may be (RFC 4271 §6.3).
    """

    policy: Policy
    local_as: int
    identifier: int
    is_external: bool
    own_as_limit: int = 0
    enforce_first_as: bool = True
    own_addresses: frozenset[bytes] = frozenset()


class Paths:
    """One Path for each set of properties of a source, so that identity is equality; what no route uses is forgotten."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[Attributes, int, tuple[str, ...]], Path] = {}
        self._weight, self._limit = 0, INTERN_WORDS

    def get(
        self, routes: Mapping[bytes, Path], attributes: Attributes, path_id: int = 0, tags: tuple[str, ...] = ()
    ) -> Path:
        """The path with these properties; ``routes`` are those in use."""
        key = (attributes, path_id, tags)
        path = self._known.get(key)
        if path is None:
            if self._weight >= self._limit:
                self._known = {(p.attributes, p.path_id, p.tags): p for p in {*routes.values()}}
                self._weight = sum(weigh(p.attributes) for p in self._known.values())
                self._limit = max(INTERN_WORDS, 2 * self._weight)  # a look over all routes is rare at any size
            path = self._known[key] = Path(self._source, attributes, path_id, tags)
            self._weight += weigh(attributes)
        return path


class Inbound:
    """The Adj-RIB-In of one session and family: every route as received, feeding ``table`` through the import policy."""

    def __init__(self, table: Table, source: Source, rules: Import, *, has_path_ids: bool) -> None:
        self.table = table
        self.source = source
        self.rules = rules
        self.has_path_ids = has_path_ids
        self.routes: dict[bytes, Path] = {}
        self.stale: set[bytes] = set()
        self._paths = Paths(source)

    def announce(self, attributes: Attributes, keys: list[bytes]) -> Collection[Prefix]:
        """Routes as received; the prefixes whose candidates changed."""
        if self.stale:
            self.stale.difference_update(keys)
        if not self.has_path_ids:
            path = self._paths.get(self.routes, attributes)
            fresh = dict.fromkeys(keys, path)
            is_shared = self._share(path, fresh)
            self.routes.update(fresh)
            return fresh if is_shared else self._offer(path, keys, fresh)
        touched: list[Prefix] = []
        groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for key in keys:
            groups[key[:4]].append(key)
        for path_id, members in groups.items():
            path = self._paths.get(self.routes, attributes, int.from_bytes(path_id, "big"))
            self.routes.update(dict.fromkeys(members, path))
            prefixes = [key[4:] for key in members]
            touched += self._offer(path, prefixes, dict.fromkeys(prefixes, path))
        return touched

    def withdraw(self, keys: Iterable[bytes]) -> list[Prefix]:
        """Routes that are gone; the prefixes whose candidates changed."""
        gone = [key for key in keys if self.routes.pop(key, None) is not None]
        if self.stale:
            self.stale.difference_update(gone)
        return gone if self.table.best is self.routes else self._retract(gone)

    def mark_stale(self) -> None:
        """The session is gone or re-sends everything: what is not announced again until ``sweep`` goes (RFC 4724, 7313)."""
        self.stale = set(self.routes)

    def sweep(self, limit: int | None = None) -> list[Prefix]:
        """Withdraw (at most ``limit``) stale routes; the prefixes whose candidates changed."""
        return self.withdraw(list(islice(self.stale, limit)))

    def drain(self, limit: int) -> list[Prefix]:
        """Forget ``limit`` routes of a session that ended; empty ``routes`` is the end."""
        return self.withdraw(list(islice(self.routes, limit)))

    def make_long_lived(self) -> list[Prefix]:
        """Keep stale routes as a last resort: with LLGR_STALE, but not those with NO_LLGR (RFC 9494 §4.2)."""
        groups: defaultdict[Path, list[bytes]] = defaultdict(list)
        for key in self.stale:
            groups[self.routes[key]].append(key)
        touched: list[Prefix] = []
        for path, keys in groups.items():
            communities = path.attributes.communities
            if NO_LLGR in communities:
                touched += self.withdraw(keys)
            elif LLGR_STALE not in communities:
                marked = tuple(sorted({*communities, LLGR_STALE}))
                touched += self.announce(msgspec.structs.replace(path.attributes, communities=marked), keys)
                self.stale.update(keys)
        return touched

    def reconsider(self, rules: Import) -> list[Prefix]:
        """Apply new rules to everything received, without asking the peer again."""
        self.rules = rules
        groups: defaultdict[Path, list[bytes]] = defaultdict(list)
        for key, path in self.routes.items():
            groups[path].append(key[4:] if self.has_path_ids else key)
        offers = (self._offer(path, prefixes, dict.fromkeys(prefixes, path)) for path, prefixes in groups.items())
        return [prefix for touched in offers for prefix in touched]

    def verdict(self, attributes: Attributes) -> str:
        """Why the protocol itself forbids these attributes, empty when it does not."""
        rules = self.rules
        asns = [asn for segment in attributes.as_path for asn in segment.asns]
        if asns.count(rules.local_as) > rules.own_as_limit:
            return "our AS is in the path"
        if rules.is_external and rules.enforce_first_as and asns[:1] != [self.source.asn]:
            return "the path does not begin with the peer's AS"
        if attributes.originator_id is not None and int.from_bytes(attributes.originator_id, "big") == rules.identifier:
            return "we are the originator"
        if rules.identifier.to_bytes(4, "big") in attributes.cluster_list:
            return "our cluster is in the path"
        if attributes.next_hop[:16] in rules.own_addresses:
            return "the next hop is ourselves"
        return ""

    def find(self, prefix: Prefix) -> list[Path]:
        """The peer's paths to a prefix as received."""
        if not self.has_path_ids:
            path = self.routes.get(prefix)
            return [] if path is None else [path]
        return [path for key, path in self.routes.items() if key[4:] == prefix]

    def explain(self, path: Path, prefix: Prefix) -> str:
        """What the import policy says about a path."""
        policy, local_as = self.rules.policy, self.rules.local_as
        verdict = policy.apply(self.table.family, path, path.attributes, [prefix], local_as)[0]
        decided = "rejects" if verdict.attributes is None else "accepts"
        return f"import policy {policy.name!r}, statement {verdict.statement!r} {decided}"

    def _share(self, path: Path, routes: Mapping[Prefix, Path]) -> bool:
        """Whether the table's routes are ours and stay so with these: half the work and memory for an only peer.

        These must be new: nobody could tell afterwards what of them had changed.
        """
        table = self.table
        is_shared = table.best is self.routes
        if not is_shared and (table.best or self.routes):
            return False
        if self.routes.keys().isdisjoint(routes) and _is_whole(self._judge(path, list(routes)), path):
            if not is_shared:
                table.share(self.routes)
            return True
        table.part()
        return False

    def _judge(self, path: Path, prefixes: list[Prefix]) -> list[Verdict]:
        """What protocol and import policy make of a path to these prefixes."""
        rules, received = self.rules, path.attributes
        reason = self.verdict(received)
        if reason:
            return [Verdict(None, None, prefixes, reason)]
        if rules.is_external and GRACEFUL_SHUTDOWN in received.communities:
            received = msgspec.structs.replace(received, local_pref=0)  # RFC 8326 §4: the peer is about to go
        return rules.policy.apply(self.table.family, path, received, prefixes, rules.local_as)

    def _offer(self, path: Path, prefixes: list[Prefix], routes: Mapping[Prefix, Path]) -> Collection[Prefix]:
        """``routes`` are the prefixes with ``path``, made once for all tables that take them unchanged."""
        table = self.table
        verdicts = self._judge(path, prefixes)
        if _is_whole(verdicts, path):
            return table.announce(path, routes)
        touched: list[Prefix] = []
        for verdict in verdicts:
            if verdict.attributes is None:
                touched += table.withdraw(self.source, verdict.prefixes, path.path_id)
            else:
                accepted = self._paths.get(self.routes, verdict.attributes, path.path_id)
                touched += table.announce(accepted, dict.fromkeys(verdict.prefixes, accepted))
        return touched

    def _retract(self, keys: list[bytes]) -> list[Prefix]:
        if not self.has_path_ids:
            return self.table.withdraw(self.source, keys)
        touched: list[Prefix] = []
        for key in keys:
            touched += self.table.withdraw(self.source, (key[4:],), int.from_bytes(key[:4], "big"))
        return touched


def _is_whole(verdicts: list[Verdict], path: Path) -> bool:
    """Whether all prefixes are accepted with the path as it is."""
    return len(verdicts) == 1 and verdicts[0].attributes is path.attributes


class Local:
    """Our own routes of one family: each owner (configuration, a control client) has its own set."""

    def __init__(self, table: Table, source: Source) -> None:
        self.table = table
        self.source = source
        self.routes: dict[Prefix, Path] = {}
        self._paths = Paths(source)

    def announce(self, attributes: Attributes, tags: tuple[str, ...], prefixes: Sequence[Prefix]) -> Collection[Prefix]:
        """Originate prefixes; those with any change."""
        path = self._paths.get(self.routes, attributes, tags=tags)
        fresh = dict.fromkeys(prefixes, path)
        self.routes.update(fresh)
        return self.table.announce(path, fresh)

    def withdraw(self, prefixes: Iterable[Prefix]) -> list[Prefix]:
        """Stop to originate prefixes; those with any change."""
        gone = [prefix for prefix in prefixes if self.routes.pop(prefix, None) is not None]
        return self.table.withdraw(self.source, gone)


def rank_candidates(table: Table, prefix: Prefix, limit: int) -> list[Path]:
    """The best ``limit`` paths of a prefix."""
    candidates = table.candidates(prefix)
    return rank(candidates, limit) if len(candidates) > 1 else list(candidates)
