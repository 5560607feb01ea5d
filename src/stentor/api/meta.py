"""What every Kubernetes object has: metadata, conditions, selectors, and the `Kind` that places it in the API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

JsonObject = dict[str, Any]


class Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of every struct of the API: frozen, camelCase on the wire, defaults left out."""


class OwnerReference(Value, frozen=True, kw_only=True):
    """Object on which this one depends; garbage collection deletes dependents with their owner."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Value, frozen=True, kw_only=True):
    """Metadata of an object; times are RFC 3339 text as the API server wrote them."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    generate_name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class ObjectKey(NamedTuple):
    """Name of an object within its kind; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Resource(Value, frozen=True, kw_only=True):
    """Base of everything that has metadata. `apiVersion` and `kind` are added when it is written (`Kind`)."""

    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace, self.metadata.name)

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None


class ListMeta(Value, frozen=True, kw_only=True):
    """Metadata of a list page; a `continue` token means that more pages follow."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class Condition(Value, frozen=True, kw_only=True):
    """One observation about an object: `type` is unique in its list, `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_heartbeat_time: str | None = None
    last_probe_time: str | None = None
    last_update_time: str | None = None
    last_transition_time: str | None = None


_ATOMIC: Final[JsonObject] = {"x-kubernetes-list-type": "atomic"}
_LABEL_VALUE: Final[JsonObject] = {"maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"}
_OPERATORS: Final[JsonObject] = {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}


class LabelRequirement(Value, frozen=True, kw_only=True):
    """One expression of a selector: operator is In, NotIn, Exists or DoesNotExist."""

    key: Annotated[str, Meta(description="Label's key")]
    operator: Annotated[str, Meta(description="How the label relates to the values", extra_json_schema=_OPERATORS)]
    values: Annotated[
        tuple[str, ...], Meta(description="Values, for In and NotIn alone", extra_json_schema=_ATOMIC)
    ] = ()


class LabelSelector(Value, frozen=True, kw_only=True):
    """Selects objects by labels; all parts must hold, an empty selector selects everything."""

    match_labels: Annotated[
        dict[str, Annotated[str, Meta(extra_json_schema=_LABEL_VALUE)]],
        Meta(description="Labels that must have these values"),
    ] = {}
    match_expressions: Annotated[
        tuple[LabelRequirement, ...], Meta(description="Expressions that must hold", extra_json_schema=_ATOMIC)
    ] = ()

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(k) == v for k, v in self.match_labels.items()) and all(
            _holds(requirement, labels) for requirement in self.match_expressions
        )


def _holds(requirement: LabelRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    outcomes = {
        "In": value is not None and value in requirement.values,
        "NotIn": value is None or value not in requirement.values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return outcomes.get(requirement.operator, False)


T = TypeVar("T", bound=Resource)


class Kind(msgspec.Struct, Generic[T], frozen=True):
    """Where a resource lives in the API, and the struct that it is decoded into."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path; without `namespace` a namespaced kind's path spans all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural
