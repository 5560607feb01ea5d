"""What is wrong with CiliumL2AnnouncementPolicies, in their conditions. Agents judge for themselves; one writer is enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stentor.api.l2 import BAD_INTERFACE_REGEX, BAD_NODE_SELECTOR, BAD_SERVICE_SELECTOR, L2_POLICIES
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.l2.policy import problems_of
from stentor.operator.condition import resource_source
from stentor.state import Database, Derivation, Graph, Input, Table
from stentor.tables.bgp import l2_policies
from stentor.tables.condition import Judged, Observed, ResourceKey, Verdict

_OURS: Final = frozenset((BAD_SERVICE_SELECTOR, BAD_NODE_SELECTOR, BAD_INTERFACE_REGEX))
_REASON: Final = "error"


class L2Policies:
    """The part of the operator that judges them."""

    def __init__(
        self,
        client: Client,
        database: Database,
        conditions: Table[ResourceKey, Observed],
        judged: Table[ResourceKey, Judged],
    ) -> None:
        self.policies = database.add(l2_policies())
        self.sources: tuple[Reflector[Any], ...] = (
            resource_source(client, L2_POLICIES, database, self.policies, conditions, lambda policy: policy.spec),
        )
        self._conditions = conditions
        self._judged = judged

    def derive(self, graph: Graph) -> None:
        """Add what keeps the verdicts up to date."""
        inputs = (
            Input(self.policies, lambda row: (row.name,)),
            Input(self._conditions, lambda row: (row.key.name,) if row.key.plural == L2_POLICIES.plural else ()),
        )
        graph.add(Derivation("l2-policy-conditions", self._judged, self._judge, inputs))

    def _judge(self, name: str) -> Iterator[Judged]:
        policy = self.policies.get(name)
        if policy is None:
            return
        key = ResourceKey(L2_POLICIES.plural, name)
        observed = self._conditions.get(key)
        problems = {problem.condition: problem.message for problem in problems_of(policy.spec)}
        said = {condition.type for condition in observed.conditions} & _OURS if observed is not None else set()
        verdicts = (
            Verdict(kind, kind in problems, _REASON, problems.get(kind, "")) for kind in sorted(said | problems.keys())
        )
        yield Judged(key, _OURS, tuple(verdicts), policy.generation)
