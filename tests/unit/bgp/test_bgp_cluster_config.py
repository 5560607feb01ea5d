"""Cluster configurations on nodes, and what is said of objects that are wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.api import bgp, peering, stentor
from stentor.bgp.resource.cluster import assign, node_spec
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.verdict import Cluster, Judgement, judge
from stentor.tables.bgp import Configured

LABELS = {"n1": {"rack": "a"}, "n2": {"rack": "a"}, "n3": {"rack": "b"}}


def row(kind: Any, name: str, spec: Any, created: str = "1") -> Any:
    return Configured(name, msgspec.convert(spec, kind), created=created)


def peer(name: str = "tor", **fields: Any) -> dict[str, Any]:
    return {"name": name, "peerAddress": "10.0.0.1", "peerASN": 65000, "peerConfigRef": {"name": "pc"}} | fields


def config(name: str = "c", rack: str = "a", *peers: dict[str, Any], created: str = "1", **fields: Any) -> Any:
    instance = {"name": "main", "localASN": 65100, "peers": list(peers) or [peer()]} | fields
    spec = {"nodeSelector": {"matchLabels": {"rack": rack}}, "bgpInstances": [instance]}
    return row(bgp.CiliumBGPClusterConfigSpec, name, spec, created)


def peer_config(name: str = "pc", **spec: Any) -> Any:
    return row(bgp.CiliumBGPPeerConfigSpec, name, spec)


def policy(name: str = "old", created: str = "1", **router: Any) -> Any:
    neighbor = {"peerAddress": "10.0.0.9/32", "peerASN": 1}
    spec = {
        "nodeSelector": {"matchLabels": {"rack": "a"}},
        "virtualRouters": [{"localASN": 65100, "neighbors": [neighbor]} | router],
    }
    return row(peering.CiliumBGPPeeringPolicySpec, name, spec, created)


def options(name: str = "o", created: str = "1", **spec: Any) -> Any:
    return row(stentor.PeerOptionsSpec, name, spec, created)


def named(*rows: Any) -> dict[str, Any]:
    return {each.name: each for each in rows}


def judged(**parts: Any) -> Judgement:
    cluster = Cluster(**({"nodes": LABELS, "peer_configs": named(peer_config())} | parts))
    return judge(cluster, assign(cluster.configs, cluster.nodes, {}))


def conditions(judgement: Judgement, name: str) -> dict[str, tuple[bool | None, str]]:
    """(status, message) of an object by type, without the domain."""
    (found,) = [each for each in judgement.conditions if each.key.name == name]
    return {each.type.partition("/")[2]: (each.status, each.message) for each in found.verdicts}


FINE = {
    "NoMatchingNode": (False, "No node matches spec.nodeSelector"),
    "MissingPeerConfigs": (False, ""),
    "ConflictingClusterConfig": (False, ""),
}


# ---- assignment


def test_the_oldest_configuration_counts_unless_another_runs_already() -> None:
    configs = named(config("old", created="1"), config("new", created="2"), config("other", rack="b", created="3"))
    found = assign(configs, LABELS, {})
    assert found.runs == {"n1": "old", "n2": "old", "n3": "other"}
    assert found.selected == {"old": ("n1", "n2"), "new": ("n1", "n2"), "other": ("n3",)}
    assert found.conflicts == {"old": (), "new": ("old",), "other": ()}
    found = assign(configs, LABELS, {"n1": "new", "n3": "gone"})
    assert found.runs == {"n1": "new", "n2": "old", "n3": "other"}
    assert found.conflicts == {"old": ("new",), "new": ("old",), "other": ()}


def test_a_node_whose_configuration_is_somebody_elses_is_left_alone() -> None:
    assert assign(named(config()), LABELS, {"n1": ""}).runs == {"n2": "c"}


def test_overrides_change_what_they_name() -> None:
    instance = {
        "name": "main",
        "routerID": "10.0.0.7",
        "localPort": 1179,
        "localASN": 65200,
        "peers": [{"name": "tor", "localAddress": "10.0.0.2"}, {"name": "unknown", "localAddress": "10.0.0.3"}],
    }
    override = row(bgp.CiliumBGPNodeConfigOverrideSpec, "n1", {"bgpInstances": [instance, {"name": "unknown"}]})
    spec = config("c", "a", peer(), peer("second", peerAddress="10.0.0.5")).spec
    (plain,) = node_spec(spec, None).bgp_instances
    assert (plain.local_asn, plain.router_id, plain.local_port) == (65100, None, None)
    (found,) = node_spec(spec, override).bgp_instances
    assert (found.local_asn, found.router_id, found.local_port) == (65200, "10.0.0.7", 1179)
    assert [each.local_address for each in found.peers] == ["10.0.0.2", None]
    assert msgspec.structs.replace(found.peers[0], local_address=None) == plain.peers[0]


# ---- conditions


def test_a_sound_configuration_has_upstreams_conditions_alone() -> None:
    found = judged(configs=named(config()))
    assert conditions(found, "c") == FINE
    assert conditions(found, "pc") == {"MissingAuthSecret": (False, "")}


def test_what_upstream_reports() -> None:
    found = judged(
        configs=named(
            config("none", rack="z"),
            config(
                "refers",
                "b",
                *[peer(peerConfigRef={"name": n}, name=n, peerAddress=f"10.1.0.{i}") for i, n in enumerate("yx")],
            ),
            config("first", created="1"),
            config("second", created="2"),
        ),
        peer_configs=named(peer_config("pc", authSecretRef="key")),
    )
    assert conditions(found, "none")["NoMatchingNode"] == (True, "No node matches spec.nodeSelector")
    missing = "Referenced CiliumBGPPeerConfig(s) are missing: [x y]"
    assert conditions(found, "refers")["MissingPeerConfigs"] == (True, missing)
    conflict = "Selecting the same node(s) with ClusterConfig(s): [first]"
    assert conditions(found, "second")["ConflictingClusterConfig"] == (True, conflict)
    assert conditions(found, "pc") == {"MissingAuthSecret": (True, 'Referenced Auth Secret "key" is missing')}
    known = judged(
        configs=named(config()),
        peer_configs=named(peer_config("pc", authSecretRef="key")),
        passwords={"key": Password("key", problem="has no key 'password'")},
        secrets_namespace="kube-system",
    )
    assert conditions(known, "pc")["InvalidConfiguration"] == (
        True,
        "spec.authSecretRef: Secret kube-system/key has no key 'password'",
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (config("c", "a", peer(), peer("twin")), "spec.bgpInstances[0].peers[1].peerAddress: 10.0.0.1 appears twice"),
        (config("c", "a", peer(peerAddress=None)), "spec.bgpInstances[0].peers[0].peerAddress: is missing"),
        (config("c", "a", localASN=None), "spec.bgpInstances[0].localASN: is missing"),
        (config("c", "a", peer(peerAddress="fe80::1")), "main.tor.interface: is missing; a link-local peerAddress"),
        (
            config("c", "a", peer(peerAddress=None, autoDiscovery={"mode": "DefaultGateway"})),
            "spec.bgpInstances[0].peers[0].autoDiscovery",
        ),
    ],
)
def test_a_wrong_field_of_a_cluster_configuration_is_named(made: Any, says: str) -> None:
    status, message = conditions(judged(configs=named(made)), "c")["InvalidConfiguration"]
    assert status is True
    assert says in message


def test_an_override_of_the_wrong_family_is_named_on_the_cluster_configuration() -> None:
    instance = {"name": "main", "peers": [{"name": "tor", "localAddress": "fd00::1"}]}
    override = row(bgp.CiliumBGPNodeConfigOverrideSpec, "n1", {"bgpInstances": [instance]})
    _, message = conditions(judged(configs=named(config()), overrides=named(override)), "c")["InvalidConfiguration"]
    assert message == "main.tor.transport.localAddress: is not of the family of peerAddress"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"families": [{"afi": "l2vpn", "safi": "evpn"}, {"afi": "ipv4", "safi": "unicast"}]},
            "spec.families[0]: l2vpn/evpn is not spoken",
        ),
        ({"timers": {"holdTimeSeconds": 9, "keepAliveTimeSeconds": 10}}, "spec.timers.keepAliveTimeSeconds: exceeds"),
    ],
)
def test_a_wrong_field_of_a_peer_configuration_is_named(spec: dict[str, Any], says: str) -> None:
    found = judged(configs=named(config()), peer_configs=named(peer_config("pc", **spec)))
    assert conditions(found, "pc")["InvalidConfiguration"][1].startswith(says)
    assert conditions(found, "c") == FINE


def test_what_needs_a_machine_is_no_fault_of_the_resources() -> None:
    found = judged(
        configs=named(
            config(
                "c",
                "a",
                peer(
                    peerAddress=None,
                    autoDiscovery={"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv6"}},
                ),
            )
        ),
        peer_configs=named(peer_config("pc", transport={"sourceInterface": "lo"})),
    )
    assert conditions(found, "c") == FINE
    assert conditions(found, "pc") == {"MissingAuthSecret": (False, "")}


def test_a_policy_that_selects_the_same_nodes_supersedes() -> None:
    found = judged(configs=named(config(), config("b", rack="b")), policies=named(policy()))
    text = "CiliumBGPPeeringPolicy [old] count(s) instead on node(s) [n1 n2]"
    assert conditions(found, "c")["SupersededByPeeringPolicy"] == (True, text)
    assert "SupersededByPeeringPolicy" not in conditions(found, "b")


def test_what_is_wrong_with_a_policy_is_told() -> None:
    twice = [{"peerAddress": "10.0.0.9/32", "peerASN": 1}] * 2
    found = judged(policies=named(policy("old", neighbors=twice), policy("zero", created="2", localASN=0)))
    assert dict(found.told) == {
        ("CiliumBGPPeeringPolicy", "old"): ("spec.virtualRouters[0].neighbors[1].peerAddress: 10.0.0.9 appears twice",),
        ("CiliumBGPPeeringPolicy", "zero"): (
            "spec.virtualRouters[0].localASN: 0 is no AS number",
            "spec.nodeSelector: selects nodes that old, which is older, selects too",
        ),
    }


def test_a_policy_that_selects_no_node_is_judged_too() -> None:
    spec = {
        "nodeSelector": {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["z"]}]},
        "virtualRouters": [{"localASN": 65100, "neighbors": [{"peerAddress": "10.0.0.0/24", "peerASN": 1}]}],
    }
    found = judged(policies=named(row(peering.CiliumBGPPeeringPolicySpec, "p", spec)))
    ((_, texts),) = found.told
    assert texts[0].startswith("spec.virtualRouters[0].neighbors[0].peerAddress: '10.0.0.0/24' is not the address")


# ---- options


def test_options_that_select_something_are_fine() -> None:
    found = judged(configs=named(config()), peer_options=named(options(selector={"peerConfigs": ["pc"]}, bfd={})))
    assert conditions(found, "o") == {
        "NoMatch": (False, ""),
        "Conflict": (False, ""),
        "InvalidConfiguration": (False, ""),
    }


def test_options_that_select_nothing() -> None:
    wrong = {"peerAddresses": ["10.0.0.0/33"]}
    found = judged(
        configs=named(config()),
        peer_options=named(options("o", selector={"peers": ["other"]}), options("w", selector=wrong)),
    )
    assert conditions(found, "o")["NoMatch"] == (True, "spec.selector: selects nothing")
    assert conditions(found, "w")["InvalidConfiguration"][1].startswith("spec.selector.peerAddresses[0]: '10.0.0.0/33'")


def test_options_of_a_policys_peer_by_its_address() -> None:
    found = judged(policies=named(policy()), peer_options=named(options(selector={"peerAddresses": ["10.0.0.0/24"]})))
    assert conditions(found, "o")["NoMatch"] == (False, "")


def test_of_two_options_for_one_field_the_younger_is_in_conflict() -> None:
    found = judged(
        configs=named(config()),
        peer_options=named(
            options("old", "1", bfd={"detectMultiplier": 5}, families=[{"afi": "ipv4", "nextHop": "self"}]),
            options("new", "2", bfd={}, passive=False, families=[{"afi": "ipv4", "nextHop": "self"}]),
        ),
    )
    assert conditions(found, "old")["Conflict"] == (False, "")
    assert conditions(found, "new")["Conflict"] == (True, "spec.bfd: old, which is older, sets it for peer tor")


@pytest.mark.parametrize(
    ("spec", "parameters", "says"),
    [
        ({"ttlSecurity": {}}, {"ebgpMultihop": 4}, "ttlSecurity: and ebgpMultihop exclude each other"),
        ({"tcpAO": {"keyID": 1, "secretRef": "none"}}, {}, "spec.tcpAO.secretRef: Secret /none does not exist"),
        ({"listenRange": {"prefix": "10.0.0.0/24"}}, {}, "a range of peers needs localPort"),
        (
            {"families": [{"afi": "ipv4", "import": {"statements": [{"match": {"prefixes": ["10.0.0.0/40"]}}]}}]},
            {},
            "prefixes",
        ),
    ],
)
def test_options_that_do_not_fit_their_peers(spec: dict[str, Any], parameters: dict[str, Any], says: str) -> None:
    found = judged(
        configs=named(config()),
        peer_configs=named(peer_config("pc", **parameters)),
        peer_options=named(options(**spec)),
    )
    assert says in conditions(found, "o")["InvalidConfiguration"][1]
    assert conditions(found, "c") == FINE
