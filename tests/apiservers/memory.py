"""The verbs on objects without HTTP, over a store in memory."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from stentor.apiserver.allocation import Allocator
from stentor.apiserver.garbage import Garbage
from stentor.apiserver.lifecycle import Lifecycle
from stentor.apiserver.registry import Registry
from stentor.apiserver.request import SERVER, Call, parse_delete_options
from stentor.apiserver.resource import Resource
from stentor.apiserver.rest import Rest
from stentor.apiserver.schema import copy_json, load_definitions
from stentor.apiserver.store import Store

Object = dict[str, Any]


class Memory:
    """A server's inside. Methods take and give plain objects."""

    def __init__(self, *service_cidrs: str) -> None:
        self.store = Store(None)
        self.store.open()
        self.registry = Registry(load_definitions())
        self.rest = Rest(self.store, self.registry, Allocator(service_cidrs or ("10.96.0.0/16",)))
        self.lifecycle = Lifecycle(self.rest, "a certificate")
        self.garbage = Garbage(self.rest)

    async def start(self) -> Memory:
        await self.lifecycle.bootstrap((), 6443)
        return self

    def resource(self, kind: str, api_version: str = "") -> Resource:
        found = [r for r in self.registry.resources() if r.kind == kind and api_version in ("", r.api_version)]
        return found[0]

    def call(
        self, verb: str, kind: str, name: str = "", namespace: str = "default", sub: str = "", **query: str
    ) -> Call:
        resource = self.resource(kind)
        media = query.pop("media", "application/json")
        return Call(
            SERVER,
            verb,
            resource,
            namespace if resource.namespaced else "",
            name,
            resource.subresource(sub) if sub else None,
            query,
            media,
            query.pop("agent", "test"),
            [],
        )

    async def create(self, document: Object, **query: str) -> Object:
        resource = self.resource(document["kind"], document["apiVersion"])
        namespace = (document.get("metadata") or {}).get("namespace") or "default"
        call = Call(
            SERVER, "create", resource, namespace if resource.namespaced else "", query=query, agent="test", warnings=[]
        )
        return (await self.rest.create(call, copy_json(document))).decode()

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        return self.rest.get(self.call("get", kind, name, namespace)).decode()

    def names(self, kind: str) -> list[str]:
        return [e.name for e in self.store.bucket(self.resource(kind).bucket).select("")]

    async def update(self, document: Object, sub: str = "", **query: str) -> Object:
        meta = document["metadata"]
        call = self.call("update", document["kind"], meta["name"], meta.get("namespace") or "default", sub, **query)
        return (await self.rest.update(call, copy_json(document))).decode()

    async def patch(
        self, kind: str, name: str, patch: Any, media: str = "merge-patch+json", sub: str = "", **query: str
    ) -> Object:
        call = self.call("patch", kind, name, "default", sub, media=f"application/{media}", **query)
        return (await self.rest.patch(call, msgspec.json.encode(patch)))[0].decode()

    async def apply(self, document: Object, manager: str, *, force: bool = False) -> Object:
        name, kind = document["metadata"]["name"], document["kind"]
        return await self.patch(
            kind, name, document, "apply-patch+yaml", fieldManager=manager, force=str(force).lower()
        )

    async def delete(self, kind: str, name: str, namespace: str = "default", **options: Any) -> tuple[Object, bool]:
        call = self.call("delete", kind, name, namespace)
        entry, gone = await self.rest.delete(call, parse_delete_options(options, {}))
        return entry.decode(), gone


_numbers = itertools.count()


def pod(name: str = "", **spec: Any) -> Object:
    """A small Pod."""
    containers = [{"name": "c", "image": "example.org/app:1"}]
    meta = {"name": name or f"pod-{next(_numbers)}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers, **spec}}


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str, replicas: int = 1, image: str = "example.org/app:1") -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


CRON_TABS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "crontabs.stable.example.com"},
    "spec": {
        "group": "stable.example.com",
        "scope": "Namespaced",
        "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["cronSpec"],
                                "properties": {
                                    "cronSpec": {
                                        "type": "string",
                                        "pattern": "^[0-9* /]+$",
                                        "description": "When to run.",
                                    },
                                    "image": {"type": "string", "default": "busybox"},
                                    "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
                                    "mode": {"type": "string", "enum": ["a", "b"]},
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                    "port": {"x-kubernetes-int-or-string": True},
                                    "maybe": {"type": "string", "nullable": True},
                                    "ports": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["port", "protocol"],
                                        "items": {
                                            "type": "object",
                                            "required": ["port"],
                                            "properties": {
                                                "port": {"type": "integer"},
                                                "protocol": {"type": "string", "default": "TCP"},
                                                "name": {"type": "string"},
                                            },
                                        },
                                    },
                                },
                            },
                            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    },
}


def cron_tab(name: str, **spec: Any) -> Object:
    full = {"cronSpec": "* * * * *", **spec}
    return {"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": full}
