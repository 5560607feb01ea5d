"""CustomResourceDefinitions: what they must look like, their status, and the resources that they make."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from stentor.apiserver.errors import Cause, invalid, required, unsupported
from stentor.apiserver.meta import check_dns1035, check_subdomain
from stentor.apiserver.resource import OBJECT_VERBS, Column, Resource, ScalePaths, Subresource
from stentor.apiserver.schema import Definitions, Schema
from stentor.apiserver.validation import compile_pattern

Object = dict[str, Any]

BUCKET = "apiextensions.k8s.io/customresourcedefinitions"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_META = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_EDIT = ("get", "patch", "update")
_TYPES = ("array", "boolean", "integer", "number", "object", "string")


def set_crd_defaults(crd: Object) -> None:
    spec = crd["spec"]
    names = spec.get("names")
    if isinstance(names, dict) and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers and "deletionTimestamp" not in crd["metadata"]:
        finalizers.append(FINALIZER)  # its objects go first: `lifecycle`


def set_crd_status(crd: Object, taken: Iterable[Resource], now: str) -> None:
    """Accept the names unless another definition has them; then the definition is Established at once."""
    spec, names = crd["spec"], crd["spec"]["names"]
    clash = next(
        (
            r.kind if r.kind == names["kind"] else r.plural
            for r in taken
            if r.group == spec["group"]
            and r.qualified != crd["metadata"]["name"]
            and (r.kind == names["kind"] or r.plural == names["plural"])
        ),
        None,
    )
    status = crd.setdefault("status", {})
    conditions = status.setdefault("conditions", [])
    if clash:
        message = f'"{clash}" is already in use'
        _set_condition(conditions, "NamesAccepted", "False", "Conflict", message, now)
        _set_condition(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now)
    else:
        status["acceptedNames"] = names
        _set_condition(conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now)
        message = "the initial names have been accepted"
        _set_condition(conditions, "Established", "True", "InitialNamesAccepted", message, now)
    status.setdefault("acceptedNames", {"plural": "", "kind": ""})
    stored = status.setdefault("storedVersions", [])
    storage = storage_version(spec)
    if storage not in stored:
        stored.append(storage)


def _set_condition(conditions: list[Object], name: str, status: str, reason: str, message: str, now: str) -> None:
    fresh = {"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}
    for index, old in enumerate(conditions):
        if old["type"] == name:
            if old["status"] != status:
                conditions[index] = fresh
            return
    conditions.append(fresh)


def is_established(crd: Object) -> bool:
    conditions = crd.get("status", {}).get("conditions", ())
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def storage_version(spec: Object) -> str:
    return next((v["name"] for v in spec["versions"] if v.get("storage")), "")


def build_custom(crd: Object, definitions: Definitions) -> list[Resource]:
    """One resource a served version of an established definition; none otherwise."""
    if not is_established(crd):
        return []
    return [_build(crd["spec"], v, definitions) for v in crd["spec"]["versions"] if v.get("served")]


def _build(spec: Object, version: Object, definitions: Definitions) -> Resource:
    names = spec["names"]
    raw = root_schema((version.get("schema") or {}).get("openAPIV3Schema") or {}, spec, version["name"])
    kind, subresources = names["kind"], version.get("subresources") or {}
    scale = subresources.get("scale")
    served = [Subresource("status", kind, _EDIT)] if "status" in subresources else []
    served += [Subresource("scale", "Scale", _EDIT, "autoscaling", "v1")] if scale else []
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=kind,
        namespaced=spec["scope"] == "Namespaced",
        schema=Schema(raw, definitions),
        singular=names.get("singular") or kind.lower(),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        verbs=OBJECT_VERBS,
        subresources=tuple(served),
        definition=definition_name(spec["group"], version["name"], kind),
        storage_version=storage_version(spec),
        columns=_columns(version.get("additionalPrinterColumns")),
        scale=ScalePaths(scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath", ""))
        if scale
        else None,
        custom=True,
        selectable=tuple(f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or ()),
    )


def definition_name(group: str, version: str, kind: str) -> str:
    return ".".join((*reversed(group.split(".")), version, kind))


def root_schema(schema: Object, spec: Object, version: str) -> Object:
    """The published schema with the members that every object has."""
    properties = {
        **(schema.get("properties") or {}),
        "apiVersion": {"type": "string", "description": "Version of the object's schema."},
        "kind": {"type": "string", "description": "Kind of the object."},
        "metadata": {"allOf": [{"$ref": _META}], "description": "Standard object's metadata."},
    }
    gvk = {"group": spec["group"], "version": version, "kind": spec["names"]["kind"]}
    return {**schema, "type": "object", "properties": properties, "x-kubernetes-group-version-kind": [gvk]}


def _columns(columns: list[Object] | None) -> tuple[Column, ...]:
    if not columns:
        return (Column("Age", "date", ".metadata.creationTimestamp", "Time since the object's creation."),)
    return tuple(
        Column(c["name"], c["type"], c["jsonPath"], c.get("description", ""), c.get("format", ""), c.get("priority", 0))
        for c in columns
    )


def validate_crd(crd: Object) -> list[Cause]:
    spec = crd["spec"]
    names, group, versions = spec.get("names") or {}, spec.get("group") or "", spec.get("versions") or []
    causes = _validate_names(crd, names, group)
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        causes.append(unsupported("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced")))
    if spec.get("preserveUnknownFields"):
        causes.append(invalid("spec.preserveUnknownFields", True, "must be false"))
    if not versions:
        causes.append(required("spec.versions", "must have at least one version"))
    elif sum(bool(v.get("storage")) for v in versions) != 1:
        causes.append(
            invalid(
                "spec.versions",
                [v.get("name") for v in versions],
                "must have exactly one version marked as storage version",
            )
        )
    seen: set[str] = set()
    for index, version in enumerate(versions):
        causes += _validate_version(version, f"spec.versions[{index}]", seen)
    return causes


def _validate_names(crd: Object, names: Object, group: str) -> list[Cause]:
    causes = []
    complaint = check_subdomain(group) if group else None
    if not group:
        causes.append(required("spec.group"))
    elif complaint:
        causes.append(invalid("spec.group", group, complaint))
    elif "." not in group:
        causes.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    wanted = f"{names.get('plural', '')}.{group}"
    if crd["metadata"].get("name") != wanted:
        causes.append(
            invalid("metadata.name", crd["metadata"].get("name", ""), 'must be spec.names.plural+"."+spec.group')
        )
    for field in ("plural", "singular", "kind", "listKind"):
        value = names.get(field)
        if not value:
            causes.append(required(f"spec.names.{field}"))
            continue
        complaint = check_dns1035(value.lower())
        if complaint:
            causes.append(invalid(f"spec.names.{field}", value, complaint))
    return causes


def _validate_version(version: Object, path: str, seen: set[str]) -> list[Cause]:
    causes = []
    name = version.get("name") or ""
    complaint = check_dns1035(name)
    if complaint:
        causes.append(invalid(f"{path}.name", name, complaint))
    if name in seen:
        causes.append(invalid(f"{path}.name", name, "must be unique"))
    seen.add(name)
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    where = f"{path}.schema.openAPIV3Schema"
    if schema is None:
        causes.append(required(where, "schemas are required"))
    else:
        if schema.get("type") != "object":
            causes.append(invalid(f"{where}.type", schema.get("type", ""), "must be object at the root"))
        causes += _validate_schema(schema, where)
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        if not str(column.get("jsonPath", "")).startswith("."):
            detail = "must be a simple json path starting with ."
            causes.append(
                invalid(f"{path}.additionalPrinterColumns[{index}].jsonPath", column.get("jsonPath", ""), detail)
            )
    return causes


def _validate_schema(schema: Object, path: str) -> list[Cause]:
    """A structural schema: every node has a type, and patterns compile."""
    causes = []
    kind = schema.get("type")
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not kind and not free:
        causes.append(required(f"{path}.type", "must not be empty for specified object fields"))
    elif kind and kind not in _TYPES:
        causes.append(unsupported(f"{path}.type", kind, _TYPES))
    if "$ref" in schema:
        causes.append(Cause("FieldValueForbidden", f"{path}.$ref", "Forbidden: $ref is not supported"))
    if "pattern" in schema:
        try:
            compile_pattern(schema["pattern"])
        except re.error as fault:
            causes.append(
                invalid(f"{path}.pattern", schema["pattern"], f"must be a valid regular expression, but isn't: {fault}")
            )
    if kind == "array" and not isinstance(schema.get("items"), dict):
        causes.append(required(f"{path}.items", "must be specified"))
    if schema.get("x-kubernetes-list-type") == "map" and not schema.get("x-kubernetes-list-map-keys"):
        causes.append(
            required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
        )
    for key, child in (schema.get("properties") or {}).items():
        causes += _validate_schema(child, f"{path}.properties[{key}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            causes += _validate_schema(schema[key], f"{path}.{key}")
    return causes


def validate_crd_update(new: Object, old: Object) -> list[Cause]:
    fixed = (("spec.group", "group"), ("spec.scope", "scope"))
    causes = [
        invalid(path, new["spec"].get(field), "field is immutable")
        for path, field in fixed
        if new["spec"].get(field) != old["spec"].get(field)
    ]
    names, before = new["spec"]["names"], old["spec"]["names"]
    causes += [
        invalid(f"spec.names.{field}", names.get(field), "field is immutable")
        for field in ("plural", "kind")
        if is_established(old) and names.get(field) != before.get(field)
    ]
    gone = set(old.get("status", {}).get("storedVersions", ())) - {v["name"] for v in new["spec"]["versions"]}
    causes += [invalid("status.storedVersions", v, "must appear in spec.versions") for v in sorted(gone)]
    return causes
