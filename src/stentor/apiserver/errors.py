"""Failures as Kubernetes Status objects (meta/v1 Status): what a client gets is what is raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stentor.apiserver.resource import Resource


class Cause(msgspec.Struct, frozen=True):
    """One reason of an Invalid status. `reason` is a CauseType such as FieldValueRequired."""

    reason: str
    field: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", field, f"Required value: {detail}" if detail else "Required value")


def invalid(field: str, value: Any, detail: str) -> Cause:
    return Cause("FieldValueInvalid", field, f"Invalid value: {quote(value)}: {detail}")


def duplicate(field: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {quote(value)}")


def forbidden(field: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def unsupported(field: str, value: Any, known: Sequence[str]) -> Cause:
    listed = ", ".join(f'"{k}"' for k in known)
    return Cause("FieldValueNotSupported", field, f"Unsupported value: {quote(value)}: supported values: {listed}")


def wrong_type(field: str, value: Any, expected: str, name: str = "") -> Cause:
    shown = f'"{_type_name(value)}"'
    return Cause(
        "FieldValueTypeInvalid",
        field,
        f"Invalid value: {shown}: {name or field} in body must be of type {expected}: {shown}",
    )


def not_found_value(field: str, value: Any) -> Cause:
    return Cause("FieldValueNotFound", field, f"Not found: {quote(value)}")


def _type_name(value: Any) -> str:
    names: dict[type, str] = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
        list: "array",
        dict: "object",
    }
    return names.get(type(value), "null")


def quote(value: Any) -> str:
    """A value as Go's field errors print it."""
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if value is None:
        return "null"
    return msgspec.json.encode(value).decode()


class ApiError(Exception):
    """A request that fails; `status()` is the answer's body."""

    code = 500
    reason = "InternalError"

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class Forbidden(ApiError):
    code, reason = 403, "Forbidden"


class NotFound(ApiError):
    """No such object, or with the default message no such path."""

    code, reason = 404, "NotFound"

    def __init__(
        self, message: str = "the server could not find the requested resource", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, details)


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"

    def __init__(self) -> None:
        super().__init__("the server does not allow this method on the requested resource")


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"


class Conflict(ApiError):
    code, reason = 409, "Conflict"


class Expired(ApiError):
    code, reason = 410, "Expired"


class EntityTooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code, reason = 415, "UnsupportedMediaType"


class Unprocessable(ApiError):
    """A patch that cannot be applied."""

    code, reason = 422, "Invalid"


class TooManyRequests(ApiError):
    code, reason = 429, "TooManyRequests"


class Timeout(ApiError):
    code, reason = 504, "Timeout"


class Unavailable(ApiError):
    code, reason = 503, "ServiceUnavailable"


class Internal(ApiError):
    pass


class Invalid(ApiError):
    """Field errors: 422 with one cause each."""

    code, reason = 422, "Invalid"

    def __init__(self, group: str, kind: str, name: str, causes: Sequence[Cause]) -> None:
        shown = f"{kind}.{group}" if group else kind
        texts = [c.text for c in causes]
        listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
        rows = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
        details = {"name": name, "group": group, "kind": kind, "causes": rows}
        super().__init__(f'{shown} "{name}" is invalid: {listed}', {k: v for k, v in details.items() if v})


def details_of(resource: Resource, name: str) -> dict[str, Any]:
    out = {"name": name, "group": resource.group, "kind": resource.plural}
    return {k: v for k, v in out.items() if v}


def not_found(resource: Resource, name: str) -> NotFound:
    return NotFound(f'{resource.qualified} "{name}" not found', details_of(resource, name))


def already_exists(resource: Resource, name: str) -> AlreadyExists:
    return AlreadyExists(f'{resource.qualified} "{name}" already exists', details_of(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> Conflict:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return Conflict(
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}', details_of(resource, name)
    )
