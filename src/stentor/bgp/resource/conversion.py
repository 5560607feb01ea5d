"""CiliumBGPPeeringPolicy as CiliumBGPClusterConfig, CiliumBGPPeerConfig, CiliumBGPAdvertisement, CiliumBGPNodeConfigOverride.

Instances are named by their AS number and peers by their address, as the old kind's are: sessions, metrics and options that
select them by name stay when a node goes over. What the new kinds cannot say is a `Loss`; nothing is left out silently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from stentor.api.bgp import (
    ADVERTISEMENTS,
    CLUSTER_CONFIGS,
    NODE_CONFIG_OVERRIDES,
    PEER_CONFIGS,
    BGPAdvertisement,
    BGPAttributes,
    BGPCommunities,
    BGPServiceOptions,
    CiliumBGPAdvertisement,
    CiliumBGPAdvertisementSpec,
    CiliumBGPClusterConfig,
    CiliumBGPClusterConfigSpec,
    CiliumBGPFamilyWithAdverts,
    CiliumBGPInstance,
    CiliumBGPInstanceOverride,
    CiliumBGPNodeConfigOverride,
    CiliumBGPNodeConfigOverrideSpec,
    CiliumBGPPeer,
    CiliumBGPPeerConfig,
    CiliumBGPPeerConfigSpec,
    CiliumBGPTimers,
    CiliumBGPTransport,
    PeerConfigReference,
)
from stentor.api.core import Node
from stentor.api.meta import Kind, LabelRequirement, LabelSelector, ObjectMeta
from stentor.api.peering import (
    NODE_ANNOTATION,
    CiliumBGPFamily,
    CiliumBGPNeighbor,
    CiliumBGPPathAttributes,
    CiliumBGPPeeringPolicy,
    CiliumBGPVirtualRouter,
)
from stentor.bgp.resource.peering import host_address, parse_annotation

LABEL: Final = "stentor.io/advertise"
"""Label by which families select the advertisements made here."""
MAX_INSTANCES: Final = 16
_NAME_LENGTH: Final = 253
_LABEL_LENGTH: Final = 63
_DEFAULT_FAMILIES: Final = tuple(CiliumBGPFamily(afi=afi, safi="unicast") for afi in ("ipv4", "ipv6"))
_LOAD_BALANCER: Final = "LoadBalancerIP"


class Loss(msgspec.Struct, frozen=True):
    """What could not be converted as it is: a field of an object, and what becomes of it."""

    source: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.field}: {self.text}"


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """The new objects, and what they lack."""

    cluster_configs: tuple[CiliumBGPClusterConfig, ...] = ()
    peer_configs: tuple[CiliumBGPPeerConfig, ...] = ()
    advertisements: tuple[CiliumBGPAdvertisement, ...] = ()
    overrides: tuple[CiliumBGPNodeConfigOverride, ...] = ()
    losses: tuple[Loss, ...] = ()

    def documents(self) -> Iterator[dict[str, Any]]:
        """The objects as the API server takes them, those that others refer to first."""
        yield from (_document(ADVERTISEMENTS, each) for each in self.advertisements)
        yield from (_document(PEER_CONFIGS, each) for each in self.peer_configs)
        yield from (_document(NODE_CONFIG_OVERRIDES, each) for each in self.overrides)
        yield from (_document(CLUSTER_CONFIGS, each) for each in self.cluster_configs)


def convert(policies: Iterable[CiliumBGPPeeringPolicy], nodes: Iterable[Node] = ()) -> Conversion:
    """All policies; annotations of `nodes` become overrides."""
    listed, losses = list(policies), list[Loss]()
    made = [_Policy(policy, losses) for policy in listed]
    configs = [each.cluster_config() for each in made]
    return Conversion(
        cluster_configs=tuple(config for config in configs if config is not None),
        peer_configs=tuple(each for one in made for each in one.peer_configs),
        advertisements=tuple(each for one in made for each in one.advertisements),
        overrides=tuple(_overrides(listed, nodes, losses)),
        losses=tuple(losses),
    )


class _Policy:
    """One policy's objects. Equal parameters and advertisements are one object that several peers refer to."""

    def __init__(self, policy: CiliumBGPPeeringPolicy, losses: list[Loss]) -> None:
        self._policy = policy
        self._losses = losses
        self._peer_configs: dict[bytes, CiliumBGPPeerConfig] = {}
        self._advertisements: dict[bytes, CiliumBGPAdvertisement] = {}

    @property
    def peer_configs(self) -> Iterable[CiliumBGPPeerConfig]:
        return self._peer_configs.values()

    @property
    def advertisements(self) -> Iterable[CiliumBGPAdvertisement]:
        return self._advertisements.values()

    def cluster_config(self) -> CiliumBGPClusterConfig | None:
        """None when nothing of the policy can be used."""
        spec = self._policy.spec
        instances: dict[str, CiliumBGPInstance] = {}
        for index, router in enumerate(spec.virtual_routers if spec is not None else ()):
            field, name = f"spec.virtualRouters[{index}]", str(router.local_asn)
            if router.local_asn == 0:
                self._lose(f"{field}.localASN", "0 is no AS number; the virtual router is left out")
            elif name in instances:
                self._lose(f"{field}.localASN", f"{name} appears twice; the second virtual router is left out")
            elif len(instances) == MAX_INSTANCES:
                self._lose(field, f"a CiliumBGPClusterConfig has at most {MAX_INSTANCES} instances; it is left out")
            else:
                peers = tuple(self._peers(router, field))
                instances[name] = CiliumBGPInstance(name=name, local_asn=router.local_asn, peers=peers)
        if spec is None or not instances:
            self._lose("spec", "has no virtual router that could be used")
            return None
        return CiliumBGPClusterConfig(
            metadata=ObjectMeta(name=self._policy.metadata.name),
            spec=CiliumBGPClusterConfigSpec(node_selector=spec.node_selector, bgp_instances=tuple(instances.values())),
        )

    def _peers(self, router: CiliumBGPVirtualRouter, field: str) -> Iterator[CiliumBGPPeer]:
        known: set[str] = set()
        for index, neighbor in enumerate(router.neighbors):
            where = f"{field}.neighbors[{index}]"
            address = host_address(neighbor.peer_address)
            if address is None:
                text = f"{neighbor.peer_address!r} is not the address of one host; the neighbour is left out"
                self._lose(f"{where}.peerAddress", text)
            elif address in known:
                self._lose(f"{where}.peerAddress", f"{address} appears twice; the second neighbour is left out")
            else:
                known.add(address)
                name = self._peer_config(router, neighbor, where)
                reference = PeerConfigReference(name=name)
                yield CiliumBGPPeer(
                    name=address, peer_address=address, peer_asn=neighbor.peer_asn, peer_config_ref=reference
                )

    def _peer_config(self, router: CiliumBGPVirtualRouter, neighbor: CiliumBGPNeighbor, field: str) -> str:
        """The name of an object with the neighbour's parameters."""
        spec = _parameters(neighbor, self._advertisement(router, neighbor, field))
        key = msgspec.json.encode(spec)
        if key not in self._peer_configs:
            metadata = ObjectMeta(name=self._name(len(self._peer_configs)))
            self._peer_configs[key] = CiliumBGPPeerConfig(metadata=metadata, spec=spec)
        return self._peer_configs[key].metadata.name

    def _advertisement(
        self, router: CiliumBGPVirtualRouter, neighbor: CiliumBGPNeighbor, field: str
    ) -> LabelSelector | None:
        """What selects all that the neighbour is told; None when it is told nothing."""
        found = tuple(self._advertised(router, neighbor, field))
        if not found:
            return None
        key = msgspec.json.encode(found)
        if key not in self._advertisements:
            name = self._name(len(self._advertisements))
            metadata = ObjectMeta(name=name, labels={LABEL: _shortened(name, _LABEL_LENGTH)})
            spec = CiliumBGPAdvertisementSpec(advertisements=found)
            self._advertisements[key] = CiliumBGPAdvertisement(metadata=metadata, spec=spec)
        return LabelSelector(match_labels=dict(self._advertisements[key].metadata.labels))

    def _advertised(
        self, router: CiliumBGPVirtualRouter, neighbor: CiliumBGPNeighbor, field: str
    ) -> Iterator[BGPAdvertisement]:
        wanted: dict[str, list[CiliumBGPPathAttributes]] = {}
        for index, each in enumerate(neighbor.advertised_path_attributes):
            if self._is_convertible(each, f"{field}.advertisedPathAttributes[{index}]"):
                wanted.setdefault(each.selector_type, []).append(each)
        if router.export_pod_cidr:
            yield BGPAdvertisement(advertisement_type="PodCIDR", attributes=_union(wanted.get("PodCIDR", ())))
        if router.service_selector is not None:
            yield from _services(router, _union(wanted.get("CiliumLoadBalancerIPPool", ())))
        if router.pod_ip_pool_selector is not None:
            yield from _pod_pools(router.pod_ip_pool_selector, wanted.get("CiliumPodIPPool", ()))

    def _is_convertible(self, attributes: CiliumBGPPathAttributes, field: str) -> bool:
        selects_all = attributes.selector in (None, LabelSelector())
        if attributes.selector_type == "CiliumPodIPPool":
            return True
        if attributes.selector_type not in ("PodCIDR", "CiliumLoadBalancerIPPool"):
            self._lose(f"{field}.selectorType", f"{attributes.selector_type!r} is unknown; the attributes are left out")
            return False
        if attributes.selector_type == "PodCIDR" and not selects_all:
            text = "pod CIDRs cannot be selected by labels of nodes; the attributes are left out"
            self._lose(f"{field}.selector", text)
        elif not selects_all:
            text = "services cannot be selected by the pools of their addresses; the attributes are left out"
            self._lose(f"{field}.selector", text)
        elif attributes.selector_type == "CiliumLoadBalancerIPPool":
            self._lose(field, "now set on every load balancer address, whether it is from a pool or not")
        return selects_all

    def _lose(self, field: str, text: str) -> None:
        loss = Loss(f"CiliumBGPPeeringPolicy {self._policy.metadata.name}", field, text)
        if loss not in self._losses:
            self._losses.append(loss)

    def _name(self, number: int) -> str:
        suffix = f"-{number + 1}" if number else ""
        return f"{self._policy.metadata.name[: _NAME_LENGTH - len(suffix)]}{suffix}"


def _parameters(neighbor: CiliumBGPNeighbor, advertisements: LabelSelector | None) -> CiliumBGPPeerConfigSpec:
    transport = CiliumBGPTransport(peer_port=neighbor.peer_port)
    timers = CiliumBGPTimers(
        connect_retry_time_seconds=neighbor.connect_retry_time_seconds,
        hold_time_seconds=neighbor.hold_time_seconds,
        keep_alive_time_seconds=neighbor.keep_alive_time_seconds,
    )
    return CiliumBGPPeerConfigSpec(
        transport=transport if transport != CiliumBGPTransport() else None,
        timers=timers if timers != CiliumBGPTimers() else None,
        auth_secret_ref=neighbor.auth_secret_ref,
        graceful_restart=neighbor.graceful_restart,
        ebgp_multihop=neighbor.ebgp_multihop_ttl,
        families=tuple(
            CiliumBGPFamilyWithAdverts(afi=each.afi, safi=each.safi, advertisements=advertisements)
            for each in neighbor.families or _DEFAULT_FAMILIES
        ),
    )


def _services(router: CiliumBGPVirtualRouter, attributes: BGPAttributes | None) -> Iterator[BGPAdvertisement]:
    """One advertisement, or one for the addresses with attributes and one for the others."""
    kinds = tuple(dict.fromkeys(router.service_advertisements))
    marked = tuple(kind for kind in kinds if attributes is not None and kind == _LOAD_BALANCER)
    for each, wanted in ((tuple(kind for kind in kinds if kind not in marked), None), (marked, attributes)):
        if each:
            yield BGPAdvertisement(
                advertisement_type="Service",
                service=BGPServiceOptions(addresses=each),
                selector=router.service_selector,
                attributes=wanted,
            )


def _pod_pools(selector: LabelSelector, wanted: Sequence[CiliumBGPPathAttributes]) -> Iterator[BGPAdvertisement]:
    """The pools; those with attributes of their own a second time, since attributes of several advertisements are united."""
    everywhere = [each for each in wanted if each.selector in (None, LabelSelector())]
    yield BGPAdvertisement(advertisement_type="CiliumPodIPPool", selector=selector, attributes=_union(everywhere))
    for each in wanted:
        if each.selector is not None and each not in everywhere:
            both = _conjunction(selector, each.selector)
            yield BGPAdvertisement(advertisement_type="CiliumPodIPPool", selector=both, attributes=_union((each,)))


def _conjunction(left: LabelSelector, right: LabelSelector) -> LabelSelector:
    """What both select."""
    labels = {**right.match_labels, **left.match_labels}
    other = tuple(
        LabelRequirement(key=key, operator="In", values=(value,))
        for key, value in right.match_labels.items()
        if labels[key] != value
    )
    expressions = tuple(dict.fromkeys((*left.match_expressions, *right.match_expressions, *other)))
    return LabelSelector(match_labels=labels, match_expressions=expressions)


def _union(wanted: Iterable[CiliumBGPPathAttributes]) -> BGPAttributes | None:
    """All communities and the highest preference, as of several advertisements of one route."""
    found = list(wanted)
    communities = [each.communities for each in found if each.communities is not None]
    preferences = [each.local_preference for each in found if each.local_preference is not None]
    united = BGPCommunities(
        standard=_unique(each.standard for each in communities),
        well_known=_unique(each.well_known for each in communities),
        large=_unique(each.large for each in communities),
    )
    attributes = BGPAttributes(
        communities=united if united != BGPCommunities() else None,
        local_preference=max(preferences, default=None),
    )
    return attributes if attributes != BGPAttributes() else None


def _unique(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for group in groups for text in group))


def _overrides(
    policies: Sequence[CiliumBGPPeeringPolicy], nodes: Iterable[Node], losses: list[Loss]
) -> Iterator[CiliumBGPNodeConfigOverride]:
    """Identifiers and ports of the virtual routers that policies give a node and its annotations are about."""
    for node in nodes:
        instances = tuple(_instance_overrides(node.metadata, _asns(policies, node.metadata.labels), losses))
        if instances:
            yield CiliumBGPNodeConfigOverride(
                metadata=ObjectMeta(name=node.metadata.name),
                spec=CiliumBGPNodeConfigOverrideSpec(bgp_instances=instances),
            )


def _asns(policies: Sequence[CiliumBGPPeeringPolicy], labels: Mapping[str, str]) -> set[str]:
    return {
        str(router.local_asn)
        for policy in policies
        if policy.spec is not None
        if policy.spec.node_selector is None or policy.spec.node_selector.matches(dict(labels))
        for router in policy.spec.virtual_routers
    }


def _instance_overrides(
    metadata: ObjectMeta, asns: set[str], losses: list[Loss]
) -> Iterator[CiliumBGPInstanceOverride]:
    for key, text in sorted(metadata.annotations.items()):
        asn = key.removeprefix(NODE_ANNOTATION)
        if asn == key:
            continue
        source, field = f"Node {metadata.name}", f"metadata.annotations[{key}]"
        if asn not in asns:
            losses.append(Loss(source, field, "no policy gives this node such a virtual router"))
            continue
        found = parse_annotation(text)
        losses += [Loss(source, field, f"{part!r} is neither router-id=… nor local-port=…") for part in found.wrong]
        if found.router_id is not None or found.local_port is not None:
            yield CiliumBGPInstanceOverride(name=asn, router_id=found.router_id, local_port=found.local_port)


def _shortened(text: str, length: int) -> str:
    """At most `length` characters, different for different texts."""
    if len(text) <= length:
        return text
    return f"{text[: length - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _document(kind: Kind[Any], each: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(each)
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}
