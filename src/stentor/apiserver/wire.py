"""Bodies in (JSON, YAML, protobuf) and the choice of the form that an answer takes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from stentor.apiserver import protobuf
from stentor.apiserver.errors import ApiError, BadRequest, UnsupportedMediaType
from stentor.apiserver.resource import Resource
from stentor.apiserver.store import Entry

Object = dict[str, Any]

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
encode = msgspec.json.encode


class Form(enum.Enum):
    """How objects are shown."""

    OBJECT = "object"
    TABLE = "table"
    METADATA = "metadata"


class NotAcceptable(ApiError):
    code, reason = 406, "NotAcceptable"


def choose_form(accept: str) -> tuple[Form, str]:
    """(form, content type) for an Accept header. Raises NotAcceptable when JSON and YAML are excluded."""
    for offer in accept.split(",") if accept else ("*/*",):
        media, *rest = (part.strip() for part in offer.split(";"))
        params = dict(p.split("=", 1) for p in rest if "=" in p)
        kind = params.get("as", "")
        if media in (JSON, "application/*", "*/*"):
            if not kind:
                return Form.OBJECT, JSON
            if params.get("g") == "meta.k8s.io" and params.get("v") in ("v1", "v1beta1"):
                forms = {
                    "Table": Form.TABLE,
                    "PartialObjectMetadata": Form.METADATA,
                    "PartialObjectMetadataList": Form.METADATA,
                }
                if kind in forms:
                    return forms[kind], JSON
        elif media == YAML and not kind:
            return Form.OBJECT, YAML
    raise NotAcceptable(
        "only the following media types are accepted: application/json, application/yaml, application/json;as=Table"
    )


def decode_body(body: bytes, content_type: str) -> Object:
    """The object in a request's body. Raises BadRequest, UnsupportedMediaType."""
    value = decode_any(body, content_type)
    if not isinstance(value, dict):
        raise BadRequest(f"the object provided is unrecognized (must be of type object): got {type(value).__name__}")
    return value


def decode_any(body: bytes, content_type: str) -> Any:
    media = content_type.partition(";")[0].strip().lower()
    if media == PROTOBUF or body.startswith(protobuf.MAGIC):
        return protobuf.decode(body)
    if media == YAML or media.endswith("+yaml"):
        return _decode_yaml(body)
    if media.endswith("json") or not media or media == "application/octet-stream":
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise BadRequest(f"the object provided is unrecognized (must be of type json): {fault}") from fault
    accepted = f"{JSON}, {YAML}, {PROTOBUF}"
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    )


def _decode_yaml(body: bytes) -> Any:
    if body[:1] in (b"{", b"["):
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            pass  # YAML's flow style looks the same
    try:
        value = yaml.load(body, Loader=_LOADER)
        return msgspec.json.decode(encode(value))  # dates and other YAML types become text
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as fault:
        raise BadRequest(f"error parsing YAML: {fault}") from fault


_EVENT_NAMES: Mapping[str, str] = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "source": "deprecatedSource",
}
_EVENT_NAMES_BACK = {new: old for old, new in _EVENT_NAMES.items()}


def dump_yaml(value: Any) -> bytes:
    return bytes(yaml.dump(value, Dumper=_DUMPER, sort_keys=False, encoding="utf-8"))


def to_version(document: Object, resource: Resource, api_version: str) -> Object:
    """The document as another version of its resource; only the two Event kinds differ in more than the name."""
    if document.get("apiVersion") == api_version:
        return document
    names: Mapping[str, str] = {}
    if resource.bucket == "/events":
        names = _EVENT_NAMES if api_version == "events.k8s.io/v1" else _EVENT_NAMES_BACK
    return {names.get(k, k): v for k, v in document.items()} | {"apiVersion": api_version}


def storage_api_version(resource: Resource) -> str:
    return "v1" if resource.bucket == "/events" else resource.storage_api_version


def show(entry: Entry, resource: Resource) -> bytes:
    """An entry's JSON in the version of `resource`."""
    if entry.api_version == resource.api_version:
        return entry.raw
    return encode(to_version(entry.decode(), resource, resource.api_version))


def show_metadata(entry: Entry) -> bytes:
    meta = entry.decode()["metadata"]
    return encode({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
