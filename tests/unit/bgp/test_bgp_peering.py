"""CiliumBGPPeeringPolicy as a plan: what each field does, and what of it cannot be used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from stentor.api.peering import CiliumBGPPeeringPolicySpec
from stentor.bgp.config import GracefulRestart, Timers
from stentor.bgp.resource import peering
from stentor.bgp.resource.node import BGPNode, Machine
from stentor.bgp.resource.plan import Attributes, Grant, InstancePlan, Plan
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.session import Facts
from stentor.bgp.resource.speaker import checked
from stentor.tables.bgp import Configured, PeeringPolicy

LINUX = {"kubernetes.io/os": "linux"}
NEIGHBOR = {"peerAddress": "172.22.0.5/32", "peerASN": 6500}


def policy(spec: dict[str, Any], name: str = "test", created: str = "2026-01-01T00:00:00Z") -> PeeringPolicy:
    return Configured(name, msgspec.convert(spec, CiliumBGPPeeringPolicySpec), created=created)


def router(*neighbors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"virtualRouters": [{"localASN": 65100, "neighbors": list(neighbors) or [NEIGHBOR], **fields}]}


def facts(labels: dict[str, str] = LINUX, annotations: dict[str, str] | None = None, **passwords: str) -> Facts:
    node = BGPNode(name="node-1", labels=tuple(labels.items()), annotations=tuple((annotations or {}).items()))
    known = {name.replace("_", "-"): Password(name, text) for name, text in passwords.items()}
    return Facts(node=node, machine=Machine(), router_id="172.22.0.11", password=known.get)


def made(*policies: PeeringPolicy, **more: Any) -> Plan:
    plan = peering.plan(policies, facts(**more))
    assert plan is not None
    return checked(plan)


def instance(spec: dict[str, Any], **more: Any) -> InstancePlan:
    plan = made(policy(spec), **more)
    assert plan.problems == ()
    (found,) = plan.instances
    return found


def texts(plan: Plan) -> list[str]:
    return [str(problem) for problem in plan.problems]


def test_the_policy_that_everybody_starts_with() -> None:
    found = instance(
        yaml.safe_load("""
nodeSelector: {matchLabels: {kubernetes.io/os: linux}}
virtualRouters:
- exportPodCIDR: true
  localASN: 65100
  neighbors: [{peerASN: 6500, peerAddress: 172.22.0.5/32}]
  serviceSelector: {matchLabels: {app: nginx}}
""")
    )
    (peer,) = found.peers
    assert (found.name, found.local_asn, found.router_id, found.local_port) == ("65100", 65100, "172.22.0.11", None)
    assert (peer.config.name, peer.config.peer_address, peer.config.peer_asn) == ("172.22.0.5", "172.22.0.5", 6500)
    assert [family.afi for family in peer.config.families] == ["ipv4", "ipv6"]
    assert {family.import_policy for family in peer.config.families} == {"reject"}
    assert peer.granted("ipv4") == (Grant("PodCIDR"), Grant("Service"))
    assert peer.granted("ipv6") == peer.granted("ipv4")


def test_every_field_of_a_session() -> None:
    neighbor = {
        "peerAddress": "fd00::5/128",
        "peerPort": 1790,
        "peerASN": 0,
        "authSecretRef": "key",
        "eBGPMultihopTTL": 4,
        "connectRetryTimeSeconds": 7,
        "holdTimeSeconds": 9,
        "keepAliveTimeSeconds": 3,
        "gracefulRestart": {"enabled": True, "restartTimeSeconds": 60},
        "families": [{"afi": "ipv6", "safi": "unicast"}],
    }
    (peer,) = instance(router(neighbor), key="s3cret").peers
    config = peer.config
    assert (config.transport.peer_port, config.peer_asn, config.password, config.ebgp_multihop) == (
        1790,
        0,
        "s3cret",
        4,
    )
    assert config.timers == Timers(7, 9, 3)
    assert config.graceful_restart == GracefulRestart(True, 60)
    assert [family.afi for family in config.families] == ["ipv6"]


def test_upstreams_retry_of_two_minutes_is_the_speakers_own_of_seconds() -> None:
    (peer,) = instance(router(NEIGHBOR)).peers
    assert peer.config.timers == Timers(hold_time_seconds=90, keep_alive_time_seconds=30)


def test_nothing_is_advertised_unless_asked_for() -> None:
    (peer,) = instance(router()).peers
    assert peer.granted("ipv4") == ()


def test_annotations_of_the_node() -> None:
    name = "cilium.io/bgp-virtual-router.65100"
    found = instance(router(), annotations={name: "router-id=10.9.8.7, local-port=1179"})
    assert (found.router_id, found.local_port) == ("10.9.8.7", 1179)
    plan = made(policy(router()), annotations={name: "router-id=10.9.8.7,local-prot=1179"})
    assert texts(plan) == [
        f"Node node-1: metadata.annotations[{name}]: 'local-prot=1179' is neither router-id=… nor local-port=…"
    ]


def test_attributes_by_pod_cidr_and_by_pool() -> None:
    attributes = [
        {
            "selectorType": "PodCIDR",
            "selector": {"matchLabels": LINUX},
            "communities": {"standard": ["65100:1"], "wellKnown": ["no-export"], "large": ["65100:1:2"]},
        },
        {"selectorType": "PodCIDR", "selector": {"matchLabels": {"other": "node"}}, "localPreference": 5},
        {
            "selectorType": "CiliumLoadBalancerIPPool",
            "selector": {"matchLabels": {"tier": "gold"}},
            "localPreference": 200,
        },
    ]
    found = instance(
        router(NEIGHBOR | {"advertisedPathAttributes": attributes}, exportPodCIDR=True, serviceSelector={})
    )
    (peer,) = found.peers
    pool = "Service@spec.virtualRouters[0].neighbors[0].advertisedPathAttributes[2]"
    assert peer.granted("ipv4") == (
        Grant("PodCIDR"),
        Grant("Service"),
        Grant("PodCIDR", Attributes(("65100:1",), ("no-export",), ("65100:1:2",))),
        Grant(pool, Attributes(local_preference=200)),
    )
    (entry,) = [entry for entry in found.entries if entry.name == pool]
    assert entry.pools is not None
    assert entry.pools.match_labels == {"tier": "gold"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"peerAddress": "172.22.0.0/24"},
            "peerAddress: '172.22.0.0/24' is not the address of one host, as 10.0.0.1/32",
        ),
        ({"peerAddress": "nonsense"}, "peerAddress: 'nonsense' is not the address of one host, as 10.0.0.1/32"),
        ({"authSecretRef": "gone"}, "authSecretRef: Secret kube-system/gone does not exist"),
        (
            {"families": [{"afi": "l2vpn", "safi": "evpn"}, {"afi": "ipv4", "safi": "unicast"}]},
            "families[0]: l2vpn/evpn is not spoken: only ipv4 and ipv6 unicast",
        ),
    ],
)
def test_a_wrong_field_is_named_and_leaves_the_other_sessions_alone(fields: dict[str, Any], problem: str) -> None:
    plan = made(policy(router(NEIGHBOR | fields, {"peerAddress": "172.22.0.6/32", "peerASN": 6600})))
    assert texts(plan) == [f"CiliumBGPPeeringPolicy test: spec.virtualRouters[0].neighbors[0].{problem}"]
    assert "172.22.0.6" in [peer.config.name for peer in plan.instances[0].peers]


def test_duplicate_peers_and_routers_and_no_as() -> None:
    spec = router(NEIGHBOR, NEIGHBOR)
    spec["virtualRouters"] += [{"localASN": 65100, "neighbors": [NEIGHBOR]}, {"localASN": 0, "neighbors": [NEIGHBOR]}]
    plan = made(policy(spec))
    assert texts(plan) == [
        "CiliumBGPPeeringPolicy test: spec.virtualRouters[0].neighbors[1].peerAddress: 172.22.0.5 appears twice",
        "CiliumBGPPeeringPolicy test: spec.virtualRouters[1].localASN: 65100 appears twice",
        "CiliumBGPPeeringPolicy test: spec.virtualRouters[2].localASN: 0 is no AS number",
    ]
    assert [len(each.peers) for each in plan.instances] == [1]


def test_of_overlapping_policies_the_oldest_counts() -> None:
    older = policy(router(exportPodCIDR=True), "older", "2025-01-01T00:00:00Z")
    plan = made(policy(router()), older)
    assert plan.source == "older"
    assert texts(plan) == [
        "CiliumBGPPeeringPolicy test: spec.nodeSelector: selects this node as CiliumBGPPeeringPolicy older does, "
        "which is older: this one is not used"
    ]


def test_a_policy_for_other_nodes_is_none() -> None:
    spec = router() | {"nodeSelector": {"matchLabels": {"rack": "b"}}}
    assert peering.plan([policy(spec)], facts()) is None


def test_pod_pools_are_waited_for() -> None:
    plan = made(policy(router(podIPPoolSelector={})))
    assert [(problem.field, problem.is_waiting) for problem in plan.problems] == [
        ("spec.virtualRouters[0].podIPPoolSelector", True)
    ]
