"""Writes src/stentor/apiserver/data/schemas.json.gz: the types that the API server serves, as OpenAPI v3 schemas.

Input is the wheel of PyPI's kubernetes-validate (Apache-2.0), which carries Kubernetes' published definitions:

    tools/gen_kubernetes_schemas.py [kubernetes_validate-*.whl]

Without an argument the pinned version is downloaded with pip into a scratch directory.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from stentor.apiserver.builtin import REQUEST_KINDS, ROWS

INPUT = "kubernetes-validate==1.37.0"
KUBERNETES = "v1.33.0"
MEMBER = f"kubernetes_validate/kubernetes-json-schema/{KUBERNETES}-local/_definitions.json"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
TARGET = Path(__file__).parents[1] / "src/stentor/apiserver/data/schemas.json.gz"
SPECIAL: dict[str, dict[str, Any]] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "oneOf": [{"type": "integer"}, {"type": "string"}],
        "format": "int-or-string",
        "description": "A number, or a string such as a percentage or a port's name.",
    },
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {
        "oneOf": [{"type": "string"}, {"type": "number"}],
        "description": "A fixed-point number with an optional suffix: 100m, 1.5, 64Mi, 2G, 1e3.",
    },
}


def read_definitions(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        definitions: dict[str, Any] = json.loads(archive.read(MEMBER))["$defs"]
    return definitions


def convert(node: Any) -> Any:
    """JSON Schema 2020-12 as published there -> OpenAPI v3 as Kubernetes publishes it."""
    if isinstance(node, list):
        return [convert(item) for item in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, list):
            out[key] = next(t for t in value if t != "null")
        elif key == "enum" and len(value) == 1:
            continue
        elif key == "properties":
            out[key] = {name: convert(member) for name, member in value.items()}
        else:
            out[key] = convert(value)
    if "$ref" in out:
        reference = {"$ref": out.pop("$ref").replace("#/$defs/", "#/components/schemas/")}
        return {**out, "allOf": [reference]} if out else reference
    return out


def references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rsplit("/", 1)[1]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*(references(value) for value in node.values()))


def closure(definitions: dict[str, Any], roots: set[str]) -> dict[str, Any]:
    todo, out = list(roots), {}
    while todo:
        name = todo.pop()
        if name not in out:
            out[name] = {**convert(definitions[name]), **SPECIAL.get(name, {})}
            if name in SPECIAL:
                out[name].pop("type", None)
            elif not {"properties", "additionalProperties"} & out[name].keys() and out[name].get("type") in (
                None,
                "object",
            ):
                out[name]["x-kubernetes-preserve-unknown-fields"] = True  # RawExtension, JSON, FieldsV1
            todo.extend(references(out[name]))
    return dict(sorted(out.items()))


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        if arguments:
            wheel = Path(arguments[0])
        else:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, INPUT], check=True
            )
            wheel = next(Path(scratch).glob("*.whl"))
        published = read_definitions(wheel)
    served = {(row.group, row.version, row.kind) for row in ROWS} | set(REQUEST_KINDS)
    roots = {
        name
        for name, definition in published.items()
        for gvk in definition.get("x-kubernetes-group-version-kind", ())
        if (gvk["group"], gvk["version"], gvk["kind"]) in served
    } | {META + "DeleteOptions", META + "ObjectMeta", META + "Status"}
    document = {
        "generator": "tools/gen_kubernetes_schemas.py",
        "input": f"{INPUT}, Kubernetes {KUBERNETES}",
        "licence": "Apache-2.0",
        "definitions": closure(published, roots),
    }
    for name in ("DeleteOptions", "Status"):
        gvks = document["definitions"][META + name].get("x-kubernetes-group-version-kind", [])
        document["definitions"][META + name]["x-kubernetes-group-version-kind"] = [g for g in gvks if not g["group"]]
    TARGET.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{TARGET}: {len(document['definitions'])} definitions, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
