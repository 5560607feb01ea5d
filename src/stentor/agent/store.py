"""Endpoints and the node's own facts on disk, so that an agent that starts again knows what its predecessor made.

Not synchronous: they have to survive the process, not the machine, whose restart ends every pod anyway. Endpoints are lines
appended to one file, because CNI ADD waits for it: making and renaming a file each costs thirty times as much.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from stentor.net.address import Addr
from stentor.tables.endpoint import Endpoint

_SPARE_LINES: Final = 1024

log = logging.getLogger(__name__)


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent has to know of its own node before the API answers. `pod_cidrs` are those in use, `node_pod_cidrs` those
    of the Node object (IPAM mode kubernetes)."""

    uid: str = ""
    addresses: tuple[tuple[str, Addr], ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    node_pod_cidrs: tuple[str, ...] = ()
    labels: dict[str, str] = {}


def _encode_address(value: Any) -> str:
    if isinstance(value, Addr):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _decode_address(kind: type, value: Any) -> Any:
    if kind is Addr:
        return Addr.parse(value)
    raise NotImplementedError(kind.__name__)


class Line(msgspec.Struct, frozen=True):
    """What became of an endpoint; null when it has ended."""

    id: int
    endpoint: Endpoint | None


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_address)
_LINE = msgspec.json.Decoder(Line, dec_hook=_decode_address)
_NODE = msgspec.json.Decoder(NodeFacts, dec_hook=_decode_address)


class StateDirectory:
    """`endpoints.jsonl`, `node.json`, and `deletions/` where the plugin leaves what it could not deliver."""

    def __init__(self, root: Path) -> None:
        self._node = root / "node.json"
        self._deletions = root / "deletions"
        for directory in (root, self._deletions):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._endpoints = Journal(root / "endpoints.jsonl")
        self._learn()

    def save(self, endpoint: Endpoint) -> None:
        """Write or replace an endpoint. OSError leaves what was known before."""
        self._endpoints.append(endpoint.id, _ENCODER.encode(Line(endpoint.id, endpoint)))

    def forget(self, endpoint_id: int) -> None:
        """Remove an endpoint; one that is not there is no error, nor is a full disk: its device tells that it has ended."""
        try:
            self._endpoints.append(endpoint_id, _ENCODER.encode(Line(endpoint_id, None)), is_end=True)
        except OSError as e:
            log.warning("Cannot note the end of an endpoint", extra={"endpointID": str(endpoint_id), "error": str(e)})

    def load(self) -> list[Endpoint]:
        """All endpoints, by id."""
        found = (_LINE.decode(line).endpoint for line in self._endpoints.live())
        return sorted((endpoint for endpoint in found if endpoint is not None), key=lambda endpoint: endpoint.id)

    def _learn(self) -> None:
        """From what an earlier agent wrote; lines that cannot be read are set aside: such a pod has to be made anew."""
        is_broken = False
        for raw in self._endpoints.read():
            try:
                line = _LINE.decode(raw)
            except (msgspec.MsgspecError, ValueError) as e:
                log.warning("Set aside an unreadable endpoint", extra={"error": str(e)})
                is_broken = True
            else:
                self._endpoints.learn(line.id, raw, is_end=line.endpoint is None)
        if is_broken:
            with suppress(OSError):  # a full disk: the lines that can be read are known all the same
                self._endpoints.set_aside()

    def save_node(self, facts: NodeFacts) -> None:
        _replace(self._node, _ENCODER.encode(facts))

    def load_node(self) -> NodeFacts | None:
        """None on a first start, or when the file is broken."""
        try:
            return _NODE.decode(self._node.read_bytes())
        except (OSError, msgspec.MsgspecError, ValueError):
            return None

    def deletions(self) -> Iterator[tuple[Path, bytes]]:
        """Requests to delete that arrived while no agent was there; the caller removes each file once it is done."""
        for path in sorted(self._deletions.iterdir()):
            if not path.name.startswith("."):
                yield path, path.read_bytes()


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.rename(path)


class Journal:
    """A file of lines of which the last one of each id counts. It is written anew when most of its lines count no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._live: dict[int, bytes] = {}
        self._lines = 0
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def read(self) -> list[bytes]:
        """Every line. The last one may be torn, when its writer was killed."""
        return [line for line in self._path.read_bytes().split(b"\n") if line]

    def live(self) -> list[bytes]:
        """The lines that count."""
        return list(self._live.values())

    def learn(self, key: int, line: bytes, *, is_end: bool) -> None:
        """Take note of a line that is there already."""
        self._lines += 1
        if is_end:
            self._live.pop(key, None)
        else:
            self._live[key] = line

    def append(self, key: int, line: bytes, *, is_end: bool = False) -> None:
        """Add a line, whole or not at all (OSError)."""
        if self._lines > _SPARE_LINES + 4 * len(self._live):
            self._rewrite()
        size = os.fstat(self._fd).st_size
        if os.write(self._fd, _line(line)) <= len(line):
            os.ftruncate(self._fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self.learn(key, line, is_end=is_end)

    def set_aside(self) -> None:
        """Keep the file as it is for who wants to look, and go on with the lines that were learnt."""
        _replace(self._path.with_suffix(".broken"), self._path.read_bytes())
        self._rewrite()

    def _rewrite(self) -> None:
        _replace(self._path, b"".join(map(_line, self._live.values())))
        os.close(self._fd)
        self._fd = self._open()
        self._lines = len(self._live)


def _line(text: bytes) -> bytes:
    """With the end of line in front, so that a torn line before it ends there."""
    return b"\n" + text
