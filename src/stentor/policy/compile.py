"""Policy sets: what each identity may send and take, as rows of the `peers` and `classes` maps.

A set's id is its identity's number, so that an agent that starts again finds its predecessor's rows under the same ids and
never has to move an endpoint from one set to another. Without policies there are two classes: everything, and nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stentor.net.address import Addr
from stentor.net.identity import Reserved
from stentor.state import Database, Derivation, Input, Table
from stentor.tables.endpoint import Endpoint, EndpointEntry
from stentor.tables.policy import ANYONE, Action, Direction, Form, PeerKey, PolicyPeer, PolicyRule, RuleKey
from stentor.tables.realized import Realized

POLICY_NONE: Final = 0
ALLOW_ALL: Final = 1
DENY_ALL: Final = 2


def policy_id(identity: int) -> int:
    """The set of an identity; `POLICY_NONE` (0) is never one."""
    return identity


def write_base_classes(database: Database, rules: Table[RuleKey, PolicyRule]) -> None:
    """The classes that need no policy."""
    database.put(
        rules,
        PolicyRule(class_id=ALLOW_ALL, action=Action.ALLOW),
        PolicyRule(class_id=DENY_ALL, action=Action.DENY),
    )


def class_of_anyone(mode: str) -> int:
    """What `policyEnforcementMode` means for endpoints that no policy selects: only `always` denies."""
    return DENY_ALL if mode == "always" else ALLOW_ALL


def derive_policy_peers(
    endpoints: Table[int, Endpoint],
    rules: Table[RuleKey, PolicyRule],
    realized: Table[RuleKey, Realized[RuleKey, PolicyRule]],
    entries: Table[Addr, Realized[Addr, EndpointEntry]],
    output: Table[PeerKey, PolicyPeer],
    *,
    mode: str,
) -> Derivation[int, PeerKey, PolicyPeer]:
    """A set for each identity of a local endpoint, and for each that a row of the kernel's endpoint map (`entries`) still
    names. A peer row appears once all rows of its class are in the kernel.

    The node itself may always reach its pods, whatever the mode: kubelet's probes come from there.
    """

    def compute(policy: int) -> Iterable[PolicyPeer]:
        if not policy or not (endpoints.by("identity", policy) or entries.by("policy", policy)):
            return
        anyone = class_of_anyone(mode)
        wanted = [(direction, ANYONE, anyone) for direction in Direction]
        if anyone != ALLOW_ALL:
            wanted.append((Direction.INGRESS, int(Reserved.HOST), ALLOW_ALL))
        for direction, identity, class_id in wanted:
            rows = rules.by("class", class_id)
            if rows and all(row.key in realized for row in rows):
                forms = Form.NONE
                for row in rows:
                    forms |= row.form
                yield PolicyPeer(
                    policy_id=policy, direction=direction, identity=identity, class_id=class_id, forms=forms
                )

    def all_policies(_: object) -> Iterable[int]:
        return {endpoint.identity for endpoint in endpoints} | {entry.row.policy_id for entry in entries}

    inputs = (
        Input(endpoints, lambda row: (policy_id(row.identity),)),
        Input(rules, all_policies),
        Input(realized, all_policies),
        Input(entries, lambda row: (row.row.policy_id,)),
    )
    return Derivation("policy-peers", output, compute, inputs)
