"""One peer over time: attempts to reach it, collisions, the session's routes, graceful restart, BFD, changed configuration."""

import asyncio
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import msgspec

from stentor.bgp import transport
from stentor.bgp.address import find_next_hops
from stentor.bgp.attempt import Attempt
from stentor.bgp.capability import AddPath, Capabilities, Graceful, LongLived, Open, Session
from stentor.bgp.config import AddPathMode, FamilyConfig, Peer
from stentor.bgp.errors import Cease, Code, Unsupported
from stentor.bgp.exchange import Exchange, Router
from stentor.bgp.fsm import OPEN_HOLD_S, Closed, Reset, Settings, Start, State, Stop, is_ours_kept
from stentor.bgp.nlri import Family, parse_address
from stentor.bgp.retention import Retention, is_graceful
from stentor.bgp.wire import Notification, Refresh, shutdown

STALE_SWEEP_S = 360.0
IBGP_TTL = 64
DYNAMIC_OPEN_HOLD_S = 15.0
"""Anybody in a listen range may connect: who says nothing must not keep a place for long."""


class Host(Router, Protocol):
    """The instance of a neighbour."""

    name: str
    asn: int
    is_restarting: bool
    keeps_forwarding: bool

    def session_changed(self, neighbour: "Neighbour", text: str) -> None:
        """A session came up or ended, with the words for it."""

    def forget(self, neighbour: "Neighbour") -> None:
        """A dynamic neighbour has ended."""

    def protect(self, neighbour: "Neighbour", *, is_wanted: bool = True) -> None:
        """Tell the listeners the peer's key: without it its SYN is dropped. ``is_wanted`` False takes it away."""


class Neighbour:
    """``address`` is None while an unnumbered peer is not known yet."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: Host,
        config: Peer,
        *,
        address: str | None,
        is_dynamic: bool = False,
    ) -> None:
        self.config = config
        self.address = address
        self.is_dynamic = is_dynamic
        self.exchange: Exchange | None = None
        self.established_at = 0.0
        self.established_wall = 0.0
        self.last_error = ""
        self.flaps = 0
        self.bfd_state = ""
        self._loop = loop
        self._host = host
        self._is_hard = False
        self._has_restarted = False
        self._limit_timer: asyncio.TimerHandle | None = None
        self._is_limited = False
        self._sweep_timer: asyncio.TimerHandle | None = None
        self.retention = Retention(loop, host, config.name)
        self.main = Attempt(loop, self, self._settings())
        self._rival: Attempt | None = None

    # -- orders ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect or to wait."""
        if self.config.enabled and self.address is not None and not self._is_limited:
            self.main.change(self._settings())
            self.main.feed(Start())

    def stop(self, notification: Notification | None) -> None:
        """End the session and drop its routes. Without a notification the peer sees the beginning of a graceful restart."""
        self._is_hard = True
        for attempt in (self._rival, self.main):
            if attempt is not None:
                attempt.feed(Stop(notification))
        self._rival = None
        self.retention.drop()
        for timer in (self._limit_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._is_hard = False

    @property
    def is_graceful(self) -> bool:
        """Whether the peer keeps our routes while we restart."""
        session = self.exchange.session if self.exchange is not None else None
        return (
            session is not None
            and self.config.graceful_restart.enabled
            and session.peer.capabilities.graceful is not None
        )

    def leave(self) -> None:
        """This process ends: silence where the peer keeps our routes meanwhile, an administrative shutdown elsewhere."""
        self.stop(None if self.is_graceful else shutdown(Cease.SHUTDOWN))

    def disable(self, text: str) -> None:
        """An operator's wish: end the session and stay down."""
        self.stop(shutdown(Cease.SHUTDOWN, text))
        self.last_error = "disabled by the operator"
        self._host.session_changed(self, self.last_error)

    def enable(self) -> None:
        """Undo `disable` or the effect of a prefix limit."""
        self._is_limited = False
        self.start()

    def reset(self, notification: Notification, reason: str) -> None:
        """End the session and begin again."""
        self._clear_limit()
        self.main.feed(Reset(notification, reason))

    def change(self, config: Peer) -> None:
        """Take over a new configuration; the session is reset only for what the two OPENs negotiated or TCP needs."""
        before, self.config = self.config, config
        if _negotiated(before) != _negotiated(config):
            self.stop(shutdown(Cease.CONFIG_CHANGE))
            self._is_limited = False
            self.start()
            return
        self.main.change(self._settings())
        if self.exchange is not None:
            self.exchange.change(config)

    def found(self, address: str) -> None:
        """An unnumbered peer announced itself."""
        if address == self.address:
            return
        if self.address is not None:
            self.stop(shutdown(Cease.CONFIG_CHANGE))
            self._host.protect(self, is_wanted=False)
        self.address = address
        self._host.protect(self)
        self.start()

    def accept(self, sock: socket.socket) -> None:
        """The peer connected to us."""
        if not self.config.enabled or self._is_limited or not self.main.machine.is_enabled:
            sock.close()
            return
        try:
            self._prepare(sock)
        except OSError:
            sock.close()
            return
        if self.main.state in (State.IDLE, State.ACTIVE):
            self.main.change(self._settings())
            self.main.accept(sock)
        elif self._rival is None:
            self._rival = Attempt(self._loop, self, msgspec.structs.replace(self._settings(), is_passive=True))
            self._rival.feed(Start())
            self._rival.accept(sock)
        else:
            sock.close()

    def bfd_down(self, *, is_independent: bool) -> None:
        """BFD lost the peer (RFC 5882 §4.3): unless its control plane alone may be gone, nothing of it is kept."""
        bfd = self.config.bfd
        if bfd is not None and bfd.graceful and not is_independent:
            if self.exchange is not None:
                self.main.feed(Reset(None, "BFD down, the peer restarts"))
            return
        if self.exchange is not None:
            self._is_hard = True
            self.main.feed(Reset(shutdown(Cease.BFD_DOWN), "BFD down"))
            self._is_hard = False
        self.retention.drop()

    # -- what attempts tell ----------------------------------------------------------------------------------------------

    def open_target(self) -> tuple[socket.socket, object]:
        """A socket for an outgoing connection."""
        config = self.config
        assert self.address is not None
        sock = transport.open_socket(ip_address(self.address).version)
        try:
            self._secure(sock)
            self._prepare(sock)
            transport.bind(sock, config.transport.local_address, config.interface)
            return sock, transport.target_of(self.address, config.transport.peer_port, config.interface)
        except Unsupported as error:
            sock.close()
            raise OSError(str(error)) from error
        except OSError:
            sock.close()
            raise

    def opened(self, attempt: Attempt, message: Open) -> bool:
        """Collision resolution (RFC 4271 §6.8)."""
        other = self._rival if attempt is self.main else self.main
        if other is None:
            return True
        lost = shutdown(Cease.COLLISION)
        if other.state is State.ESTABLISHED:
            if other.machine.settings.local.capabilities.graceful is None or message.capabilities.graceful is None:
                attempt.feed(Stop(lost))
                return False
            # A restarted peer does not say so on the old connection (RFC 4724 §4.2).
            self._end(other, None)
            return True
        if other.state is not State.OPEN_CONFIRM:
            return True
        if attempt.is_outgoing == other.is_outgoing:
            self._end(other, lost)
            return True
        is_kept = is_ours_kept(attempt.machine.settings.local, message) == attempt.is_outgoing
        self._end(other if is_kept else attempt, lost)
        return is_kept

    def up(self, attempt: Attempt, session: Session) -> None:
        """The session is established."""
        if attempt is self._rival:
            self._end(self.main, shutdown(Cease.COLLISION))
        assert attempt.connection is not None
        local, _ = attempt.connection.local()
        taken = self.retention.claim(session)
        self.exchange = Exchange(
            self._loop,
            self._host,
            self.config,
            session,
            attempt.connection,
            next_hops=find_next_hops(local, attempt.connection.interface_index()),
            address=parse_address(self.address or "0.0.0.0"),
            kept=taken,
        )
        self.established_at, self.established_wall = self._loop.time(), time.time()
        self._has_restarted = True
        self.last_error = ""
        if taken:
            self._sweep_timer = self._loop.call_later(STALE_SWEEP_S, self.exchange.sweep)
        self._host.session_changed(self, "session established")
        self.exchange.start()

    def down(self, attempt: Attempt, closed: Closed, was_up: bool) -> None:
        """A connection ended, or an attempt failed."""
        if attempt is self._rival:
            self._rival = None
            attempt.feed(Stop())
            return
        if closed.reason != "stopped":
            self.last_error = closed.reason
        if was_up:
            self._lose(attempt, closed)
        told = closed.sent.inner if closed.sent is not None else None
        if told is not None and (told.code, told.subcode) == (Code.CEASE, Cease.MAX_PREFIXES):
            self._loop.call_soon(self._hold_back)

    def update(self, body: bytes) -> None:
        if self.exchange is not None:
            self.exchange.update(body)

    def settle(self) -> None:
        if self.exchange is not None:
            self.exchange.settle()

    def refresh(self, message: Refresh) -> None:
        if self.exchange is not None:
            self.exchange.refresh(message)

    def room(self) -> None:
        if self.exchange is not None:
            self.exchange.schedule()

    def changed(self, attempt: Attempt, before: State) -> None:
        if (
            attempt is self.main
            and self.is_dynamic
            and attempt.state in (State.IDLE, State.ACTIVE)
            and before > State.ACTIVE
        ):
            self._loop.call_soon(self._host.forget, self)

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _end(self, attempt: Attempt, notification: Notification | None) -> None:
        """End one of two attempts; the other one is the main one from now on."""
        if attempt is self.main and self._rival is not None:
            survivor, self._rival = self._rival, attempt
            self.main = survivor
            survivor.change(self._settings())
            if attempt.state is State.ESTABLISHED and attempt.machine.session is not None:
                self._lose(attempt, Closed("replaced by a new connection"))
        attempt.feed(Stop(notification))
        self._rival = None

    def _lose(self, attempt: Attempt, closed: Closed) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        self.flaps += 1
        self.established_at = 0.0
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        exchange.end()
        ours = attempt.machine.settings.local.capabilities
        is_kept = not self._is_hard and not self.is_dynamic and is_graceful(ours, exchange.session, closed)
        if is_kept:
            self.retention.hold(exchange.inbound, exchange.session, ours)
        else:
            for inbound in exchange.inbound.values():
                self._host.discard(inbound)
        kept = ", routes kept for its restart" if is_kept else ""
        self._host.session_changed(self, f"session ended: {closed.reason}{kept}")

    def _hold_back(self) -> None:
        """The peer sent too much: stay down for the configured time or until somebody resets the session."""
        waits = [each.prefix_limit.restart_seconds for each in self.config.families if each.prefix_limit is not None]
        self._is_limited = True
        self.main.feed(Stop())
        wait_s = max(waits, default=0.0)
        if wait_s:
            self._limit_timer = self._loop.call_later(wait_s, self._clear_limit)

    def _clear_limit(self) -> None:
        if self._is_limited:
            self._is_limited = False
            self.start()

    def _secure(self, sock: socket.socket) -> None:
        assert self.address is not None
        network = transport.host_network(self.address)
        key = self.password()
        if key:
            transport.set_md5(sock, network, key)
        if self.config.tcp_ao is not None:
            transport.set_ao(sock, network, self.config.tcp_ao)

    def password(self) -> bytes:
        """The MD5 key, empty for none; a file is read anew for each connection, so that keys can be rotated."""
        if self.config.password_file is not None:
            try:
                return Path(self.config.password_file).read_bytes().strip()
            except OSError as error:
                raise OSError(f"passwordFile {self.config.password_file}: {error.strerror}") from error
        return (self.config.password or "").encode()

    def _prepare(self, sock: socket.socket) -> None:
        config = self.config
        if config.ttl_security is not None:
            transport.set_ttl(sock, 255)
            transport.set_minimum_ttl(sock, 255 - config.ttl_security.hops + 1)
            return
        local_as = config.local_asn or self._host.asn
        is_external = config.peer_asn == "external" or config.peer_asn not in (0, local_as)
        transport.set_ttl(sock, config.ebgp_multihop if is_external else IBGP_TTL)

    def _settings(self) -> Settings:
        config, host = self.config, self._host
        asn = config.local_asn or host.asn
        return Settings(
            local=Open(asn, config.timers.hold_time_seconds, host.identifier, self._capabilities(asn)),
            peer_as=config.peer_asn if isinstance(config.peer_asn, int) else 0,
            is_external_only=config.peer_asn == "external",
            is_passive=config.transport.passive or self.is_dynamic,
            connect_retry_s=config.timers.connect_retry_time_seconds,
            keepalive_s=config.timers.keep_alive_time_seconds,
            idle_hold_s=config.timers.idle_hold_time_seconds,
            open_hold_s=DYNAMIC_OPEN_HOLD_S if self.is_dynamic else OPEN_HOLD_S,
        )

    def _capabilities(self, asn: int) -> Capabilities:
        config, restart = self.config, self.config.graceful_restart
        families = tuple(each.family for each in config.families)
        is_over_ipv6 = self.address is not None and ip_address(self.address).version == 6
        wants_next_hop = config.extended_next_hop if config.extended_next_hop is not None else is_over_ipv6
        kept = self._host.keeps_forwarding
        graceful = Graceful(
            restart.restart_time_seconds,
            restarting=self._host.is_restarting and not self._has_restarted,
            notification=True,
            families=dict.fromkeys(families, kept),
        )
        stale_s = restart.long_lived_stale_time_seconds
        return Capabilities(
            families=families,
            route_refresh=True,
            enhanced_refresh=True,
            extended_message=config.extended_messages,
            four_octet_as=asn,
            graceful=graceful if restart.enabled else None,
            long_lived={f: LongLived(stale_s, kept) for f in families} if restart.enabled and stale_s else {},
            add_path={each.family: mode for each in config.families if (mode := _add_path(each.add_path))},
            extended_next_hop=(Family.IPV4,) if wants_next_hop and Family.IPV4 in families else (),
        )


def _add_path(mode: AddPathMode) -> AddPath:
    offered = AddPath(0)
    if mode.receive:
        offered |= AddPath.RECEIVE
    if mode.send:
        offered |= AddPath.SEND
    return offered


def _negotiated(config: Peer) -> Peer:
    """The configuration without what may change while the session is up."""
    families = tuple(
        FamilyConfig(each.afi, each.safi, add_path=AddPathMode(each.add_path.receive, min(each.add_path.send, 1)))
        for each in config.families
    )
    timers = msgspec.structs.replace(config.timers, connect_retry_time_seconds=5, idle_hold_time_seconds=1)
    return msgspec.structs.replace(
        config, families=families, timers=timers, bfd=None, enforce_first_as=True, allow_own_as=0, max_dynamic_peers=1
    )
