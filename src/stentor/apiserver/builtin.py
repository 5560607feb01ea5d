"""The built-in resources: a table. Rows without a rule of their own in `strategy` are stored as they come."""

from __future__ import annotations

import msgspec

from stentor.apiserver.resource import OBJECT_VERBS, Resource, Subresource
from stentor.apiserver.schema import Definitions

REVIEW = ("create",)

_STREAM = ("create", "get")
_EDIT = ("get", "patch", "update")

SUBRESOURCES: dict[str, Subresource] = {
    s.name: s
    for s in (
        Subresource("scale", "Scale", _EDIT, "autoscaling", "v1"),
        Subresource("binding", "Binding", ("create",), "", "v1"),
        Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
        Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),
        Subresource("log", "Pod", ("get",), "", "v1"),
        Subresource("exec", "PodExecOptions", _STREAM, "", "v1"),
        Subresource("attach", "PodAttachOptions", _STREAM, "", "v1"),
        Subresource("portforward", "PodPortForwardOptions", _STREAM, "", "v1"),
    )
}


class Row(msgspec.Struct, frozen=True):
    """A built-in resource before its schema is known."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: str = ""
    categories: str = ""
    subresources: str = ""
    verbs: tuple[str, ...] = OBJECT_VERBS
    storage: str = ""
    selectable: tuple[str, ...] = ()


POD_FIELDS = (
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
    "status.phase", "status.podIP", "status.nominatedNodeName",
)  # fmt: skip
EVENT_FIELDS = (
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
    "reportingComponent", "source", "type",
)  # fmt: skip
NEW_EVENT_FIELDS = tuple(f.replace("involvedObject", "regarding") for f in EVENT_FIELDS)

ROWS: tuple[Row, ...] = (
    Row("", "v1", "bindings", "Binding", verbs=REVIEW),
    Row("", "v1", "configmaps", "ConfigMap", short="cm"),
    Row("", "v1", "endpoints", "Endpoints", short="ep"),
    Row("", "v1", "events", "Event", short="ev", selectable=EVENT_FIELDS),
    Row("", "v1", "namespaces", "Namespace", False, short="ns", subresources="status finalize", selectable=("status.phase",)),
    Row("", "v1", "nodes", "Node", False, short="no", subresources="status", selectable=("spec.unschedulable",)),
    Row("", "v1", "pods", "Pod", short="po", categories="all", selectable=POD_FIELDS,
        subresources="status binding eviction ephemeralcontainers log exec attach portforward"),
    Row("", "v1", "secrets", "Secret", selectable=("type",)),
    Row("", "v1", "serviceaccounts", "ServiceAccount", short="sa", subresources="token"),
    Row("", "v1", "services", "Service", short="svc", categories="all", subresources="status",
        selectable=("spec.clusterIP", "spec.type")),
    Row("apps", "v1", "controllerrevisions", "ControllerRevision"),
    Row("apps", "v1", "daemonsets", "DaemonSet", short="ds", categories="all", subresources="status"),
    Row("apps", "v1", "deployments", "Deployment", short="deploy", categories="all", subresources="status scale"),
    Row("apps", "v1", "replicasets", "ReplicaSet", short="rs", categories="all", subresources="status scale",
        selectable=("status.replicas",)),
    Row("apps", "v1", "statefulsets", "StatefulSet", short="sts", categories="all", subresources="status scale"),
    Row("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False, verbs=REVIEW),
    Row("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False, verbs=REVIEW),
    Row("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=REVIEW),
    Row("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False, verbs=REVIEW),
    Row("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False, verbs=REVIEW),
    Row("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False, verbs=REVIEW),
    Row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, short="crd crds",
        categories="api-extensions", subresources="status"),
    Row("batch", "v1", "cronjobs", "CronJob", short="cj", categories="all", subresources="status"),
    Row("batch", "v1", "jobs", "Job", categories="all", subresources="status", selectable=("status.successful",)),
    Row("coordination.k8s.io", "v1", "leases", "Lease"),
    Row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    Row("events.k8s.io", "v1", "events", "Event", short="ev", storage="/events", selectable=NEW_EVENT_FIELDS),
    Row("networking.k8s.io", "v1", "ingressclasses", "IngressClass", False),
    Row("networking.k8s.io", "v1", "ingresses", "Ingress", short="ing", subresources="status"),
    Row("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short="netpol"),
    Row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short="pdb", subresources="status"),
    Row("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    Row("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False),
    Row("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Row("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False, short="pc"),
)  # fmt: skip

REQUEST_KINDS = (
    ("autoscaling", "v1", "Scale"),
    ("policy", "v1", "Eviction"),
    ("authentication.k8s.io", "v1", "TokenRequest"),
)
"""Kinds that only travel in requests."""


def build_resources(definitions: Definitions) -> list[Resource]:
    """Every built-in resource with its schema."""
    return [_build(row, definitions) for row in ROWS]


def _build(row: Row, definitions: Definitions) -> Resource:
    name = definitions.name_of(row.group, row.version, row.kind)
    return Resource(
        group=row.group,
        version=row.version,
        plural=row.plural,
        kind=row.kind,
        namespaced=row.namespaced,
        schema=definitions.schema(name),
        singular=row.kind.lower(),
        short_names=tuple(row.short.split()),
        categories=tuple(row.categories.split()),
        verbs=row.verbs,
        subresources=tuple(_subresource(s, row.kind) for s in row.subresources.split()),
        definition=name,
        storage=row.storage,
        selectable=row.selectable,
    )


def _subresource(name: str, kind: str) -> Subresource:
    known = SUBRESOURCES.get(name)
    if known is not None:
        return known
    return Subresource(name, kind, ("update",) if name == "finalize" else _EDIT)
