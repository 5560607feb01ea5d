"""Whether the node's network is ready: a CNI configuration is there and its plugins say that they can serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from stentor.lab.runner import cni
from stentor.lab.runner.cni import Invoker, Network
from stentor.lab.runner.errors import BadNetworkConfig, CniError

_ABSENT: Final = "cni plugin not initialized"


class NetworkWatch:
    """The directory's first configuration; `network` is None, and `problem` says why, while pods cannot be attached."""

    def __init__(self, directory: Path, invoker: Invoker) -> None:
        self.network: Network | None = None
        self.problem = _ABSENT
        self._directory = directory
        self._invoker = invoker
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._candidate: Network | None = None

    @property
    def is_ready(self) -> bool:
        return self.network is not None

    async def look(self) -> bool:
        """Reads the directory again when it has changed, asks for STATUS; whether `is_ready` changed."""
        before = self.is_ready
        listing = self._listing()
        if listing != self._seen:
            self._seen = listing
            self._read()
        if self._candidate is not None and self._candidate.knows_status:
            await self._ask_status(self._candidate)
        return before != self.is_ready

    def _read(self) -> None:
        try:
            self._candidate = cni.find_network(self._directory)
            self.problem = "" if self._candidate is not None else _ABSENT
        except BadNetworkConfig as e:
            self._candidate, self.problem = None, str(e)
        self.network = self._candidate

    async def _ask_status(self, candidate: Network) -> None:
        try:
            await self._invoker.status(candidate)
            self.network, self.problem = candidate, ""
        except CniError as e:
            self.network, self.problem = None, str(e)

    def _listing(self) -> tuple[tuple[str, int], ...]:
        try:
            with os.scandir(self._directory) as entries:
                return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.is_file()))
        except FileNotFoundError:
            return ()
