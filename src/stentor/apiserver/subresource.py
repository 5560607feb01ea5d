"""Paths below objects that are no mere views of them: scale, binding, eviction, token; and the review kinds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from stentor.apiserver.authentication import Authenticator
from stentor.apiserver.authorization import Authorizer
from stentor.apiserver.errors import BadRequest, Invalid, TooManyRequests, conflict, invalid, not_found, required
from stentor.apiserver.meta import now
from stentor.apiserver.patch import json_patch, merge_patch
from stentor.apiserver.request import ANONYMOUS, Call, Target, User, parse_delete_options
from stentor.apiserver.resource import ScalePaths
from stentor.apiserver.rest import Rest
from stentor.apiserver.selector import Operator, from_label_selector
from stentor.apiserver.store import Entry
from stentor.apiserver.token import ISSUER, Bound, Claims, Signer, TokenError, clamp_lifetime
from stentor.apiserver.wire import decode_any, decode_body

Object = dict[str, Any]

_BUILTIN_SCALE = ScalePaths(".spec.replicas", ".status.replicas")


class Subresources:
    """Serves what `Rest` does not."""

    def __init__(self, rest: Rest, signer: Signer, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._rest = rest
        self._signer = signer
        self._authenticator = authenticator
        self._authorizer = authorizer

    # -- scale

    async def scale(self, call: Call, body: bytes) -> Object:
        """GET, PUT or PATCH of autoscaling/v1 Scale."""
        paths = call.resource.scale or _BUILTIN_SCALE
        if call.verb == "get":
            return _scale_of(self._rest.get(call).decode(), paths)

        def change(live: Object) -> Object:
            present = _scale_of(live, paths)
            wanted = _patched(call, present, body)
            version = (wanted.get("metadata") or {}).get("resourceVersion")
            if version and version != live["metadata"]["resourceVersion"]:
                raise conflict(call.resource, call.name)
            replicas = (wanted.get("spec") or {}).get("replicas", 0)
            if not isinstance(replicas, int) or replicas < 0:
                causes = [invalid("spec.replicas", replicas, "must be greater than or equal to 0")]
                raise Invalid("autoscaling", "Scale", call.name, causes)
            _set_path(live, paths.spec_replicas, replicas)
            return live

        return _scale_of((await self._rest.change(call, change)).decode(), paths)

    # -- pods

    async def bind(self, call: Call, body: bytes) -> Object:
        """POST of a Binding: give a pod its node."""
        binding = decode_body(body, call.content_type)
        target = binding.get("target") or {}
        if target.get("kind", "Node") != "Node" or not target.get("name"):
            raise Invalid("", "Binding", call.name, [required("target.name")])

        def change(pod: Object) -> Object:
            if pod["metadata"].get("deletionTimestamp"):
                raise conflict(
                    call.resource, call.name, f"pod {call.name} is being deleted, cannot be assigned to a host"
                )
            if pod["spec"].get("nodeName"):
                raise conflict(
                    call.resource, call.name, f'pod {call.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
                )
            pod["spec"]["nodeName"] = target["name"]
            meta = binding.get("metadata") or {}
            if meta.get("annotations"):
                pod["metadata"].setdefault("annotations", {}).update(meta["annotations"])
            status = pod.setdefault("status", {})
            scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now()}
            others = [each for each in status.get("conditions") or [] if each.get("type") != "PodScheduled"]
            status["conditions"] = [*others, scheduled]
            return pod

        await self._rest.change(call, change)
        return _success()

    async def evict(self, call: Call, body: bytes) -> Object:
        """POST of an Eviction: delete a pod unless a disruption budget forbids it."""
        eviction = decode_body(body, call.content_type)
        pod = self._rest.get(call)
        for budget in self._rest.store.bucket("policy/poddisruptionbudgets").select(call.namespace):
            self._check_budget(budget.decode(), pod)
        options = parse_delete_options(eviction.get("deleteOptions") or {}, call.query)
        await self._rest.delete(call, options)
        return _success()

    def _check_budget(self, budget: Object, pod: Entry) -> None:
        selector = budget.get("spec", {}).get("selector")
        if selector is None or not all(r.accepts(pod.labels) for r in from_label_selector(selector)):
            return
        status = budget.get("status") or {}
        healthy = pod.field("status.phase") not in ("Succeeded", "Failed", "Pending")
        if healthy and status.get("disruptionsAllowed", 0) <= 0 and status.get("observedGeneration"):
            message = "Cannot evict pod as it would violate the pod's disruption budget."
            name = budget["metadata"]["name"]
            detail = (
                f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has"
                f" {status.get('currentHealthy', 0)} currently"
            )
            raise TooManyRequests(message, {"causes": [{"reason": "DisruptionBudget", "message": detail}]})

    async def ephemeral_containers(self, call: Call, body: bytes) -> Entry:
        """PATCH or PUT: containers may only be added."""
        if call.verb == "patch":
            return (await self._rest.patch(call, body))[0]
        return await self._rest.update(call, decode_body(body, call.content_type))

    # -- tokens and reviews

    def token(self, call: Call, body: bytes) -> Object:
        """POST of a TokenRequest."""
        request = decode_body(body, call.content_type)
        account = self._rest.get(call)
        spec = request.get("spec") or {}
        lifetime = clamp_lifetime(int(spec.get("expirationSeconds") or 3600))
        expires = int(time.time()) + lifetime
        audiences = tuple(spec.get("audiences") or (ISSUER,))
        bound = self._bound(call, spec.get("boundObjectRef"))
        claims = Claims(call.namespace, call.name, account.uid, audiences, expires, "", bound)
        stamp = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": call.name, "namespace": call.namespace, "creationTimestamp": now()},
            "spec": {**spec, "audiences": list(audiences), "expirationSeconds": lifetime},
            "status": {"token": self._signer.sign(claims), "expirationTimestamp": stamp},
        }

    def _bound(self, call: Call, reference: Object | None) -> Bound | None:
        if not reference:
            return None
        kind, name = reference.get("kind", ""), reference.get("name", "")
        bucket = {"Pod": "/pods", "Secret": "/secrets"}.get(kind)
        if bucket is None:
            causes = [invalid("spec.boundObjectRef", kind, "cannot bind token to this kind")]
            raise Invalid("authentication.k8s.io", "TokenRequest", call.name, causes)
        entry = self._rest.store.get(bucket, (call.namespace, name))
        if entry is None:
            raise not_found(self._rest.registry.builtin_bucket(bucket), name)
        if reference.get("uid") and reference["uid"] != entry.uid:
            raise conflict(
                self._rest.registry.builtin_bucket(bucket), name, "the UID in the bound object reference does not match"
            )
        if kind == "Pod" and entry.field("spec.serviceAccountName") != call.name:
            raise BadRequest(
                f'cannot bind token for serviceaccount "{call.name}" to pod running with different serviceaccount name.'
            )
        return Bound(kind, name, entry.uid)

    def review(self, call: Call, body: bytes) -> Object:
        """POST of one of the review kinds: the object with its status."""
        document = decode_body(body, call.content_type)
        spec = document.get("spec") or {}
        status: Object
        match call.resource.plural:
            case "selfsubjectreviews":
                status = {"userInfo": _user_info(call.user)}
            case "tokenreviews":
                status = self._review_token(str(spec.get("token") or ""))
            case "selfsubjectrulesreviews":
                status = self._rules(call.user)
            case "selfsubjectaccessreviews":
                status = self._review_access(call.user, spec)
            case _:
                groups = frozenset(spec.get("groups") or ())
                status = self._review_access(User(spec.get("user") or "", groups), spec)
        meta = {**(document.get("metadata") or {}), "creationTimestamp": now()}
        return {
            "kind": call.resource.kind,
            "apiVersion": call.resource.api_version,
            "metadata": meta,
            "spec": spec,
            "status": status,
        }

    def _review_token(self, token: str) -> Object:
        try:
            user = self._authenticator.token_user(token)
        except TokenError as fault:
            return {"authenticated": False, "user": {}, "error": str(fault)}
        return {"authenticated": True, "user": _user_info(user), "audiences": [ISSUER]}

    def _review_access(self, user: User, spec: Object) -> Object:
        wanted = spec.get("resourceAttributes")
        if wanted is not None:
            resource, _, subresource = (wanted.get("resource") or "").partition("/")
            target = Target(
                wanted.get("group") or "", wanted.get("version") or "", resource, wanted.get("namespace") or "",
                wanted.get("name") or "", wanted.get("subresource") or subresource,
            )  # fmt: skip
            return {"allowed": self._authorizer.allows(user, wanted.get("verb") or "", target)}
        path = (spec.get("nonResourceAttributes") or {}).get("path") or ""
        return {"allowed": self._authorizer.allows_path(user, path)}

    def _rules(self, user: User) -> Object:
        rules = [
            {"verbs": sorted(r.verbs), "apiGroups": [r.group], "resources": sorted(r.resources)}
            for r in self._authorizer.rules_of(user)
        ]
        paths = [
            {
                "verbs": ["get"],
                "nonResourceURLs": [
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                ],
            }
        ]
        return {"resourceRules": rules, "nonResourceRules": paths, "incomplete": False}


def _user_info(user: User) -> Object:
    if user is ANONYMOUS:
        return {"username": user.name, "groups": sorted(user.groups)}
    out: Object = {"username": user.name, "groups": sorted(user.groups)}
    if user.uid:
        out["uid"] = user.uid
    if user.extra:
        out["extra"] = {k: list(v) for k, v in user.extra.items()}
    return out


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _patched(call: Call, present: Object, body: bytes) -> Object:
    """The Scale that the client wants."""
    media = call.content_type.partition(";")[0].strip()
    value = decode_any(body, media)
    if call.verb == "update":
        wanted = value
    elif media == "application/json-patch+json":
        wanted = json_patch(present, value)
    else:
        wanted = merge_patch(present, value)
    if not isinstance(wanted, dict):
        raise BadRequest("a Scale is an object")
    return wanted


def _scale_of(document: Object, paths: ScalePaths) -> Object:
    meta = document["metadata"]
    status: Object = {"replicas": _get_path(document, paths.status_replicas) or 0}
    if paths.label_selector:
        selector = _get_path(document, paths.label_selector)
        if selector:
            status["selector"] = selector
    else:
        status["selector"] = format_selector(document.get("spec", {}).get("selector") or {})
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in meta
        },
        "spec": {"replicas": _get_path(document, paths.spec_replicas) or 0},
        "status": status,
    }


def format_selector(selector: Object) -> str:
    """A LabelSelector as text: `app=web,tier in (a,b)`."""
    words = {Operator.IN: "in", Operator.NOT_IN: "notin"}
    out = []
    for term in from_label_selector(selector):
        values = ",".join(sorted(term.values))
        if term.operator is Operator.IN and len(term.values) == 1:
            out.append(f"{term.key}={values}")
        elif term.operator in words:
            out.append(f"{term.key} {words[term.operator]} ({values})")
        else:
            out.append(f"!{term.key}" if term.operator is Operator.ABSENT else term.key)
    return ",".join(out)


def _get_path(document: Any, path: str) -> Any:
    for step in path.strip(".").split("."):
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _set_path(document: Object, path: str, value: Any) -> None:
    *steps, last = path.strip(".").split(".")
    for step in steps:
        document = document.setdefault(step, {})
    document[last] = value
