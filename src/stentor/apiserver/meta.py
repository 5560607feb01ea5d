"""Names, labels and object metadata (apimachinery pkg/util/validation, pkg/api/validation)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from stentor.apiserver.errors import Cause, forbidden, invalid, required

Object = dict[str, Any]
NameCheck = Callable[[str], str | None]
"""The complaint about a name, None when it is good."""

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_DNS1035: Final = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_PORT_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*(?<!-)")
_MAX_ANNOTATIONS_BYTES: Final = 256 * 1024


def now() -> str:
    """This second, as metadata carries it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _example(*examples: str) -> str:
    return ",  or ".join(f"'{e}'" for e in examples)


def _check(pattern: str, limit: int, what: str, *examples: str) -> NameCheck:
    compiled = re.compile(pattern)
    words = f"{what} (e.g. {_example(*examples)}, regex used for validation is '{pattern}')"

    def check(name: str) -> str | None:
        if len(name) > limit:
            return f"must be no more than {limit} bytes"
        return None if compiled.fullmatch(name) else words

    return check


check_subdomain: Final = _check(
    _SUBDOMAIN,
    253,
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and"
    " end with an alphanumeric character",
    "example.com",
)
check_label: Final = _check(
    _LABEL,
    63,
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character",
    "my-name",
    "123-abc",
)
check_dns1035: Final = _check(
    _DNS1035,
    63,
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character,"
    " and end with an alphanumeric character",
    "my-name",
    "abc-123",
)
_check_name_part: Final = _check(
    _QUALIFIED,
    63,
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character",
    "MyName",
    "my.name",
    "123-abc",
)
check_label_value: Final = _check(
    _VALUE,
    63,
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character",
    "MyValue",
    "my_value",
    "12345",
)


def check_path_segment(name: str) -> str | None:
    """Names that only have to fit into a URL (RBAC)."""
    if name in (".", ".."):
        return f"may not be '{name}'"
    bad = next((c for c in "/%" if c in name), None)
    return f"may not contain '{bad}'" if bad else None


def check_port_name(name: str) -> str | None:
    """IANA service names."""
    if len(name) > 15:
        return "must be no more than 15 characters"
    if _PORT_NAME.fullmatch(name):
        return None
    return (
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), and at least one letter or number"
        " (a-z, 0-9)"
    )


def check_qualified_name(name: str) -> str | None:
    """Keys of labels and annotations: an optional DNS prefix and a name."""
    prefix, slash, rest = name.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        complaint = check_subdomain(prefix)
        if complaint:
            return f"prefix part {complaint}"
    if not rest:
        return "name part must be non-empty"
    return _check_name_part(rest)


def validate_labels(labels: Mapping[str, Any], path: str) -> list[Cause]:
    causes = []
    for key, value in labels.items():
        complaint = check_qualified_name(key)
        if complaint:
            causes.append(invalid(path, key, complaint))
        complaint = check_label_value(value) if isinstance(value, str) else "must be a string"
        if complaint:
            causes.append(invalid(path, value, complaint))
    return causes


def validate_meta(meta: Object, check_name: NameCheck, path: str = "metadata") -> list[Cause]:
    """Everything of ObjectMeta that a client sets."""
    causes: list[Cause] = []
    prefix = meta.get("generateName")
    if prefix:
        complaint = check_name(prefix.rstrip("-.") or "-")
        if complaint:
            causes.append(invalid(f"{path}.generateName", prefix, complaint))
    name = meta.get("name")
    if not name:
        causes.append(required(f"{path}.name", "name or generateName is required"))
    else:
        complaint = check_name(name)
        if complaint:
            causes.append(invalid(f"{path}.name", name, complaint))
    causes += validate_labels(meta.get("labels") or {}, f"{path}.labels")
    causes += _validate_annotations(meta.get("annotations") or {}, f"{path}.annotations")
    causes += _validate_owners(meta.get("ownerReferences") or [], f"{path}.ownerReferences")
    for finalizer in meta.get("finalizers") or []:
        complaint = check_qualified_name(finalizer)
        if complaint:
            causes.append(invalid(f"{path}.finalizers", finalizer, complaint))
    return causes


def _validate_annotations(annotations: Mapping[str, Any], path: str) -> list[Cause]:
    causes = []
    size = 0
    for key, value in annotations.items():
        size += len(key) + len(str(value))
        complaint = check_qualified_name(key.lower())
        if complaint:
            causes.append(invalid(path, key, complaint))
    if size > _MAX_ANNOTATIONS_BYTES:
        causes.append(
            Cause("FieldValueTooLong", path, f"Too long: may not be more than {_MAX_ANNOTATIONS_BYTES} bytes")
        )
    return causes


def _validate_owners(owners: list[Object], path: str) -> list[Cause]:
    causes = []
    for index, owner in enumerate(owners):
        causes += [
            invalid(f"{path}[{index}].{field}", "", f"{field} must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        ]
    controllers = [o.get("name") for o in owners if o.get("controller")]
    if len(controllers) > 1:
        found = f'Found "true" in references for {controllers[0]} and {controllers[1]}'
        causes.append(invalid(path, owners, f"Only one reference can have Controller set to true. {found}"))
    return causes


_IMMUTABLE = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def keep_immutable(new: Object, old: Object) -> list[Cause]:
    """Restore what only the server sets; a client may repeat it or leave it out."""
    fresh, stale = new["metadata"], old["metadata"]
    for field in _IMMUTABLE:
        if field in stale:
            fresh[field] = stale[field]
        else:
            fresh.pop(field, None)
    fresh.pop("selfLink", None)
    added = set(fresh.get("finalizers") or ()) - set(stale.get("finalizers") or ())
    if "deletionTimestamp" in stale and added:
        detail = f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}"
        return [forbidden("metadata.finalizers", detail)]
    return []


_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


def generate_name(prefix: str) -> str:
    """`prefix` and five characters that spell no words (apiserver pkg/storage/names)."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))
