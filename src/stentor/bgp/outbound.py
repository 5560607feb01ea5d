"""The Adj-RIB-Out of one session and family: what the peer was told, and the messages that bring it up to date."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import count, groupby

import msgspec

from stentor.bgp.attribute import (
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    Attributes,
    prepend,
    weigh,
)
from stentor.bgp.cache import Cache
from stentor.bgp.capability import Session
from stentor.bgp.decision import DEFAULT_LOCAL_PREF, Path, Scope, Source
from stentor.bgp.nlri import DEFAULT_ROUTE, Family, Prefix
from stentor.bgp.policy import NextHop, Policy
from stentor.bgp.rib import Table, rank_candidates
from stentor.bgp.update import encode_block, encode_update, encode_withdraw, fits

CACHE_WORDS = 2_000_000
_FORGOTTEN = Attributes()
_NON_TRANSITIVE = 0x40


class Refusal(Enum):
    """Why the protocol itself keeps a path from a peer."""

    ECHO = "learned from this peer"
    INTERNAL = "learned by iBGP, and the peer is iBGP"
    NO_ADVERTISE = "community NO_ADVERTISE"
    NO_EXPORT = "community NO_EXPORT, and the peer is eBGP"
    STALE = "long-lived stale, and the peer does not support that"
    NEXT_HOP = "no next hop of a form that the peer understands, or attributes longer than a message"


class Export(msgspec.Struct, frozen=True):
    """What decides on routes to a peer. ``next_hop`` is our address on the session for this family, empty for none."""

    policy: Policy
    source: Source
    session: Session
    next_hop: bytes
    next_hop_mode: NextHop | bytes | None = None
    paths: int = 1
    originates_default: bool = False
    is_draining: bool = False


class Outbound:
    """What one peer knows of one family, and what it is still to be told."""

    def __init__(self, table: Table, rules: Export) -> None:
        self.table = table
        self.rules = rules
        self.sent: dict[bytes, Attributes] = {}
        self._dirty: dict[Prefix, object] = {}
        self._is_first = True
        self._backlog: list[Prefix] = []
        self._told: dict[Prefix, dict[tuple[Source, int], bytes]] = {}
        self._interned: dict[Attributes, Attributes] = {}
        self._final: Cache[tuple[Attributes, Scope, NextHop | bytes | None], Attributes | None] = Cache(CACHE_WORDS)
        self._blocks: dict[Attributes, bytes] = {}
        self._default = Path(Source("default", Scope.LOCAL), Attributes())

    @property
    def is_idle(self) -> bool:
        """Whether the peer knows everything."""
        return not self._dirty and not self._backlog

    def touch(self, prefixes: Collection[Prefix], source: Source | None = None) -> None:
        """Candidates of these prefixes changed; ``source`` announced them.

        What the peer itself announced concerns it only where it was told something before, or where others compete.
        """
        is_own = source is self.rules.source and not self.table.rivals
        if is_own and (not self.sent or self.sent.keys().isdisjoint(prefixes)):
            return
        self._dirty.update(prefixes if isinstance(prefixes, dict) else dict.fromkeys(prefixes))

    def refresh(self, *, forget: bool = False) -> None:
        """Look at every prefix again; ``forget`` what was sent, so that all of it is sent anew."""
        if forget:
            # Not cleared: what the peer knows and should not must still be withdrawn.
            self.sent = dict.fromkeys(self.sent, _FORGOTTEN)
        self._is_first = not self.sent
        self._backlog = list(self.table.best) if not self.sent else [*{*self.table.best, *self._sent_prefixes()}]
        self._dirty.clear()
        if self.rules.originates_default or self.sent:
            self._dirty[DEFAULT_ROUTE] = None

    def change(self, rules: Export) -> None:
        """New rules: only what they change is sent."""
        self.rules = rules
        self._final.clear()
        self.refresh()

    def take(self, limit: int) -> list[bytes]:
        """Messages for up to ``limit`` prefixes that are not up to date, withdrawals first."""
        prefixes = self._next(limit)
        if not prefixes:
            return []
        if self.rules.session.add_path_out and self.table.family in self.rules.session.add_path_out:
            return self._take_paths(prefixes)
        groups: defaultdict[Path | None, list[Prefix]] = defaultdict(list)
        for path, run in groupby(prefixes, self.table.best.get):  # neighbours in the table often share their path
            groups[path] += run
        gone: list[bytes] = []
        fresh: defaultdict[Attributes, list[bytes]] = defaultdict(list)
        for path, members in groups.items():
            if path is None or self.refuse(path) is not None:
                gone += self._fall_back(members, fresh)
            else:
                gone += self._export(path, members, fresh)
        return self._encode([key for key in gone if self.sent.pop(key, None) is not None], fresh)

    def refuse(self, path: Path) -> Refusal | None:
        """Whether the protocol forbids to tell the peer about ``path``, before any policy."""
        rules, source = self.rules, path.source
        communities = path.attributes.communities
        if source is rules.source:
            return Refusal.ECHO
        if source.scope is Scope.INTERNAL and not rules.session.ebgp:
            return Refusal.INTERNAL
        if communities and source.scope is not Scope.LOCAL:  # RFC 1997 speaks of routes received, ours carry them out
            if NO_ADVERTISE in communities:
                return Refusal.NO_ADVERTISE
            if rules.session.ebgp and (NO_EXPORT in communities or NO_EXPORT_SUBCONFED in communities):
                return Refusal.NO_EXPORT
            if LLGR_STALE in communities and self.table.family not in rules.session.peer.capabilities.long_lived:
                return Refusal.STALE
        return None

    def explain(self, prefix: Prefix) -> str:
        """Why this peer is or is not told about the best path of ``prefix``."""
        path, mark = self.table.best.get(prefix), "; draining: with GRACEFUL_SHUTDOWN" if self.rules.is_draining else ""
        if path is None:
            is_default = prefix == DEFAULT_ROUTE and self.rules.originates_default
            return f"advertised: default originate{mark}" if is_default else "no path"
        refusal = self.refuse(path)
        if refusal is not None:
            return f"not advertised: {refusal.value}"
        base = self._strip(path)
        verdict = self.rules.policy.apply(self.table.family, path, base, [prefix], self.rules.session.local_as)[0]
        policy = f"export policy {self.rules.policy.name!r}, statement {verdict.statement!r}"
        if verdict.attributes is None:
            return f"not advertised: {policy} rejects"
        if self._finish(verdict.attributes, path, verdict.next_hop) is None:
            return f"not advertised: {Refusal.NEXT_HOP.value}"
        return f"advertised: {policy} accepts{mark}"

    def _sent_prefixes(self) -> Iterable[Prefix]:
        has_ids = self.table.family in self.rules.session.add_path_out
        return (key[4:] for key in self.sent) if has_ids else self.sent

    def _next(self, limit: int) -> Sequence[Prefix]:
        if self._dirty:
            taken, self._dirty = list(self._dirty), {}
            if len(taken) <= limit:
                return taken
            self._backlog += taken
        taken = self._backlog[-limit:]
        del self._backlog[-limit:]
        if not self._backlog:
            self._is_first = False
        return taken

    def _fall_back(self, prefixes: list[Prefix], fresh: defaultdict[Attributes, list[bytes]]) -> list[Prefix]:
        """Prefixes that the peer must not or cannot get; the default route may still be ours to originate."""
        if not self.rules.originates_default or DEFAULT_ROUTE not in prefixes:
            return prefixes
        attributes = self._finish(self._default.attributes, self._default, None)
        if attributes is None:
            return prefixes
        self._offer(attributes, [DEFAULT_ROUTE], fresh)
        return [prefix for prefix in prefixes if prefix != DEFAULT_ROUTE]

    def _export(self, path: Path, prefixes: list[Prefix], fresh: defaultdict[Attributes, list[bytes]]) -> list[Prefix]:
        rules = self.rules
        gone: list[Prefix] = []
        verdicts = rules.policy.apply(self.table.family, path, self._strip(path), prefixes, rules.session.local_as)
        for verdict in verdicts:
            attributes = None
            if verdict.attributes is not None:
                attributes = self._finish(verdict.attributes, path, verdict.next_hop)
            if attributes is None:
                gone += self._fall_back(list(verdict.prefixes), fresh)
            else:
                self._offer(attributes, verdict.prefixes, fresh)
        return gone

    def _offer(
        self, attributes: Attributes, keys: Sequence[bytes], fresh: defaultdict[Attributes, list[bytes]]
    ) -> None:
        """Note what is new to the peer."""
        sent = self.sent
        if not self._is_first and not sent.keys().isdisjoint(keys):
            keys = [key for key in keys if sent.get(key) is not attributes]
        sent.update(dict.fromkeys(keys, attributes))
        fresh[attributes] += keys

    def _strip(self, path: Path) -> Attributes:
        """What the policy sees: a learned MED does not cross another AS (RFC 4271 §5.1.4)."""
        attributes = path.attributes
        if self.rules.session.ebgp and attributes.med is not None and path.source.scope is not Scope.LOCAL:
            return msgspec.structs.replace(attributes, med=None)
        return attributes

    def _finish(self, attributes: Attributes, path: Path, asked: NextHop | bytes | None) -> Attributes | None:
        """The attributes on the wire, interned; None when no next hop or no message fits."""
        key = (attributes, path.source.scope, asked)
        try:
            return self._final[key]
        except KeyError:
            pass
        result = self._compute(attributes, path, asked)
        if result is not None:
            result = self._interned.setdefault(result, result)
            if not fits(self.rules.session, self.table.family, result, self._block(result)):
                result = None  # nobody can be told (RFC 4271 §9.2)
        if self._final.keep(key, result, 2 * weigh(attributes)):
            self._interned = {each: each for each in {*self.sent.values()}}
            self._blocks.clear()
            if result is not None:
                result = self._final[key] = self._interned.setdefault(result, result)
        return result

    def _compute(self, old: Attributes, path: Path, asked: NextHop | bytes | None) -> Attributes | None:
        rules = self.rules
        next_hop = self._choose_next_hop(old, path, asked)
        if next_hop is None:
            return None
        communities = old.communities
        if rules.is_draining:
            communities = tuple(sorted({*communities, GRACEFUL_SHUTDOWN}))
        new = msgspec.structs.replace(old, next_hop=next_hop, communities=communities)
        if rules.session.ebgp:
            extended = old.extended_communities
            if path.source.scope is not Scope.LOCAL:  # a non-transitive one ends at the border of its AS (RFC 4360 §6)
                extended = tuple(each for each in extended if not each[0] & _NON_TRANSITIVE)
            return msgspec.structs.replace(
                new,
                as_path=prepend(old.as_path, rules.session.local_as),
                local_pref=None,
                originator_id=None,
                cluster_list=(),
                extended_communities=extended,
            )
        preference = DEFAULT_LOCAL_PREF if old.local_pref is None else old.local_pref
        return msgspec.structs.replace(new, local_pref=0 if rules.is_draining else preference)

    def _choose_next_hop(self, old: Attributes, path: Path, asked: NextHop | bytes | None) -> bytes | None:
        rules = self.rules
        mode = asked if asked is not None else rules.next_hop_mode
        kept = old.next_hop
        if isinstance(mode, bytes):
            wanted = mode
        elif mode is NextHop.SELF or not kept:
            wanted = rules.next_hop
        elif mode is NextHop.UNCHANGED or not rules.session.ebgp or path.source.scope is Scope.LOCAL:
            wanted = kept
        else:
            wanted = rules.next_hop
        if self._is_understood(wanted):
            return wanted
        return rules.next_hop if self._is_understood(rules.next_hop) else None

    def _is_understood(self, next_hop: bytes) -> bool:
        if not next_hop:
            return False
        if self.table.family is Family.IPV6:
            return len(next_hop) in (16, 32)
        return len(next_hop) == 4 or Family.IPV4 in self.rules.session.extended_next_hop

    def _take_paths(self, prefixes: Sequence[Prefix]) -> list[bytes]:
        """As ``take`` with several paths a prefix (RFC 7911); keys carry our own path identifiers."""
        gone: list[bytes] = []
        fresh: defaultdict[Attributes, list[bytes]] = defaultdict(list)
        for prefix in prefixes:
            told = self._told.setdefault(prefix, {})
            wanted: dict[tuple[Source, int], Attributes] = {}
            for path in rank_candidates(self.table, prefix, self.rules.paths) or self._default_path(prefix):
                attributes = self._export_path(path, prefix) if self.refuse(path) is None else None
                if attributes is not None:
                    wanted[path.source, path.path_id] = attributes
            for owner, attributes in wanted.items():
                key = told.get(owner) or told.setdefault(owner, _new_identifier(told.values()) + prefix)
                if self.sent.get(key) is not attributes:
                    self.sent[key] = attributes
                    fresh[attributes].append(key)
            for owner in told.keys() - wanted.keys():
                gone.append(told.pop(owner))
                del self.sent[gone[-1]]
            if not told:
                del self._told[prefix]
        return self._encode(gone, fresh)

    def _default_path(self, prefix: Prefix) -> list[Path]:
        return [self._default] if prefix == DEFAULT_ROUTE and self.rules.originates_default else []

    def _export_path(self, path: Path, prefix: Prefix) -> Attributes | None:
        family, local_as = self.table.family, self.rules.session.local_as
        if path is self._default:
            return self._finish(path.attributes, path, None)
        verdict = self.rules.policy.apply(family, path, self._strip(path), [prefix], local_as)[0]
        accepted = verdict.attributes
        return None if accepted is None else self._finish(accepted, path, verdict.next_hop)

    def _encode(self, gone: list[bytes], fresh: Mapping[Attributes, list[bytes]]) -> list[bytes]:
        session, family = self.rules.session, self.table.family
        messages = encode_withdraw(session, family, gone) if gone else []
        for attributes, keys in fresh.items():
            if keys:
                messages += encode_update(session, family, attributes, keys, self._block(attributes))
        return messages

    def _block(self, attributes: Attributes) -> bytes:
        block = self._blocks.get(attributes)
        if block is None:
            block = self._blocks[attributes] = encode_block(self.rules.session, self.table.family, attributes)
        return block


def _new_identifier(keys: Collection[bytes]) -> bytes:
    """The lowest path identifier that none of a prefix's ``keys`` has: they stay few, whatever numbers our peers use."""
    used = {key[:4] for key in keys}
    return next(each for number in count(1) if (each := number.to_bytes(4, "big")) not in used)
