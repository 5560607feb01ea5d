"""OpenAPI v3: what `kubectl explain`, `apply` and validation read. One document a group version, made when asked for."""

from __future__ import annotations

import hashlib
from typing import Any

from stentor.apiserver.errors import NotFound
from stentor.apiserver.registry import Registry
from stentor.apiserver.resource import Resource
from stentor.apiserver.schema import reference_of
from stentor.apiserver.wire import JSON, encode

Object = dict[str, Any]

_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_STRATEGIC = "application/strategic-merge-patch+json"
_LEGACY_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_TITLE = b"Kubernetes"
_PREFIX = "#/components/schemas/"
_WRITE_QUERY = ("dryRun", "fieldManager", "fieldValidation")
# action, method, whether the path ends in a name
_ACTIONS = (
    ("list", "get", False), ("post", "post", False), ("deletecollection", "delete", False),
    ("get", "get", True), ("put", "put", True), ("patch", "patch", True), ("delete", "delete", True),
)  # fmt: skip


def legacy_document(accept: str) -> tuple[bytes, str]:
    """/openapi/v2 (body, media type): without definitions.

    kubectl asks for it before it sends the items of a v1 List, and leaves kinds that it does not find there to the server.
    The protobuf message is openapi.v2.Document of google/gnostic: swagger = 1, info = 2 (title = 1), paths = 8.
    """
    if "protobuf" in accept:
        info = b"\x0a" + bytes([len(_TITLE)]) + _TITLE
        return b"\x0a\x032.0\x12" + bytes([len(info)]) + info + b"\x42\x00", _LEGACY_PROTOBUF
    document = {"swagger": "2.0", "info": {"title": _TITLE.decode(), "version": ""}, "paths": {}, "definitions": {}}
    return encode(document), JSON


class OpenAPI:
    """Encodes each document once a registry generation."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._cache: dict[str, bytes] = {}

    def index(self) -> bytes:
        """/openapi/v3: every document with a hash that moves when it changes."""
        paths = {}
        for group, versions in self._registry.groups().items():
            for version, resources in versions.items():
                name = f"apis/{group}/{version}" if group else f"api/{version}"
                custom = self._registry.generation if any(r.custom for r in resources) else 0
                digest = hashlib.sha256(f"{name} {custom} {len(resources)}".encode()).hexdigest()[:32].upper()
                paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={digest}"}
        return encode({"paths": paths})

    def document(self, name: str) -> bytes:
        """The document of `api/V` or `apis/G/V`. Raises NotFound."""
        if self._generation != self._registry.generation:
            self._generation = self._registry.generation
            self._cache.clear()
        if name not in self._cache:
            steps = name.split("/")
            group, version = ("", steps[1]) if steps[0] == "api" and len(steps) == 2 else (steps[1], steps[-1])
            resources = self._registry.groups().get(group, {}).get(version)
            if resources is None or steps[0] != ("apis" if group else "api"):
                raise NotFound()
            self._cache[name] = encode(self._build(resources, version))
        return self._cache[name]

    def _build(self, resources: list[Resource], version: str) -> Object:
        schemas: Object = {}
        paths: Object = {}
        for resource in resources:
            self._collect({resource.definition: resource.schema.raw}, schemas)
            self._add_paths(resource, paths)
        info = {"title": "Kubernetes", "version": version}
        return {
            "openapi": "3.0.0",
            "info": info,
            "paths": paths,
            "components": {"schemas": dict(sorted(schemas.items()))},
        }

    def _collect(self, todo: Object, schemas: Object) -> None:
        """Add the definitions and everything that they refer to."""
        known = self._registry.definitions.raw
        while todo:
            name, raw = todo.popitem()
            schemas[name] = raw
            for reference in _references(raw):
                if reference not in schemas:
                    todo[reference] = known[reference]

    def _add_paths(self, resource: Resource, paths: Object) -> None:
        base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        base += "/namespaces/{namespace}" if resource.namespaced else ""
        collection = f"{base}/{resource.plural}"
        for action, method, named in _ACTIONS:
            verb = {"post": "create", "put": "update"}.get(action, action)
            if verb in resource.verbs:
                path = collection + "/{name}" if named else collection
                paths.setdefault(path, {"parameters": []})[method] = _operation(resource, action, method)
        for sub in resource.subresources:
            if sub.name in ("status", "ephemeralcontainers") and "patch" in sub.verbs:
                path = f"{collection}/{{name}}/{sub.name}"
                methods = (("get", "get"), ("put", "put"), ("patch", "patch"))
                paths[path] = {"parameters": [], **{m: _operation(resource, a, m) for a, m in methods}}


def _operation(resource: Resource, action: str, method: str) -> Object:
    reference = {"$ref": _PREFIX + resource.definition}
    content = {JSON: {"schema": reference}}
    out: Object = {
        "operationId": f"{action}{resource.kind}",
        "tags": [resource.group or "core"],
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
    }
    if method in ("post", "put", "patch"):
        query = (*_WRITE_QUERY, "force") if method == "patch" else _WRITE_QUERY
        out["parameters"] = [
            {"name": q, "in": "query", "schema": {"type": "boolean" if q == "force" else "string", "uniqueItems": True}}
            for q in query
        ]
        medias = (JSON,) if method != "patch" else (*_PATCHES, *(() if resource.custom else (_STRATEGIC,)))
        body = {"schema": reference if method != "patch" else {"type": "object"}}
        out["requestBody"] = {"content": dict.fromkeys(medias, body), "required": True}
    return out


def _references(node: Any) -> set[str]:
    found: set[str] = set()
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            reference = reference_of(item)
            if reference is not None:
                found.add(reference)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return found
