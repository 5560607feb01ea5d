"""What the agent can answer to a CNI request that it cannot serve. Codes are the CNI specification's."""

from __future__ import annotations


class CniError(Exception):
    """An error result; `code` below 100 is the specification's, from 100 on the plugin's own."""

    code = 999

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message if not details else f"{message}: {details}")
        self.message = message
        self.details = details


class IncompatibleVersion(CniError):
    """The configuration wants a version of the specification that is not spoken."""

    code = 1


class UnknownContainer(CniError):
    """The container does not exist, or is not one of ours."""

    code = 3


class BadEnvironment(CniError):
    """A CNI_* variable is missing or malformed; `details` names it."""

    code = 4


class Undecodable(CniError):
    """The network configuration is not JSON of the expected form."""

    code = 6


class BadNetworkConfig(CniError):
    """The network configuration is JSON, but wrong; `details` names the field."""

    code = 7


class TryAgainLater(CniError):
    """The node cannot serve this now, but soon may."""

    code = 11


class NotAvailable(CniError):
    """STATUS: ADD would fail now."""

    code = 50


class AttachFailed(CniError):
    """The kernel refused the pod's devices, addresses or routes."""

    code = 100


class CheckFailed(CniError):
    """CHECK: something of the attachment is not as it should be."""

    code = 101


class PoolEmpty(CniError):
    """No address is left on this node."""

    code = 102


class StartupError(Exception):
    """The agent cannot work on this machine; the message says what to change."""


class DevicesGone(Exception):
    """Somebody has deleted devices that the agent had made; the next agent makes them anew."""
