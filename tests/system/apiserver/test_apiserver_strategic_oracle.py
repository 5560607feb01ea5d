"""Strategic merge against the real one: `kubectl patch --local` runs Kubernetes' own code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from apiservers.process import KUBECTL
from stentor.apiserver.errors import ApiError
from stentor.apiserver.schema import load_definitions
from stentor.apiserver.strategic import strategic_merge

DEPLOYMENT = load_definitions().schema("io.k8s.api.apps.v1.Deployment")
TEXT = st.sampled_from(["x", "y", "z"])
NUMBERS = st.sampled_from([80, 81, 82])


def _subset(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _items(
    key: str, keys: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[list[dict[str, Any]]]:
    item = st.fixed_dictionaries({key: keys}, optional=fields)
    return st.lists(item, max_size=3, unique_by=lambda i: i[key])


def _ports() -> st.SearchStrategy[list[dict[str, Any]]]:
    return _items("containerPort", NUMBERS, name=TEXT, hostPort=NUMBERS)


def _containers(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    environment = _items("name", TEXT, value=TEXT)
    return _items("name", TEXT, image=TEXT, args=st.lists(TEXT, max_size=2), env=environment, ports=_ports(), **more)


def _document(containers: st.SearchStrategy[Any], labels: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    pod = _subset(
        containers=containers,
        nodeSelector=labels,
        tolerations=st.lists(st.fixed_dictionaries({"key": TEXT}), max_size=2),
    )
    template = st.fixed_dictionaries({"spec": pod})
    strategy = st.sampled_from([{"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}])
    spec = _subset(template=template, replicas=NUMBERS, strategy=strategy)
    meta = _subset(labels=labels, finalizers=st.lists(TEXT, max_size=2, unique=True))
    return st.fixed_dictionaries({"spec": spec, "metadata": meta})


VALUES = st.dictionaries(TEXT, TEXT, max_size=3)
ORIGINALS = _document(_containers(), VALUES)
_DELETED = st.fixed_dictionaries({"name": TEXT, "$patch": st.just("delete")})
_PATCHED = st.tuples(_containers(), st.lists(_DELETED, max_size=1)).map(
    lambda lists: [*lists[0], *(d for d in lists[1] if all(d["name"] != c["name"] for c in lists[0]))]
)
PATCHES = _document(_PATCHED, st.dictionaries(TEXT, TEXT | st.none(), max_size=3))
PATCHES_REPLACING = st.sampled_from(
    [
        {"spec": {"template": {"spec": {"containers": [{"$patch": "replace"}, {"name": "x", "image": "new"}]}}}},
        {"spec": {"template": {"spec": {"nodeSelector": {"$patch": "replace", "x": "z"}}}}},
        {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x", "z"]}},
        {"metadata": {"$setElementOrder/finalizers": ["z", "y"], "finalizers": ["z", "y"]}},
        {
            "spec": {
                "template": {
                    "spec": {
                        "$setElementOrder/containers": [{"name": "z"}, {"name": "x"}],
                        "containers": [{"name": "z"}, {"name": "x", "image": "new"}],
                    }
                }
            }
        },
        {"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "y"}, {"name": "x"}]}}}},
    ]
)


def run_oracle(directory: Path, original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    file = directory / "object.json"
    file.write_text(json.dumps(original))
    command = [
        str(KUBECTL),
        "patch",
        "--local",
        "-f",
        str(file),
        "--type=strategic",
        "-p",
        json.dumps(patch),
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assume("no elements in any of the given slices" not in done.stderr)  # it cannot order an empty list; we can
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def normal(value: Any) -> Any:
    """Without what Go's types add or leave out: nulls, empty values, the status, directives that it forgets to remove."""
    if isinstance(value, dict):
        members = {k: normal(v) for k, v in value.items() if k != "status" and not k.startswith("$")}
        return {k: v for k, v in members.items() if v not in (None, {}, [], "")}
    return [normal(v) for v in value] if isinstance(value, list) else value


def compare(directory: Path, original: dict[str, Any], patch: dict[str, Any]) -> None:
    full = {"apiVersion": "apps/v1", "kind": "Deployment", **original}
    full["metadata"] = {"name": "d", **original["metadata"]}
    expected = run_oracle(directory, full, patch)
    try:
        mine = strategic_merge(full, patch, DEPLOYMENT)
    except ApiError as error:
        pytest.fail(f"the oracle merged what we refuse: {error.message}")
    assert normal(expected) == normal(mine)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(original=ORIGINALS, patch=PATCHES | PATCHES_REPLACING)
def test_strategic_merge_is_kubernetes_own(tmp_path: Path, original: dict[str, Any], patch: dict[str, Any]) -> None:
    compare(tmp_path, original, patch)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(original=ORIGINALS, patch=PATCHES | PATCHES_REPLACING)
def test_strategic_merge_is_kubernetes_own_at_length(
    tmp_path: Path, original: dict[str, Any], patch: dict[str, Any]
) -> None:
    compare(tmp_path, original, patch)
