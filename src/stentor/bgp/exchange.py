"""The routes of one established session: UPDATEs in, UPDATEs out, End-of-RIB and route refresh."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Protocol

from stentor.bgp.attribute import Attributes
from stentor.bgp.capability import Session
from stentor.bgp.compile import parse_next_hop
from stentor.bgp.config import FamilyConfig, Peer
from stentor.bgp.connection import Connection
from stentor.bgp.decision import Scope, Source
from stentor.bgp.errors import Cease, Code, PeerFault
from stentor.bgp.nlri import Family, Prefix
from stentor.bgp.outbound import Export, Outbound
from stentor.bgp.policy import LOCAL_ONLY, Policy
from stentor.bgp.rib import Import, Inbound, Table
from stentor.bgp.update import Update, UpdateDecoder, encode_end_of_rib
from stentor.bgp.wire import Refresh, encode_refresh

FIRST_SLICE, LARGEST_SLICE = 512, 16384
LARGEST_WRITE = 1 << 20
_ASK, _BEGIN, _END = 0, 1, 2


class Router(Protocol):
    """What a session needs of its instance."""

    tables: Mapping[Family, Table]
    identifier: int
    is_draining: bool

    def policy(self, name: str) -> Policy: ...

    def distribute(self, family: Family, prefixes: Collection[Prefix], source: Source | None = None) -> None:
        """Candidates of these prefixes changed; ``source`` announced them."""

    def discard(self, inbound: Inbound) -> None:
        """Withdraw all that a session brought, in slices."""

    def note(self, peer: str, text: str) -> None:
        """Something that an operator wants to know."""

    def ended(self, family: Family) -> None:
        """A peer sent its End-of-RIB."""

    def may_end(self, family: Family) -> bool:
        """Whether an End-of-RIB may be sent: after a restart not before the peers told us their routes."""


class Exchange:
    """Feeds what the peer sends into the tables and what the tables say into the peer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Router,
        config: Peer,
        session: Session,
        connection: Connection,
        *,
        next_hops: Mapping[Family, bytes],
        address: bytes,
        kept: Mapping[Family, Inbound],
    ) -> None:
        self.session = session
        self.updates_in = self.updates_out = 0
        self.last_fault = ""
        self._loop = loop
        self._router = router
        self._config = config
        self._connection = connection
        self._next_hops = next_hops
        self._is_over_ipv6 = len(address) == 16
        self._decoder = UpdateDecoder(session)
        self._is_scheduled = False
        self._slice = FIRST_SLICE
        self._pending: list[tuple[Attributes, list[bytes]]] = []
        self._refreshing: set[Family] = set()
        self._repeating: set[Family] = set()
        self._owed = set(session.families)
        self._ended: set[Family] = set()
        self._claimed = frozenset(kept) & session.families
        scope = Scope.EXTERNAL if session.ebgp else Scope.INTERNAL
        fresh = Source(config.name, scope, session.peer.asn, session.peer.identifier, address)
        self.inbound: dict[Family, Inbound] = {}
        self.outbound: dict[Family, Outbound] = {}
        for family in sorted(session.families):
            inbound = kept.get(family)
            if inbound is None:
                inbound = Inbound(
                    router.tables[family],
                    fresh,
                    self._import(family),
                    has_path_ids=family in session.add_path_in,
                )
            self.inbound[family] = inbound
            self.outbound[family] = Outbound(router.tables[family], self._export(family))

    def start(self) -> None:
        """Send everything, End-of-RIB after it; routes kept over a restart meet the policies of today."""
        for family in self._claimed:
            self._reconsider(family, self.inbound[family])
        for outbound in self.outbound.values():
            outbound.refresh()
        self.schedule()

    def touch(self, family: Family, prefixes: Collection[Prefix], source: Source | None = None) -> None:
        """Candidates changed: the peer may have to hear of it."""
        outbound = self.outbound.get(family)
        if outbound is not None:
            outbound.touch(prefixes, source)
            if not outbound.is_idle:
                self.schedule()

    @property
    def is_idle(self) -> bool:
        """Whether the peer has been sent everything."""
        return all(outbound.is_idle for outbound in self.outbound.values())

    def schedule(self) -> None:
        """Send what is due at the next turn of the loop, so that changes of one turn share messages."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._pump)

    def change(self, config: Peer) -> None:
        """Other policies: what they change is withdrawn, announced or accepted; the session stays."""
        self._config = config
        for family, outbound in self.outbound.items():
            outbound.change(self._export(family))
        for family, inbound in self.inbound.items():
            self._reconsider(family, inbound)
        self.schedule()

    def _reconsider(self, family: Family, inbound: Inbound) -> None:
        rules = self._import(family)
        if rules != inbound.rules:
            self._router.distribute(family, inbound.reconsider(rules))

    def update(self, body: bytes) -> None:
        """One UPDATE from the peer, in the tables after ``settle``; PeerFault ends the session."""
        self.updates_in += 1
        plain = self._decoder.decode_plain(body)
        if plain is not None:
            self._pending.append(plain)
            return
        update = self._decoder.decode(body)
        self.settle()
        if update.faults:
            self._report(update)
        for routes in update.withdrawn:
            self._withdraw(routes.family, routes.prefixes)
        for routes in update.announced:
            if routes.attributes is not None:
                self._announce(routes.family, routes.attributes, routes.prefixes)
        if update.end_of_rib is not None:
            self._end_of_rib(update.end_of_rib)

    def settle(self) -> None:
        """Take over what plain UPDATEs brought, together where they share attributes; a prefix in several keeps their order."""
        pending = self._pending
        if not pending:
            return
        self._pending = []
        runs: list[tuple[Attributes, list[bytes]]] = []
        for attributes, prefixes in pending:
            if runs and runs[-1][0] is attributes:
                runs[-1][1].extend(prefixes)
            else:
                runs.append((attributes, prefixes))
        for attributes, prefixes in join_runs(runs):
            self._announce(Family.IPV4, attributes, prefixes)

    def refresh(self, message: Refresh) -> None:
        """The peer asks for everything again, or marks where its own repetition begins and ends (RFC 7313)."""
        family = message.family
        inbound, outbound = self.inbound.get(family), self.outbound.get(family)
        if inbound is None or outbound is None:
            return
        if message.subtype == _BEGIN:
            if not inbound.stale:
                inbound.mark_stale()
        elif message.subtype == _END:
            self._router.distribute(family, inbound.sweep())
        elif family in self._refreshing:
            self._repeating.add(family)  # any number of requests meanwhile is one more round, not one each
        else:
            self._repeat(family, outbound)

    def _repeat(self, family: Family, outbound: Outbound) -> None:
        if self.session.enhanced_refresh:
            self._connection.write(encode_refresh(Refresh(family, _BEGIN)))
        self._refreshing.add(family)
        outbound.refresh(forget=True)
        self.schedule()

    def ask(self) -> None:
        """Ask the peer for everything again."""
        if self.session.route_refresh:
            for family in self.session.families:
                self._connection.write(encode_refresh(Refresh(family, _ASK)))

    def is_ended(self, family: Family) -> bool:
        """Whether the peer's End-of-RIB came."""
        return family in self._ended or family not in self.session.families

    def sweep(self) -> None:
        """The peer had its time to announce stale routes again."""
        for family, inbound in self.inbound.items():
            if inbound.stale:
                self._router.note(self._config.name, f"{len(inbound.stale)} stale {family.label} routes removed")
                self._router.distribute(family, inbound.sweep())

    def end(self) -> None:
        """The session is over: what an earlier restart left stale goes with a second one (RFC 4724 §4.2)."""
        for family in self._claimed - self._ended:
            self._router.distribute(family, self.inbound[family].sweep())

    def _announce(self, family: Family, attributes: Attributes, prefixes: list[bytes]) -> None:
        inbound = self.inbound.get(family)
        if inbound is not None:
            self._router.distribute(family, inbound.announce(attributes, prefixes), inbound.source)
            self._check_limit(family, inbound)

    def _withdraw(self, family: Family, prefixes: list[bytes]) -> None:
        inbound = self.inbound.get(family)
        if inbound is not None:
            self._router.distribute(family, inbound.withdraw(prefixes))

    def _end_of_rib(self, family: Family) -> None:
        inbound = self.inbound.get(family)
        if inbound is None:
            return
        self._ended.add(family)
        if inbound.stale:
            self._router.distribute(family, inbound.sweep())
        self._router.ended(family)

    def _report(self, update: Update) -> None:
        text = "; ".join(f"{fault.outcome.name.lower()}: {fault.reason}" for fault in update.faults)
        if text != self.last_fault:
            self._router.note(self._config.name, f"malformed UPDATE, {text}")
        self.last_fault = text

    def _check_limit(self, family: Family, inbound: Inbound) -> None:
        limit = self._family_config(family).prefix_limit
        if limit is None or len(inbound.routes) <= limit.maximum:
            return
        text = f"{len(inbound.routes)} {family.label} prefixes, limit {limit.maximum}"
        if limit.warning_only:
            self._router.note(self._config.name, text)
            return
        data = family.afi.to_bytes(2, "big") + bytes((family.safi,)) + limit.maximum.to_bytes(4, "big")
        raise PeerFault(Code.CEASE, Cease.MAX_PREFIXES, data, text)

    def _pump(self) -> None:
        """One slice for each family; then others get their turn."""
        self._is_scheduled = False
        if not self._connection.has_room:
            return
        for family, outbound in self.outbound.items():
            messages = outbound.take(self._slice)
            if messages:
                self.updates_out += len(messages)
                data = b"".join(messages)
                self._connection.write(data)
                self._slice = next_slice(self._slice, len(data))
            if outbound.is_idle:
                self._finish(family, outbound)
        if self._connection.has_room and not all(outbound.is_idle for outbound in self.outbound.values()):
            self.schedule()

    def _finish(self, family: Family, outbound: Outbound) -> None:
        if family in self._refreshing:
            self._refreshing.discard(family)
            if self.session.enhanced_refresh:
                self._connection.write(encode_refresh(Refresh(family, _END)))
            if family in self._repeating:
                self._repeating.discard(family)
                self._repeat(family, outbound)
                return
        may_end = outbound.rules.policy is LOCAL_ONLY or self._router.may_end(family)
        if family in self._owed and may_end:
            self._owed.discard(family)
            self._connection.write(encode_end_of_rib(family))

    def _family_config(self, family: Family) -> FamilyConfig:
        return next(each for each in self._config.families if each.family is family)

    def _import(self, family: Family) -> Import:
        config = self._config
        return Import(
            policy=self._router.policy(self._family_config(family).import_policy),
            local_as=self.session.local_as,
            identifier=self._router.identifier,
            is_external=self.session.ebgp,
            own_as_limit=config.allow_own_as,
            enforce_first_as=config.enforce_first_as,
            own_addresses=frozenset(self._next_hops.values()),
        )

    def _export(self, family: Family) -> Export:
        config = self._family_config(family)
        next_hop = self._next_hops.get(family, b"")
        if family is Family.IPV4 and self._is_over_ipv6 and Family.IPV4 in self.session.extended_next_hop:
            next_hop = self._next_hops.get(Family.IPV6, b"")
        return Export(
            policy=self._router.policy(config.export_policy),
            source=self.inbound[family].source,
            session=self.session,
            next_hop=next_hop,
            next_hop_mode=parse_next_hop(config.next_hop),
            paths=max(config.add_path.send, 1),
            originates_default=config.default_originate,
            is_draining=self._router.is_draining,
        )


def join_runs(runs: list[tuple[Attributes, list[bytes]]]) -> list[tuple[Attributes, list[bytes]]]:
    """``runs`` with one for each set of attributes, unless a prefix is in two of them: its last one must stay the last."""
    groups: defaultdict[Attributes, list[bytes]] = defaultdict(list)
    for attributes, prefixes in runs:
        groups[attributes] += prefixes
    if len(groups) == len(runs):
        return runs
    distinct = len(set().union(*groups.values()))
    return list(groups.items()) if distinct == sum(map(len, groups.values())) else runs


def next_slice(current: int, octets: int) -> int:
    """How many prefixes to take next when ``current`` became so many octets: long attributes make far more of them."""
    if octets > LARGEST_WRITE:
        return max(1, current * LARGEST_WRITE // octets)
    return min(LARGEST_SLICE, 2 * current)
