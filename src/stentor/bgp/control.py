"""The control socket: newline-delimited JSON over a unix socket (0600), requests in, answers and a stream of events out.

``apply`` and ``setRoutes`` state what should be, and may be repeated; routes belong to an *owner* and stay when its connection
ends, so that whoever controls the speaker can restart. Policies and routes change without touching sessions.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from stentor.bgp import view
from stentor.bgp.config import Config, Route, check
from stentor.bgp.errors import BgpError, Cease, ConfigError
from stentor.bgp.instance import Instance
from stentor.bgp.neighbour import Neighbour
from stentor.bgp.nlri import Family, format_prefix, parse_prefix
from stentor.bgp.speaker import Speaker
from stentor.bgp.status import Note
from stentor.bgp.wire import shutdown
from stentor.sys.peer import is_trusted

MAX_LINE = 64 << 20
BATCH = 500
WATCH_QUEUE = 10_000
WATCH_TICK_S = 1.0
WRITE_DEADLINE_S = 30.0


class _Request(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, tag_field="request"):
    """Base of all requests."""


class SetRoutes(_Request, frozen=True, tag="setRoutes"):
    """Routes of ``owner``: ``replace`` all, or add some and withdraw others."""

    instance: str
    owner: str
    routes: tuple[Route, ...] = ()
    withdraw: tuple[str, ...] = ()
    replace: bool = False


class Apply(_Request, frozen=True, tag="apply"):
    """Go to this configuration, with these ``routes`` in the same moment: no peer sees the one without the other."""

    config: Config
    routes: tuple[SetRoutes, ...] = ()
    drained: bool | None = None


class ShowPeers(_Request, frozen=True, tag="peers"):
    """All peers."""


class ShowRoutes(_Request, frozen=True, tag="routes"):
    """Routes of one family: the Loc-RIB, or what a peer sent or was told; ``prefix`` restricts to one."""

    kind: Literal["available", "received", "advertised"] = "available"
    family: Literal["ipv4", "ipv6"] = "ipv4"
    instance: str = ""
    peer: str = ""
    prefix: str = ""


class Why(_Request, frozen=True, tag="why"):
    """Explain a prefix."""

    prefix: str
    instance: str = ""


class ShowPolicies(_Request, frozen=True, tag="policies"):
    """The statements of all policies in use."""


class Watch(_Request, frozen=True, tag="watch"):
    """Stream events until the client hangs up; ``routes`` adds a line for each changed route."""

    routes: bool = False


class Peering(_Request, frozen=True, tag="peering"):
    """Act on a peer's session. ``refresh`` asks it for its routes again; ``text`` travels in the NOTIFICATION (RFC 9003)."""

    peer: str
    action: Literal["reset", "disable", "enable", "refresh"]
    text: str = ""


class Drain(_Request, frozen=True, tag="drain"):
    """Mark all routes for graceful shutdown (RFC 8326), or take that back."""

    enabled: bool = True


Request = Apply | SetRoutes | ShowPeers | ShowRoutes | ShowPolicies | Why | Watch | Peering | Drain
_decode = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


class Control:
    """Serves one speaker."""

    def __init__(self, speaker: Speaker, path: Path) -> None:
        self._speaker = speaker
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket that a dead process left is replaced. BgpError when another speaker serves it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if _is_served(self._path):
            raise BgpError(f"another speaker serves {self._path}; --socket names another one")
        with suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MAX_LINE)
        finally:
            os.umask(before)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not is_trusted(writer.get_extra_info("socket")):
                return
            while line := await reader.readline():
                async for answer in self._answer(line, reader.at_eof):
                    writer.write(answer + b"\n")
                    await asyncio.wait_for(writer.drain(), WRITE_DEADLINE_S)
        except (ConnectionError, TimeoutError, ValueError):
            pass  # a client that went away, does not read or sends an endless line
        finally:
            writer.close()

    async def _answer(self, line: bytes, is_gone: Callable[[], bool]) -> AsyncIterator[bytes]:
        try:
            request = _decode(line)
            if isinstance(request, Watch):
                async for note in self._watch(request, is_gone):
                    yield _encode(note)
            elif isinstance(request, ShowRoutes):
                async for batch in self._routes(request):
                    yield batch
                yield b'{"done":true}'
            else:
                yield _encode(_HANDLERS[type(request)](self, request))
        except ConfigError as error:
            yield _encode({"error": error.reason, "field": error.field})
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            yield _encode({"error": text, "field": where.rstrip("`").lstrip(".")})
        except (BgpError, msgspec.DecodeError) as error:
            yield _encode({"error": str(error)})

    async def _watch(self, request: Watch, is_gone: Callable[[], bool]) -> AsyncIterator[Note]:
        """Until the client is gone, which is looked for while nothing happens."""
        queue: asyncio.Queue[Note] = asyncio.Queue(WATCH_QUEUE)

        def take(note: Note) -> None:
            if note.kind != "route" or request.routes:
                with suppress(asyncio.QueueFull):
                    queue.put_nowait(note)

        self._speaker.watchers.add(take)
        try:
            for note in list(self._speaker.notes)[-20:]:
                yield note
            while not is_gone():
                try:
                    async with asyncio.timeout(WATCH_TICK_S):
                        note = await queue.get()
                except TimeoutError:
                    continue
                yield note
        finally:
            self._speaker.watchers.discard(take)

    async def _routes(self, request: ShowRoutes) -> AsyncIterator[bytes]:
        """In batches, each a turn of the loop: half a million routes must not stop the sessions."""
        family = Family.IPV4 if request.family == "ipv4" else Family.IPV6
        wanted = format_prefix(*_prefix(request.prefix)) if request.prefix else ""
        for routes in self._select(request, family):
            batch = []
            for route in routes:
                if not wanted or route.prefix == wanted:
                    batch.append(route)
                if len(batch) >= BATCH:
                    yield _encode({"routes": batch})
                    batch = []
                    await asyncio.sleep(0)
            yield _encode({"routes": batch})

    def _select(self, request: ShowRoutes, family: Family) -> Iterator[Iterator[Any]]:
        if request.kind == "available":
            return (view.available(instance, family) for instance in self._instances(request.instance))
        read: Callable[[Instance, Neighbour, Family], Iterator[Any]]
        read = view.received if request.kind == "received" else view.advertised
        found = [
            (instance, each)
            for instance, each in self._speaker.neighbours()
            if request.peer in ("", each.config.name, each.address) and request.instance in ("", instance.name)
        ]
        if request.peer and not found:
            raise ConfigError("peer", f"no peer {request.peer!r}; `stentor bgp peers` shows all")
        return (read(instance, each, family) for instance, each in found)

    def _instances(self, name: str) -> list[Instance]:
        if name and name not in self._speaker.instances:
            raise ConfigError("instance", f"no instance {name!r}")
        return [each for each in self._speaker.instances.values() if name in ("", each.name)]

    def _apply(self, request: Apply) -> object:
        check(request.config)
        try:
            self._speaker.apply(request.config)
        finally:  # an address that cannot be listened on concerns nobody's routes
            for each in request.routes:
                if each.instance in self._speaker.instances:
                    self._set_routes(each)
            if request.drained is not None:
                self._drain(Drain(request.drained))
        return {"ok": True}

    def _set_routes(self, request: SetRoutes) -> object:
        for instance in self._instances(request.instance):
            instance.set_routes(request.owner, request.routes, replaces=request.replace, gone=request.withdraw)
        return {"ok": True}

    def _peers(self, _request: ShowPeers) -> object:
        now = asyncio.get_running_loop().time()
        return {"peers": [view.peer_status(instance, each, now) for instance, each in self._speaker.neighbours()]}

    def _policies(self, _request: ShowPolicies) -> object:
        return {"policies": list(view.policies(self._speaker.config))}

    def _why(self, request: Why) -> object:
        family, prefix = _prefix(request.prefix)
        return {"explanations": [view.why(instance, family, prefix) for instance in self._instances(request.instance)]}

    def _peering(self, request: Peering) -> object:
        found = [each for _, each in self._speaker.neighbours() if request.peer in (each.config.name, each.address)]
        if not found:
            raise ConfigError("peer", f"no peer {request.peer!r}; `stentor bgp peers` shows all")
        for neighbour in found:
            _ACTIONS[request.action](neighbour, request.text)
        return {"ok": True}

    def _drain(self, request: Drain) -> object:
        for instance in self._speaker.instances.values():
            instance.drain(request.enabled)
        return {"ok": True}


def _reset(neighbour: Neighbour, text: str) -> None:
    neighbour.reset(shutdown(Cease.RESET, text), "reset by the operator")


def _disable(neighbour: Neighbour, text: str) -> None:
    neighbour.disable(text)


def _enable(neighbour: Neighbour, _text: str) -> None:
    neighbour.enable()


def _refresh(neighbour: Neighbour, _text: str) -> None:
    if neighbour.exchange is not None:
        neighbour.exchange.ask()


_ACTIONS: dict[str, Callable[[Neighbour, str], None]] = {
    "reset": _reset,
    "disable": _disable,
    "enable": _enable,
    "refresh": _refresh,
}
_HANDLERS: dict[type, Callable[[Control, Any], object]] = {
    Apply: Control._apply,
    SetRoutes: Control._set_routes,
    ShowPeers: Control._peers,
    ShowPolicies: Control._policies,
    Why: Control._why,
    Peering: Control._peering,
    Drain: Control._drain,
}


def _prefix(text: str) -> tuple[Family, bytes]:
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise ConfigError("prefix", str(error)) from None


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
