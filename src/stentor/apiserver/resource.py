"""What the server serves: one row a resource, built in or from a CustomResourceDefinition."""

from __future__ import annotations

import msgspec

from stentor.apiserver.schema import Schema

OBJECT_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Subresource(msgspec.Struct, frozen=True):
    """A path below an object, with the kind that it speaks."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str | None = None
    """Group of `kind`; None means the parent's group and version."""
    version: str = ""


class Column(msgspec.Struct, frozen=True):
    """A printer column of a custom resource (apiextensions.k8s.io/v1 additionalPrinterColumns)."""

    name: str
    type: str
    path: str
    description: str = ""
    format: str = ""
    priority: int = 0


class ScalePaths(msgspec.Struct, frozen=True):
    """Where a custom resource keeps what its scale subresource shows."""

    spec_replicas: str
    status_replicas: str
    label_selector: str = ""


class Resource(msgspec.Struct, frozen=True, eq=False):
    """One served (group, version, plural)."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    schema: Schema
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = OBJECT_VERBS
    subresources: tuple[Subresource, ...] = ()
    definition: str = ""
    """Name of the schema in OpenAPI."""
    storage_version: str = ""
    """Version that objects are kept in; the served one when empty."""
    storage: str = ""
    """Bucket of the store; see `bucket`."""
    columns: tuple[Column, ...] | None = None
    """Printer columns; None for built-in kinds, whose columns live in `printer`."""
    scale: ScalePaths | None = None
    custom: bool = False
    selectable: tuple[str, ...] = ()
    """JSON paths that field selectors may name beside metadata.name and metadata.namespace."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage_api_version(self) -> str:
        version = self.storage_version or self.version
        return f"{self.group}/{version}" if self.group else version

    @property
    def bucket(self) -> str:
        """Name of the store's bucket: versions of one resource share it."""
        return self.storage or f"{self.group}/{self.plural}"

    @property
    def qualified(self) -> str:
        """`deployments.apps`, as error messages say."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def subresource(self, name: str) -> Subresource | None:
        return next((s for s in self.subresources if s.name == name), None)
