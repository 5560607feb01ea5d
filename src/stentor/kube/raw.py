"""The edge: bytes of the API server to typed objects and back. No other module of the package sees raw JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from stentor.api.meta import Kind, ListMeta, ObjectKey, Resource
from stentor.kube.errors import ApiError, BadInput, Cause, error_of

T = TypeVar("T", bound=Resource)


class EventType(Enum):
    """Types of watch events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class WatchEvent(msgspec.Struct, Generic[T], frozen=True):
    """One change. `object` is None when it was deleted, and a bookmark has only the version."""

    type: EventType
    key: ObjectKey
    resource_version: str
    object: T | None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list; `continue_token` is empty on the last one."""

    items: tuple[T, ...]
    resource_version: str
    continue_token: str


class _RawEvent(msgspec.Struct, frozen=True):
    type: EventType
    object: msgspec.Raw


class _Name(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: _Name


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: ListMeta = ListMeta()


class _RawList(msgspec.Struct, frozen=True):
    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


class _StatusCause(msgspec.Struct, frozen=True):
    field: str = ""
    message: str = ""
    reason: str = ""


class _StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    causes: tuple[_StatusCause, ...] | None = None
    retry_after_seconds: int = 0


class _Status(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _StatusDetails | None = None


_EVENT = msgspec.json.Decoder(_RawEvent)
_LIST = msgspec.json.Decoder(_RawList)
_STATUS = msgspec.json.Decoder(_Status)
_NAMED = msgspec.json.Decoder(_Named)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_ENCODER = msgspec.json.Encoder()


@cache
def _decoder(type_: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(type_)


def decode(kind: Kind[T], body: bytes | msgspec.Raw) -> T:
    """One object; BadInput when it does not fit its type."""
    try:
        obj: T = _decoder(kind.type).decode(body)
    except msgspec.MsgspecError as e:
        raise BadInput(f"{kind}: undecodable object: {e}") from e
    return obj


def decode_list(kind: Kind[T], body: bytes) -> tuple[Page[T], list[str]]:
    """A page, and what was wrong with the items that had to be left out: one bad object must not hide the others."""
    try:
        raw = _LIST.decode(body)
    except msgspec.MsgspecError as e:
        raise BadInput(f"{kind}: undecodable list: {e}") from e
    items: list[T] = []
    faults: list[str] = []
    for item in raw.items or ():
        try:
            items.append(decode(kind, item))
        except BadInput as e:
            faults.append(e.message)
    return Page(tuple(items), raw.metadata.resource_version, raw.metadata.continue_), faults


def decode_event(kind: Kind[T], line: bytes) -> WatchEvent[T]:
    """One line of a watch. An ERROR event is raised as the error that its Status says (Gone: list again).

    Of a deleted object only the name is read: one that does not fit its type must be able to go, too. A bookmark's object has
    nothing but a version, whatever its type requires.
    """
    try:
        event = _EVENT.decode(line)
        if event.type is EventType.BOOKMARK:
            version = _BOOKMARK.decode(event.object).metadata.resource_version
            return WatchEvent(event.type, ObjectKey("", ""), version, None)
        gone = _NAMED.decode(event.object).metadata if event.type is EventType.DELETED else None
    except msgspec.MsgspecError as e:
        raise BadInput(f"{kind}: undecodable watch event: {e}") from e
    if event.type is EventType.ERROR:
        raise decode_error(500, bytes(event.object))
    if gone is not None:
        return WatchEvent(event.type, ObjectKey(gone.namespace, gone.name), gone.resource_version, None)
    obj = decode(kind, event.object)
    return WatchEvent(event.type, obj.key, obj.metadata.resource_version, obj)


def decode_error(http_status: int, body: bytes) -> ApiError:
    """From a Status object, or from whatever text a proxy in between wrote."""
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        return error_of(http_status, body[:300].decode("utf-8", "replace") or f"HTTP status {http_status}", "")
    details = status.details or _StatusDetails()
    causes = tuple(Cause(c.field, c.message, c.reason) for c in details.causes or ())
    message = status.message or f"HTTP status {http_status}"
    return error_of(status.code or http_status, message, status.reason, causes, details.retry_after_seconds)


def encode(kind: Kind[T], obj: T) -> bytes:
    """An object as the API expects it, with apiVersion and kind."""
    head = b'{"apiVersion":"%b","kind":"%b"' % (kind.api_version.encode(), kind.kind.encode())
    body = _ENCODER.encode(obj)
    return head + (b"}" if body == b"{}" else b"," + body[1:])


def encode_document(document: Mapping[str, Any] | Sequence[Any] | msgspec.Struct) -> bytes:
    """A patch or another body that is not an object of a kind."""
    return _ENCODER.encode(document)
