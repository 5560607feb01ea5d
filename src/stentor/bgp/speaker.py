"""The whole speaker: instances from configuration, BFD, events for whoever watches; ``control`` and ``command`` drive it."""

import asyncio
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from stentor.bgp.advertisement import Advertiser
from stentor.bgp.bfd.client import Client
from stentor.bgp.bfd.message import Endpoint, Request, Status
from stentor.bgp.bfd.session import Settings
from stentor.bgp.compile import Originated, compile_all
from stentor.bgp.config import Config, Peer
from stentor.bgp.config import Instance as InstanceConfig
from stentor.bgp.errors import ConfigError
from stentor.bgp.installation import Installation
from stentor.bgp.instance import Instance
from stentor.bgp.neighbour import Neighbour
from stentor.bgp.nlri import Family, Prefix, format_prefix
from stentor.bgp.policy import Policy
from stentor.bgp.status import Note

RESTART_WINDOW_S = 300.0
RETIRE_S = 3.0  # at most, for the last withdrawal to be written
MOVE_S = 0.5  # between the last withdrawal and the end of the sessions
NOTES_KEPT = 1000
ROUTES_TOLD = 200
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)


class Speaker:
    """``state_dir`` remembers that a speaker ran since the machine booted; None forgets, ``bfd_path`` None goes without BFD."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        state_dir: Path | None,
        bfd_path: str | None,
        launches_bfd: bool = True,
    ) -> None:
        self.config = Config()
        self.instances: dict[str, Instance] = {}
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self.watchers: set[Callable[[Note], None]] = set()
        self.started_at = time.time()
        self._loop = loop
        self._was_running = state_dir is not None and _mark_running(state_dir)
        self._bfd_path = bfd_path
        self._launches_bfd = launches_bfd
        self._bfd: Client | None = None
        self._bfd_was_up: set[Endpoint] = set()
        self._installations: dict[str, Installation] = {}
        self._advertisers: dict[str, Advertiser] = {}
        self._is_checking_bfd = False
        loop.call_later(RESTART_WINDOW_S, self._end_restart)

    def apply(self, config: Config) -> None:
        """Go to this configuration. ConfigError before anything changed; or at the end for a port that cannot be listened on:
        its instance only connects, all else is as it should be, and the next call tries again."""
        policies, routes = compile_all(config)
        wanted = {instance.name: instance for instance in config.instances}
        self.config = config
        for name, instance in list(self.instances.items()):
            kept = wanted.get(name)
            if kept is None or (kept.local_asn, kept.router_id) != (
                instance.config.local_asn,
                instance.config.router_id,
            ):
                self._drop(name)
        refused: list[ConfigError] = []
        for index, wish in enumerate(config.instances):
            try:
                self._apply_instance(wish, policies, routes[wish.name])
            except ConfigError as error:
                refused.append(ConfigError(f"instances[{index}].{error.field}", error.reason))
        self._install()
        self._advertise()
        self._check_bfd()
        # What was built now stays: the collector need not walk half a million routes again and again.
        gc.collect()
        gc.freeze()
        if refused:
            raise refused[0]

    def _apply_instance(
        self, wish: InstanceConfig, policies: Mapping[str, Policy], routes: Sequence[Originated]
    ) -> None:
        known = self.instances.get(wish.name)
        if known is not None:
            known.change(wish, policies, routes)
            return
        self.instances[wish.name] = created = Instance(
            self._loop,
            wish,
            policies,
            is_restarting=self._was_running,
            keeps_forwarding=self._was_running,
            on_event=self.note,
            on_session=self._check_bfd,
            on_routes=self._routes_changed,
        )
        created.start(routes)

    async def retire(self) -> None:
        """Withdraw all our routes and give peers the time to move traffic, then end every session: nothing of us is kept."""
        for instance in self.instances.values():
            instance.withdraw()
        deadline = self._loop.time() + RETIRE_S
        while self._loop.time() < deadline and not all(instance.is_told for instance in self.instances.values()):
            await asyncio.sleep(0.01)
        if self.neighbours():
            await asyncio.sleep(MOVE_S)
        for name in list(self.instances):
            self._drop(name)

    def leave(self) -> None:
        """The process ends. Where peers keep our routes over a restart, the kernel keeps theirs and BFD goes on."""
        kept = {name: instance.leave() for name, instance in self.instances.items()}
        for name, installation in self._installations.items():
            installation.close(remove=not kept.get(name, False))
        for advertiser in self._advertisers.values():
            advertiser.close()
        if self._bfd is not None:
            if not any(kept.values()):
                self._bfd.want(())
            self._bfd.close()

    def neighbours(self) -> list[tuple[Instance, Neighbour]]:
        """All peers of all instances."""
        return [(instance, each) for instance in self.instances.values() for each in instance.sessions()]

    def note(self, kind: str, instance: str, peer: str, text: str) -> None:
        """Log an event and tell the watchers."""
        note = Note(time.time(), kind, instance, peer, text)
        if kind != "route":
            log.info(text, extra={"instance": instance, "peer": peer})
            self.notes.append(note)
        for watcher in list(self.watchers):
            watcher(note)

    def _routes_changed(self, instance: Instance, family: Family, prefixes: Collection[Prefix]) -> None:
        installation = self._installations.get(instance.name)
        if installation is not None:
            installation.touch(family, prefixes)
        if not self.watchers:
            return
        table = instance.tables[family]
        for prefix in islice(prefixes, ROUTES_TOLD):
            path = table.best.get(prefix)
            text = f"{format_prefix(family, prefix)} " + (f"via {path.source.name}" if path is not None else "gone")
            self.note("route", instance.name, path.source.name if path is not None else "", text)
        if len(prefixes) > ROUTES_TOLD:
            self.note("route", instance.name, "", f"{len(prefixes) - ROUTES_TOLD} more {family.label} prefixes changed")

    def _drop(self, name: str) -> None:
        self.instances.pop(name).stop()
        installation = self._installations.pop(name, None)
        if installation is not None:
            installation.close(remove=True)

    def _install(self) -> None:
        """Start or stop installation of routes as the configuration says."""
        for name, instance in self.instances.items():
            config, known = instance.config.kernel, self._installations.get(name)
            if known is not None and known.config != config:
                self._installations.pop(name).close(remove=True)
                known = None
            if known is None and config is not None:
                self._installations[name] = Installation(self._loop, instance, config)

    def _advertise(self) -> None:
        """Speak and hear router advertisements on the interfaces of unnumbered peers."""
        wanted = {
            each.config.interface
            for _, each in self.neighbours()
            if each.config.interface is not None and each.config.peer_address is None
        }
        for interface in self._advertisers.keys() - wanted:
            self._advertisers.pop(interface).close()
        for interface in wanted - self._advertisers.keys():
            self._advertisers[interface] = Advertiser(self._loop, interface, partial(self._found, interface))

    def _found(self, interface: str, address: str) -> None:
        for _, neighbour in self.neighbours():
            if neighbour.config.interface == interface and neighbour.config.peer_address is None:
                neighbour.found(address)
        self._check_bfd()

    def _end_restart(self) -> None:
        self._was_running = False
        for instance in self.instances.values():
            instance.is_restarting = False

    # -- BFD ---------------------------------------------------------------------------------------------------------------

    def _check_bfd(self) -> None:
        if not self._is_checking_bfd:
            self._is_checking_bfd = True
            self._loop.call_soon(self._state_bfd)

    def _state_bfd(self) -> None:
        """Tell the BFD process which sessions there should be."""
        self._is_checking_bfd = False
        requests = []
        for instance, neighbour in self.neighbours():
            request = _bfd_request(instance, neighbour)
            if request is not None:
                requests.append(request)
        if self._bfd is None:
            if not requests or self._bfd_path is None:
                return
            self._bfd = Client(
                self._loop,
                self._bfd_path,
                "bgp",
                self._bfd_changed,
                self._bfd_lost,
                launch_missing=self._launches_bfd,
            )
        self._bfd.want(tuple(requests))

    def _bfd_changed(self, status: Status) -> None:
        endpoint = status.endpoint
        was_up = endpoint in self._bfd_was_up
        if status.is_up:
            self._bfd_was_up.add(endpoint)
        else:
            self._bfd_was_up.discard(endpoint)
        for instance, neighbour in self.neighbours():
            if neighbour.address != endpoint.peer or neighbour.config.bfd is None:
                continue
            state = status.error or status.state.name.lower()
            if neighbour.bfd_state != state:
                neighbour.bfd_state = state
                self.note("session", instance.name, neighbour.config.name, f"BFD {state}")
            if was_up and not status.is_up and not status.is_disabled_by_neighbor:
                neighbour.bfd_down(is_independent=status.independent)

    def _bfd_lost(self) -> None:
        # No news about the peers: each notices by itself that our packets stopped.
        self._bfd_was_up.clear()
        for _, neighbour in self.neighbours():
            neighbour.bfd_state = ""


def _bfd_request(instance: Instance, neighbour: Neighbour) -> Request | None:
    """A session where one is configured and the peer's address is known."""
    config = neighbour.config
    bfd, address = config.bfd, neighbour.address
    if bfd is None or address is None or not config.enabled:
        return None
    settings = Settings(
        bfd.transmit_interval_milliseconds * 1000, bfd.receive_interval_milliseconds * 1000, bfd.detect_multiplier
    )
    # Never the connection's own address: a session that follows TCP's coming and going would not outlive a restart.
    local = config.transport.local_address or ""
    return Request(Endpoint(address, local, config.interface or "", _is_multihop(instance, config)), settings)


def _is_multihop(instance: Instance, config: Peer) -> bool:
    if config.bfd is not None and config.bfd.multihop is not None:
        return config.bfd.multihop
    is_internal = config.peer_asn == (config.local_asn or instance.asn)
    return config.ebgp_multihop > 1 or (is_internal and config.interface is None)


def _mark_running(state_dir: Path) -> bool:
    """Whether a speaker ran here since boot, so that forwarding state is preserved (the F and R bits of RFC 4724)."""
    boot = _BOOT_ID.read_text().strip()
    marker = state_dir / "bgp.boot"
    state_dir.mkdir(parents=True, exist_ok=True)
    try:
        was_running = marker.read_text().strip() == boot
    except OSError:
        was_running = False
    marker.write_text(boot + "\n")
    return was_running
