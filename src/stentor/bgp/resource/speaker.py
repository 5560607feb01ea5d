"""From a plan to the speaker's configuration: one export policy for each peer and family.

Its statements add what the entries' attributes say, in the order of their local preferences, so that of a route that several
entries ask for the communities are united and the highest preference wins, as upstream. The last statement accepts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from stentor.bgp.compile import compile_policy
from stentor.bgp.config import (
    Config,
    Instance,
    MatchConfig,
    Peer,
    PolicyConfig,
    SetConfig,
    StatementConfig,
    check,
)
from stentor.bgp.errors import ConfigError
from stentor.bgp.resource.plan import Attributes, Grant, InstancePlan, PeerPlan, Plan, Problem

NAME_LENGTH = 255


def speaker_config(plan: Plan) -> Config:
    """The configuration of a plan that `checked` has passed."""
    policies: dict[str, PolicyConfig] = {}
    instances = []
    for each in plan.instances:
        peers = []
        for peer in each.peers:
            config, own = peer_config(each.name, peer)
            peers.append(config)
            policies.update((policy.name, policy) for policy in own)
        instances.append(instance_config(each, peers))
    return Config(tuple(instances), tuple(policies.values()))


def instance_config(plan: InstancePlan, peers: Iterable[Peer]) -> Instance:
    """A virtual router with these peers."""
    made = Instance(
        name=plan.name,
        local_asn=plan.local_asn,
        router_id=plan.router_id,
        local_port=plan.local_port,
        peers=tuple(peers),
        kernel=plan.kernel,
    )
    return msgspec.structs.replace(made, listen_addresses=plan.listen_addresses) if plan.listen_addresses else made


def peer_config(instance: str, plan: PeerPlan) -> tuple[Peer, tuple[PolicyConfig, ...]]:
    """A peer, and the policies that its families name."""
    families, policies = [], []
    for family in plan.config.families:
        name = policy_name(instance, plan.config.name, family.afi)
        policies.append(export_policy(name, plan.granted(family.afi)))
        family = msgspec.structs.replace(family, export_policy=name)
        wanted = dict(plan.imports).get(family.afi)
        if wanted is not None:
            own = msgspec.structs.replace(wanted, name=policy_name(instance, plan.config.name, f"{family.afi}/import"))
            policies.append(own)
            family = msgspec.structs.replace(family, import_policy=own.name)
        families.append(family)
    return msgspec.structs.replace(plan.config, families=tuple(families)), tuple(policies)


def export_policy(name: str, grants: Iterable[Grant]) -> PolicyConfig:
    """What lets through the routes of these entries, and nothing else."""
    ordered = sorted(set(grants), key=lambda grant: (grant.attributes.local_preference or 0, grant.entry))
    statements = [
        StatementConfig(grant.entry, MatchConfig(tags=(grant.entry,)), _changes(grant.attributes), "continue")
        for grant in ordered
        if grant.attributes != Attributes()
    ]
    entries = tuple(dict.fromkeys(grant.entry for grant in ordered))
    if entries:
        statements.append(StatementConfig("advertised", MatchConfig(sources=("local",), tags=entries)))
    return PolicyConfig(name, tuple(statements))


def policy_name(instance: str, peer: str, afi: str) -> str:
    """Unique, and at most `NAME_LENGTH` characters."""
    name = f"{instance}/{peer}/{afi}"
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[: NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def checked(plan: Plan) -> Plan:
    """The plan without what the speaker would refuse; each such part is a problem, and the others stay."""
    problems = list(plan.problems)
    instances: list[InstancePlan] = []
    for each in plan.instances:
        other = next((one for one in instances if _listens_where(one, each)), None)
        if other is not None:
            text = f"{each.local_port} is taken by {other.name}: this instance only connects"
            problems.append(Problem(plan.source, f"{each.name}.localPort", text, each.name))
            each = msgspec.structs.replace(each, local_port=None)
        try:
            check(Config((instance_config(each, ()),)))
        except ConfigError as error:
            field = error.field.removeprefix("instances[0].")
            problems.append(Problem(plan.source, f"{each.name}.{field}", error.reason, each.name))
            continue
        good = []
        for peer in each.peers:
            problem = _peer_problem(each, peer)
            if problem is None:
                good.append(peer)
            else:
                field, text = problem
                problems.append(Problem(plan.source, f"{each.name}.{field}", text, each.name, peer.config.name))
        instances.append(msgspec.structs.replace(each, peers=tuple(good)))
    return msgspec.structs.replace(plan, instances=tuple(instances), problems=tuple(problems))


def _listens_where(one: InstancePlan, other: InstancePlan) -> bool:
    """Whether two instances want to listen on one port of an address; without addresses they mean all."""
    if one.local_port is None or one.local_port != other.local_port:
        return False
    mine, others = set(one.listen_addresses), set(other.listen_addresses)
    return not mine or not others or bool(mine & others)


def _peer_problem(instance: InstancePlan, plan: PeerPlan) -> tuple[str, str] | None:
    """Field and reason of what is wrong with a peer on its own."""
    peer, policies = peer_config(instance.name, plan)
    try:
        for policy in policies:
            compile_policy(policy, "policy")
        check(Config((instance_config(instance, (peer,)),), policies))
    except ConfigError as error:
        field = error.field.removeprefix("instances[0].peers[0].")
        return f"{peer.name}.{field}", error.reason
    return None


def _changes(attributes: Attributes) -> SetConfig:
    return SetConfig(
        local_preference=attributes.local_preference,
        add_communities=tuple(_unique(attributes.standard, attributes.well_known)),
        add_large_communities=tuple(_unique(attributes.large)),
    )


def _unique(*groups: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(text for group in groups for text in group)
