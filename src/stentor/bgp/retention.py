"""Routes of a peer that restarts gracefully (RFC 4724 §4.2, RFC 8538, RFC 9494): kept, then claimed, demoted or dropped.

session lost ─ hold ─► stale ── peer is back: claim ──► announced again or swept at End-of-RIB
                         └─ restart time over ─► long-lived stale (LLGR_STALE, least preferred) ─ stale time over ─► dropped
"""

import asyncio
from collections.abc import Mapping

from stentor.bgp.capability import Capabilities, Session
from stentor.bgp.errors import Cease
from stentor.bgp.exchange import Router
from stentor.bgp.fsm import Closed
from stentor.bgp.nlri import Family
from stentor.bgp.rib import Inbound


def is_graceful(ours: Capabilities, session: Session, closed: Closed) -> bool:
    """Whether the end of a session keeps its routes: always without NOTIFICATION, with one if both set the N bit."""
    mine, theirs = ours.graceful, session.peer.capabilities.graceful
    if mine is None or theirs is None:
        return False
    notification = closed.sent or closed.received
    if notification is None:
        return True
    is_hard = notification.code == 6 and notification.subcode == Cease.HARD_RESET
    return mine.notification and theirs.notification and not is_hard


class Retention:
    """The stale routes of one peer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, router: Router, peer: str) -> None:
        self._loop = loop
        self._router = router
        self._peer = peer
        self._kept: dict[Family, Inbound] = {}
        self._stale_s: dict[Family, int] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._session: Session | None = None

    @property
    def families(self) -> frozenset[Family]:
        """Families with stale routes."""
        return frozenset(self._kept)

    def hold(self, inbound: Mapping[Family, Inbound], session: Session, ours: Capabilities) -> None:
        """Keep what the peer asked to keep, drop the rest."""
        graceful = session.peer.capabilities.graceful
        wanted = frozenset(graceful.families) if graceful is not None else frozenset()
        long_lived = session.peer.capabilities.long_lived
        self._session = session
        for family, routes in inbound.items():
            if family in wanted or (family in long_lived and family in ours.long_lived):
                routes.mark_stale()
                self._kept[family] = routes
                if family in long_lived and family in ours.long_lived:
                    self._stale_s[family] = min(long_lived[family].stale_s, ours.long_lived[family].stale_s)
            else:
                self._router.discard(routes)
        if self._kept:
            restart_s = graceful.restart_s if graceful is not None else 0
            self._timers.append(self._loop.call_later(restart_s, self._demote))

    def claim(self, session: Session) -> dict[Family, Inbound]:
        """The session is back: what it may take up again; the rest is dropped (RFC 4724 §4.2)."""
        graceful = session.peer.capabilities.graceful
        before = self._session
        is_same = before is not None and (before.peer.asn, before.peer.identifier) == (
            session.peer.asn,
            session.peer.identifier,
        )
        taken = {}
        for family, routes in self._kept.items():
            has_kept = graceful is not None and graceful.families.get(family, False)
            long_lived = session.peer.capabilities.long_lived.get(family)
            has_kept = has_kept or (long_lived is not None and long_lived.forwarding)
            if (
                is_same
                and has_kept
                and family in session.families
                and routes.has_path_ids == (family in session.add_path_in)
            ):
                taken[family] = routes
            else:
                self._router.discard(routes)
        self._forget()
        return taken

    def drop(self) -> None:
        """The peer is gone for good."""
        for routes in self._kept.values():
            self._router.discard(routes)
        self._forget()

    def _demote(self) -> None:
        """The restart time is over."""
        for family, routes in list(self._kept.items()):
            stale_s = self._stale_s.get(family, 0)
            if not stale_s:
                self._expire(family)
                continue
            self._router.note(
                self._peer, f"{len(routes.stale)} {family.label} routes are long-lived stale for {stale_s} s"
            )
            self._router.distribute(family, routes.make_long_lived())
            self._timers.append(self._loop.call_later(stale_s, self._expire, family))

    def _expire(self, family: Family) -> None:
        routes = self._kept.pop(family, None)
        if routes is not None:
            self._router.note(
                self._peer, f"{len(routes.routes)} stale {family.label} routes dropped: the peer did not return"
            )
            self._router.discard(routes)

    def _forget(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._kept.clear()
        self._stale_s.clear()
