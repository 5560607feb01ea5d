"""The generated data files: made by the committed generators, for what is served now."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

from apiservers.process import KUBECTL
from stentor.apiserver.builtin import ROWS
from stentor.apiserver.column import COLUMNS
from stentor.apiserver.default import STATIC
from stentor.apiserver.schema import load_definitions, read_data
from stentor.apiserver.strategy import STRATEGIES

TOOLS = Path(__file__).parents[3] / "tools"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_protobuf_table_is_fresh() -> None:
    built = load_tool("gen_kubernetes_protobuf").build(KUBECTL)
    assert read_data("protobuf.json.gz") == json.loads(json.dumps(built))


def test_the_schemas_say_where_they_are_from() -> None:
    tool, data = load_tool("gen_kubernetes_schemas"), read_data("schemas.json.gz")
    assert data["input"] == f"{tool.INPUT}, Kubernetes {tool.KUBERNETES}"
    assert (TOOLS.parent / data["generator"]).exists()


def test_every_row_has_a_schema_and_every_table_its_row() -> None:
    definitions = load_definitions()
    assert all(definitions.name_of(r.group, r.version, r.kind) for r in ROWS)
    buckets = {f"{r.group}/{r.plural}" for r in ROWS}
    assert not STRATEGIES.keys() - buckets
    assert not COLUMNS.keys() - buckets
    assert not STATIC.keys() - definitions.raw.keys()


def test_references_lead_somewhere() -> None:
    generator = load_tool("gen_kubernetes_schemas")
    definitions = load_definitions().raw
    assert not generator.references(definitions) - definitions.keys()
