"""Decodes protobuf request bodies into JSON objects; answers stay JSON, which every client accepts.

Wire format: `k8s\\0`, then runtime.Unknown {1: TypeMeta {1: apiVersion, 2: kind}, 2: the message}. Field numbers come
from kubectl's own descriptors (tools/gen_kubernetes_protobuf.py). Two things descriptors do not tell are decided here:

- Go embeds some structs (Volume.volumeSource, ProbeHandler, …): a message whose field name is no property of the JSON
  type is merged into its parent.
- Go writes zero scalars of fields that are no pointers, JSON leaves them out: zeros are dropped unless the JSON type
  requires them or the field is known to be a pointer (`POINTERS`).
"""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from stentor.apiserver.errors import BadRequest
from stentor.apiserver.schema import Schema, load_definitions, read_data

MAGIC = b"k8s\x00"
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
ROOTS = (_META + "DeleteOptions", _META + "Status")
_MAX_DEPTH = 64

POINTERS = frozenset((
    "activeDeadlineSeconds", "allocateLoadBalancerNodePorts", "allowPrivilegeEscalation",
    "automountServiceAccountToken", "backoffLimit", "blockOwnerDeletion", "completions", "controller",
    "defaultMode", "enableServiceLinks", "expirationSeconds", "fsGroup", "gracePeriodSeconds", "hostUsers",
    "immutable", "leaseDurationSeconds", "leaseTransitions", "maxReplicas", "minReplicas", "optional",
    "orphanDependents", "parallelism", "partition", "priority", "privileged", "procMount",
    "progressDeadlineSeconds", "readOnlyRootFilesystem", "ready", "replicas", "revisionHistoryLimit",
    "runAsGroup", "runAsNonRoot", "runAsUser", "serving", "setHostnameAsFQDN", "shareProcessNamespace",
    "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "suspend", "terminating",
    "terminationGracePeriodSeconds", "timeoutSeconds", "tolerationSeconds", "ttlSecondsAfterFinished",
    "manualSelector", "allowed", "observedGeneration",
))  # fmt: skip
"""Fields that are pointers in Go: their zeros mean something."""


class _Malformed(Exception):
    """The bytes are no such message."""


def message_name(group: str, version: str, kind: str) -> str:
    """Full protobuf name of a kind of the published API."""
    if kind == "DeleteOptions":
        return ROOTS[0]
    return f"k8s.io.api.{group.split('.')[0] or 'core'}.{version}.{kind}"


def decode(body: bytes) -> dict[str, Any]:
    """The object in a request body. Raises BadRequest when it is malformed or of a type unknown here."""
    if not body.startswith(MAGIC):
        raise BadRequest("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        envelope = dict(read_fields(body[len(MAGIC) :]))
        meta = dict(read_fields(_bytes(envelope.get(1, b""))))
        api_version, kind = _text(meta.get(1, b"")), _text(meta.get(2, b""))
        group, _, version = api_version.rpartition("/")
        name = message_name(group, version, kind)
        if name not in _messages():
            raise BadRequest(f'no kind "{kind}" is registered for version "{api_version}" as protobuf')
        schema = load_definitions().find(group if kind != "DeleteOptions" else "", version, kind)
        out = _decode(name, _bytes(envelope.get(2, b"")), schema, 0)
    except (_Malformed, UnicodeDecodeError, ValueError, OverflowError, struct.error) as fault:
        raise BadRequest(f"malformed protobuf message: {fault}") from fault
    return {"apiVersion": api_version, "kind": kind, **out}


@functools.cache
def _messages() -> dict[str, dict[int, list[str]]]:
    raw = read_data("protobuf.json.gz")["messages"]
    return {name: {int(n): field for n, field in fields.items()} for name, fields in raw.items()}


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order: varints as int, the rest as bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire == 5:
            size = 4
        elif wire == 1:
            size = 8
        else:
            raise _Malformed(f"wire type {wire}")
        if at + size > end:
            raise _Malformed("truncated field")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise _Malformed("truncated varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Malformed("varint too long")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _Malformed("a number where a length-delimited field belongs")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _Malformed("a length-delimited field where a number belongs")
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _decode(name: str, data: bytes, schema: Schema | None, depth: int) -> Any:
    special = _SPECIAL.get(name)
    if special is not None:
        return special(dict(read_fields(data)))
    if depth > _MAX_DEPTH:
        raise _Malformed("nested too deeply")
    fields = _messages()[name]
    out: dict[str, Any] = {}
    for number, value in read_fields(data):
        field = fields.get(number)
        if field is not None:
            _put(out, field, value, schema, depth)
    return out


def _put(out: dict[str, Any], field: list[str], value: int | bytes, schema: Schema | None, depth: int) -> None:
    name, kind, target = field[0], field[1], field[2] if len(field) > 2 else ""
    child = schema.child(name) if schema else None
    if kind[0] == "M":
        entry = dict(read_fields(_bytes(value)))
        key = _text(entry.get(1, b""))
        out.setdefault(name, {})[key] = _convert(kind[1], entry.get(2, b""), target, _element(child), depth)
    elif kind[0] == "r":
        out.setdefault(name, []).append(_convert(kind[1], value, target, child.items if child else None, depth))
    else:
        inlined = kind == "m" and schema is not None and schema.properties is not None and not schema.declares(name)
        converted = _convert(kind, value, target, schema if inlined else child, depth)
        if inlined and isinstance(converted, dict):
            out.update(converted)
        elif converted or (converted is not None and _keeps_zero(name, converted, schema)):
            out[name] = converted


def _keeps_zero(name: str, value: Any, schema: Schema | None) -> bool:
    """Whether JSON would carry this empty value."""
    if isinstance(value, dict):
        return name not in ("metadata", "status", "resources", "strategy", "updateStrategy")
    return name in POINTERS or (schema is not None and name in schema.required)


def _element(schema: Schema | None) -> Schema | None:
    return schema.additional if schema is not None and isinstance(schema.additional, Schema) else None


def _convert(kind: str, value: int | bytes, target: str, schema: Schema | None, depth: int) -> Any:
    if kind == "m":
        return _decode(target, _bytes(value), schema, depth + 1)
    if kind == "s":
        return _text(value)
    if kind == "y":
        return base64.b64encode(_bytes(value)).decode()
    if kind == "b":
        return bool(_integer(value))
    if kind == "i":
        return _integer(value)
    raw = _bytes(value)
    if len(raw) != (8 if kind == "d" else 4):
        raise _Malformed("floating point number of the wrong size")
    return struct.unpack("<d" if kind == "d" else "<f", raw)[0]


def _time(fields: dict[int, int | bytes]) -> str | None:
    seconds = _integer(fields.get(1, 0))
    # Go's zero time is the year 1; metav1.Time writes it as an empty message.
    return (
        (datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ") if fields else None
    )


def _micro_time(fields: dict[int, int | bytes]) -> str | None:
    if not fields:
        return None
    moment = timedelta(seconds=_integer(fields.get(1, 0)), microseconds=_integer(fields.get(2, 0)) // 1000)
    return (datetime.fromtimestamp(0, UTC) + moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _quantity(fields: dict[int, int | bytes]) -> str:
    return _text(fields.get(1, b"0"))


def _int_or_string(fields: dict[int, int | bytes]) -> int | str:
    return _text(fields.get(3, b"")) if fields.get(1) else _integer(fields.get(2, 0))


def _json(fields: dict[int, int | bytes]) -> Any:
    raw = _bytes(fields.get(1, b""))
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError as fault:
        raise _Malformed(f"embedded JSON: {fault}") from fault


_SPECIAL: dict[str, Callable[[dict[int, int | bytes]], Any]] = {
    _META + "Time": _time,
    _META + "MicroTime": _micro_time,
    _META + "FieldsV1": _json,
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _quantity,
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    "k8s.io.apimachinery.pkg.runtime.RawExtension": _json,
}
