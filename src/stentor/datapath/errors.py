"""What can go wrong between the agent and the kernel's datapath."""

from __future__ import annotations

import os


class DatapathError(Exception):
    """Base of this package's errors."""


class StaleObject(DatapathError):
    """An object file does not belong to the sources beside it, or is missing: `make bpf` builds it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; run `make bpf`")
        self.path, self.reason = path, reason


class VerifierError(DatapathError):
    """The kernel refused a program. `log` is the verifier's whole text, the message holds its end."""

    TAIL_LINES = 30

    def __init__(self, program: str, error: int, log: str) -> None:
        tail = "\n".join(log.splitlines()[-self.TAIL_LINES :])
        super().__init__(f"program {program} refused: {os.strerror(error)}\n{tail}")
        self.program, self.errno, self.log = program, error, log


class MapLayoutChanged(DatapathError):
    """A pinned map of an earlier version cannot be taken over. Nothing was changed."""

    def __init__(self, name: str, difference: str) -> None:
        super().__init__(
            f"pinned map {name} has another layout: {difference}; "
            "drain the node and remove its pin, or run the version that made it"
        )
        self.name, self.difference = name, difference


class MapTooSmall(DatapathError):
    """A pinned map holds more than the configuration has room for. Nothing was changed."""

    def __init__(self, name: str, rows: int, capacity: int, limit: str | None) -> None:
        remedy = f"raise bpf.{limit}" if limit else "run the version that made it"
        super().__init__(f"pinned map {name} holds {rows} rows, which do not fit into {capacity}: {remedy}")
        self.name, self.rows, self.capacity = name, rows, capacity


class AttachError(DatapathError):
    """A program could not be attached to a device."""

    def __init__(self, program: str, ifindex: int, error: OSError) -> None:
        super().__init__(f"attach {program} to device {ifindex}: {error}")
        self.program, self.ifindex, self.errno = program, ifindex, error.errno


class MapFull(DatapathError):
    """A row did not fit: the map's capacity is a configuration value."""

    def __init__(self, name: str, capacity: int) -> None:
        super().__init__(f"map {name} is full ({capacity} rows)")
        self.name, self.capacity = name, capacity
