"""CRDs generated from the types: structural, complete, with upstream's names and columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stentor.api import crd
from stentor.api.cilium import CiliumNode, CiliumNodeAddress, CiliumNodeIPAM, CiliumNodeSpec
from stentor.api.definition import DEFINITIONS, needed
from stentor.api.field import ADDRESS_PATTERN, LARGE_COMMUNITY_PATTERN, STANDARD_COMMUNITY_PATTERN
from stentor.api.meta import ObjectMeta
from stentor.runtime.config import load

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
    schemas = [version["schema"]["openAPIV3Schema"] for version in DOCUMENTS[kind]["spec"]["versions"]]
    for node in (node for schema in schemas for node in nodes_of(schema)):
        assert "type" in node
        assert not {"$ref", "anyOf", "allOf", "title", "x-default"} & set(node)


BGP = ["cilium", "ciliumbgp"]
OWN = ["stentor", "ciliumbgp"]


@pytest.mark.parametrize(
    ("kind", "short_names", "scope", "categories", "versions"),
    [
        ("CiliumNode", ["cn", "ciliumn"], "Cluster", ["cilium"], ["v2"]),
        ("CiliumEndpoint", ["cep", "ciliumep"], "Namespaced", ["cilium"], ["v2"]),
        ("CiliumIdentity", ["ciliumid"], "Cluster", ["cilium"], ["v2"]),
        (
            "CiliumLoadBalancerIPPool", ["ippools", "ippool", "lbippool", "lbippools"], "Cluster", ["cilium"],
            ["v2", "v2alpha1"],
        ),
        ("CiliumL2AnnouncementPolicy", ["l2announcement"], "Cluster", ["cilium"], ["v2alpha1"]),
        ("CiliumBGPClusterConfig", ["cbgpcluster"], "Cluster", BGP, ["v2", "v2alpha1"]),
        ("CiliumBGPPeerConfig", ["cbgppeer"], "Cluster", BGP, ["v2", "v2alpha1"]),
        ("CiliumBGPAdvertisement", ["cbgpadvert"], "Cluster", BGP, ["v2", "v2alpha1"]),
        ("CiliumBGPNodeConfig", ["cbgpnode"], "Cluster", BGP, ["v2", "v2alpha1"]),
        ("CiliumBGPNodeConfigOverride", ["cbgpnodeoverride"], "Cluster", BGP, ["v2", "v2alpha1"]),
        ("CiliumBGPPeeringPolicy", ["bgpp"], "Cluster", BGP, ["v2alpha1"]),
        ("StentorBGPPeerOptions", ["sbgppeer"], "Cluster", OWN, ["v1alpha1"]),
        ("StentorBGPInstanceOptions", ["sbgpinstance"], "Cluster", OWN, ["v1alpha1"]),
    ],
)  # fmt: skip
def test_names_and_versions(
    kind: str, short_names: list[str], scope: str, categories: list[str], versions: list[str]
) -> None:
    spec = DOCUMENTS[kind]["spec"]
    assert spec["names"]["shortNames"] == short_names
    assert spec["scope"] == scope
    assert spec["names"]["categories"] == categories
    assert [version["name"] for version in spec["versions"]] == versions
    assert [version["storage"] for version in spec["versions"]] == [True] + [False] * (len(versions) - 1)


def test_only_what_the_values_enable_is_needed() -> None:
    every = {definition.kind.kind for definition in DEFINITIONS}
    of = {
        setting: {definition.kind.kind for definition in needed(load(settings=[setting] if setting else []))}
        for setting in ("", "bgpControlPlane.enabled=true", "l2announcements.enabled=true")
    }
    assert of[""] == {"CiliumNode", "CiliumEndpoint", "CiliumIdentity", "CiliumLoadBalancerIPPool"}
    assert of["l2announcements.enabled=true"] - of[""] == {"CiliumL2AnnouncementPolicy"}
    assert of["bgpControlPlane.enabled=true"] == every - {"CiliumL2AnnouncementPolicy"}


def property_of(kind: str, path: str, version: int = 0) -> dict[str, Any]:
    """Schema of a field, `spec.peers[].name`."""
    node: dict[str, Any] = DOCUMENTS[kind]["spec"]["versions"][version]["schema"]["openAPIV3Schema"]
    for step in path.split("."):
        node = node["properties"][step.removesuffix("[]")]
        node = node["items"] if step.endswith("[]") else node
    return node


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("CiliumBGPClusterConfig", "spec.bgpInstances[].peers[].peerASN", {"default": 0, "maximum": 4294967295}),
        ("CiliumBGPClusterConfig", "spec.bgpInstances[].localASN", {"minimum": 1, "format": "int64"}),
        ("CiliumBGPClusterConfig", "spec.bgpInstances", {"maxItems": 16, "x-kubernetes-list-map-keys": ["name"]}),
        ("CiliumBGPPeerConfig", "spec.ebgpMultihop", {"default": 1, "minimum": 1, "maximum": 255}),
        ("CiliumBGPPeerConfig", "spec.timers.holdTimeSeconds", {"default": 90, "minimum": 3}),
        ("CiliumBGPPeerConfig", "spec.gracefulRestart.restartTimeSeconds", {"default": 120, "maximum": 4095}),
        ("CiliumBGPAdvertisement", "spec.advertisements[].service.addresses", {"minItems": 1}),
        ("CiliumBGPPeeringPolicy", "spec.virtualRouters[].serviceAdvertisements", {"default": ["LoadBalancerIP"]}),
        ("CiliumBGPPeeringPolicy", "spec.virtualRouters[].neighbors[].eBGPMultihopTTL", {"default": 1}),
        ("CiliumBGPPeeringPolicy", "spec.virtualRouters[].neighbors[].peerAddress", {"format": "cidr"}),
        ("CiliumLoadBalancerIPPool", "spec.allowFirstLastIPs", {"enum": ["Yes", "No"], "type": "string"}),
        ("CiliumLoadBalancerIPPool", "spec.disabled", {"default": False}),
        ("CiliumL2AnnouncementPolicy", "spec.loadBalancerIPs", {"type": "boolean"}),
        ("CiliumBGPNodeConfig", "status.conditions", {"x-kubernetes-list-map-keys": ["type"]}),
    ],
)
def test_limits_and_defaults_are_upstreams(kind: str, path: str, expected: dict[str, Any]) -> None:
    found = property_of(kind, path)
    assert {key: found.get(key) for key in expected} == expected


def test_older_versions_take_fields_that_went_out_of_use() -> None:
    assert property_of("CiliumBGPClusterConfig", "spec.bgpInstances[].peers[].peerConfigRef.group", 1)
    assert property_of("CiliumBGPPeerConfig", "spec.transport.localPort", 1)
    assert "localPort" not in property_of("CiliumBGPPeerConfig", "spec.transport")["properties"]


def test_rules_stand_beside_what_they_are_about() -> None:
    peer = property_of("CiliumBGPClusterConfig", "spec.bgpInstances[].peers[]")
    assert [rule["rule"] for rule in peer["x-kubernetes-validations"]][-1] == (
        "has(self.peerAddress) || has(self.autoDiscovery)"
    )


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (
            ADDRESS_PATTERN,
            ["10.0.0.1", "fd00::1", "::", "::ffff:10.0.0.1", "fe80::1%eth0"],
            ["10.0.0", "10.0.0.256", "10.0.0.1/32", "", "host", "fd00::g"],
        ),
        (STANDARD_COMMUNITY_PATTERN, ["0", "65535:65535", "4294967295"], ["65536:1", "4294967296", "1:2:3", "01"]),
        (LARGE_COMMUNITY_PATTERN, ["1:2:3", "4294967295:0:0"], ["1:2", "1:2:4294967296"]),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good + bad if re.fullmatch(pattern, text)] == good


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
