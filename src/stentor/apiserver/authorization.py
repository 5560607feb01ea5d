"""Who may do what: a static table, until RBAC objects are honoured.

Admins (system:masters) may do everything. Every other rule names a group or user of the subject, verbs, resources and,
where a subject may write only its own objects, an ownership check. What no rule allows is forbidden; exec, attach, logs
and port-forward are in no rule, so they are the admins'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from stentor.api.stentor import SECRETS_LABEL
from stentor.apiserver.request import Target, User
from stentor.apiserver.store import Store

READ: Final = frozenset(("get", "list", "watch"))
WRITE: Final = frozenset(("create", "update", "patch", "delete"))
ALL: Final = READ | WRITE | {"deletecollection"}
ADMINS: Final = "system:masters"
NODES: Final = "system:nodes"
AGENTS: Final = "system:stentor:agents"
_NODE_PREFIX: Final = "system:node:"
_AGENT_PREFIX: Final = "system:stentor:agent:"
ACCOUNT_PREFIX: Final = "system:serviceaccount:"

PUBLIC_PATHS: Final = ("/healthz", "/livez", "/readyz", "/version")
_DISCOVERY: Final = ("/api", "/apis", "/openapi")

Owns = Callable[["Question", Store], bool]


class Question(msgspec.Struct, frozen=True):
    """May `user` do `verb` to `target`?"""

    user: User
    verb: str
    target: Target
    document: Mapping[str, Any] = {}
    """Body of a create."""

    @property
    def node(self) -> str:
        """Node of a node's or agent's user; empty for others."""
        for prefix in (_NODE_PREFIX, _AGENT_PREFIX):
            if self.user.name.startswith(prefix):
                return self.user.name.removeprefix(prefix)
        return ""


class Rule(msgspec.Struct, frozen=True):
    """One permission of a subject (a user or group)."""

    subject: str
    verbs: frozenset[str]
    group: str
    """API group, `*` for any; a leading `*.` for any below a domain."""
    resources: frozenset[str]
    """`plural` or `plural/subresource`; `*` is every resource and subresource."""
    owns: Owns | None = None

    def allows(self, question: Question, store: Store) -> bool:
        target = question.target
        path = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        return (
            question.verb in self.verbs
            and self.group in ("*", target.group)
            and ("*" in self.resources or path in self.resources)
            and (self.owns is None or self.owns(question, store))
        )


def _own_name(question: Question, _: Store) -> bool:
    """Objects called as the node."""
    return question.target.name == question.node


def _on_own_node(question: Question, store: Store) -> bool:
    """A pod of the node, or what has the name of one; when the pod is gone, what is left of it may be deleted."""
    target = question.target
    if target.plural == "pods" and question.verb == "create" and not target.subresource:
        return bool((question.document.get("spec") or {}).get("nodeName") == question.node)
    entry = store.head("/pods", (target.namespace, target.name))
    if entry is None:
        return question.verb == "delete"
    return entry.field("spec.nodeName") == question.node


def _token_of_own_pod(question: Question, store: Store) -> bool:
    """A service account that some pod of the node runs as."""
    target = question.target
    return any(
        e.field("spec.nodeName") == question.node and e.field("spec.serviceAccountName") == target.name
        for e in store.bucket("/pods").select(target.namespace)
    )


def _announcement_lease(question: Question, _: Store) -> bool:
    """A lease by which agents agree who announces a service on its link."""
    return question.target.namespace == "kube-system" and question.target.name.startswith("cilium-l2announce-")


def _bgp_secret(question: Question, store: Store) -> bool:
    """A secret of the namespace that the operator has marked as that of BGP's secrets."""
    entry = store.head("/namespaces", ("", question.target.namespace))
    return entry is not None and entry.labels.get(SECRETS_LABEL) == "true"


def _rule(subject: str, verbs: frozenset[str], group: str, resources: str, owns: Owns | None = None) -> Rule:
    return Rule(subject, verbs, group, frozenset(resources.split()), owns)


OPERATOR: Final = "system:stentor:operator"
CONTROLLERS: Final = "system:kube-controller-manager"
SCHEDULER: Final = "system:kube-scheduler"
_UPDATE: Final = frozenset(("update", "patch"))
_CREATE: Final = frozenset(("create",))

RULES: Final[tuple[Rule, ...]] = (
    _rule("system:authenticated", _CREATE, "authentication.k8s.io", "selfsubjectreviews"),
    _rule("system:authenticated", _CREATE, "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
    # The node runner: what kubelet needs.
    _rule(NODES, READ, "", "pods nodes services endpoints configmaps secrets serviceaccounts namespaces"),
    _rule(NODES, READ, "discovery.k8s.io", "endpointslices"),
    _rule(NODES, READ, "node.k8s.io", "runtimeclasses"),
    _rule(NODES, _CREATE | _UPDATE | {"delete"}, "", "nodes nodes/status", _own_name),
    _rule(NODES, _UPDATE, "", "pods/status", _on_own_node),
    _rule(NODES, _CREATE | {"delete"}, "", "pods", _on_own_node),
    _rule(NODES, _CREATE, "", "pods/eviction", _on_own_node),
    _rule(NODES, _CREATE, "", "serviceaccounts/token", _token_of_own_pod),
    _rule(NODES, READ | WRITE, "coordination.k8s.io", "leases", _own_name),
    _rule(NODES, _CREATE | _UPDATE, "", "events"),
    _rule(NODES, _CREATE | _UPDATE, "events.k8s.io", "events"),
    _rule(NODES, _CREATE, "authentication.k8s.io", "tokenreviews"),
    _rule(NODES, _CREATE, "authorization.k8s.io", "subjectaccessreviews"),
    # The agent.
    _rule(AGENTS, READ, "", "pods nodes namespaces services endpoints configmaps"),
    _rule(AGENTS, READ, "discovery.k8s.io", "endpointslices"),
    _rule(AGENTS, READ, "networking.k8s.io", "networkpolicies ingresses ingressclasses"),
    _rule(AGENTS, READ, "apiextensions.k8s.io", "customresourcedefinitions"),
    _rule(AGENTS, READ, "cilium.io", "*"),
    _rule(AGENTS, READ, "stentor.io", "*"),
    _rule(AGENTS, READ, "gateway.networking.k8s.io", "*"),
    _rule(AGENTS, WRITE, "cilium.io", "ciliumnodes ciliumnodes/status ciliumbgpnodeconfigs/status", _own_name),
    _rule(AGENTS, WRITE, "cilium.io", "ciliumendpoints ciliumendpoints/status", _on_own_node),
    _rule(AGENTS, _UPDATE, "", "nodes/status", _own_name),
    _rule(AGENTS, READ, "coordination.k8s.io", "leases"),
    _rule(AGENTS, WRITE, "coordination.k8s.io", "leases", _announcement_lease),
    _rule(AGENTS, READ, "", "secrets", _bgp_secret),
    _rule(AGENTS, _CREATE | _UPDATE, "", "events"),
    _rule(AGENTS, _CREATE | _UPDATE, "events.k8s.io", "events"),
    # Cluster DNS.
    _rule(f"{ACCOUNT_PREFIX}kube-system:coredns", READ, "", "services namespaces pods endpoints"),
    _rule(f"{ACCOUNT_PREFIX}kube-system:coredns", READ, "discovery.k8s.io", "endpointslices"),
    # The operator.
    _rule(OPERATOR, ALL, "cilium.io", "*"),
    _rule(OPERATOR, ALL, "stentor.io", "*"),
    _rule(OPERATOR, ALL, "gateway.networking.k8s.io", "*"),
    _rule(OPERATOR, ALL, "apiextensions.k8s.io", "*"),
    _rule(OPERATOR, ALL, "coordination.k8s.io", "leases"),
    _rule(OPERATOR, ALL, "discovery.k8s.io", "endpointslices"),
    _rule(OPERATOR, READ | _UPDATE, "networking.k8s.io", "*"),
    _rule(OPERATOR, READ, "", "pods nodes namespaces services endpoints configmaps secrets"),
    _rule(OPERATOR, WRITE, "", "services services/status endpoints configmaps secrets events"),
    _rule(OPERATOR, _UPDATE, "", "nodes nodes/status namespaces"),
    _rule(OPERATOR, _CREATE, "", "namespaces"),
    _rule(OPERATOR, frozenset(("delete",)), "", "pods"),
    _rule(OPERATOR, WRITE, "events.k8s.io", "events"),
    # Workload controllers and the scheduler. Nothing of theirs opens a stream into a pod.
    _rule(
        CONTROLLERS, ALL, "",
        "pods pods/status pods/binding pods/eviction nodes nodes/status namespaces namespaces/status namespaces/finalize"
        " services services/status endpoints configmaps secrets serviceaccounts serviceaccounts/token events bindings",
    ),
    *(
        _rule(CONTROLLERS, ALL, group, "*")
        for group in (
            "apps", "batch", "discovery.k8s.io", "coordination.k8s.io", "events.k8s.io", "policy",
            "authentication.k8s.io", "authorization.k8s.io",
        )
    ),
    _rule(CONTROLLERS, READ, "*", "*"),
    _rule(SCHEDULER, READ, "", "pods nodes namespaces services"),
    _rule(SCHEDULER, READ, "apps", "*"),
    _rule(SCHEDULER, READ, "policy", "*"),
    _rule(SCHEDULER, READ, "scheduling.k8s.io", "*"),
    _rule(SCHEDULER, _UPDATE, "", "pods/status"),
    _rule(SCHEDULER, _CREATE | {"delete"}, "", "pods/binding bindings pods"),
    _rule(SCHEDULER, _CREATE | _UPDATE, "", "events"),
    _rule(SCHEDULER, _CREATE | _UPDATE, "events.k8s.io", "events"),
    _rule(SCHEDULER, READ | WRITE, "coordination.k8s.io", "leases"),
)  # fmt: skip

_STREAMS: Final = frozenset(("exec", "attach", "portforward", "log", "proxy"))


class Authorizer:
    """Answers questions from the table."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_subject: dict[str, list[Rule]] = {}
        for rule in RULES:
            self._by_subject.setdefault(rule.subject, []).append(rule)

    def allows(self, user: User, verb: str, target: Target, document: Mapping[str, Any] | None = None) -> bool:
        """`document` is the body of a create, whose target has the name in it."""
        if ADMINS in user.groups:
            return True
        if target.subresource in _STREAMS:
            return False
        question = Question(user, verb, target, document or {})
        rules = (r for s in (user.name, *user.groups) for r in self._by_subject.get(s, ()))
        return any(r.allows(question, self._store) for r in rules) or _is_own_account(question)

    def rules_of(self, user: User) -> list[Rule]:
        """For SelfSubjectRulesReview."""
        if ADMINS in user.groups:
            return [Rule(ADMINS, frozenset("*"), "*", frozenset("*"))]
        return [r for s in (user.name, *user.groups) for r in self._by_subject.get(s, ())]

    @staticmethod
    def allows_path(user: User, path: str) -> bool:
        """For paths that are no resources."""
        if path.startswith(PUBLIC_PATHS) or ADMINS in user.groups:
            return True
        return "system:authenticated" in user.groups and path.startswith(_DISCOVERY)


def _is_own_account(question: Question) -> bool:
    """A service account reads its own ServiceAccount, and the pod that its token is bound to."""
    target, user = question.target, question.user
    if question.verb != "get" or target.group or not user.name.startswith(ACCOUNT_PREFIX):
        return False
    namespace, _, name = user.name.removeprefix(ACCOUNT_PREFIX).partition(":")
    if target.namespace != namespace or target.subresource:
        return False
    pods = user.extra.get("authentication.kubernetes.io/pod-name", ())
    return (target.plural == "serviceaccounts" and target.name == name) or (
        target.plural == "pods" and target.name in pods
    )
