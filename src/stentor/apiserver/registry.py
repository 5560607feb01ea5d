"""Which resources are served now: the built-in ones and those of established CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stentor.apiserver.builtin import build_resources
from stentor.apiserver.resource import Resource
from stentor.apiserver.schema import Definitions


class Registry:
    """Looks resources up; `generation` moves whenever discovery or OpenAPI change."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.custom_definitions = Definitions(definitions.raw)
        """What schemas of custom resources refer to."""
        self.generation = 0
        self._served: dict[tuple[str, str, str], Resource] = {}
        self._buckets: dict[str, Resource] = {}
        self._custom: dict[str, list[Resource]] = {}
        for resource in build_resources(definitions):
            self._add(resource)

    def _add(self, resource: Resource) -> None:
        self._served[resource.group, resource.version, resource.plural] = resource
        stored = resource.version == (resource.storage_version or resource.version)
        if stored or resource.bucket not in self._buckets:
            self._buckets.setdefault(resource.bucket, resource)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._served.get((group, version, plural))

    def by_bucket(self, bucket: str) -> Resource | None:
        """The resource in whose version a bucket's objects are kept."""
        return self._buckets.get(bucket)

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        group, _, version = api_version.rpartition("/")
        return next((r for r in self._served.values() if (r.group, r.version, r.kind) == (group, version, kind)), None)

    def builtin_bucket(self, bucket: str) -> Resource:
        """For buckets that always exist, such as `/pods`."""
        return self._buckets[bucket]

    def resources(self) -> Iterable[Resource]:
        return self._served.values()

    def set_custom(self, name: str, resources: list[Resource]) -> None:
        """Serve these versions of the CRD `name`, and no others of it."""
        for old in self._custom.pop(name, ()):
            del self._served[old.group, old.version, old.plural]
            self._buckets.pop(old.bucket, None)
        if resources:
            self._custom[name] = resources
        for resource in resources:
            self._served[resource.group, resource.version, resource.plural] = resource
            if resource.version == resource.storage_version or resource.bucket not in self._buckets:
                self._buckets[resource.bucket] = resource
        self.generation += 1

    def custom(self, name: str) -> list[Resource]:
        return self._custom.get(name, [])

    def groups(self) -> Mapping[str, Mapping[str, list[Resource]]]:
        """group -> version -> resources; the versions of a group with the preferred one first."""
        out: dict[str, dict[str, list[Resource]]] = {}
        for resource in self._served.values():
            out.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
        return {
            g: dict(sorted(versions.items(), key=lambda v: version_rank(v[0]), reverse=True))
            for g, versions in out.items()
        }


def version_rank(version: str) -> tuple[int, int, int, Any]:
    """Order of versions by stability: v2 > v1 > v1beta2 > v1alpha1 > foo (CompareKubeAwareVersionStrings)."""
    stages = {"": 3, "beta": 2, "alpha": 1}
    head = version.removeprefix("v")
    for stage in ("alpha", "beta"):
        major, found, minor = head.partition(stage)
        if found and major.isdigit() and minor.isdigit():
            return stages[stage], int(major), int(minor), ""
    return (stages[""], int(head), 0, "") if head.isdigit() and head != version else (0, 0, 0, version)
