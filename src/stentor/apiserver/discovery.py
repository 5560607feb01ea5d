"""Discovery documents: aggregated (apidiscovery.k8s.io/v2, what clients use) and per group (what is left of old ones)."""

from __future__ import annotations

from typing import Any

from stentor.apiserver.errors import NotFound
from stentor.apiserver.registry import Registry
from stentor.apiserver.resource import Resource, Subresource
from stentor.apiserver.wire import JSON, encode

Object = dict[str, Any]


class Discovery:
    """Encodes each document once a registry generation."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._cache: dict[str, bytes] = {}

    def document(self, path: str, accept: str) -> tuple[bytes, str]:
        """(body, content type) for /api, /apis and what is below. Raises NotFound."""
        if self._generation != self._registry.generation:
            self._generation = self._registry.generation
            self._cache.clear()
        version = _aggregated_version(accept) if path in ("/api", "/apis") else ""
        key = path + version
        if key not in self._cache:
            self._cache[key] = encode(self._aggregated(path, version) if version else self._legacy(path))
        if version:
            return self._cache[key], f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        return self._cache[key], JSON

    def _aggregated(self, path: str, version: str) -> Object:
        items = [
            {
                "metadata": {"name": group, "creationTimestamp": None},
                "versions": [
                    {"version": v, "freshness": "Current", "resources": [_aggregate(r) for r in resources]}
                    for v, resources in versions.items()
                ],
            }
            for group, versions in self._registry.groups().items()
            if (group == "") == (path == "/api")
        ]
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": items,
        }

    def _legacy(self, path: str) -> Object:
        groups = self._registry.groups()
        steps = path.strip("/").split("/")
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if path == "/apis":
            listed = [_group(g, list(v)) for g, v in groups.items() if g]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        if steps[0] == "apis" and len(steps) == 2 and steps[1] in groups:
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(steps[1], list(groups[steps[1]]))}
        group, version = ("", steps[1]) if steps[0] == "api" else (steps[1], steps[-1])
        resources = groups.get(group, {}).get(version)
        if resources is None or len(steps) != (3 if group else 2):
            raise NotFound()
        rows = [row for r in resources for row in (_row(r), *(_sub_row(r, s) for s in r.subresources))]
        name = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": rows}


def _aggregated_version(accept: str) -> str:
    """v2 or v2beta1 when the client asks for it before plain JSON."""
    for offer in accept.split(","):
        if "as=APIGroupDiscoveryList" in offer:
            for version in ("v2", "v2beta1"):
                if f"v={version}" in offer.replace(" ", "").split(";"):
                    return version
        elif offer.strip() in (JSON, "*/*"):
            return ""
    return ""


def _aggregate(resource: Resource) -> Object:
    out: Object = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        out["shortNames"] = list(resource.short_names)
    if resource.categories:
        out["categories"] = list(resource.categories)
    if resource.subresources:
        out["subresources"] = [
            {"subresource": s.name, "responseKind": _response_kind(resource, s), "verbs": list(s.verbs)}
            for s in resource.subresources
        ]
    return out


def _response_kind(resource: Resource, sub: Subresource) -> Object:
    group, version = (resource.group, resource.version) if sub.group is None else (sub.group, sub.version)
    return {"group": group, "version": version, "kind": sub.kind}


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _row(resource: Resource) -> Object:
    out: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        out["shortNames"] = list(resource.short_names)
    if resource.categories:
        out["categories"] = list(resource.categories)
    return out


def _sub_row(resource: Resource, sub: Subresource) -> Object:
    out: Object = {
        "name": f"{resource.plural}/{sub.name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if sub.group is not None:
        out.update(group=sub.group, version=sub.version)
    return out
