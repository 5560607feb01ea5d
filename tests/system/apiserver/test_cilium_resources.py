"""Resources for BGP and addresses of services against a real server, with kubectl: both versions, columns, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiservers.process import Server, make_server
from labs.lab import eventually

STENTOR = Path(sys.executable).parent / "stentor"

POLICY = (Path(__file__).parents[3] / "examples/bgp-kubernetes/peering-policy.yaml").read_text()

OLD_CLUSTER_CONFIG = """
apiVersion: cilium.io/v2alpha1
kind: CiliumBGPClusterConfig
metadata:
  name: rack0
spec:
  nodeSelector:
    matchLabels:
      rack: rack0
  bgpInstances:
  - name: instance-65000
    localASN: 65000
    peers:
    - name: tor
      peerASN: 64512
      peerAddress: fd00:10::1
      peerConfigRef: {group: cilium.io, kind: CiliumBGPPeerConfig, name: cilium-peer}
"""

POOL = """
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata:
  name: blue
spec:
  blocks:
  - cidr: 10.0.10.0/24
  - start: 20.0.20.100
    stop: 20.0.20.200
  serviceSelector:
    matchExpressions:
    - {key: color, operator: In, values: [blue, cyan]}
"""

OPTIONS = """
apiVersion: stentor.io/v1alpha1
kind: StentorBGPPeerOptions
metadata:
  name: fast
spec:
  selector: {peerConfigs: [cilium-peer]}
  bfd: {transmitIntervalMilliseconds: 100, detectMultiplier: 5}
  families:
  - afi: ipv4
    import: {statements: [{match: {prefixes: ["10.0.0.0/8 le 24"]}}]}
    prefixLimit: {maximum: 1000}
"""


@pytest.fixture(scope="module")
def defined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own with every definition of ours."""
    server = make_server(tmp_path_factory.mktemp("cilium-resources"))
    crds = subprocess.run([STENTOR, "crd"], capture_output=True, text=True, check=True, timeout=60).stdout
    server.kubectl("apply", "--server-side", "-f", "-", stdin=crds)
    eventually(lambda: "cbgpcluster" in server.kubectl("api-resources", "--api-group=cilium.io"))
    yield server
    assert server.stop() == 0


def shown(server: Server, *names: str) -> Any:
    return json.loads(server.kubectl("get", *names, "-o", "json"))


def test_the_peering_policy_of_old_applies_as_it_is(defined: Server) -> None:
    assert "created" in defined.kubectl("apply", "-f", "-", stdin=POLICY)
    spec = shown(defined, "bgpp", "test")["spec"]
    (router,) = spec["virtualRouters"]
    assert router["serviceAdvertisements"] == ["LoadBalancerIP"]
    (neighbor,) = router["neighbors"]
    assert (neighbor["peerPort"], neighbor["eBGPMultihopTTL"], neighbor["holdTimeSeconds"]) == (179, 1, 90)
    defined.kubectl("delete", "bgpp", "test")


def test_one_object_answers_in_both_versions(defined: Server) -> None:
    defined.kubectl("apply", "-f", "-", stdin=OLD_CLUSTER_CONFIG)
    new = shown(defined, "ciliumbgpclusterconfigs.v2.cilium.io", "rack0")
    old = shown(defined, "ciliumbgpclusterconfigs.v2alpha1.cilium.io", "rack0")
    assert (new["apiVersion"], old["apiVersion"]) == ("cilium.io/v2", "cilium.io/v2alpha1")
    reference = new["spec"]["bgpInstances"][0]["peers"][0]["peerConfigRef"]
    assert reference == {"name": "cilium-peer"}
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    defined.kubectl("delete", "cbgpcluster", "rack0")


def test_a_pool_has_upstreams_columns(defined: Server) -> None:
    defined.kubectl("apply", "-f", "-", stdin=POOL)
    conditions = [
        {
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, status, reason, message in (
            ("cilium.io/PoolConflict", "False", "resolved", ""),
            ("cilium.io/IPsAvailable", "Unknown", "noreason", "357"),
        )
    ]  # fmt: skip
    patch = json.dumps({"status": {"conditions": conditions}})
    defined.kubectl("patch", "ippool", "blue", "--subresource=status", "--type=merge", "-p", patch)
    head, row = defined.kubectl("get", "ippools").splitlines()
    assert head.split() == ["NAME", "DISABLED", "CONFLICTING", "IPS", "AVAILABLE", "AGE"]
    assert row.split()[:4] == ["blue", "false", "False", "357"]
    defined.kubectl("delete", "ippool", "blue")


def test_options_get_their_defaults(defined: Server) -> None:
    defined.kubectl("apply", "-f", "-", stdin=OPTIONS)
    spec = shown(defined, "sbgppeer", "fast")["spec"]
    assert spec["bfd"] == {
        "transmitIntervalMilliseconds": 100,
        "receiveIntervalMilliseconds": 300,
        "detectMultiplier": 5,
        "graceful": False,
    }
    assert spec["families"][0]["import"]["default"] == "reject"
    defined.kubectl("delete", "sbgppeer", "fast")


@pytest.mark.parametrize(
    ("manifest", "change", "says"),
    [
        (POLICY, ("172.22.0.5/32", "172.22.0.5"), "spec.virtualRouters[0].neighbors[0].peerAddress"),
        (POLICY, ("peerASN: 6500", "peerASN: -1"), "spec.virtualRouters[0].neighbors[0].peerASN"),
        (OLD_CLUSTER_CONFIG, ("localASN: 65000", "localASN: 0"), "spec.bgpInstances[0].localASN"),
        (OLD_CLUSTER_CONFIG, ("fd00:10::1", "tor.example"), "spec.bgpInstances[0].peers[0].peerAddress"),
        (POOL, ("10.0.10.0/24", "10.0.10.0"), "spec.blocks[0].cidr"),
        (POOL, ("operator: In", "operator: Like"), "spec.serviceSelector.matchExpressions[0].operator"),
        (OPTIONS, ("detectMultiplier: 5", "detectMultiplier: 0"), "spec.bfd.detectMultiplier"),
        (OPTIONS, ("bfd:", "bdf:"), 'unknown field "spec.bdf"'),
    ],
)
def test_a_wrong_field_is_named(defined: Server, manifest: str, change: tuple[str, str], says: str) -> None:
    refused = defined.run("apply", "-f", "-", stdin=manifest.replace(*change))
    assert refused.returncode == 1
    assert says in refused.stderr
