"""Endpoints and the node's own facts on disk, so that an agent that starts again knows what its predecessor made.

Not synchronous: they have to survive the process, not the machine, whose restart ends every pod anyway.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stentor.net.address import Addr
from stentor.tables.endpoint import Endpoint

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


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_address)
_ENDPOINT = msgspec.json.Decoder(Endpoint, dec_hook=_decode_address)
_NODE = msgspec.json.Decoder(NodeFacts, dec_hook=_decode_address)


class StateDirectory:
    """`endpoints/ID.json`, `node.json`, and `deletions/` where the plugin leaves what it could not deliver."""

    def __init__(self, root: Path) -> None:
        self._node = root / "node.json"
        self._endpoints = root / "endpoints"
        self._deletions = root / "deletions"
        for directory in (root, self._endpoints, self._deletions):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, endpoint: Endpoint) -> None:
        """Write or replace an endpoint."""
        _replace(self._endpoints / f"{endpoint.id}.json", _ENCODER.encode(endpoint))

    def forget(self, endpoint_id: int) -> None:
        """Remove an endpoint; one that is not there is no error."""
        (self._endpoints / f"{endpoint_id}.json").unlink(missing_ok=True)

    def load(self) -> list[Endpoint]:
        """All endpoints; a file that cannot be read is set aside and logged: its pod has to be made anew."""
        found = []
        for path in sorted(self._endpoints.glob("*.json")):
            try:
                found.append(_ENDPOINT.decode(path.read_bytes()))
            except (msgspec.MsgspecError, ValueError) as e:
                log.warning("Set aside an unreadable endpoint", extra={"path": str(path), "error": str(e)})
                path.rename(path.with_suffix(".broken"))
        return found

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
