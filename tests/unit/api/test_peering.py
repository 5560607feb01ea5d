"""Manifests of the old BGP kind decode into its type, the issue's verbatim."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from stentor.api.bgp import CiliumBGPGracefulRestart
from stentor.api.meta import LabelSelector
from stentor.api.peering import PEERING_POLICIES, CiliumBGPNeighbor
from stentor.kube import raw

MANIFEST = (Path(__file__).parents[3] / "examples/bgp-kubernetes/peering-policy.yaml").read_text()


def test_a_policy_decodes_with_upstreams_defaults() -> None:
    policy = raw.decode(PEERING_POLICIES, json.dumps(yaml.safe_load(MANIFEST)).encode())
    assert policy.spec is not None
    (router,) = policy.spec.virtual_routers
    assert router.neighbors == (CiliumBGPNeighbor(peer_address="172.22.0.5/32", peer_asn=6500),)
    assert (router.local_asn, router.export_pod_cidr) == (65100, True)
    assert router.service_selector == LabelSelector(match_labels={"app": "nginx"})
    assert router.service_advertisements == ("LoadBalancerIP",)


def test_names_with_capitals_in_odd_places() -> None:
    neighbor = {
        "peerAddress": "10.0.0.1/32", "peerASN": 0, "eBGPMultihopTTL": 4,
        "gracefulRestart": {"enabled": True},
        "advertisedPathAttributes": [{"selectorType": "PodCIDR", "communities": {"wellKnown": ["no-export"]}}],
    }  # fmt: skip
    document = {
        "metadata": {"name": "p"},
        "spec": {"virtualRouters": [{"localASN": 1, "podIPPoolSelector": {}, "neighbors": [neighbor]}]},
    }
    spec = raw.decode(PEERING_POLICIES, json.dumps(document).encode()).spec
    assert spec is not None
    (router,) = spec.virtual_routers
    assert router.pod_ip_pool_selector == LabelSelector()
    assert router.neighbors[0].ebgp_multihop_ttl == 4
    assert router.neighbors[0].graceful_restart == CiliumBGPGracefulRestart(enabled=True, restart_time_seconds=120)
    communities = router.neighbors[0].advertised_path_attributes[0].communities
    assert communities is not None
    assert communities.well_known == ("no-export",)
