"""Lists: selection, consistent pages, and the three forms of an answer."""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from typing import Any, Final

import msgspec

from stentor.apiserver.errors import BadRequest, Expired, Timeout
from stentor.apiserver.printer import Printer
from stentor.apiserver.registry import Registry
from stentor.apiserver.request import Call, parse_count
from stentor.apiserver.resource import Resource
from stentor.apiserver.selector import Selector
from stentor.apiserver.store import Entry, Store
from stentor.apiserver.wire import Form, encode, show, show_metadata

_SNAPSHOTS: Final = 128
"""Unfinished paged lists that are remembered; older ones answer 410."""


class _Continue(msgspec.Struct, frozen=True):
    """What a continue token carries: the remembered list and how much of it was sent."""

    id: str
    start: int


class _Snapshot(msgspec.Struct, frozen=True):
    revision: int
    entries: list[Entry]


class Listing:
    """Answers lists. Later pages come from the entries of the first one: a paged list is one state."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._snapshots: OrderedDict[str, _Snapshot] = OrderedDict()

    def answer(self, call: Call, form: Form) -> bytes:
        """The body of a list. Raises BadRequest, Expired, Timeout."""
        check_revision(call, self._store.revision)
        limit = parse_count(call.query, "limit")
        token = call.query.get("continue", "")
        if token:
            mark = _parse_token(token)
            snapshot = self._snapshots.get(mark.id)
            if snapshot is None:
                raise Expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new"
                    " list without the continue parameter."
                )
        else:
            entries = select(self._store, call.resource, call.namespace, call.selector())
            mark, snapshot = _Continue(secrets.token_hex(6), 0), _Snapshot(self._store.revision, entries)
        end = mark.start + limit if limit > 0 else len(snapshot.entries)
        page = snapshot.entries[mark.start : end]
        meta: dict[str, Any] = {"resourceVersion": str(snapshot.revision)}
        if end < len(snapshot.entries):
            self._remember(mark.id, snapshot)
            meta["continue"] = _format_token(_Continue(mark.id, end))
            meta["remainingItemCount"] = len(snapshot.entries) - end
        return self._show(call, form, page, meta)

    def _remember(self, name: str, snapshot: _Snapshot) -> None:
        self._snapshots[name] = snapshot
        self._snapshots.move_to_end(name)
        while len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)

    def _show(self, call: Call, form: Form, entries: list[Entry], meta: dict[str, Any]) -> bytes:
        resource = call.resource
        if form is Form.TABLE:
            printer = Printer(resource, call.query.get("includeObject", "Metadata"))
            return encode(printer.table(entries, meta))
        if form is Form.METADATA:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
            return join(head, [show_metadata(e) for e in entries])
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        return join(head, [show(e, resource) for e in entries])


def join(head: dict[str, Any], items: list[bytes]) -> bytes:
    """A list document around encoded items."""
    return encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"


def select(store: Store, resource: Resource, namespace: str, selector: Selector) -> list[Entry]:
    """Entries of a namespace (all with an empty one) that the selector accepts, in order."""
    bucket = store.bucket(resource.bucket)
    if selector.name is not None and (namespace or not resource.namespaced):
        entry = bucket.entries.get((namespace, selector.name))
        entries = [entry] if entry is not None else []
    else:
        entries = bucket.select(namespace)
    if selector.is_empty:
        return entries
    return [e for e in entries if selector.accepts(e.labels, e.field)]


def check_revision(call: Call, current: int) -> None:
    """A list is never older than what the client has seen; a revision from elsewhere is refused."""
    text = call.query.get("resourceVersion", "")
    match = call.query.get("resourceVersionMatch", "")
    if match not in ("", "Exact", "NotOlderThan"):
        raise BadRequest(
            f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        )
    if not text:
        return
    if not text.isdigit():
        raise BadRequest(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    if int(text) > current:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        raise Timeout(
            f"Too large resource version: {text}, current: {current}", {"causes": causes, "retryAfterSeconds": 1}
        )
    if match == "Exact" and text != "0" and int(text) < current:
        raise Expired(f"The resourceVersion for the provided list is too old: {text} ({current})")


def _format_token(mark: _Continue) -> str:
    return base64.urlsafe_b64encode(encode(mark)).decode().rstrip("=")


def _parse_token(text: str) -> _Continue:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(raw, type=_Continue)
    except (ValueError, msgspec.DecodeError) as fault:
        raise BadRequest("continue key is not valid") from fault
