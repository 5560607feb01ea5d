"""Routes: what each service, the node's prefixes and its interfaces contribute, and what is advertised of it.

A contribution is one origin's wish for a prefix, with the names of the entries that ask for it. Contributions to one prefix
become one route that carries all their names: several services in one aggregate, or several advertisements of one address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from stentor.bgp.resource.node import Machine
from stentor.bgp.resource.plan import Origin, Plan
from stentor.net.address import Prefix
from stentor.state import Column, Table

RouteKey = tuple[str, Prefix]
"""Instance and prefix."""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What `origin` (`Service default/web`, `PodCIDR`, `Interface lo`) asks to be advertised."""

    instance: str
    prefix: Prefix
    origin: str
    entries: tuple[str, ...]


class BGPRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route to originate; `entries`, sorted, are its tags."""

    instance: str
    prefix: Prefix
    entries: tuple[str, ...]


def contributions() -> Table[tuple[str, Prefix, str], Contribution]:
    """By instance, prefix and origin."""
    return Table(
        "bgp-contributions",
        lambda row: (row.instance, row.prefix, row.origin),
        indexes={"route": lambda row: ((row.instance, row.prefix),)},
        columns=(
            Column("INSTANCE", lambda row: row.instance),
            Column("PREFIX", lambda row: row.prefix),
            Column("ORIGIN", lambda row: row.origin),
            Column("ENTRIES", lambda row: ", ".join(row.entries)),
        ),
    )


def routes() -> Table[RouteKey, BGPRoute]:
    """What the speaker is to originate."""
    return Table(
        "bgp-routes",
        lambda row: (row.instance, row.prefix),
        columns=(
            Column("INSTANCE", lambda row: row.instance),
            Column("PREFIX", lambda row: row.prefix),
            Column("ENTRIES", lambda row: ", ".join(row.entries)),
        ),
    )


def merge(rows: Iterable[Contribution]) -> Iterator[BGPRoute]:
    """The route of contributions to one prefix of one instance; none without any."""
    found = list(rows)
    if found:
        names = sorted({name for row in found for name in row.entries})
        yield BGPRoute(instance=found[0].instance, prefix=found[0].prefix, entries=tuple(names))


def of_prefixes(plan: Plan, origin: Origin, prefixes: Iterable[Prefix]) -> Iterator[Contribution]:
    """The node's pod CIDRs."""
    wanted = tuple(prefixes)
    for instance in plan.instances if not plan.is_leaving else ():
        names = tuple(sorted(entry.name for entry in instance.entries if entry.origin is origin))
        if names:
            for prefix in wanted:
                yield Contribution(instance=instance.name, prefix=prefix, origin=origin.value, entries=names)


def of_interfaces(plan: Plan, machine: Machine) -> Iterator[Contribution]:
    """The addresses of devices that are to be advertised, each on its own."""
    for instance in plan.instances if not plan.is_leaving else ():
        names: dict[tuple[str, Prefix], list[str]] = {}
        for entry in instance.entries:
            if entry.origin is Origin.INTERFACE:
                for addr in machine.of_interface(entry.interface):
                    names.setdefault((entry.interface, addr.host_prefix), []).append(entry.name)
        for (device, prefix), entries in names.items():
            origin = f"Interface {device}"
            yield Contribution(instance=instance.name, prefix=prefix, origin=origin, entries=tuple(sorted(entries)))
