"""JSON Patch, JSON Merge Patch and strategic merge against published and upstream behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from stentor.apiserver.errors import ApiError, BadRequest, Unprocessable
from stentor.apiserver.patch import json_patch, merge_patch
from stentor.apiserver.schema import load_definitions
from stentor.apiserver.strategic import strategic_merge

# RFC 7396, appendix A.
MERGES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "expected"), MERGES)
def test_merge_patch(target: Any, patch: Any, expected: Any) -> None:
    assert merge_patch(target, patch) == expected


# RFC 6902, appendix A.
PATCHES: list[tuple[Any, list[dict[str, Any]], Any]] = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"w": "fred"}, "q": {}},
        [{"op": "move", "from": "/foo/w", "path": "/q/t"}],
        {"foo": {}, "q": {"t": "fred"}},
    ),
    ({"foo": ["all", "cows"]}, [{"op": "move", "from": "/foo/1", "path": "/foo/0"}], {"foo": ["cows", "all"]}),
    ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
    ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "qux"}], {"baz": "qux"}),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
]


@pytest.mark.parametrize(("target", "patch", "expected"), PATCHES)
def test_json_patch(target: Any, patch: list[dict[str, Any]], expected: Any) -> None:
    assert json_patch(target, patch) == expected


BAD_PATCHES: list[tuple[Any, type[ApiError]]] = [
    ([{"op": "test", "path": "/a", "value": 2}], Unprocessable),
    ([{"op": "remove", "path": "/b"}], Unprocessable),
    ([{"op": "add", "path": "/b/c", "value": 1}], Unprocessable),
    ([{"op": "replace", "path": "/l/7", "value": 1}], Unprocessable),
    ([{"op": "add", "path": "a", "value": 1}], Unprocessable),
    ([{"op": "add", "path": "/a"}], BadRequest),
    ([{"op": "blow", "path": "/a", "value": 1}], BadRequest),
    ([{"op": "move", "path": "/a"}], BadRequest),
    ([1], BadRequest),
    ({"op": "add"}, BadRequest),
]


@pytest.mark.parametrize(("patch", "error"), BAD_PATCHES)
def test_a_bad_json_patch(patch: Any, error: type[ApiError]) -> None:
    document = {"a": 1, "l": []}
    with pytest.raises(error):
        json_patch(document, patch)
    assert document == {"a": 1, "l": []}


SERVICE = load_definitions().schema("io.k8s.api.core.v1.Service")
POD = load_definitions().schema("io.k8s.api.core.v1.Pod")
DEPLOYMENT = load_definitions().schema("io.k8s.api.apps.v1.Deployment")


def ports(*numbers: int) -> dict[str, Any]:
    return {"spec": {"ports": [{"port": n} for n in numbers]}}


def labels(**pairs: str | None) -> dict[str, Any]:
    return {"metadata": {"labels": pairs}}


def finalizers(*names: str) -> dict[str, Any]:
    return {"metadata": {"finalizers": list(names)}}


STRATEGIC: list[tuple[str, Any, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "list items merge by key", SERVICE, ports(1, 2),
        {"spec": {"ports": [{"port": 2, "name": "b"}]}},
        {"spec": {"ports": [{"port": 1}, {"port": 2, "name": "b"}]}},
    ),
    ("new items come first", SERVICE, ports(1), ports(2), ports(2, 1)),
    ("an item is deleted", SERVICE, ports(1, 2), {"spec": {"ports": [{"port": 1, "$patch": "delete"}]}}, ports(2)),
    ("a list is replaced", SERVICE, ports(1, 2), {"spec": {"ports": [{"port": 3}, {"$patch": "replace"}]}}, ports(3)),
    ("null removes", SERVICE, labels(a="1", b="2"), labels(a=None), labels(b="2")),
    ("a map is replaced", SERVICE, labels(a="1"), {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}, labels(b="2")),
    ("scalars merge as a set", SERVICE, finalizers("a"), finalizers("a", "b"), finalizers("a", "b")),
    (
        "scalars are deleted", SERVICE, finalizers("a", "b"),
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
        finalizers("b"),
    ),
    (
        "an order is set", SERVICE, ports(1, 2, 3),
        {"spec": {"$setElementOrder/ports": [{"port": 3}, {"port": 1}]}},
        ports(2, 3, 1),
    ),
    (
        "keys are retained", DEPLOYMENT,
        {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}},
        {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
        {"spec": {"strategy": {"type": "Recreate"}}},
    ),
    (
        "lists in list items", POD,
        {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}},
        {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 2}]}]}},
        {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 2}, {"containerPort": 1}]}]}},
    ),
    (
        "atomic lists are replaced", POD,
        {"spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}},
        {"spec": {"containers": [{"name": "a", "args": ["z"]}]}},
        {"spec": {"containers": [{"name": "a", "args": ["z"]}]}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "original", "patch", "expected"), [s[1:] for s in STRATEGIC], ids=[s[0] for s in STRATEGIC]
)
def test_strategic_merge(
    schema: Any, original: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert strategic_merge(original, patch, schema) == expected


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"ports": [{"name": "no key"}]}},
        {"spec": {"$patch": "explode"}},
        {"spec": {"ports": [{"port": 1, "$patch": "explode"}]}},
        {"spec": {"$setElementOrder/ports": [{"port": 2}], "ports": [{"port": 1}]}},
        {"spec": {"$retainKeys": ["type"], "clusterIP": "x"}},
    ],
)
def test_a_bad_strategic_patch(patch: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        strategic_merge(ports(1), patch, SERVICE)
