"""What can go wrong while a pod is started, by the words that the pod's status then shows."""

from __future__ import annotations


class StartFailure(Exception):
    """A container cannot start now: `reason` and the message become its waiting state; it is tried again later."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BadFlag(Exception):
    """A flag of the runner that cannot be used."""


class CniError(Exception):
    """A plugin refused or failed; `code` is the CNI error code (11: try again later), 0 when it said none."""

    def __init__(self, plugin: str, command: str, code: int, message: str) -> None:
        super().__init__(f'plugin type="{plugin}" failed ({command.lower()}): {message}')
        self.plugin = plugin
        self.command = command
        self.code = code


class BadNetworkConfig(Exception):
    """A network configuration that cannot be used; names file and field."""


class SpawnTimeout(Exception):
    """A program did not end in time and was killed."""
