"""Addresses that nodes answer for on their links: who is wanted to, and for what this node does."""

from __future__ import annotations

import msgspec

from stentor.api.meta import ObjectKey
from stentor.net.address import Addr
from stentor.state import Column, Table


class WantedAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """An address that this node would announce if it had the lease. `services` share the address; `interfaces` are names."""

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
    """An address that this node answers for on a link with the link's MAC address, as long as the lease is good."""

    addr: Addr
    ifindex: int
    mac: bytes
    lease: str
    interface: str = ""
    services: tuple[ObjectKey, ...] = ()

    @property
    def key(self) -> AnnouncementKey:
        return AnnouncementKey(self.addr, self.ifindex)


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
