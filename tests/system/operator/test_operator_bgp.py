"""The operator's half of BGP: kubectl, a real API server, a real operator; Nodes are objects only."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from apiservers.operator import Operator
from apiservers.process import Server
from labs.lab import eventually


class Rack:
    """Nodes of the test's own, found by a label of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"rack-{uuid.uuid4().hex[:8]}"
        self.nodes = [f"{self.name}-{number}" for number in (1, 2)]
        for node in self.nodes:
            self.apply("v1", "Node", node, None, labels={"rack": self.name})

    def apply(self, version: str, kind: str, name: str, spec: dict[str, Any] | None, **meta: Any) -> None:
        document = {"apiVersion": version, "kind": kind, "metadata": {"name": name, **meta}}
        if spec is not None:
            document["spec"] = spec
        self.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))

    def config(self, suffix: str, **peer: Any) -> str:
        name = f"{self.name}-{suffix}"
        found = {"name": "tor", "peerAddress": "10.0.0.1", "peerASN": 65000, "peerConfigRef": {"name": self.name}}
        instance = {"name": "main", "localASN": 65100, "peers": [found | peer]}
        spec = {"nodeSelector": {"matchLabels": {"rack": self.name}}, "bgpInstances": [instance]}
        self.apply("cilium.io/v2", "CiliumBGPClusterConfig", name, spec)
        return name

    def get(self, *names: str) -> Any:
        return json.loads(self.server.kubectl("get", *names, "-o", "json"))

    def node_config(self, node: str) -> Any:
        """None when there is none."""
        found = self.server.run("get", "cbgpnode", node, "-o", "json")
        return json.loads(found.stdout) if found.returncode == 0 else None

    def conditions(self, kind: str, name: str) -> dict[str, tuple[str, str]]:
        conditions = self.get(kind, name).get("status", {}).get("conditions", ())
        return {each["type"]: (each["status"], each["message"]) for each in conditions}

    def expect(self, kind: str, name: str, condition: str, status: str, says: str = "") -> None:
        def check() -> None:
            found = self.conditions(kind, name).get(condition)
            assert found is not None
            assert found[0] == status
            assert says in found[1]

        eventually(check)


@pytest.fixture
def rack(cluster: Server, operator: Operator) -> Iterator[Rack]:
    there = Rack(cluster)
    yield there
    for kind in ("cbgpcluster", "cbgppeer", "cbgpnodeoverride", "bgpp", "sbgppeer", "node"):
        names = [n for n in cluster.kubectl("get", kind, "-o", "name").split() if there.name in n]
        if names:
            cluster.kubectl("delete", *names, "--wait=false")


def test_a_cluster_configuration_becomes_one_of_each_node(rack: Rack) -> None:
    name = rack.config("c")
    for node in rack.nodes:
        config = eventually(lambda node=node: rack.node_config(node))
        (owner,) = config["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("CiliumBGPClusterConfig", name, True)
        (instance,) = config["spec"]["bgpInstances"]
        assert (instance["localASN"], instance["peers"][0]["peerAddress"]) == (65100, "10.0.0.1")
    rack.expect("cbgpcluster", name, "cilium.io/NoMatchingNode", "False")
    missing = f"Referenced CiliumBGPPeerConfig(s) are missing: [{rack.name}]"
    rack.expect("cbgpcluster", name, "cilium.io/MissingPeerConfigs", "True", missing)
    rack.apply("cilium.io/v2", "CiliumBGPPeerConfig", rack.name, {"ebgpMultihop": 2})
    rack.expect("cbgpcluster", name, "cilium.io/MissingPeerConfigs", "False")

    instance = {"name": "main", "routerID": "10.9.9.9"}
    rack.apply("cilium.io/v2", "CiliumBGPNodeConfigOverride", rack.nodes[0], {"bgpInstances": [instance]})
    eventually(lambda: rack.node_config(rack.nodes[0])["spec"]["bgpInstances"][0].get("routerID") == "10.9.9.9")
    assert "routerID" not in rack.node_config(rack.nodes[1])["spec"]["bgpInstances"][0]

    change = json.dumps([{"op": "replace", "path": "/spec/bgpInstances/0/localASN", "value": 1}])
    rack.server.kubectl("patch", "cbgpnode", rack.nodes[0], "--type=json", "-p", change)
    eventually(lambda: rack.node_config(rack.nodes[0])["spec"]["bgpInstances"][0]["localASN"] == 65100)
    uid = rack.node_config(rack.nodes[1])["metadata"]["uid"]
    rack.server.kubectl("delete", "cbgpnode", rack.nodes[1])
    eventually(lambda: (rack.node_config(rack.nodes[1]) or {}).get("metadata", {}).get("uid", uid) != uid)

    rack.server.kubectl("label", "node", rack.nodes[1], "rack=elsewhere", "--overwrite")
    eventually(lambda: rack.node_config(rack.nodes[1]) is None)
    rack.server.kubectl("delete", "cbgpcluster", name)
    eventually(lambda: rack.node_config(rack.nodes[0]) is None)


def test_two_configurations_for_one_node(rack: Rack) -> None:
    first = rack.config("a")
    eventually(lambda: rack.node_config(rack.nodes[0]))
    second = rack.config("b", peerAddress="10.0.0.2")
    says = f"Selecting the same node(s) with ClusterConfig(s): [{first}]"
    rack.expect("cbgpcluster", second, "cilium.io/ConflictingClusterConfig", "True", says)
    rack.expect("cbgpcluster", first, "cilium.io/ConflictingClusterConfig", "False")
    rack.server.kubectl("delete", "cbgpcluster", first)

    def taken_over() -> None:
        config = rack.node_config(rack.nodes[0])
        assert config is not None
        assert config["spec"]["bgpInstances"][0]["peers"][0]["peerAddress"] == "10.0.0.2"

    eventually(taken_over)
    rack.expect("cbgpcluster", second, "cilium.io/ConflictingClusterConfig", "False")


def test_wrong_fields_are_named_where_users_look(rack: Rack) -> None:
    rack.apply("cilium.io/v2", "CiliumBGPPeerConfig", rack.name, {})
    name = rack.config("c", autoDiscovery={"mode": "Unnumbered"}, peerAddress=None)
    wrong = "stentor.io/InvalidConfiguration"
    rack.expect("cbgpcluster", name, wrong, "True", "spec.bgpInstances[0].peers[0].autoDiscovery")
    rack.config("c")

    def gone() -> None:
        assert wrong not in rack.conditions("cbgpcluster", name)

    eventually(gone)
    rack.apply("cilium.io/v2", "CiliumBGPPeerConfig", rack.name, {"authSecretRef": rack.name})
    missing = f'Referenced Auth Secret "{rack.name}" is missing'
    rack.expect("cbgppeer", rack.name, "cilium.io/MissingAuthSecret", "True", missing)
    literal = "--from-literal=password=s3cret"
    rack.server.kubectl("create", "secret", "generic", rack.name, literal, namespace="kube-system")
    rack.expect("cbgppeer", rack.name, "cilium.io/MissingAuthSecret", "False")
    rack.apply("stentor.io/v1alpha1", "StentorBGPPeerOptions", rack.name, {"selector": {"peers": ["nobody"]}})
    rack.expect("sbgppeer", rack.name, "stentor.io/NoMatch", "True")
    marked = rack.get("namespace", "kube-system")["metadata"]["labels"]
    assert marked["stentor.io/bgp-secrets"] == "true"


def test_a_peering_policy_counts_and_is_told_what_is_wrong(rack: Rack) -> None:
    name = rack.config("c")
    router = {"localASN": 0, "neighbors": [{"peerAddress": "10.0.0.9/32", "peerASN": 1}]}
    spec = {"nodeSelector": {"matchLabels": {"rack": rack.name}}, "virtualRouters": [router]}
    rack.apply("cilium.io/v2alpha1", "CiliumBGPPeeringPolicy", rack.name, spec)
    says = f"CiliumBGPPeeringPolicy [{rack.name}] count(s) instead on node(s) [{' '.join(rack.nodes)}]"
    rack.expect("cbgpcluster", name, "stentor.io/SupersededByPeeringPolicy", "True", says)

    def told() -> None:
        text = rack.server.kubectl("describe", "bgpp", rack.name)
        assert "spec.virtualRouters[0].localASN: 0 is no AS number" in text

    eventually(told)
    rack.server.kubectl("delete", "bgpp", rack.name)

    def gone() -> None:
        assert "stentor.io/SupersededByPeeringPolicy" not in rack.conditions("cbgpcluster", name)

    eventually(gone)


def test_a_node_configuration_of_somebody_else_is_left_alone(rack: Rack) -> None:
    instance = {"name": "own", "localASN": 64999}
    rack.apply("cilium.io/v2", "CiliumBGPNodeConfig", rack.nodes[0], {"bgpInstances": [instance]})
    rack.config("c")
    eventually(lambda: rack.node_config(rack.nodes[1]))
    assert rack.node_config(rack.nodes[0])["spec"]["bgpInstances"][0]["name"] == "own"
    rack.server.kubectl("delete", "cbgpnode", rack.nodes[0])
    eventually(lambda: (rack.node_config(rack.nodes[0]) or {}).get("metadata", {}).get("ownerReferences"))
