"""What both APIs say of sessions, in the speaker's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from stentor.api.bgp import BGPCommunities, CiliumBGPGracefulRestart
from stentor.bgp.config import FamilyConfig, GracefulRestart, Timers
from stentor.bgp.resource.node import BGPNode, Machine
from stentor.bgp.resource.plan import AddressKind, Attributes, Problem
from stentor.bgp.resource.secret import Password

UPSTREAM_RETRY_S = 120
"""Default of connectRetryTimeSeconds upstream: who left it at that gets the speaker's own, much shorter retry."""

DEFAULT_AFIS = ("ipv4", "ipv6")
_ADDRESS_KINDS = {kind.value: kind for kind in AddressKind}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions know beside the resources. `router_id` is the node's own; `password` finds a Secret's."""

    node: BGPNode
    machine: Machine
    router_id: str
    password: Callable[[str], Password | None]
    secrets_namespace: str = "kube-system"


class Family(Protocol):
    """An address family as either API has it."""

    @property
    def afi(self) -> str: ...
    @property
    def safi(self) -> str: ...


class Report:
    """Collects the problems of one object; `at` fixes the instance and peer that they are about."""

    def __init__(self, source: str, found: list[Problem], instance: str = "", peer: str = "") -> None:
        self.source = source
        self.found = found
        self.instance = instance
        self.peer = peer

    def at(self, instance: str, peer: str = "") -> Report:
        return Report(self.source, self.found, instance, peer)

    def add(self, field: str, text: str, *, source: str = "", is_waiting: bool = False) -> None:
        problem = Problem(source or self.source, field, text, self.instance, self.peer, is_waiting)
        if problem not in self.found:
            self.found.append(problem)


def families(found: Sequence[Family], field: str, report: Report) -> tuple[FamilyConfig, ...]:
    """The families of a session; both without any. Nothing is imported unless options say so."""
    afis = []
    for index, each in enumerate(found):
        if each.safi != "unicast" or each.afi not in DEFAULT_AFIS:
            report.add(f"{field}[{index}]", f"{each.afi}/{each.safi} is not spoken: only ipv4 and ipv6 unicast")
        elif each.afi in afis:
            report.add(f"{field}[{index}].afi", f"{each.afi} appears twice")
        else:
            afis.append(each.afi)
    names = afis if found else DEFAULT_AFIS
    return tuple(msgspec.convert({"afi": afi, "import": "reject"}, FamilyConfig) for afi in names)


def timers(connect_retry_s: int, hold_s: int, keep_alive_s: int) -> Timers:
    """The timers of a session."""
    if connect_retry_s == UPSTREAM_RETRY_S:
        return Timers(hold_time_seconds=hold_s, keep_alive_time_seconds=keep_alive_s)
    return Timers(min(connect_retry_s, 65535), hold_s, keep_alive_s)


def graceful_restart(found: CiliumBGPGracefulRestart | None) -> GracefulRestart:
    """Graceful restart, off without it."""
    return GracefulRestart() if found is None else GracefulRestart(found.enabled, found.restart_time_seconds)


def attributes(communities: BGPCommunities | None, local_preference: int | None) -> Attributes:
    """Attributes of an advertisement."""
    found = communities or BGPCommunities()
    return Attributes(found.standard, found.well_known, found.large, local_preference)


def password(name: str | None, field: str, facts: Facts, report: Report) -> tuple[str | None, bool]:
    """The password of a Secret, None without one; false when the session has to wait for it: none goes without its key."""
    if name is None:
        return None, True
    where = f"Secret {facts.secrets_namespace}/{name}"
    found = facts.password(name)
    if found is None or found.problem:
        report.add(field, f"{where} {'does not exist' if found is None else found.problem}")
        return None, False
    return found.text, True


def address_kinds(texts: Sequence[str], field: str, report: Report) -> frozenset[AddressKind]:
    """Kinds of addresses of services."""
    for index, text in enumerate(texts):
        if text not in _ADDRESS_KINDS:
            report.add(f"{field}[{index}]", f"{text!r} is not one of {', '.join(_ADDRESS_KINDS)}")
    return frozenset(_ADDRESS_KINDS[text] for text in texts if text in _ADDRESS_KINDS)
