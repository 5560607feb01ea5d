"""What can go wrong with a request, by what the caller can do about it."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """One reason of a refusal; `field` is a path such as ``spec.ports[0].port``."""

    field: str
    message: str
    reason: str = ""


class ApiError(Exception):
    """The API server refused, or could not be asked. `status` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.causes = causes


class NotFound(ApiError):
    """No such object, or no such kind: create it, or go on without."""


class Conflict(ApiError):
    """Somebody else changed the object, or owns a field: read again and decide again."""


class AlreadyExists(Conflict):
    """An object of that name is there already."""


class Gone(ApiError):
    """The resource version is too old: list again."""


class Forbidden(ApiError):
    """Not authenticated or not allowed: a person has to change something."""


class BadInput(ApiError):
    """The request itself is wrong; `causes` name the fields. Repeating it is useless."""


class Retryable(ApiError):
    """Server busy or out of reach: try again, not before `retry_after_s`."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_s = retry_after_s


class BadConfig(Exception):
    """A kubeconfig that cannot be used; the message names file and field."""


def error_of(
    status: int, message: str, reason: str, causes: tuple[Cause, ...] = (), retry_after_s: float = 0.0
) -> ApiError:
    """The error of an HTTP answer; unknown 4xx statuses are bad input, everything from 500 on may be tried again."""
    if status == 429 or status >= 500:
        return Retryable(message, status=status, reason=reason, retry_after_s=retry_after_s)
    if reason == "AlreadyExists":
        return AlreadyExists(message, status=status, reason=reason, causes=causes)
    kinds: dict[int, type[ApiError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone}
    return kinds.get(status, BadInput)(message, status=status, reason=reason, causes=causes)
