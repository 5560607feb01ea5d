"""Policies at the edge: rows, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.api.l2 import (
    BAD_INTERFACE_REGEX,
    BAD_NODE_SELECTOR,
    BAD_SERVICE_SELECTOR,
    CiliumL2AnnouncementPolicy,
)
from stentor.api.meta import LabelSelector
from stentor.l2.policy import parse_policy
from stentor.tables.announcement import Problem


def policy(**spec: Any) -> CiliumL2AnnouncementPolicy:
    return msgspec.convert({"metadata": {"name": "p", "generation": 3}, "spec": spec}, CiliumL2AnnouncementPolicy)


def test_nothing_said_selects_everything_and_announces_nothing() -> None:
    row = parse_policy(policy())
    assert (row.node_selector, row.service_selector, row.interfaces) == (None, None, ())
    assert (row.load_balancer_ips, row.external_ips, row.problems) == (False, False, ())


def test_all_fields() -> None:
    row = parse_policy(
        policy(
            nodeSelector={"matchLabels": {"kubernetes.io/os": "linux"}},
            serviceSelector={"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            loadBalancerIPs=True,
            externalIPs=True,
            interfaces=["^eth"],
        )
    )
    assert row.node_selector == LabelSelector(match_labels={"kubernetes.io/os": "linux"})
    assert row.service_selector is not None
    assert (row.name, row.generation, row.load_balancer_ips, row.external_ips) == ("p", 3, True, True)
    assert (row.interfaces, row.problems) == (("^eth",), ())


def expression(operator: str, *values: str, key: str = "a") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ({"matchLabels": {"-a": "b"}}, "matchLabels: '-a' is no label key"),
        ({"matchLabels": {"a": "b b"}}, "matchLabels[a]: 'b b' is no label value"),
        ({"matchLabels": {"A_B/c": "b"}}, "matchLabels: 'A_B/c' is no label key"),
        (expression("In"), "matchExpressions[0].values: In needs at least one"),
        (expression("Exists", "x"), "matchExpressions[0].values: Exists has none"),
        (
            expression("Like", "x"),
            "matchExpressions[0].operator: 'Like' is not one of In, NotIn, Exists, DoesNotExist",
        ),
        (expression("NotIn", "x", "y/z"), "matchExpressions[0].values[1]: 'y/z' is no label value"),
        (expression("Exists", key="/a"), "matchExpressions[0].key: '/a' is no label key"),
    ],
)
def test_bad_selectors_are_named(selector: dict[str, Any], words: str) -> None:
    assert parse_policy(policy(serviceSelector=selector)).problems == (
        Problem(BAD_SERVICE_SELECTOR, f"spec.serviceSelector.{words}"),
    )
    assert parse_policy(policy(nodeSelector=selector)).problems == (
        Problem(BAD_NODE_SELECTOR, f"spec.nodeSelector.{words}"),
    )


def test_a_bad_expression_is_named() -> None:
    (problem,) = parse_policy(policy(interfaces=["eth0", "eth(", "["])).problems
    assert problem.condition == BAD_INTERFACE_REGEX
    assert problem.message.startswith("spec.interfaces[1]: 'eth('")
