"""Compiled policy as the datapath looks it up: a peer's class, then the class's verdict for a port.

A policy set has an id; endpoints with equal (identity, named ports, enforcement) share it. See docs/datapath.md.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import msgspec

from stentor.state import Column, Table

ANYONE = 0
"""The peer of whom no rule speaks by name: the row that decides for everybody else."""


class Direction(IntEnum):
    """From the endpoint's side, as keys of `peers` have it (bpf/maps/policy.h)."""

    EGRESS = 0
    INGRESS = 1


class Form(IntFlag):
    """Which kinds of row a class has; the datapath probes only these, from the most to the least specific."""

    NONE = 0
    EXACT = 1  # (protocol, port)
    RANGE = 2  # (protocol, port prefix), longest match
    PROTOCOL = 4  # (protocol, any port)
    ANY = 8  # any protocol and port


class Action(IntEnum):
    """`enum rule_action` of bpf/maps/policy.h."""

    ALLOW = 0
    DENY = 1


class PolicyPeer(msgspec.Struct, frozen=True, kw_only=True):
    """(policy, direction, peer identity) → class. Identity 0 is `ANYONE`."""

    policy_id: int
    direction: Direction
    identity: int
    class_id: int
    forms: Form

    @property
    def key(self) -> PeerKey:
        return PeerKey(self.policy_id, self.direction, self.identity)


class PeerKey(msgspec.Struct, frozen=True, order=True):
    """A peer of a policy set; identity 0 is `ANYONE`."""

    policy_id: int
    direction: Direction
    identity: int


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a class.

    `protocol` 0 is any; `port` is the destination port (ICMP: the type) in host order; `port_bits` is 16 for one port, 1 to 15
    for an aligned range, 0 for any. `proxy` is an L7 listener's id, 0 for none; `auth` an authentication mode, 0 for none.
    """

    class_id: int
    protocol: int = 0
    port: int = 0
    port_bits: int = 0
    action: Action = Action.ALLOW
    proxy: int = 0
    auth: int = 0

    @property
    def key(self) -> RuleKey:
        return RuleKey(self.class_id, self.protocol, self.port, self.port_bits)

    @property
    def form(self) -> Form:
        if not self.protocol:
            return Form.ANY
        if not self.port_bits:
            return Form.PROTOCOL
        return Form.EXACT if self.port_bits == 16 else Form.RANGE


class RuleKey(msgspec.Struct, frozen=True, order=True):
    """A rule of a class: of `port` the first `port_bits` count."""

    class_id: int
    protocol: int
    port: int
    port_bits: int


def policy_peers() -> Table[PeerKey, PolicyPeer]:
    """Desired rows of the peers map."""
    return Table(
        "policy-peers",
        lambda row: row.key,
        indexes={"policy": lambda row: (row.policy_id,), "class": lambda row: (row.class_id,)},
        columns=(
            Column("POLICY", lambda row: row.policy_id),
            Column("DIRECTION", lambda row: row.direction.name.capitalize()),
            Column("IDENTITY", lambda row: row.identity or "ANY"),
            Column("CLASS", lambda row: row.class_id),
        ),
    )


def policy_rules() -> Table[RuleKey, PolicyRule]:
    """Desired rows of the classes and class-ranges maps."""
    return Table(
        "policy-rules",
        lambda row: row.key,
        indexes={"class": lambda row: (row.class_id,)},
        columns=(
            Column("CLASS", lambda row: row.class_id),
            Column("PROTOCOL", lambda row: row.protocol or "ANY"),
            Column("PORT", lambda row: f"{row.port}/{row.port_bits}" if row.port_bits else "ANY"),
            Column("ACTION", lambda row: row.action.name.lower()),
        ),
    )
