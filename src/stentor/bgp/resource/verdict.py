"""What is wrong with BGP resources, as conditions of the objects that users wrote. Pure: the operator writes them.

The plans of nodes are made here as the agents make them, with facts of a machine that lacks nothing: what remains as a
problem is the resources' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Final

import msgspec

from stentor.api import bgp, stentor
from stentor.bgp.resource import nodeconfig, peering
from stentor.bgp.resource.cluster import Assignment, node_spec
from stentor.bgp.resource.node import BGPNode, Gateway, Machine
from stentor.bgp.resource.options import selects_instance, selects_peer, with_options
from stentor.bgp.resource.plan import NODE_CONFIG, Plan, Problem
from stentor.bgp.resource.secret import Password
from stentor.bgp.resource.session import Facts
from stentor.bgp.resource.speaker import checked
from stentor.net.address import Addr
from stentor.tables.bgp import (
    Advertisement,
    ClusterConfig,
    Configured,
    InstanceOptions,
    NodeConfigOverride,
    PeerConfig,
    PeeringPolicy,
    PeerOptions,
)
from stentor.tables.condition import Judged, ResourceKey, Verdict

OF_CLUSTER_CONFIG: Final = frozenset(
    (
        bgp.NO_MATCHING_NODE,
        bgp.MISSING_PEER_CONFIGS,
        bgp.CONFLICTING_CLUSTER_CONFIG,
        bgp.SUPERSEDED,
        bgp.INVALID,
    )
)
OF_PEER_CONFIG: Final = frozenset((bgp.MISSING_AUTH_SECRET, bgp.INVALID))
OF_OPTIONS: Final = frozenset((stentor.NO_MATCH, stentor.CONFLICT, stentor.INVALID))
_MESSAGE_LENGTH: Final = 32768
_REFERENCE: Final = ".peerConfigRef.name:"
"""What this names has a condition of its own."""


Options = PeerOptions | InstanceOptions


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that users wrote about BGP, the nodes' labels, and the Secrets that there are."""

    nodes: Mapping[str, dict[str, str]] = {}
    configs: Mapping[str, ClusterConfig] = {}
    peer_configs: Mapping[str, PeerConfig] = {}
    advertisements: tuple[Advertisement, ...] = ()
    overrides: Mapping[str, NodeConfigOverride] = {}
    policies: Mapping[str, PeeringPolicy] = {}
    peer_options: Mapping[str, PeerOptions] = {}
    instance_options: Mapping[str, InstanceOptions] = {}
    passwords: Mapping[str, Password] = {}
    secrets_namespace: str = ""
    faults: Mapping[str, tuple[str, ...]] = {}
    """What else is wrong with cluster configurations, by name."""

    def policy_of(self, labels: dict[str, str]) -> str:
        """Name of the CiliumBGPPeeringPolicy that counts on a node; empty when none does."""
        found = peering.selecting(self.policies.values(), labels)
        return found[0].name if found else ""


class Judgement(msgspec.Struct, frozen=True):
    """Conditions, and problems of objects that have no status, as (kind, name) with texts."""

    conditions: tuple[Judged, ...]
    told: tuple[tuple[tuple[str, str], tuple[str, ...]], ...] = ()


def judge(cluster: Cluster, assignment: Assignment) -> Judgement:
    """Conditions of all objects."""
    plans = _Plans(cluster, assignment)
    plans.make()
    conditions = [_of_cluster_config(each, cluster, assignment, plans) for each in cluster.configs.values()]
    conditions += [_of_peer_config(each, cluster, plans) for each in cluster.peer_configs.values()]
    for kind, options in (
        (stentor.PEER_OPTIONS, cluster.peer_options),
        (stentor.INSTANCE_OPTIONS, cluster.instance_options),
    ):
        for each in options.values():
            conditions.append(_of_options(kind.kind, kind.plural, each, plans))
    told = tuple(
        ((kind, name), tuple(texts))
        for (kind, name), texts in sorted(plans.texts.items())
        if kind in ("CiliumBGPPeeringPolicy", "CiliumBGPAdvertisement")
    )
    return Judgement(tuple(conditions), told)


class _Plans:
    """The plans of all nodes, and what they say of which object."""

    def __init__(self, cluster: Cluster, assignment: Assignment) -> None:
        self.cluster = cluster
        self.assignment = assignment
        self.texts: dict[tuple[str, str], dict[str, None]] = {}
        """Texts by (kind, name)."""
        self.matched: set[tuple[str, str]] = set()
        """Options that select something."""
        self.conflicts: dict[tuple[str, str], dict[str, None]] = {}
        self._resources = nodeconfig.Resources(cluster.peer_configs, cluster.advertisements)
        self._machine = _complete_machine(cluster)

    def make(self) -> None:
        """One plan of each cluster configuration and policy, and of each node that differs from it."""
        for name in self.cluster.configs:
            nodes = [node for node, runs in self.assignment.runs.items() if runs == name]
            nodes = [node for node in nodes if not self.cluster.policy_of(self.cluster.nodes[node])]
            plain = self._plan(name, "", {})
            for node in nodes:
                override = node in self.cluster.overrides
                self._with_options(self._plan(name, node, self.cluster.nodes[node]) if override else plain, node)
        for name, policy in self.cluster.policies.items():
            anywhere = msgspec.structs.replace(policy.spec, node_selector=None)
            plan = peering.plan([msgspec.structs.replace(policy, spec=anywhere)], self._facts("", {}))
            if plan is not None:
                plain = self._checked(plan, ("CiliumBGPPeeringPolicy", name))
                nodes = [node for node, labels in self.cluster.nodes.items() if self.cluster.policy_of(labels) == name]
                for node in nodes:
                    self._with_options(plain, node)
        for labels in self.cluster.nodes.values():
            found = peering.selecting(self.cluster.policies.values(), labels)
            for each in found[1:]:
                text = f"spec.nodeSelector: selects nodes that {found[0].name}, which is older, selects too"
                self._say(("CiliumBGPPeeringPolicy", each.name), text)

    def _plan(self, config: str, node: str, labels: dict[str, str]) -> Plan:
        row = self.cluster.configs[config]
        spec = node_spec(row.spec, self.cluster.overrides.get(node))
        name = node or config
        plan = nodeconfig.plan(Configured(name, spec), self._resources, self._facts(name, labels))
        return self._checked(plan, ("CiliumBGPClusterConfig", config))

    def _checked(self, plan: Plan, written: tuple[str, str]) -> Plan:
        """The plan without what is wrong with it; that is said of the objects that users wrote."""
        found = checked(plan)
        for problem in found.problems:
            kind, _, name = problem.source.partition(" ")
            is_of_plan = kind == NODE_CONFIG or problem.source == plan.source
            if not problem.is_waiting:
                self._say(written if is_of_plan else (kind, name), _text(problem))
        return msgspec.structs.replace(found, problems=())

    def _with_options(self, plan: Plan, node: str) -> None:
        peer_options, instance_options = self.cluster.peer_options.values(), self.cluster.instance_options.values()
        if not (peer_options or instance_options):
            return
        labels = self.cluster.nodes[node]
        facts = self._facts(node, labels)
        for instance in plan.instances:
            chosen = [each for each in instance_options if selects_instance(each.spec.selector, instance, labels)]
            self._note("StentorBGPInstanceOptions", chosen, f"instance {instance.name}")
            for peer in instance.peers:
                options = [each for each in peer_options if selects_peer(each.spec.selector, instance, peer, labels)]
                self._note("StentorBGPPeerOptions", options, f"peer {peer.config.name}")
                alone = msgspec.structs.replace(
                    plan, instances=(msgspec.structs.replace(instance, peers=(peer,)),), problems=()
                )
                for problem in checked(with_options(alone, options, (), facts)).problems:
                    kind, _, name = problem.source.partition(" ")
                    culprits = [name] if kind == "StentorBGPPeerOptions" else [each.name for each in options]
                    for culprit in culprits:
                        self._say(("StentorBGPPeerOptions", culprit), _text(problem))

    def _note(self, kind: str, chosen: Iterable[Options], what: str) -> None:
        """That options select something, and which of them set the same field otherwise."""
        ordered = sorted(chosen, key=lambda each: each.age_key)
        self.matched.update((kind, each.name) for each in ordered)
        for index, younger in enumerate(ordered):
            for older in ordered[:index]:
                ours, theirs = _fields(younger.spec), _fields(older.spec)
                for field in ours:
                    if field in theirs and ours[field] != theirs[field]:
                        text = f"spec.{field}: {older.name}, which is older, sets it for {what}"
                        self.conflicts.setdefault((kind, younger.name), {})[text] = None

    def _say(self, about: tuple[str, str], text: str) -> None:
        self.texts.setdefault(about, {})[text] = None

    def _facts(self, node: str, labels: dict[str, str]) -> Facts:
        return Facts(
            node=BGPNode(name=node, labels=tuple(sorted(labels.items()))),
            machine=self._machine,
            router_id="192.0.2.1",
            password=self.cluster.passwords.get,
            secrets_namespace=self.cluster.secrets_namespace,
        )


def _complete_machine(cluster: Cluster) -> Machine:
    """A machine with default routes, and with an address of each family wherever one is asked for."""
    names = {
        each.spec.transport.source_interface
        for each in cluster.peer_configs.values()
        if each.spec.transport and each.spec.transport.source_interface
    }
    own = (Addr.parse("192.0.2.1"), Addr.parse("2001:db8::1"))
    gateways = (Gateway(4, Addr.parse("192.0.2.2"), "eth0"), Gateway(6, Addr.parse("2001:db8::2"), "eth0"))
    return Machine(gateways=gateways, addresses=tuple((name, own) for name in sorted(names)))


def _fields(spec: object) -> dict[str, object]:
    """What options set, by field; of families by family."""
    document = msgspec.to_builtins(spec)
    document.pop("selector", None)
    families = document.pop("families", ())
    for family in families:
        document |= {f"families[{family['afi']}].{k}": v for k, v in family.items() if k != "afi"}
    return dict(document)


def _text(problem: Problem) -> str:
    return f"{problem.field}: {problem.text}" if problem.field else problem.text


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(texts)[:_MESSAGE_LENGTH]


def _listed(names: Iterable[str]) -> str:
    """As upstream lists names in conditions."""
    return f"[{' '.join(names)}]"


def _invalid(kind: str, texts: Iterable[str]) -> Iterator[Verdict]:
    """Only while something is wrong: upstream does not have this condition."""
    message = _joined(texts)
    if message:
        yield Verdict(kind, True, "InvalidField", message)


def _of_cluster_config(row: ClusterConfig, cluster: Cluster, assignment: Assignment, plans: _Plans) -> Judged:
    selected, conflicts = assignment.selected[row.name], assignment.conflicts[row.name]
    wanted = {peer.peer_config_ref.name for i in row.spec.bgp_instances for peer in i.peers if peer.peer_config_ref}
    missing = sorted(wanted - cluster.peer_configs.keys())
    texts = plans.texts.get(("CiliumBGPClusterConfig", row.name), {})
    verdicts = [
        Verdict(bgp.NO_MATCHING_NODE, not selected, "NoMatchingNode", "No node matches spec.nodeSelector"),
        Verdict(
            bgp.MISSING_PEER_CONFIGS,
            bool(missing),
            "MissingPeerConfigs",
            f"Referenced CiliumBGPPeerConfig(s) are missing: {_listed(missing)}" if missing else "",
        ),
        Verdict(
            bgp.CONFLICTING_CLUSTER_CONFIG,
            bool(conflicts),
            "ConflictingClusterConfigs",
            f"Selecting the same node(s) with ClusterConfig(s): {_listed(conflicts)}" if conflicts else "",
        ),
        *_invalid(
            bgp.INVALID, (*(text for text in texts if _REFERENCE not in text), *cluster.faults.get(row.name, ()))
        ),
    ]
    superseded = {node: policy for node in selected if (policy := cluster.policy_of(cluster.nodes[node]))}
    if superseded:
        text = f"{_listed(sorted(set(superseded.values())))} count(s) instead on node(s) {_listed(superseded)}"
        verdicts.append(
            Verdict(
                bgp.SUPERSEDED, True, "PeeringPolicySelectsNode", f"CiliumBGPPeeringPolicy {text}"[:_MESSAGE_LENGTH]
            )
        )
    key = ResourceKey(bgp.CLUSTER_CONFIGS.plural, row.name)
    return Judged(key, OF_CLUSTER_CONFIG, tuple(verdicts), row.generation)


def _of_peer_config(row: PeerConfig, cluster: Cluster, plans: _Plans) -> Judged:
    secret = row.spec.auth_secret_ref
    is_missing = secret is not None and secret not in cluster.passwords
    message = f'Referenced Auth Secret "{secret}" is missing' if is_missing else ""
    texts = [
        text
        for text in plans.texts.get(("CiliumBGPPeerConfig", row.name), ())
        if not (is_missing and text.startswith("spec.authSecretRef:"))
    ]
    times = row.spec.timers
    if times is not None and times.keep_alive_time_seconds > times.hold_time_seconds:
        texts.append("spec.timers.keepAliveTimeSeconds: exceeds holdTimeSeconds")
    verdicts = (
        Verdict(bgp.MISSING_AUTH_SECRET, is_missing, "MissingAuthSecret", message),
        *_invalid(bgp.INVALID, texts),
    )
    return Judged(ResourceKey(bgp.PEER_CONFIGS.plural, row.name), OF_PEER_CONFIG, verdicts, row.generation)


def _of_options(kind: str, plural: str, row: Options, plans: _Plans) -> Judged:
    about = (kind, row.name)
    selector = row.spec.selector
    addresses = selector.peer_addresses if isinstance(selector, stentor.PeerSelector) else ()
    texts = [*_wrong_addresses(addresses), *plans.texts.get(about, ())]
    conflicts = _joined(plans.conflicts.get(about, ()))
    is_idle = about not in plans.matched
    verdicts = (
        Verdict(stentor.NO_MATCH, is_idle, "NoMatch", "spec.selector: selects nothing" if is_idle else ""),
        Verdict(stentor.CONFLICT, bool(conflicts), "OlderObjectCounts" if conflicts else "NoConflict", conflicts),
        Verdict(stentor.INVALID, bool(texts), "InvalidField" if texts else "Valid", _joined(texts)),
    )
    return Judged(ResourceKey(plural, row.name), OF_OPTIONS, verdicts, row.generation)


def _wrong_addresses(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        try:
            ip_network(text, strict=False)
        except ValueError as e:
            yield f"spec.selector.peerAddresses[{index}]: {e}"
