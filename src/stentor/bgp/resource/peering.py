"""CiliumBGPPeeringPolicy, the API before CiliumBGPClusterConfig: the policy that selects this node as a plan.

A virtual router's instance has its AS number as name, a peer its address. Upstream reports an error and leaves things as they
are when several policies select a node; here the oldest one counts, and the others are problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, ip_network

import msgspec

from stentor.api.meta import LabelSelector
from stentor.api.peering import (
    NODE_ANNOTATION,
    CiliumBGPNeighbor,
    CiliumBGPPathAttributes,
    CiliumBGPVirtualRouter,
)
from stentor.bgp.config import Peer, Transport
from stentor.bgp.resource import session
from stentor.bgp.resource.plan import (
    PEERING_POLICY,
    Entry,
    Grant,
    InstancePlan,
    Origin,
    PeerPlan,
    Plan,
    Problem,
)
from stentor.bgp.resource.session import Facts, Report
from stentor.tables.bgp import PeeringPolicy

POD_CIDR = "PodCIDR"
SERVICE = "Service"
_SELECTOR_TYPES = ("PodCIDR", "CiliumLoadBalancerIPPool", "CiliumPodIPPool")


def selecting(policies: Iterable[PeeringPolicy], labels: dict[str, str]) -> list[PeeringPolicy]:
    """The policies that select a node, the oldest first."""
    found = [each for each in policies if _selects(each.spec.node_selector, labels)]
    return sorted(found, key=lambda each: each.age_key)


def plan(policies: Iterable[PeeringPolicy], facts: Facts) -> Plan | None:
    """None when no policy selects the node."""
    found = selecting(policies, dict(facts.node.labels))
    if not found:
        return None
    chosen, *others = found
    problems = [_overlap(each.name, chosen.name) for each in others]
    report = Report(f"{PEERING_POLICY} {chosen.name}", problems)
    instances: dict[str, InstancePlan] = {}
    for index, router in enumerate(chosen.spec.virtual_routers):
        field = f"spec.virtualRouters[{index}]"
        if str(router.local_asn) in instances:
            report.add(f"{field}.localASN", f"{router.local_asn} appears twice")
        elif router.local_asn == 0:
            report.add(f"{field}.localASN", "0 is no AS number")
        else:
            instances[str(router.local_asn)] = _instance(router, field, facts, report.at(str(router.local_asn)))
    return Plan(api=PEERING_POLICY, source=chosen.name, instances=tuple(instances.values()), problems=tuple(problems))


def _overlap(name: str, chosen: str) -> Problem:
    text = f"selects this node as {PEERING_POLICY} {chosen} does, which is older: this one is not used"
    return Problem(f"{PEERING_POLICY} {name}", "spec.nodeSelector", text)


def _selects(selector: LabelSelector | None, labels: dict[str, str]) -> bool:
    return selector is None or selector.matches(labels)


def _instance(router: CiliumBGPVirtualRouter, field: str, facts: Facts, report: Report) -> InstancePlan:
    name = str(router.local_asn)
    router_id, local_port = _annotation(router.local_asn, facts, report)
    entries, pools = _entries(router, field, report)
    peers: dict[str, PeerPlan] = {}
    for index, neighbor in enumerate(router.neighbors):
        where = f"{field}.neighbors[{index}]"
        address = host_address(neighbor.peer_address)
        about = report.at(name, address or neighbor.peer_address)
        if address is None:
            about.add(
                f"{where}.peerAddress", f"{neighbor.peer_address!r} is not the address of one host, as 10.0.0.1/32"
            )
        elif address in peers:
            about.add(f"{where}.peerAddress", f"{address} appears twice")
        else:
            peer = _peer(address, neighbor, where, facts, about)
            if peer is not None:
                grants = tuple(_grants(neighbor, where, entries, pools, facts, about))
                afis = [each.afi for each in peer.families]
                peers[address] = PeerPlan(config=peer, grants=tuple((afi, grants) for afi in afis))
    return InstancePlan(
        name=name,
        local_asn=router.local_asn,
        router_id=router_id,
        local_port=local_port,
        peers=tuple(peers.values()),
        entries=(*entries, *pools.values()),
    )


def host_address(text: str) -> str | None:
    """The address of a prefix of one host; None when it is none."""
    try:
        network = ip_network(text, strict=False)
        host = text.partition("/")[0]
    except ValueError:
        return None
    return str(ip_network(host)[0]) if network.num_addresses == 1 else None


class Annotation(msgspec.Struct, frozen=True):
    """A Node's annotation for a virtual router; `wrong` are its parts that mean nothing."""

    router_id: str | None = None
    local_port: int | None = None
    wrong: tuple[str, ...] = ()


def parse_annotation(text: str) -> Annotation:
    """`router-id=10.0.0.1,local-port=179`, in any order; what comes later counts."""
    router_id, local_port, wrong = None, None, []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key == "router-id" and _is_ipv4(value):
            router_id = value
        elif key == "local-port" and value.isdecimal() and 0 < int(value) < 65536:
            local_port = int(value)
        else:
            wrong.append(part)
    return Annotation(router_id, local_port, tuple(wrong))


def _is_ipv4(text: str) -> bool:
    try:
        return int(IPv4Address(text)) > 0
    except ValueError:
        return False


def _annotation(asn: int, facts: Facts, report: Report) -> tuple[str, int | None]:
    """Router id and port of the Node's annotation for a virtual router."""
    name = f"{NODE_ANNOTATION}{asn}"
    found = parse_annotation(dict(facts.node.annotations).get(name, ""))
    for part in found.wrong:
        text, node = f"{part!r} is neither router-id=… nor local-port=…", f"Node {facts.node.name}"
        report.add(f"metadata.annotations[{name}]", text, source=node)
    return found.router_id or facts.router_id, found.local_port


def _entries(router: CiliumBGPVirtualRouter, field: str, report: Report) -> tuple[list[Entry], dict[str, Entry]]:
    """What the router advertises, and the parts of it that attributes select by pools, by the field that selects."""
    entries = [Entry(name=POD_CIDR, origin=Origin.POD_CIDR)] if router.export_pod_cidr else []
    if router.pod_ip_pool_selector is not None:
        report.add(f"{field}.podIPPoolSelector", "waits for multi-pool IPAM", is_waiting=True)
    pools = {}
    if router.service_selector is not None:
        kinds = session.address_kinds(router.service_advertisements, f"{field}.serviceAdvertisements", report)
        service = Entry(name=SERVICE, origin=Origin.SERVICE, selector=router.service_selector, addresses=kinds)
        entries.append(service)
        for neighbor, each in _pool_attributes(router, field):
            selector = each.selector or LabelSelector()
            pools[neighbor] = msgspec.structs.replace(service, name=f"{SERVICE}@{neighbor}", pools=selector)
    return entries, pools


def _pool_attributes(router: CiliumBGPVirtualRouter, field: str) -> Iterator[tuple[str, CiliumBGPPathAttributes]]:
    for n, neighbor in enumerate(router.neighbors):
        for index, each in enumerate(neighbor.advertised_path_attributes):
            if each.selector_type == "CiliumLoadBalancerIPPool":
                yield f"{field}.neighbors[{n}].advertisedPathAttributes[{index}]", each


def _grants(
    neighbor: CiliumBGPNeighbor,
    field: str,
    entries: list[Entry],
    pools: dict[str, Entry],
    facts: Facts,
    report: Report,
) -> Iterator[Grant]:
    yield from (Grant(entry.name) for entry in entries)
    for index, each in enumerate(neighbor.advertised_path_attributes):
        where = f"{field}.advertisedPathAttributes[{index}]"
        wanted = session.attributes(each.communities, each.local_preference)
        if each.selector_type == "PodCIDR":
            if _selects(each.selector, dict(facts.node.labels)):
                yield from (Grant(entry.name, wanted) for entry in entries if entry.origin is Origin.POD_CIDR)
        elif each.selector_type == "CiliumLoadBalancerIPPool":
            if where in pools:
                yield Grant(pools[where].name, wanted)
        elif each.selector_type == "CiliumPodIPPool":
            report.add(where, "waits for multi-pool IPAM", is_waiting=True)
        else:
            report.add(f"{where}.selectorType", f"{each.selector_type!r} is not one of {', '.join(_SELECTOR_TYPES)}")


def _peer(address: str, neighbor: CiliumBGPNeighbor, field: str, facts: Facts, report: Report) -> Peer | None:
    """None while its key is missing."""
    password, is_known = session.password(neighbor.auth_secret_ref, f"{field}.authSecretRef", facts, report)
    if not is_known:
        return None
    return Peer(
        name=address,
        peer_address=address,
        peer_asn=neighbor.peer_asn,
        password=password,
        transport=Transport(neighbor.peer_port),
        timers=session.timers(
            neighbor.connect_retry_time_seconds, neighbor.hold_time_seconds, neighbor.keep_alive_time_seconds
        ),
        ebgp_multihop=neighbor.ebgp_multihop_ttl,
        graceful_restart=session.graceful_restart(neighbor.graceful_restart),
        families=session.families(neighbor.families, f"{field}.families", report),
    )
