"""`stentor bgp convert`: the old kind and what becomes of it give every node the same speaker."""

from __future__ import annotations

import string
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.api.bgp import BGPCommunities, CiliumBGPGracefulRestart
from stentor.api.core import Node
from stentor.api.meta import LabelRequirement, LabelSelector, ObjectKey, ObjectMeta
from stentor.api.peering import (
    NODE_ANNOTATION,
    CiliumBGPFamily,
    CiliumBGPNeighbor,
    CiliumBGPPathAttributes,
    CiliumBGPPeeringPolicy,
    CiliumBGPPeeringPolicySpec,
    CiliumBGPVirtualRouter,
)
from stentor.bgp.attribute import Attributes
from stentor.bgp.compile import compile_policy
from stentor.bgp.config import Config
from stentor.bgp.decision import Path, Scope, Source
from stentor.bgp.nlri import Family, parse_prefix
from stentor.bgp.resource import cluster, nodeconfig, peering, route, service
from stentor.bgp.resource.conversion import LABEL, Conversion, convert
from stentor.bgp.resource.node import Machine, node_row
from stentor.bgp.resource.plan import AddressKind, Origin, Plan
from stentor.bgp.resource.pool import Pool
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.session import Facts
from stentor.bgp.resource.speaker import checked, speaker_config
from stentor.net.address import Addr, Prefix
from stentor.tables.bgp import NodeConfig, configured
from stentor.tables.service import Service

LABELS = {"rack": "r1", "kubernetes.io/os": "linux"}
POD_CIDRS = [Prefix.parse("10.1.0.0/24"), Prefix.parse("fd00:a::/120")]
POOLS = [Pool(name="all", blocks=((Addr.parse("192.0.2.0"), Addr.parse("192.0.2.255")),))]
SERVICES = [
    (Service(key=ObjectKey("default", name), labels=(("app", name), ("tier", tier))), number)
    for number, (name, tier) in enumerate((("nginx", "front"), ("web", "front"), ("db", "back")), 1)
]

requirement = st.sampled_from(
    [
        LabelRequirement(key="app", operator="In", values=("nginx", "db")),
        LabelRequirement(key="tier", operator="NotIn", values=("back",)),
        LabelRequirement(key="io.kubernetes.service.name", operator="Exists"),
    ]
)
selectors = st.builds(
    LabelSelector,
    match_labels=st.dictionaries(st.just("app"), st.sampled_from(["nginx", "web"]), max_size=1),
    match_expressions=st.lists(requirement, max_size=1).map(tuple),
)
communities = st.builds(
    BGPCommunities,
    standard=st.lists(st.sampled_from(["65000:1", "65000:2", "7"]), max_size=2).map(tuple),
    well_known=st.lists(st.sampled_from(["no-export", "blackhole"]), max_size=1).map(tuple),
    large=st.lists(st.sampled_from(["1:2:3", "4:5:6"]), max_size=2).map(tuple),
)
path_attributes = st.builds(
    CiliumBGPPathAttributes,
    selector_type=st.sampled_from(["PodCIDR", "CiliumLoadBalancerIPPool", "CiliumPodIPPool"]),
    selector=st.sampled_from([None, LabelSelector()]),
    communities=st.none() | communities,
    local_preference=st.none() | st.integers(0, 400),
)
addresses = st.sampled_from(["172.22.0.5/32", "172.22.0.6/32", "fd00:22::5/128", "172.22.0.7"])
neighbors = st.builds(
    CiliumBGPNeighbor,
    peer_address=addresses,
    peer_port=st.sampled_from([179, 1790]),
    peer_asn=st.sampled_from([0, 6500, 65100, 4200000000]),
    auth_secret_ref=st.sampled_from([None, "key"]),
    ebgp_multihop_ttl=st.sampled_from([1, 4]),
    connect_retry_time_seconds=st.sampled_from([1, 120]),
    hold_time_seconds=st.sampled_from([9, 90]),
    keep_alive_time_seconds=st.sampled_from([3, 30]),
    graceful_restart=st.none()
    | st.builds(CiliumBGPGracefulRestart, enabled=st.booleans(), restart_time_seconds=st.sampled_from([1, 120, 4095])),
    families=st.lists(st.sampled_from(["ipv4", "ipv6", "l2vpn"]), max_size=2, unique=True).map(
        lambda afis: tuple(CiliumBGPFamily(afi=afi, safi="unicast") for afi in afis)
    ),
    advertised_path_attributes=st.lists(path_attributes, max_size=3).map(tuple),
)
routers = st.builds(
    CiliumBGPVirtualRouter,
    local_asn=st.sampled_from([65100, 65101, 4200000001]),
    export_pod_cidr=st.booleans(),
    pod_ip_pool_selector=st.none() | selectors,
    service_selector=st.none() | selectors,
    service_advertisements=st.lists(st.sampled_from([kind.value for kind in AddressKind]), min_size=1, unique=True).map(
        tuple
    ),
    neighbors=st.lists(neighbors, min_size=1, max_size=3).map(tuple),
)
policies = st.builds(
    CiliumBGPPeeringPolicy,
    metadata=st.builds(ObjectMeta, name=st.sampled_from(["test", "a" * 253])),
    spec=st.builds(
        CiliumBGPPeeringPolicySpec,
        node_selector=st.sampled_from([None, LabelSelector(), LabelSelector(match_labels={"rack": "r1"})]),
        virtual_routers=st.lists(routers, min_size=1, max_size=3).map(tuple),
    ),
)
annotations = st.dictionaries(
    st.sampled_from([f"{NODE_ANNOTATION}65100", f"{NODE_ANNOTATION}65101", f"{NODE_ANNOTATION}1"]),
    st.sampled_from(
        ["router-id=10.0.0.1", "local-port=179", " router-id=10.0.0.2, local-port=1790", "router-id=x", ""]
    ),
)


def facts_of(node: Node) -> Facts:
    return Facts(
        node=node_row(node),
        machine=Machine(),
        router_id="10.9.9.9",
        password=lambda name: Password(name, "secret") if name == "key" else None,
    )


def node_config(made: Conversion, node: Node) -> NodeConfig:
    """What the operator makes of the cluster configurations and the node's override."""
    configs = {each.metadata.name: configured(each.metadata, each.spec) for each in made.cluster_configs}
    overrides = {each.metadata.name: configured(each.metadata, each.spec) for each in made.overrides}
    name = node.metadata.name
    runs = cluster.assign(configs, {name: node.metadata.labels}, {}).runs
    return configured(node.metadata, cluster.node_spec(configs[runs[name]].spec, overrides.get(name)))


def routes_of(plan: Plan) -> list[route.BGPRoute]:
    found = list(route.of_prefixes(plan, Origin.POD_CIDR, POD_CIDRS))
    for each, number in SERVICES:
        three = [
            service.Address(addr=Addr.parse(f"192.0.2.{number}"), kind=AddressKind.LOAD_BALANCER, is_local=False),
            service.Address(addr=Addr.parse(f"10.96.0.{number}"), kind=AddressKind.CLUSTER, is_local=False),
            service.Address(addr=Addr.parse(f"198.51.100.{number}"), kind=AddressKind.EXTERNAL, is_local=True),
        ]
        found += service.of_service(plan, each, three, POOLS)
    keys = sorted({(row.instance, row.prefix) for row in found})
    return [merged for key in keys for merged in route.merge(r for r in found if (r.instance, r.prefix) == key)]


def told(config: Config, routes: list[route.BGPRoute]) -> dict[Any, Any]:
    """Session parameters by instance and peer, and what each is told by family and prefix."""
    policies = {each.name: compile_policy(each, "policy") for each in config.policies}
    source = Source("local", Scope.LOCAL)
    result: dict[Any, Any] = {}
    for instance in config.instances:
        result[instance.name] = (instance.local_asn, instance.router_id, instance.local_port)
        for peer in instance.peers:
            plain = tuple(msgspec.structs.replace(each, export_policy="accept") for each in peer.families)
            result[instance.name, peer.name] = msgspec.structs.replace(peer, families=plain)
            for family in peer.families:
                for each in routes:
                    if each.instance == instance.name:
                        afi, prefix = parse_prefix(str(each.prefix))
                        path = Path(source, Attributes(), tags=each.entries)
                        (verdict,) = policies[family.export_policy].apply(afi, path, Attributes(), [prefix], 1)
                        if afi is (Family.IPV4 if family.afi == "ipv4" else Family.IPV6) and verdict.attributes:
                            result[instance.name, peer.name, family.afi, str(each.prefix)] = verdict.attributes
    return result


@given(policies, annotations)
@settings(max_examples=150)
def test_both_forms_give_the_same_speaker(policy: CiliumBGPPeeringPolicy, notes: dict[str, str]) -> None:
    node = Node(metadata=ObjectMeta(name="n1", labels=LABELS, annotations=notes))
    facts = facts_of(node)
    assert policy.spec is not None
    old = peering.plan([configured(policy.metadata, policy.spec)], facts)
    assert old is not None
    made = convert([policy], [node])
    resources = nodeconfig.Resources(
        {each.metadata.name: configured(each.metadata, each.spec) for each in made.peer_configs},
        [configured(each.metadata, each.spec) for each in made.advertisements],
    )
    new = nodeconfig.plan(node_config(made, node), resources, facts)
    old, new = checked(old), checked(new)
    assert told(speaker_config(old), routes_of(old)) == told(speaker_config(new), routes_of(new))


@given(policies)
@settings(max_examples=50)
def test_the_api_server_can_take_what_is_written(policy: CiliumBGPPeeringPolicy) -> None:
    made = convert([policy])
    names = [(document["kind"], document["metadata"]["name"]) for document in made.documents()]
    assert len(set(names)) == len(names)
    alphabet = set(string.ascii_lowercase + string.digits + "-.")
    assert all(len(name) <= 253 and set(name) <= alphabet for _, name in names)
    assert all(len(each.metadata.labels[LABEL]) <= 63 for each in made.advertisements)
    for kind, values in (("CiliumBGPPeerConfig", made.peer_configs), ("CiliumBGPAdvertisement", made.advertisements)):
        documents = [document for document in made.documents() if document["kind"] == kind]
        assert [
            msgspec.convert(document, type(value)) for document, value in zip(documents, values, strict=True)
        ] == list(values)


def only(**fields: Any) -> CiliumBGPPeeringPolicy:
    """A policy named p with one virtual router, AS 65000, whose fields these are."""
    router = CiliumBGPVirtualRouter(local_asn=65000, **fields)
    spec = CiliumBGPPeeringPolicySpec(virtual_routers=(router,))
    return CiliumBGPPeeringPolicy(metadata=ObjectMeta(name="p"), spec=spec)


def lost(policy: CiliumBGPPeeringPolicy, *nodes: Node) -> list[str]:
    return [f"{each.source} {each.field}" for each in convert([policy], nodes).losses]


def neighbor(address: str = "10.0.0.1/32", *attributes: CiliumBGPPathAttributes) -> CiliumBGPNeighbor:
    return CiliumBGPNeighbor(peer_address=address, peer_asn=1, advertised_path_attributes=attributes)


def test_what_cannot_be_converted_is_named() -> None:
    where, some = (
        "spec.virtualRouters[0].neighbors[0].advertisedPathAttributes[0]",
        LabelSelector(match_labels={"a": "b"}),
    )
    for kind in ("PodCIDR", "CiliumLoadBalancerIPPool"):
        attributes = CiliumBGPPathAttributes(selector_type=kind, selector=some, local_preference=1)
        policy = only(export_pod_cidr=True, service_selector=some, neighbors=(neighbor("10.0.0.1/32", attributes),))
        assert lost(policy) == [f"CiliumBGPPeeringPolicy p {where}.selector"]
    every = CiliumBGPPathAttributes(selector_type="CiliumLoadBalancerIPPool", local_preference=1)
    assert lost(only(neighbors=(neighbor("10.0.0.1/32", every),))) == [f"CiliumBGPPeeringPolicy p {where}"]
    twice = only(neighbors=(neighbor(), neighbor(), neighbor("10.0.0.0/24")))
    assert lost(twice) == [
        f"CiliumBGPPeeringPolicy p spec.virtualRouters[0].neighbors[{n}].peerAddress" for n in (1, 2)
    ]
    node = Node(
        metadata=ObjectMeta(name="n1", annotations={f"{NODE_ANNOTATION}65000": "port=1", f"{NODE_ANNOTATION}7": ""})
    )
    notes = [f"Node n1 metadata.annotations[{NODE_ANNOTATION}{asn}]" for asn in (65000, 7)]
    assert lost(only(neighbors=(neighbor(),)), node) == notes
    assert lost(CiliumBGPPeeringPolicy(metadata=ObjectMeta(name="p"))) == ["CiliumBGPPeeringPolicy p spec"]


def test_pod_pools_keep_their_selectors() -> None:
    """Attributes of some pools: those that both the router and the attributes select."""
    marked = CiliumBGPPathAttributes(
        selector_type="CiliumPodIPPool", selector=LabelSelector(match_labels={"a": "2", "b": "1"}), local_preference=9
    )
    policy = only(
        pod_ip_pool_selector=LabelSelector(match_labels={"a": "1"}), neighbors=(neighbor("10.0.0.1/32", marked),)
    )
    (advertisement,) = convert([policy]).advertisements
    everywhere, some = advertisement.spec.advertisements
    assert everywhere.selector == policy.spec.virtual_routers[0].pod_ip_pool_selector  # type: ignore[union-attr]
    assert everywhere.attributes is None
    assert some.attributes is not None
    assert some.attributes.local_preference == 9
    assert some.selector == LabelSelector(
        match_labels={"a": "1", "b": "1"},
        match_expressions=(LabelRequirement(key="a", operator="In", values=("2",)),),
    )
