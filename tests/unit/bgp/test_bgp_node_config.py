"""CiliumBGPNodeConfig with what it refers to as a plan: discovery, advertisements, parameters, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.api.bgp import CiliumBGPAdvertisementSpec, CiliumBGPNodeSpec, CiliumBGPPeerConfigSpec
from stentor.api.stentor import InstanceOptionsSpec, PeerOptionsSpec
from stentor.bgp.config import Bfd, Kernel, Peer, TTLSecurity
from stentor.bgp.resource import nodeconfig
from stentor.bgp.resource.node import BGPNode, Gateway, Machine
from stentor.bgp.resource.nodeconfig import Resources
from stentor.bgp.resource.options import with_options
from stentor.bgp.resource.plan import AddressKind, Attributes, Grant, Origin, PeerPlan, Plan
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.session import Facts
from stentor.bgp.resource.speaker import checked, speaker_config
from stentor.net.address import Addr
from stentor.tables.bgp import Configured

GATEWAYS = (
    Gateway(4, Addr.parse("10.0.0.254"), "eth1", 200),
    Gateway(4, Addr.parse("10.0.0.1"), "eth0", 100),
    Gateway(6, Addr.parse("fe80::1"), "eth0", 1024),
)
MACHINE = Machine(
    gateways=GATEWAYS,
    addresses=(("eth0", (Addr.parse("10.0.0.11"), Addr.parse("fd00::11"))), ("lo", (Addr.parse("192.0.2.1"),))),
)


def facts(machine: Machine = MACHINE, **passwords: str) -> Facts:
    known = {name: Password(name, text) for name, text in passwords.items()}
    return Facts(node=BGPNode(name="node-1"), machine=machine, router_id="10.0.0.11", password=known.get)


def made(
    peers: list[dict[str, Any]],
    configs: dict[str, dict[str, Any]] | None = None,
    advertisements: dict[str, tuple[dict[str, str], list[dict[str, Any]]]] | None = None,
    known: Facts | None = None,
    **instance: Any,
) -> Plan:
    spec = {"bgpInstances": [{"name": "main", "localASN": 65001, "peers": peers, **instance}]}
    resources = Resources(
        {
            name: Configured(name, msgspec.convert(each, CiliumBGPPeerConfigSpec))
            for name, each in (configs or {}).items()
        },
        [
            Configured(name, msgspec.convert({"advertisements": found}, CiliumBGPAdvertisementSpec), labels)
            for name, (labels, found) in (advertisements or {}).items()
        ],
    )
    config = Configured("node-1", msgspec.convert(spec, CiliumBGPNodeSpec))
    return checked(nodeconfig.plan(config, resources, known or facts()))


def peer(plan: Plan) -> PeerPlan:
    assert plan.problems == ()
    return plan.instances[0].peers[0]


def texts(plan: Plan) -> list[str]:
    return [str(problem) for problem in plan.problems]


PEER = {"name": "tor", "peerAddress": "10.0.0.1", "peerASN": 65002}


def test_a_peer_without_parameters_gets_defaults_and_is_told_nothing() -> None:
    found = peer(made([PEER]))
    assert (found.config.peer_address, found.config.peer_asn, found.config.transport.peer_port) == (
        "10.0.0.1",
        65002,
        179,
    )
    assert [each.afi for each in found.config.families] == ["ipv4", "ipv6"]
    assert found.granted("ipv4") == ()


def test_the_router_id_of_the_node_or_its_own() -> None:
    assert made([PEER]).instances[0].router_id == "10.0.0.11"
    found = made([PEER], routerID="9.9.9.9", localPort=1790).instances[0]
    assert (found.router_id, found.local_port) == ("9.9.9.9", 1790)


@pytest.mark.parametrize(
    ("discovery", "place"),
    [
        ({"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv4"}}, ("10.0.0.1", None)),
        ({"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv6"}}, ("fe80::1", "eth0")),
        ({"mode": "Unnumbered", "unnumbered": {"interface": "eth3"}}, (None, "eth3")),
        ({"mode": "Unnumbered", "defaultGateway": {"addressFamily": "ipv4"}}, (None, "eth0")),
    ],
)
def test_discovery(discovery: dict[str, Any], place: tuple[str | None, str | None]) -> None:
    config = peer(made([{"name": "tor", "autoDiscovery": discovery}])).config
    assert (config.peer_address, config.interface) == place


def test_a_gateway_that_is_not_there_yet_is_waited_for() -> None:
    discovery = {"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv4"}}
    plan = made([{"name": "tor", "autoDiscovery": discovery}, PEER | {"name": "other"}], known=facts(Machine()))
    (problem,) = plan.problems
    assert problem.is_waiting
    assert [each.config.name for each in plan.instances[0].peers] == ["other"]


def test_link_local_peers() -> None:
    config = peer(made([{"name": "tor", "peerAddress": "fe80::1", "peerInterface": "eth1"}])).config
    assert (config.peer_address, config.interface) == ("fe80::1", "eth1")
    config = peer(made([{"name": "tor", "peerAddress": "fe80::1%eth2"}])).config
    assert (config.peer_address, config.interface) == ("fe80::1", "eth2")


def test_the_source_address_by_override_and_by_interface() -> None:
    by_interface = {"c": {"transport": {"sourceInterface": "lo"}}}
    ref = {"peerConfigRef": {"name": "c"}}
    assert peer(made([PEER | ref], by_interface)).config.transport.local_address == "192.0.2.1"
    override = PEER | ref | {"localAddress": "10.0.0.11"}
    assert peer(made([override], by_interface)).config.transport.local_address == "10.0.0.11"


ADVERTISEMENTS = {
    "pods": ({"advertise": "all"}, [{"advertisementType": "PodCIDR"}]),
    "web": (
        {"advertise": "all", "tier": "web"},
        [
            {
                "advertisementType": "Service",
                "service": {"addresses": ["LoadBalancerIP", "ExternalIP"], "aggregationLengthIPv4": 24},
                "selector": {"matchLabels": {"app": "web"}},
                "attributes": {"communities": {"standard": ["65001:7"]}, "localPreference": 150},
            },
            {"advertisementType": "Interface", "interface": {"name": "lo"}},
        ],
    ),
}
FAMILIES = {
    "families": [
        {"afi": "ipv4", "safi": "unicast", "advertisements": {"matchLabels": {"advertise": "all"}}},
        {"afi": "ipv6", "safi": "unicast", "advertisements": {"matchLabels": {"tier": "web"}}},
    ]
}


def test_advertisements_by_family() -> None:
    plan = made([PEER | {"peerConfigRef": {"name": "c"}}], {"c": FAMILIES}, ADVERTISEMENTS)
    found = peer(plan)
    attributes = Attributes(("65001:7",), local_preference=150)
    assert found.granted("ipv4") == (Grant("pods[0]"), Grant("web[0]", attributes), Grant("web[1]"))
    assert found.granted("ipv6") == (Grant("web[0]", attributes), Grant("web[1]"))
    entries = {entry.name: entry for entry in plan.instances[0].entries}
    assert {name: entry.origin for name, entry in entries.items()} == {
        "pods[0]": Origin.POD_CIDR,
        "web[0]": Origin.SERVICE,
        "web[1]": Origin.INTERFACE,
    }
    assert entries["web[0]"].addresses == {AddressKind.LOAD_BALANCER, AddressKind.EXTERNAL}
    assert (entries["web[0]"].length(4, 32), entries["web[0]"].length(6, 128)) == (24, 128)


def test_pod_pools_are_waited_for() -> None:
    plan = made([PEER], advertisements={"p": ({}, [{"advertisementType": "CiliumPodIPPool"}])})
    assert [(str(problem), problem.is_waiting) for problem in plan.problems] == [
        (
            "CiliumBGPAdvertisement p: spec.advertisements[0].advertisementType: "
            "CiliumPodIPPool waits for multi-pool IPAM",
            True,
        )
    ]


@pytest.mark.parametrize(
    ("fields", "config", "problem"),
    [
        (
            {"peerConfigRef": {"name": "gone"}},
            {},
            "CiliumBGPNodeConfig node-1: spec.bgpInstances[0].peers[0].peerConfigRef.name: "
            "CiliumBGPPeerConfig gone does not exist",
        ),
        (
            {},
            {"authSecretRef": "gone"},
            "CiliumBGPPeerConfig c: spec.authSecretRef: Secret kube-system/gone does not exist",
        ),
        (
            {},
            {"transport": {"sourceInterface": "eth7"}},
            "CiliumBGPPeerConfig c: spec.transport.sourceInterface: eth7 has 0 IPv4 addresses, not one",
        ),
        (
            {"localAddress": "fd00::11"},
            {},
            "node-1: main.tor.transport.localAddress: is not of the family of peerAddress",
        ),
        ({"peerAddress": "fe80::1"}, {}, "node-1: main.tor.interface: is missing; a link-local peerAddress needs it"),
        (
            {"peerAddress": "10.0.0.300"},
            {"transport": {"sourceInterface": "eth0"}},
            "CiliumBGPNodeConfig node-1: spec.bgpInstances[0].peers[0].peerAddress: "
            "'10.0.0.300' does not appear to be an IPv4 or IPv6 address",
        ),
        (
            {"name": "twin", "peerAddress": "10.0.0.9"},
            {},
            "CiliumBGPNodeConfig node-1: spec.bgpInstances[0].peers[1].peerAddress: 10.0.0.9 appears twice",
        ),
    ],
)
def test_a_wrong_field_is_named_and_leaves_the_other_sessions_alone(
    fields: dict[str, Any], config: dict[str, Any], problem: str
) -> None:
    bad = PEER | {"peerConfigRef": {"name": "c"}} | fields
    plan = made([bad, {"name": "good", "peerAddress": "10.0.0.9"}], {"c": config})
    assert texts(plan) == [problem]
    assert len(plan.instances[0].peers) == 1


def test_an_address_is_the_same_however_it_is_spelled() -> None:
    plan = made([PEER | {"peerAddress": "fd00:10:0:0::1"}, {"name": "twin", "peerAddress": "FD00:10::1"}])
    assert [peer.config.peer_address for peer in plan.instances[0].peers] == ["fd00:10::1"]
    assert texts(plan) == [
        "CiliumBGPNodeConfig node-1: spec.bgpInstances[0].peers[1].peerAddress: fd00:10::1 appears twice"
    ]


def test_an_instance_without_as() -> None:
    plan = made([PEER], localASN=None)
    assert texts(plan) == ["CiliumBGPNodeConfig node-1: spec.bgpInstances[0].localASN: is missing"]


def options(spec: dict[str, Any], name: str = "o", created: str = "2026") -> Configured[PeerOptionsSpec]:
    return Configured(name, msgspec.convert(spec, PeerOptionsSpec), created=created)


def test_options_for_selected_peers() -> None:
    plan = made([PEER | {"peerConfigRef": {"name": "c"}}, {"name": "other", "peerAddress": "10.0.0.9"}], {"c": {}})
    wanted = [
        options(
            {
                "selector": {"peerConfigs": ["c"], "peerAddresses": ["10.0.0.0/30"]},
                "bfd": {"transmitIntervalMilliseconds": 50},
                "ttlSecurity": {"hops": 2},
                "families": [
                    {
                        "afi": "ipv4",
                        "import": {"statements": [{"match": {"prefixes": ["0.0.0.0/0"]}}]},
                        "addPath": {"receive": True},
                    }
                ],
            }
        )
    ]
    found = checked(with_options(plan, wanted, (), facts()))
    assert found.problems == ()
    tor, other = (each.config for each in found.instances[0].peers)
    assert (tor.bfd, tor.ttl_security) == (Bfd(transmit_interval_milliseconds=50), TTLSecurity(2))
    assert tor.families[0].add_path.receive
    assert (other.bfd, other.ttl_security) == (None, None)
    policies = {policy.name: policy for policy in speaker_config(found).policies}
    assert policies["main/tor/ipv4/import"].statements[0].match.prefixes == ("0.0.0.0/0",)


def test_of_options_that_set_the_same_the_oldest_counts() -> None:
    wanted = [options({"allowOwnAS": 2}, "new", "2027"), options({"allowOwnAS": 1}, "old", "2025")]
    found = with_options(made([PEER]), wanted, (), facts())
    assert found.instances[0].peers[0].config.allow_own_as == 1


def test_a_listen_range_makes_peers_of_who_connects() -> None:
    found = with_options(
        made([PEER], localPort=179), [options({"listenRange": {"prefix": "10.0.0.0/24"}})], (), facts()
    )
    config: Peer = checked(found).instances[0].peers[0].config
    assert (config.peer_address, config.max_dynamic_peers) == ("10.0.0.0/24", 100)


def test_options_of_instances() -> None:
    spec = {"selector": {"localASNs": [65001]}, "kernel": {"maximumPaths": 4}, "listenAddresses": ["10.0.0.11"]}
    wanted = [Configured("o", msgspec.convert(spec, InstanceOptionsSpec))]
    found = with_options(made([PEER]), (), wanted, facts()).instances[0]
    assert (found.kernel, found.listen_addresses) == (Kernel(maximum_paths=4), ("10.0.0.11",))


def test_a_tcp_ao_key_that_is_missing_keeps_the_session_down() -> None:
    found = with_options(made([PEER]), [options({"tcpAO": {"keyID": 1, "secretRef": "k"}})], (), facts())
    assert found.instances[0].peers == ()
    assert texts(found) == ["StentorBGPPeerOptions o: spec.tcpAO.secretRef: Secret kube-system/k does not exist"]
