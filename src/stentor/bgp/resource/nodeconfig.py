"""CiliumBGPNodeConfig, which the operator makes from cluster configurations and overrides, with the peer configurations and
advertisements that it leads to, as a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

import msgspec

from stentor.api.bgp import (
    BGPAdvertisement,
    CiliumBGPFamilyWithAdverts,
    CiliumBGPNodeInstance,
    CiliumBGPNodePeer,
    CiliumBGPPeerConfigSpec,
    CiliumBGPTimers,
    CiliumBGPTransport,
)
from stentor.bgp.config import Peer, Transport
from stentor.bgp.resource import session
from stentor.bgp.resource.plan import (
    NODE_CONFIG,
    Entry,
    Grant,
    InstancePlan,
    Origin,
    PeerPlan,
    Plan,
    Problem,
)
from stentor.bgp.resource.session import Facts, Report
from stentor.tables.bgp import Advertisement, NodeConfig, PeerConfig


class Place(msgspec.Struct, frozen=True):
    """Where a peer is: its address, the interface where that is needed, our own address."""

    address: str | None
    interface: str | None = None
    local_address: str | None = None


class Resources(msgspec.Struct, frozen=True):
    """What a node's configuration refers to, by name."""

    peer_configs: Mapping[str, PeerConfig]
    advertisements: Sequence[Advertisement]


def plan(config: NodeConfig, resources: Resources, facts: Facts) -> Plan:
    """The plan of a node's configuration."""
    problems: list[Problem] = []
    report = Report(f"{NODE_CONFIG} {config.name}", problems)
    entries = {
        entry.name: entry
        for advertisement in sorted(resources.advertisements, key=lambda each: each.name)
        for entry in _entries(advertisement, report)
    }
    instances = []
    for index, instance in enumerate(config.spec.bgp_instances):
        found = _instance(instance, f"spec.bgpInstances[{index}]", resources, entries, facts, report.at(instance.name))
        instances += [found] if found is not None else []
    return Plan(api=NODE_CONFIG, source=config.name, instances=tuple(instances), problems=tuple(problems))


def _instance(
    instance: CiliumBGPNodeInstance,
    field: str,
    resources: Resources,
    entries: Mapping[str, Entry],
    facts: Facts,
    report: Report,
) -> InstancePlan | None:
    if instance.local_asn is None:
        report.add(f"{field}.localASN", "is missing")
        return None
    peers: list[PeerPlan] = []
    for index, peer in enumerate(instance.peers):
        where, about = f"{field}.peers[{index}]", report.at(instance.name, peer.name)
        found = _peer(peer, where, resources, entries, facts, about)
        if found is None:
            continue
        if any(_place(found.config) == _place(each.config) for each in peers):
            about.add(f"{where}.peerAddress", f"{found.config.peer_address or found.config.interface} appears twice")
            continue
        peers.append(found)
    granted = {grant.entry for peer in peers for _, grants in peer.grants for grant in grants}
    return InstancePlan(
        name=instance.name,
        local_asn=instance.local_asn,
        router_id=instance.router_id or facts.router_id,
        local_port=instance.local_port,
        peers=tuple(peers),
        entries=tuple(entry for name, entry in entries.items() if name in granted),
    )


def _place(peer: Peer) -> tuple[str | None, str | None]:
    return peer.peer_address, peer.interface


def _peer(
    peer: CiliumBGPNodePeer,
    field: str,
    resources: Resources,
    entries: Mapping[str, Entry],
    facts: Facts,
    report: Report,
) -> PeerPlan | None:
    """None while something that the session cannot do without is missing."""
    spec, source = _parameters(peer, field, resources, report)
    transport = spec.transport or CiliumBGPTransport() if spec is not None else None
    if spec is None or transport is None:
        return None
    place = _find(peer, field, facts, report)
    if place is not None and place.local_address is None and transport.source_interface:
        place = _from_interface(place, transport.source_interface, source, facts, report)
    about = Report(source, report.found, report.instance, report.peer)
    password, is_known = session.password(spec.auth_secret_ref, "spec.authSecretRef", facts, about)
    if place is None or not is_known:
        return None
    times = spec.timers or CiliumBGPTimers()
    config = Peer(
        name=peer.name,
        peer_address=place.address,
        interface=place.interface,
        peer_asn=peer.peer_asn or 0,
        password=password,
        transport=Transport(transport.peer_port, place.local_address),
        timers=session.timers(times.connect_retry_time_seconds, times.hold_time_seconds, times.keep_alive_time_seconds),
        ebgp_multihop=spec.ebgp_multihop,
        graceful_restart=session.graceful_restart(spec.graceful_restart),
        families=session.families(spec.families, "spec.families", about),
    )
    grants = tuple(
        (family.afi, tuple(_grants(family, resources.advertisements, entries)))
        for family in spec.families
        if family.advertisements is not None
    )
    name = peer.peer_config_ref.name if peer.peer_config_ref is not None else ""
    return PeerPlan(config=config, grants=grants, peer_config=name)


def _parameters(
    peer: CiliumBGPNodePeer, field: str, resources: Resources, report: Report
) -> tuple[CiliumBGPPeerConfigSpec | None, str]:
    """The session's parameters and the object that has them; defaults without a reference."""
    if peer.peer_config_ref is None:
        return CiliumBGPPeerConfigSpec(), report.source
    name = peer.peer_config_ref.name
    found = resources.peer_configs.get(name)
    if found is None:
        report.add(f"{field}.peerConfigRef.name", f"CiliumBGPPeerConfig {name} does not exist")
        return None, report.source
    return found.spec, f"CiliumBGPPeerConfig {name}"


def _find(peer: CiliumBGPNodePeer, field: str, facts: Facts, report: Report) -> Place | None:
    """Where the peer is, by its address or by discovery."""
    discovery = peer.auto_discovery
    if peer.peer_address is not None:
        text, _, zone = peer.peer_address.partition("%")
        try:
            address = str(ip_address(text))  # one spelling: it is compared, and printed
        except ValueError as error:
            report.add(f"{field}.peerAddress", str(error))
            return None
        return Place(address, peer.peer_interface or zone or None, peer.local_address)
    if discovery is None:
        report.add(f"{field}.peerAddress", "is missing, and there is no autoDiscovery")
        return None
    if discovery.mode == "Unnumbered" and discovery.unnumbered is not None:
        return Place(None, discovery.unnumbered.interface)
    if discovery.default_gateway is None:
        report.add(f"{field}.autoDiscovery", f"mode {discovery.mode} says neither interface nor address family")
        return None
    afi = discovery.default_gateway.address_family
    gateway = facts.machine.gateway({"ipv4": 4, "ipv6": 6}.get(afi, 0))
    if gateway is None:
        text = f"this node has no default route of family {afi}"
        report.add(f"{field}.autoDiscovery.defaultGateway", text, is_waiting=True)
        return None
    if discovery.mode == "Unnumbered":
        return Place(None, gateway.interface)
    interface = gateway.interface if gateway.addr.ip.is_link_local and gateway.addr.family == 6 else None
    return Place(str(gateway.addr), interface, peer.local_address)


def _from_interface(place: Place, name: str, source: str, facts: Facts, report: Report) -> Place | None:
    """Our address on the interface of `sourceInterface`, which must have exactly one of the peer's family."""
    if place.address is None:
        return place
    version = ip_address(place.address).version
    found = [addr for addr in facts.machine.of_interface(name) if addr.family == version]
    if len(found) != 1:
        text = f"{name} has {len(found)} IPv{version} addresses, not one"
        report.add("spec.transport.sourceInterface", text, source=source)
        return None
    return msgspec.structs.replace(place, local_address=str(found[0]))


def _grants(
    family: CiliumBGPFamilyWithAdverts,
    advertisements: Sequence[Advertisement],
    entries: Mapping[str, Entry],
) -> Iterator[Grant]:
    """Everything of the advertisements that the family selects."""
    assert family.advertisements is not None
    for advertisement in advertisements:
        if family.advertisements.matches(advertisement.labels):
            for index, each in enumerate(advertisement.spec.advertisements):
                name = entry_name(advertisement, index)
                if name in entries:
                    found = each.attributes
                    wanted = session.attributes(
                        found.communities if found is not None else None,
                        found.local_preference if found is not None else None,
                    )
                    yield Grant(name, wanted)


def entry_name(advertisement: Advertisement, index: int) -> str:
    """`web[0]`: unique in the cluster, and what people find in the object."""
    return f"{advertisement.name}[{index}]"


def _entries(advertisement: Advertisement, report: Report) -> Iterator[Entry]:
    source = f"CiliumBGPAdvertisement {advertisement.name}"
    about = Report(source, report.found)
    for index, each in enumerate(advertisement.spec.advertisements):
        found = _entry(entry_name(advertisement, index), each, f"spec.advertisements[{index}]", about)
        if found is not None:
            yield found


def _entry(name: str, advertisement: BGPAdvertisement, field: str, report: Report) -> Entry | None:
    origin = Origin(advertisement.advertisement_type)
    if origin is Origin.POD_POOL:
        report.add(f"{field}.advertisementType", "CiliumPodIPPool waits for multi-pool IPAM", is_waiting=True)
        return None
    if origin is Origin.INTERFACE:
        if advertisement.interface is None:
            report.add(f"{field}.interface", "is missing")
            return None
        return Entry(name=name, origin=origin, interface=advertisement.interface.name)
    if origin is Origin.POD_CIDR:
        return Entry(name=name, origin=origin)
    options = advertisement.service
    if options is None:
        report.add(f"{field}.service", "is missing")
        return None
    lengths = ((4, options.aggregation_length_ipv4), (6, options.aggregation_length_ipv6))
    return Entry(
        name=name,
        origin=origin,
        selector=advertisement.selector,
        addresses=session.address_kinds(options.addresses, f"{field}.service.addresses", report),
        aggregation=tuple((family, length) for family, length in lengths if length is not None),
    )
