"""Server-side apply against the real structured-merge-diff, where Go and its Debian package are installed:
`apt-get install golang-go golang-k8s-sigs-structured-merge-diff-dev`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stentor.apiserver.errors import Conflict
from stentor.apiserver.fieldset import paths
from stentor.apiserver.ownership import Writer, apply, track_update
from stentor.apiserver.schema import Schema, copy_json

GOPATH = Path("/usr/share/gocode")
LIBRARY = GOPATH / "src/sigs.k8s.io/structured-merge-diff"

# The same type twice: as the library's schema, and as OpenAPI. Names that YAML 1.1 reads as booleans (n, y) are avoided.
THEIRS = """
types:
- name: object
  map:
    fields:
    - {name: num, type: {scalar: numeric}}
    - {name: word, type: {scalar: string}}
    - {name: map, type: {map: {elementType: {scalar: string}}}}
    - {name: set, type: {list: {elementType: {scalar: string}, elementRelationship: associative}}}
    - {name: whole, type: {list: {elementType: {scalar: string}, elementRelationship: atomic}}}
    - {name: list, type: {list: {elementType: {namedType: item}, elementRelationship: associative, keys: [name]}}}
    - {name: sub, type: {namedType: sub}}
- name: item
  map:
    fields:
    - {name: name, type: {scalar: string}}
    - {name: value, type: {scalar: string}}
    - {name: inner, type: {list: {elementType: {namedType: port}, elementRelationship: associative, keys: [port]}}}
- name: port
  map: {fields: [{name: port, type: {scalar: numeric}}, {name: value, type: {scalar: string}}]}
- name: sub
  map: {fields: [{name: a, type: {scalar: string}}, {name: b, type: {scalar: string}}]}
"""
STRING = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _keyed(key: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
        "items": _object(**properties),
    }


OURS = Schema(
    _object(
        num={"type": "integer"},
        word=STRING,
        map={"type": "object", "additionalProperties": STRING},
        set={"type": "array", "x-kubernetes-list-type": "set", "items": STRING},
        whole={"type": "array", "x-kubernetes-list-type": "atomic", "items": STRING},
        list=_keyed("name", name=STRING, value=STRING, inner=_keyed("port", port={"type": "integer"}, value=STRING)),
        sub=_object(a=STRING, b=STRING),
    ),
    None,
)
KEYS = st.sampled_from(["p", "q", "r"])
VALUES = st.sampled_from(["1", "2"])


def _items(key: str, keys: st.SearchStrategy[Any], **rest: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    item = st.fixed_dictionaries({key: keys}, optional=rest)
    return st.lists(item, min_size=1, max_size=3, unique_by=lambda i: i[key])


PORTS = _items("port", st.sampled_from([80, 81]), value=VALUES)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "num": st.integers(1, 2),
        "word": VALUES,
        "map": st.dictionaries(KEYS, VALUES, min_size=1),
        "set": st.lists(KEYS, min_size=1, unique=True),
        "whole": st.lists(KEYS, min_size=1, max_size=2),
        "list": _items("name", KEYS, value=VALUES, inner=PORTS),
        "sub": st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES}).filter(bool),
    },
)
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["apply", "apply", "update"]),
            "manager": st.sampled_from("ABC"),
            "force": st.booleans(),
            "object": OBJECTS,
        }
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None or not LIBRARY.exists():
        pytest.skip("needs Go and Debian's golang-k8s-sigs-structured-merge-diff-dev")
    directory = tmp_path_factory.mktemp("oracle")
    program = directory / "oracle"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(directory / "cache"),
        "GOFLAGS": "",
    }
    source = Path(__file__).parent / "oracle" / "main.go"
    subprocess.run([go, "build", "-o", str(program), str(source)], env=environment, check=True, timeout=300)
    return program


def run_oracle(program: Path, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = json.dumps({"schema": THEIRS, "type": "object", "ops": operations})
    done = subprocess.run([str(program)], input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(operations) or "error" in answers[-1]
    return answers


def run_ours(live: dict[str, Any] | None, operation: dict[str, Any]) -> dict[str, Any]:
    mode: Literal["Apply", "Update"] = "Apply" if operation["op"] == "apply" else "Update"
    writer = Writer(operation["manager"], mode, "v1")
    wanted = {**copy_json(operation["object"]), "metadata": {"name": "x"}}
    if mode == "Apply":
        return apply(live, wanted, OURS, writer, "now", force=operation["force"], has_status=False)
    track_update(live, wanted, OURS, writer, "now", has_status=False)
    return wanted


def normal(value: Any) -> Any:
    """Without nulls and empty values, associative lists in one order (which is not the library's concern)."""
    if isinstance(value, dict):
        return {k: n for k, v in value.items() if (n := normal(v)) not in (None, {}, [])}
    if isinstance(value, list):
        return sorted((normal(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    return value


def owners(document: dict[str, Any]) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for entry in document["metadata"].get("managedFields", ()):
        out.setdefault(entry["manager"], set()).update(paths(entry["fieldsV1"]))
    return out


def compare(program: Path, operations: list[dict[str, Any]]) -> None:
    """A manager either applies or updates: the library's managers have one set, Kubernetes' have two."""
    operations = [{**o, "manager": o["manager"] + o["op"]} for o in operations]
    live: dict[str, Any] | None = None
    for operation, answer in zip(operations, run_oracle(program, operations), strict=False):
        try:
            live = run_ours(live, operation)
        except Conflict:
            assert "error" in answer
            return
        assert "error" not in answer
        assert normal({k: v for k, v in live.items() if k != "metadata"}) == normal(answer["object"])
        theirs = {m: set(paths(f)) for m, f in answer["managed"].items()}
        assert {m: f for m, f in theirs.items() if f} == owners(live)


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, suppress_health_check=SLOW)
@given(operations=OPERATIONS)
def test_apply_is_kubernetes_own(oracle: Path, operations: list[dict[str, Any]]) -> None:
    compare(oracle, operations)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=5000, suppress_health_check=SLOW)
@given(operations=OPERATIONS)
def test_apply_is_kubernetes_own_at_length(oracle: Path, operations: list[dict[str, Any]]) -> None:
    compare(oracle, operations)
