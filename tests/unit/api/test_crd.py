"""CRDs generated from the types: structural, complete, with upstream's names and columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stentor.api import crd
from stentor.api.cilium import CiliumNode, CiliumNodeAddress, CiliumNodeIPAM, CiliumNodeSpec
from stentor.api.meta import ObjectMeta

DOCUMENTS = {document["spec"]["names"]["kind"]: document for document in crd.documents()}


def schema_of(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENTS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for child in schema.get("properties", {}).values():
        yield from nodes_of(child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes_of(schema[key])


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_schemas_are_structural(kind: str) -> None:
    for node in nodes_of(schema_of(kind)):
        assert "type" in node
        assert not {"$ref", "anyOf", "allOf", "default", "title"} & set(node)


@pytest.mark.parametrize(
    ("kind", "short_names", "scope"),
    [
        ("CiliumNode", ["cn", "ciliumn"], "Cluster"),
        ("CiliumEndpoint", ["cep", "ciliumep"], "Namespaced"),
        ("CiliumIdentity", ["ciliumid"], "Cluster"),
    ],
)
def test_names_are_upstreams(kind: str, short_names: list[str], scope: str) -> None:
    spec = DOCUMENTS[kind]["spec"]
    assert spec["names"]["shortNames"] == short_names
    assert spec["scope"] == scope
    assert spec["names"]["categories"] == ["cilium"]
    assert spec["versions"][0]["name"] == "v2"


def test_fields_with_other_spellings_keep_them() -> None:
    assert "security-labels" in schema_of("CiliumIdentity")["properties"]
    node = schema_of("CiliumNode")["properties"]
    assert "podCIDRs" in node["spec"]["properties"]["ipam"]["properties"]
    assert "operator-status" in node["status"]["properties"]["ipam"]["properties"]
    assert "external-identifiers" in schema_of("CiliumEndpoint")["properties"]["status"]["properties"]


def test_columns_of_endpoints() -> None:
    columns = DOCUMENTS["CiliumEndpoint"]["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Security Identity", "Endpoint State", "IPv4", "IPv6"]


def test_an_encoded_object_has_only_fields_of_its_schema() -> None:
    spec = CiliumNodeSpec(
        addresses=(CiliumNodeAddress(type="InternalIP", ip="10.0.0.1"),),
        ipam=CiliumNodeIPAM(pod_cidrs=("10.0.0.0/24",)),
    )
    document = msgspec.to_builtins(CiliumNode(metadata=ObjectMeta(name="n"), spec=spec))
    assert set(document["spec"]) <= set(schema_of("CiliumNode")["properties"]["spec"]["properties"])
    assert document["spec"]["ipam"] == {"podCIDRs": ("10.0.0.0/24",)}


def test_limits_of_types_reach_the_schema() -> None:
    status = schema_of("CiliumEndpoint")["properties"]["status"]["properties"]
    port = status["named-ports"]["items"]["properties"]["port"]
    assert (port["minimum"], port["maximum"]) == (0, 65535)
