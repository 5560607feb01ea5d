"""Policies at the edge: from API objects to rows. What is wrong with one is said in its row, by condition; such a policy
announces nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stentor.api.l2 import (
    BAD_INTERFACE_REGEX,
    BAD_NODE_SELECTOR,
    BAD_SERVICE_SELECTOR,
    CiliumL2AnnouncementPolicy,
    CiliumL2AnnouncementPolicySpec,
)
from stentor.api.meta import LabelSelector
from stentor.l2.expression import compile_expression
from stentor.tables.announcement import L2Policy, Problem

_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PREFIX: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LISTED: Final = ("In", "NotIn")
_OPERATORS: Final = (*_LISTED, "Exists", "DoesNotExist")


def parse_policy(policy: CiliumL2AnnouncementPolicy) -> L2Policy:
    """A row; never fails."""
    spec = policy.spec
    return L2Policy(
        name=policy.metadata.name,
        generation=policy.metadata.generation,
        node_selector=spec.node_selector,
        service_selector=spec.service_selector,
        load_balancer_ips=spec.load_balancer_ips,
        external_ips=spec.external_ips,
        interfaces=spec.interfaces,
        problems=tuple(problems_of(spec)),
    )


def problems_of(spec: CiliumL2AnnouncementPolicySpec) -> Iterator[Problem]:
    """The first problem of each kind: a condition has room for one."""
    for condition, field, selector in (
        (BAD_SERVICE_SELECTOR, "spec.serviceSelector", spec.service_selector),
        (BAD_NODE_SELECTOR, "spec.nodeSelector", spec.node_selector),
    ):
        found = next(selector_problems(selector), "") if selector is not None else ""
        if found:
            yield Problem(condition, f"{field}.{found}")
    for index, text in enumerate(spec.interfaces):
        try:
            compile_expression(text)
        except ValueError as e:
            yield Problem(BAD_INTERFACE_REGEX, f"spec.interfaces[{index}]: {e}")
            break


def selector_problems(selector: LabelSelector) -> Iterator[str]:
    """What apimachinery's validation says against a selector, each with its field's path."""
    for key, value in selector.match_labels.items():
        if not _is_key(key):
            yield f"matchLabels: {key!r} is no label key"
        elif not _VALUE.fullmatch(value):
            yield f"matchLabels[{key}]: {value!r} is no label value"
    for index, requirement in enumerate(selector.match_expressions):
        at = f"matchExpressions[{index}]"
        if not _is_key(requirement.key):
            yield f"{at}.key: {requirement.key!r} is no label key"
        if requirement.operator not in _OPERATORS:
            yield f"{at}.operator: {requirement.operator!r} is not one of {', '.join(_OPERATORS)}"
        elif requirement.operator in _LISTED and not requirement.values:
            yield f"{at}.values: {requirement.operator} needs at least one"
        elif requirement.operator not in _LISTED and requirement.values:
            yield f"{at}.values: {requirement.operator} has none"
        for number, value in enumerate(requirement.values):
            if not _VALUE.fullmatch(value):
                yield f"{at}.values[{number}]: {value!r} is no label value"


def _is_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    return bool(_NAME.fullmatch(name)) and (not slash or bool(_PREFIX.fullmatch(prefix)))
