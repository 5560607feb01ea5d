"""A virtual router: its tables, its own routes, its peers and where it listens."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from stentor.bgp import transport
from stentor.bgp.compile import Originated, compile_route, compile_routes
from stentor.bgp.config import Instance as InstanceConfig
from stentor.bgp.config import Peer, Route, parse_router_id
from stentor.bgp.decision import Scope, Source
from stentor.bgp.errors import Cease, ConfigError, Unsupported
from stentor.bgp.neighbour import Neighbour
from stentor.bgp.nlri import Family, Prefix
from stentor.bgp.policy import REJECT_ALL, Policy
from stentor.bgp.rib import Inbound, Local, Table
from stentor.bgp.wire import shutdown

DEFERRAL_S = 10.0
SLICE = 20_000
CONFIG_OWNER = "config"
ACCEPT_PAUSE_S = 1.0
_ACCEPTS_A_TURN = 32
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

log = logging.getLogger(__name__)


class Instance:
    """Owns everything of one virtual router. ``on_event(kind, peer, text)`` and ``on_routes`` tell the speaker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: InstanceConfig,
        policies: Mapping[str, Policy],
        *,
        is_restarting: bool,
        keeps_forwarding: bool,
        on_event: Callable[[str, str, str, str], None],
        on_session: Callable[[], None],
        on_routes: Callable[["Instance", Family, Collection[Prefix]], None],
    ) -> None:
        self.config = config
        self.name = config.name
        self.asn = config.local_asn
        self.identifier = parse_router_id(config.router_id, "routerID")
        self.tables: Mapping[Family, Table] = {family: Table(family) for family in Family}
        self.is_restarting = is_restarting
        self.keeps_forwarding = keeps_forwarding
        self.is_draining = False
        self.neighbours: dict[str, Neighbour] = {}
        self.owners: dict[str, dict[Family, Local]] = {}
        self._dynamic: dict[str, Neighbour] = {}
        self._loop = loop
        self._policies = policies
        self._on_event = on_event
        self._on_session = on_session
        self._on_routes = on_routes
        self._listeners: list[socket.socket] = []
        self._defers = is_restarting
        if is_restarting:
            loop.call_later(DEFERRAL_S, self._stop_deferring)

    # -- configuration -----------------------------------------------------------------------------------------------------

    def start(self, routes: Sequence[Originated]) -> None:
        """Originate ``routes``, the compiled ones of the configuration, listen, connect."""
        self._originate(CONFIG_OWNER, routes)
        for peer in self.config.peers:
            self._add(peer)
        self._listen()

    def change(self, config: InstanceConfig, policies: Mapping[str, Policy], routes: Sequence[Originated]) -> None:
        """Go to another configuration with as little disturbance as it allows; the AS and identifier stay."""
        before, self.config, self._policies = self.config, config, policies
        self._originate(CONFIG_OWNER, routes)
        wanted = {peer.name: peer for peer in config.peers}
        for name in [name for name in self.neighbours if name not in wanted]:
            self._remove(name)
        for name, peer in wanted.items():
            known = self.neighbours.get(name)
            if known is None:
                self._add(peer)
            elif _identity(known.config) != _identity(peer):
                self._remove(name)
                self._add(peer)
            else:
                known.change(peer)
        for neighbour in list(self._dynamic.values()):
            for peer in config.peers:
                if _belongs(neighbour, peer):
                    neighbour.change(_narrow(peer, neighbour.address or ""))
        if _listening(before) != _listening(config) or not self._listeners:
            self._close_listeners()
            self._listen()
        for neighbour in self.neighbours.values():
            if neighbour.config.password_file is not None:
                self.protect(neighbour)  # the file may hold another key by now

    def stop(self) -> None:
        """The instance is no longer wanted: end all sessions."""
        self._close_listeners()
        for neighbour in list(self.sessions()):
            neighbour.stop(shutdown(Cease.DECONFIGURED))

    def withdraw(self) -> None:
        """Originate nothing any more, whoever wanted it; sessions stay."""
        for owner in list(self.owners):
            self._originate(owner, ())

    @property
    def is_told(self) -> bool:
        """Whether every peer with a session knows all that it should."""
        return all(neighbour.exchange is None or neighbour.exchange.is_idle for neighbour in self.sessions())

    def leave(self) -> bool:
        """The process ends; whether somebody keeps our routes over a restart."""
        self._close_listeners()
        is_kept = any(neighbour.is_graceful for neighbour in self.sessions())
        for neighbour in list(self.sessions()):
            neighbour.leave()
        return is_kept

    def drain(self, is_draining: bool) -> None:
        """Mark all routes with GRACEFUL_SHUTDOWN (RFC 8326), so that traffic moves before sessions end."""
        if is_draining == self.is_draining:
            return
        self.is_draining = is_draining
        self.note("", "draining: all routes carry GRACEFUL_SHUTDOWN" if is_draining else "draining is over")
        for neighbour in self.sessions():
            if neighbour.exchange is not None:
                neighbour.exchange.change(neighbour.config)

    def sessions(self) -> Iterator[Neighbour]:
        """Configured neighbours, then dynamic ones; ranges themselves are not among them."""
        yield from (each for each in self.neighbours.values() if not _is_range(each.config))
        yield from self._dynamic.values()

    def set_routes(
        self, owner: str, routes: Sequence[Route], *, replaces: bool = True, gone: Sequence[str] = ()
    ) -> None:
        """Originate ``routes`` for ``owner``; with ``replaces`` these and no others. ConfigError before anything changed."""
        withdrawn = compile_route(Route(prefixes=tuple(gone)), "withdraw").prefixes
        self._originate(owner, compile_routes(routes, "routes"), replaces=replaces, gone=withdrawn)

    def _originate(
        self,
        owner: str,
        routes: Sequence[Originated],
        *,
        replaces: bool = True,
        gone: Mapping[Family, list[Prefix]] | None = None,
    ) -> None:
        local = self.owners.get(owner) or self.owners.setdefault(owner, self._new_owner(owner))
        kept: dict[Family, set[Prefix]] = {family: set() for family in Family}
        for route in routes:
            for family, members in route.prefixes.items():
                if replaces:
                    kept[family].update(members)
                self.distribute(family, local[family].announce(route.attributes, route.tags, members))
        for family, owned in local.items():
            old = owned.routes.keys() - kept[family] if replaces else (gone or {}).get(family, [])
            if old:
                self.distribute(family, owned.withdraw(old))

    def _new_owner(self, owner: str) -> dict[Family, Local]:
        source = Source(owner, Scope.LOCAL, self.asn, self.identifier, owner.encode()[:16])
        return {family: Local(table, source) for family, table in self.tables.items()}

    # -- what neighbours need ----------------------------------------------------------------------------------------------

    def policy(self, name: str) -> Policy:
        return self._policies.get(name, REJECT_ALL)

    def distribute(self, family: Family, prefixes: Collection[Prefix], source: Source | None = None) -> None:
        if not prefixes:
            return
        for neighbour in self.neighbours.values():
            if neighbour.exchange is not None:
                neighbour.exchange.touch(family, prefixes, source)
        for neighbour in self._dynamic.values():
            if neighbour.exchange is not None:
                neighbour.exchange.touch(family, prefixes, source)
        self._on_routes(self, family, prefixes)

    def discard(self, inbound: Inbound) -> None:
        """A slice a turn, so that other sessions do not wait for half a million withdrawals."""
        self.distribute(inbound.table.family, inbound.drain(SLICE))
        if inbound.routes:
            self._loop.call_soon(self.discard, inbound)

    def note(self, peer: str, text: str) -> None:
        self._on_event("note", self.name, peer, text)

    def ended(self, family: Family) -> None:
        if self._defers and all(self._is_told(neighbour) for neighbour in self.sessions()):
            self._stop_deferring()

    def may_end(self, family: Family) -> bool:
        return not self._defers

    def session_changed(self, neighbour: Neighbour, text: str) -> None:
        self._on_event("session", self.name, neighbour.config.name, text)
        self._on_session()

    def forget(self, neighbour: Neighbour) -> None:
        address = neighbour.address or ""
        if neighbour.exchange is None and self._dynamic.get(address) is neighbour:
            del self._dynamic[address]
            neighbour.stop(None)
            self._on_session()

    def _is_told(self, neighbour: Neighbour) -> bool:
        exchange = neighbour.exchange
        if not neighbour.config.graceful_restart.enabled:
            return True
        return exchange is not None and all(exchange.is_ended(family) for family in exchange.session.families)

    def _stop_deferring(self) -> None:
        if self._defers:
            self._defers = False
            for neighbour in self.sessions():
                if neighbour.exchange is not None:
                    neighbour.exchange.schedule()

    # -- peers and listeners -----------------------------------------------------------------------------------------------

    def _add(self, peer: Peer) -> None:
        address = None if peer.peer_address is None or _is_range(peer) else str(ip_network(peer.peer_address)[0])
        neighbour = Neighbour(self._loop, self, peer, address=address)
        self.neighbours[peer.name] = neighbour
        self.protect(neighbour)
        if not _is_range(peer):
            neighbour.start()
        self._on_session()

    def _remove(self, name: str) -> None:
        neighbour = self.neighbours.pop(name)
        neighbour.stop(shutdown(Cease.DECONFIGURED))
        if _is_range(neighbour.config):
            for dynamic in [each for each in self._dynamic.values() if _belongs(each, neighbour.config)]:
                dynamic.stop(shutdown(Cease.DECONFIGURED))
                self._dynamic.pop(dynamic.address or "", None)
        self.protect(neighbour, is_wanted=False)
        self._on_session()

    def _listen(self) -> None:
        if self.config.local_port is None:
            return
        for address in self.config.listen_addresses:
            try:
                sock = transport.listen(address, self.config.local_port)
            except OSError as error:
                if address == "::" and len(self.config.listen_addresses) > 1:
                    continue  # a kernel without IPv6
                self._close_listeners()
                reason = f"cannot listen on {address} port {self.config.local_port}: {error.strerror}"
                raise ConfigError("localPort", reason) from error
            self._listeners.append(sock)
            self._loop.add_reader(sock.fileno(), self._accept, sock)
        for neighbour in self.neighbours.values():
            self.protect(neighbour)
        hops = [peer.ttl_security.hops for peer in self.config.peers if peer.ttl_security is not None]
        for sock in self._listeners if hops else ():
            transport.set_ttl(sock, 255)  # the answer to a SYN goes out before the peer's own TTL is set
            if len(hops) == len(self.config.peers):
                transport.set_minimum_ttl(sock, 255 - max(hops) + 1)

    def protect(self, neighbour: Neighbour, *, is_wanted: bool = True) -> None:
        peer = neighbour.config
        target = peer.peer_address or neighbour.address
        if target is None:
            return
        network = ip_network(target)
        for sock in self._listeners:
            if (sock.family == socket.AF_INET) != (network.version == 4):
                continue
            try:
                transport.set_md5(sock, network, neighbour.password() if is_wanted else b"")
                if is_wanted and peer.tcp_ao is not None:
                    transport.set_ao(sock, network, peer.tcp_ao)
            except (OSError, Unsupported) as error:
                if peer.password or peer.password_file or peer.tcp_ao:
                    self.note(peer.name, f"cannot protect the listener: {error}")

    def _close_listeners(self) -> None:
        for sock in self._listeners:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, source = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listener)
                return
            interface = socket.if_indextoname(source[3]) if len(source) == 4 and source[3] else None
            neighbour = self._find(transport.plain_address(source[0]), interface)
            if neighbour is None:
                sock.close()
            else:
                neighbour.accept(sock)

    def _pause(self, listener: socket.socket) -> None:
        """Out of descriptors or memory: the connection waits in the kernel, and asking again at once would eat a processor."""

        def resume() -> None:
            if listener in self._listeners:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(ACCEPT_PAUSE_S, resume)
        self.note("", "connections wait: this process is out of descriptors")

    def _find(self, address: str, interface: str | None) -> Neighbour | None:
        for neighbour in self.neighbours.values():
            if neighbour.address == address and neighbour.config.interface in (
                None,
                interface or neighbour.config.interface,
            ):
                return neighbour
        if interface is not None:
            for neighbour in self.neighbours.values():
                if neighbour.config.interface == interface and neighbour.config.peer_address is None:
                    neighbour.found(address)
                    return neighbour
        return self._dynamic.get(address) or self._make_dynamic(address)

    def _make_dynamic(self, address: str) -> Neighbour | None:
        ranges = [peer for peer in self.config.peers if _is_range(peer) and ip_address(address) in _network(peer)]
        if not ranges:
            return None
        peer = max(ranges, key=lambda each: _network(each).prefixlen)
        if sum(1 for each in self._dynamic.values() if _belongs(each, peer)) >= peer.max_dynamic_peers:
            self.note(peer.name, f"{address} refused: {peer.max_dynamic_peers} peers of this range are connected")
            return None
        neighbour = Neighbour(self._loop, self, _narrow(peer, address), address=address, is_dynamic=True)
        self._dynamic[address] = neighbour
        neighbour.start()
        return neighbour


def _network(peer: Peer) -> transport.Network:
    return ip_network(peer.peer_address or "")


def _is_range(peer: Peer) -> bool:
    return peer.peer_address is not None and _network(peer).num_addresses > 1


def _narrow(peer: Peer, address: str) -> Peer:
    """The configuration of one peer out of a range."""
    return msgspec.structs.replace(peer, name=f"{peer.name}/{address}", peer_address=address)


def _belongs(dynamic: Neighbour, peer: Peer) -> bool:
    return dynamic.config.name.rpartition("/")[0] == peer.name


def _identity(peer: Peer) -> tuple[str | None, str | None]:
    return peer.peer_address, peer.interface


def _listening(config: InstanceConfig) -> tuple[object, ...]:
    secrets = tuple((p.peer_address, p.password, p.password_file, p.tcp_ao, p.ttl_security) for p in config.peers)
    return config.local_port, config.listen_addresses, secrets
