"""A topology file: what is refused, and that the error names the place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.lab import topology
from stentor.lab.errors import TopologyError

HEAD = """\
apiVersion: lab.stentor.io/v1
kind: Topology
metadata: {name: t}
spec:
  networks: [{name: lan, cidrs: [10.9.0.0/24]}]
"""

REFUSED = {
    "empty": ("", "", "a topology is a mapping"),
    "list": ("- 1", "", "a topology is a mapping"),
    "not YAML": ("a: [", "line 2, column 1", "not YAML"),
    "duplicate key": ("a: 1\na: 2\n", "line 2, column 1", "key 'a' is there twice"),
    "wrong version": (HEAD.replace("/v1", "/v2"), "apiVersion", "invalid enum value 'lab.stentor.io/v2'"),
    "wrong kind": (HEAD.replace("kind: Topology", "kind: Pod"), "kind", "invalid enum value 'Pod'"),
    "no spec": (HEAD[: HEAD.index("spec")], "spec", "is required"),
    "unknown at top": (HEAD + "foo: 1\n", "foo", "unknown field"),
    "unknown in spec": (HEAD + "  network: []\n", "spec.network", "unknown field"),
    "unknown in network": (HEAD.replace("cidrs", "cidr"), "spec.networks[0].cidr", "unknown field"),
    "number for text": (
        HEAD + "  hosts: [{name: h, networks: [{name: lan}], run: [[x, 80]]}]\n",
        "spec.hosts[0].run[0][1]",
        "expected `str`, got `int`",
    ),
    "number for an address": (
        HEAD + "  clusters: [{name: c, nodes: [{name: a, networks: [{name: lan, addresses: [10]}]}]}]\n",
        "spec.clusters[0].nodes[0].networks[0].addresses[0]",
        "expected `str`, got `int`",
    ),
    "node without a name": (
        HEAD + "  clusters: [{name: c, nodes: [{networks: [{name: lan}]}]}]\n",
        "spec.clusters[0].nodes[0].name",
        "is required",
    ),
    "cluster without nodes": (
        HEAD + "  clusters: [{name: c, nodes: []}]\n",
        "spec.clusters[0].nodes",
        "expected `array` of length >= 1",
    ),
    "small mtu": (HEAD.replace("}]", ", mtu: 68}]"), "spec.networks[0].mtu", "expected `int` >= 1280"),
    "unknown in an image": (
        HEAD + "  images: {one: {command: [sh]}, two: {comand: [sh]}}\n",
        "spec.images[two].comand",
        "unknown field",
    ),
    "manifest without a file": (HEAD + "  manifests: [{cluster: c}]\n", "spec.manifests[0].file", "is required"),
}


@pytest.mark.parametrize(("text", "path", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_its_path(text: str, path: str, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        topology.parse(text)
    [(found, words)] = caught.value.problems
    assert found == path
    assert message in words


def test_missing_file_is_named(tmp_path: object) -> None:
    with pytest.raises(TopologyError, match="cannot be read: No such file"):
        topology.load(topology.Path(f"{tmp_path}/none.yaml"))


def test_default_topology_is_two_dual_stack_nodes() -> None:
    parsed = topology.parse(topology.DEFAULT)
    assert [node.name for node in parsed.spec.clusters[0].nodes] == ["node-1", "node-2"]
    assert len(parsed.spec.networks[0].cidrs) == 2


def test_schema_describes_every_part() -> None:
    definitions = json.loads(topology.schema())["$defs"]
    assert {"Topology", "Spec", "Network", "Cluster", "Node", "Host", "Route", "Image", "Manifest"} <= set(definitions)
    assert definitions["Node"]["additionalProperties"] is False


@given(text=st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        topology.parse(text)
    except TopologyError as e:
        refused = e.problems
    else:
        refused = [("", "")]
    assert refused


_KEYS = ["apiVersion", "kind", "metadata", "spec", "name", "networks", "clusters", "nodes", "hosts", "images", "cidrs"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(spec=_JSON)
def test_any_document_is_parsed_or_refused(spec: object) -> None:
    document = {"apiVersion": topology.API_VERSION, "kind": "Topology", "metadata": {"name": "t"}, "spec": spec}
    try:
        topology.parse(json.dumps(document))
    except TopologyError as e:
        refused = e.problems
    else:
        refused = [("", "")]
    assert refused
