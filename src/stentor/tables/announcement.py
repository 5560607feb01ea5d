"""L2 announcements: policies, the links of this node, leases, the addresses it would answer for, and those it does."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stentor.api.meta import LabelSelector, ObjectKey
from stentor.net.address import Addr
from stentor.state import Column, Table


class Problem(NamedTuple):
    """Why a policy cannot be used: the type of the condition that says so, and what it says."""

    condition: str
    message: str


class L2Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A CiliumL2AnnouncementPolicy. Selectors that are None select everything; one with `problems` announces nothing."""

    name: str
    generation: int = 0
    node_selector: LabelSelector | None = None
    service_selector: LabelSelector | None = None
    load_balancer_ips: bool = False
    external_ips: bool = False
    interfaces: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A device of this node on which addresses can be announced."""

    name: str
    ifindex: int
    mac: bytes


class L2Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a lease; `is_ours` as long as this node may answer for what hangs on it."""

    name: str
    holder: str
    is_ours: bool = False


class WantedAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """An address that this node announces while it has the lease. `services` share the address; `interfaces` are names."""

    addr: Addr
    lease: str
    interfaces: tuple[str, ...]
    services: tuple[ObjectKey, ...]
    policies: tuple[str, ...]


class AnnouncementKey(msgspec.Struct, frozen=True, order=True):
    """One address on one link."""

    addr: Addr
    ifindex: int


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An address that this node answers for on a link, with the link's MAC address, as long as the lease is good."""

    addr: Addr
    ifindex: int
    mac: bytes
    lease: str
    interface: str = ""
    services: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> AnnouncementKey:
        return AnnouncementKey(self.addr, self.ifindex)


def l2_policies() -> Table[str, L2Policy]:
    """By name."""
    return Table(
        "l2-policies",
        lambda row: row.name,
        columns=(
            Column("NAME", lambda row: row.name),
            Column("INTERFACES", lambda row: ", ".join(row.interfaces)),
            Column("PROBLEMS", lambda row: "; ".join(problem.message for problem in row.problems)),
        ),
    )


def l2_links() -> Table[str, Link]:
    """By name."""
    return Table(
        "l2-links",
        lambda row: row.name,
        columns=(
            Column("NAME", lambda row: row.name),
            Column("IFINDEX", lambda row: row.ifindex),
            Column("MAC", lambda row: row.mac.hex(":")),
        ),
    )


def l2_leases() -> Table[str, L2Lease]:
    """By name."""
    return Table(
        "l2-leases",
        lambda row: row.name,
        columns=(
            Column("LEASE", lambda row: row.name),
            Column("HOLDER", lambda row: row.holder),
            Column("OURS", lambda row: "yes" if row.is_ours else "no"),
        ),
    )


def wanted_announcements() -> Table[Addr, WantedAnnouncement]:
    """What policies ask of this node, by address."""
    return Table(
        "l2-wanted",
        lambda row: row.addr,
        indexes={"lease": lambda row: (row.lease,)},
        columns=(
            Column("IP", lambda row: row.addr),
            Column("INTERFACES", lambda row: ", ".join(row.interfaces)),
            Column("SERVICES", lambda row: ", ".join(map(str, row.services))),
            Column("LEASE", lambda row: row.lease),
            Column("POLICIES", lambda row: ", ".join(row.policies)),
        ),
    )


def announcements() -> Table[AnnouncementKey, Announcement]:
    """What this node answers for."""
    return Table(
        "l2-announce",
        lambda row: row.key,
        columns=(
            Column("IP", lambda row: row.addr),
            Column("INTERFACE", lambda row: row.interface),
            Column("SERVICES", lambda row: ", ".join(map(str, row.services))),
            Column("LEASE", lambda row: row.lease),
        ),
    )
