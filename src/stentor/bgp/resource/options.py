"""StentorBGPPeerOptions and StentorBGPInstanceOptions on a plan: what upstream's resources have no field for.

Where several objects set one field of a peer, the oldest object's counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from stentor.api.meta import LabelSelector
from stentor.api.stentor import Import, InstanceSelector, PeerFamily, PeerOptionsSpec, PeerSelector
from stentor.bgp.config import Bfd, FamilyConfig, Kernel, Peer, PolicyConfig, TcpAO, TTLSecurity
from stentor.bgp.resource import session
from stentor.bgp.resource.plan import InstancePlan, PeerPlan, Plan, Problem
from stentor.bgp.resource.session import Facts, Report
from stentor.tables.bgp import InstanceOptions, PeerOptions

_PLAIN = ("extended_next_hop", "extended_messages", "enforce_first_as", "allow_own_as")
_OF_FAMILIES = ("next_hop", "default_originate")


def with_options(
    plan: Plan, peer_options: Iterable[PeerOptions], instance_options: Iterable[InstanceOptions], facts: Facts
) -> Plan:
    """The plan with all options that select something of it."""
    problems = list(plan.problems)
    for_peers = sorted(peer_options, key=lambda each: each.age_key)
    for_instances = sorted(instance_options, key=lambda each: each.age_key)
    labels = dict(facts.node.labels)
    instances = []
    for instance in plan.instances:
        peers: list[PeerPlan] = []
        for peer in instance.peers:
            chosen = [each for each in for_peers if selects_peer(each.spec.selector, instance, peer, labels)]
            found = _peer(peer, chosen, instance, facts, problems)
            peers += [found] if found is not None else []
        instance = msgspec.structs.replace(instance, peers=tuple(peers))
        for options in reversed([o for o in for_instances if selects_instance(o.spec.selector, instance, labels)]):
            instance = _with_instance_options(instance, options)
        instances.append(instance)
    return msgspec.structs.replace(plan, instances=tuple(instances), problems=tuple(problems))


def selects_peer(selector: PeerSelector, instance: InstancePlan, peer: PeerPlan, labels: dict[str, str]) -> bool:
    """Whether all conditions hold, of each list for one member."""
    return (
        _any(selector.peer_configs, peer.peer_config)
        and _any(selector.peers, peer.config.name)
        and (not selector.peer_addresses or _is_inside(peer.config.peer_address, selector.peer_addresses))
        and _any(selector.instances, instance.name)
        and _any(selector.local_asns, instance.local_asn)
        and _on_node(selector.node_selector, labels)
    )


def selects_instance(selector: InstanceSelector, instance: InstancePlan, labels: dict[str, str]) -> bool:
    """As for peers."""
    return (
        _any(selector.instances, instance.name)
        and _any(selector.local_asns, instance.local_asn)
        and _on_node(selector.node_selector, labels)
    )


def _any(wanted: tuple[Any, ...], value: object) -> bool:
    return not wanted or value in wanted


def _on_node(selector: LabelSelector | None, labels: dict[str, str]) -> bool:
    return selector is None or selector.matches(labels)


def _is_inside(address: str | None, texts: Iterable[str]) -> bool:
    for text in texts:
        try:
            if address is not None and ip_address(address) in ip_network(text, strict=False):
                return True
        except ValueError:
            continue  # the operator reports it on the object
    return False


def _peer(
    peer: PeerPlan, options: list[PeerOptions], instance: InstancePlan, facts: Facts, problems: list[Problem]
) -> PeerPlan | None:
    """None while a key that an option asks for is missing."""
    for each in reversed(options):  # the oldest last, so that it overrides
        report = Report(f"StentorBGPPeerOptions {each.name}", problems, instance.name, peer.config.name)
        keys, is_known = _keys(each.spec, facts, report)
        if not is_known:
            return None
        config = msgspec.structs.replace(peer.config, **_session_fields(peer.config, each.spec), **keys)
        for family in each.spec.families:
            config = _with_family(config, family)
        imports = dict(peer.imports) | {
            family.afi: _import(family.import_) for family in each.spec.families if family.import_ is not None
        }
        peer = msgspec.structs.replace(peer, config=config, imports=tuple(imports.items()))
    return peer


def _keys(spec: PeerOptionsSpec, facts: Facts, report: Report) -> tuple[dict[str, Any], bool]:
    if spec.tcp_ao is None:
        return {}, True
    key, is_known = session.password(spec.tcp_ao.secret_ref, "spec.tcpAO.secretRef", facts, report)
    if key is None or not is_known:
        return {}, False
    return {"tcp_ao": TcpAO(spec.tcp_ao.key_id, key, spec.tcp_ao.algorithm), "password": None}, True


def _session_fields(peer: Peer, spec: PeerOptionsSpec) -> dict[str, Any]:
    """What changes of the peer."""
    fields = {name: value for name in _PLAIN if (value := getattr(spec, name)) is not None}
    if spec.bfd is not None:
        fields["bfd"] = msgspec.convert(msgspec.to_builtins(spec.bfd), Bfd)
    if spec.ttl_security is not None:
        fields["ttl_security"] = TTLSecurity(spec.ttl_security.hops)
    if spec.passive is not None:
        fields["transport"] = msgspec.structs.replace(peer.transport, passive=spec.passive)
    if spec.listen_range is not None:
        fields["peer_address"] = spec.listen_range.prefix
        fields["max_dynamic_peers"] = spec.listen_range.max_peers
    if spec.idle_hold_time_seconds is not None:
        fields["timers"] = msgspec.structs.replace(peer.timers, idle_hold_time_seconds=spec.idle_hold_time_seconds)
    if spec.long_lived_stale_time_seconds is not None:
        stale_s = spec.long_lived_stale_time_seconds
        restart = msgspec.structs.replace(peer.graceful_restart, long_lived_stale_time_seconds=stale_s)
        fields["graceful_restart"] = restart
    return fields


def _with_family(peer: Peer, options: PeerFamily) -> Peer:
    fields: dict[str, Any] = {n: v for n in _OF_FAMILIES if (v := getattr(options, n)) is not None}
    for name in ("add_path", "prefix_limit"):
        value = getattr(options, name)
        if value is not None:
            kind = {field.name: field.type for field in msgspec.structs.fields(FamilyConfig)}[name]
            fields[name] = msgspec.convert(msgspec.to_builtins(value), kind)
    families = tuple(
        msgspec.structs.replace(each, **fields) if each.afi == options.afi else each for each in peer.families
    )
    return msgspec.structs.replace(peer, families=families)


def _import(found: Import) -> PolicyConfig:
    """The policy without its name, which is the peer's."""
    return msgspec.convert(msgspec.to_builtins(found) | {"name": "import"}, PolicyConfig)


def _with_instance_options(instance: InstancePlan, options: InstanceOptions) -> InstancePlan:
    kernel, addresses = options.spec.kernel, options.spec.listen_addresses
    return msgspec.structs.replace(
        instance,
        kernel=instance.kernel if kernel is None else msgspec.convert(msgspec.to_builtins(kernel), Kernel),
        listen_addresses=addresses or instance.listen_addresses,
    )
