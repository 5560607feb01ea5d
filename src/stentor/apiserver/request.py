"""One request, parsed: who, what path, which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from stentor.apiserver.errors import BadRequest, Cause, Invalid, unsupported
from stentor.apiserver.resource import Resource, Subresource
from stentor.apiserver.selector import Selector, parse_fields, parse_labels


class User(msgspec.Struct, frozen=True):
    """An authenticated client (authentication.k8s.io UserInfo)."""

    name: str
    groups: frozenset[str] = frozenset()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = {}


ANONYMOUS: Final = User("system:anonymous", frozenset(("system:unauthenticated",)))
SERVER: Final = User("system:apiserver", frozenset(("system:masters", "system:authenticated")))


class Target(msgspec.Struct, frozen=True):
    """What a path below /api or /apis names."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


_NAMESPACE_PATHS = ("status", "finalize")


def parse_path(path: str) -> Target | None:
    """The target of /api/V/… or /apis/G/V/…; None when the path names no resource."""
    steps = path.strip("/").split("/")
    if steps[0] == "api" and len(steps) > 2:
        group, version, rest = "", steps[1], steps[2:]
    elif steps[0] == "apis" and len(steps) > 3:
        group, version, rest = steps[1], steps[2], steps[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not (len(rest) == 3 and rest[2] in _NAMESPACE_PATHS):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3 or not all(rest):
        return None
    name, subresource = [*rest[1:], "", ""][:2]
    return Target(group, version, rest[0], namespace, name, subresource)


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool, as query parameters are read; anything unknown is false."""
    return text in ("1", "t", "T", "TRUE", "true", "True")


def parse_count(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax: parameter {name}') from None


class Call(msgspec.Struct, frozen=True):
    """A request for a resource."""

    user: User
    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: Subresource | None = None
    query: Mapping[str, str] = {}
    content_type: str = "application/json"
    agent: str = ""
    warnings: list[str] = []
    """Filled while the request is served; sent as Warning headers."""

    @property
    def dry_run(self) -> bool:
        """Raises Invalid for a value other than All."""
        value = self.query.get("dryRun", "")
        if value not in ("", "All"):
            raise Invalid("meta.k8s.io", "CreateOptions", "", [unsupported("dryRun", value, ("All",))])
        return value == "All"

    @property
    def manager(self) -> str:
        return self.query.get("fieldManager") or self.agent.partition("/")[0][:128] or "unknown"

    @property
    def validation(self) -> str:
        """Ignore, Warn or Strict."""
        value = self.query.get("fieldValidation") or "Warn"
        if value not in ("Ignore", "Warn", "Strict"):
            causes = [unsupported("fieldValidation", value, ("Ignore", "Strict", "Warn"))]
            raise Invalid("meta.k8s.io", "CreateOptions", "", causes)
        return value

    def selector(self) -> Selector:
        labels = parse_labels(self.query.get("labelSelector", ""))
        fields = parse_fields(self.query.get("fieldSelector", ""), self.resource.selectable)
        return Selector(labels, fields)


class DeleteOptions(msgspec.Struct, frozen=True, rename="camel"):
    """meta/v1 DeleteOptions."""

    grace_period_seconds: int | None = None
    propagation_policy: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


_POLICIES = ("Background", "Foreground", "Orphan")


def parse_delete_options(body: Mapping[str, Any], query: Mapping[str, str]) -> DeleteOptions:
    """From the body, or from the query where the body has nothing. Raises Invalid, BadRequest."""
    conditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds")
    if grace is None and "gracePeriodSeconds" in query:
        grace = parse_count(query, "gracePeriodSeconds")
    policy = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = body.get("orphanDependents")
    if orphan is None and "orphanDependents" in query:
        orphan = parse_bool(query["orphanDependents"])
    if not policy and orphan is not None:
        policy = "Orphan" if orphan else "Background"
    causes: list[Cause] = []
    if policy and policy not in _POLICIES:
        causes.append(unsupported("propagationPolicy", policy, _POLICIES))
    if grace is not None and not isinstance(grace, int):
        raise BadRequest("gracePeriodSeconds must be a number")
    if causes:
        raise Invalid("meta.k8s.io", "DeleteOptions", "", causes)
    dry = body.get("dryRun") or query.get("dryRun")
    return DeleteOptions(grace, policy, conditions.get("uid") or "", conditions.get("resourceVersion") or "", bool(dry))
