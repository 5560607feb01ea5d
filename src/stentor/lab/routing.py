"""Routes of machines: those that are written, and default gateways."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from stentor.lab import topology as t
from stentor.lab.plan import Machine, Port, StaticRoute
from stentor.lab.problem import Problems
from stentor.sys.netlink import IPAddress, IPNetwork


def route(machines: Sequence[Machine], routes: Sequence[t.Route], problems: Problems) -> tuple[Machine, ...]:
    """The machines with their routes: written ones, and per family the default gateway where none is written."""
    routers = [
        (machine, port)
        for machine in machines
        if machine.forward and not machine.cluster
        for port in machine.ports
        if port.addresses
    ]
    written = _written_routes({machine.name: machine for machine in machines}, routes, problems)
    routed = []
    for machine in machines:
        own = written.get(machine.name, [])
        defaults = {route.destination.version for route in own if route.destination.prefixlen == 0}
        gateways = [g for g in _gateways(machine, routers) if g.version not in defaults]
        automatic = [StaticRoute(_everything(gateway), gateway) for gateway in gateways]
        routed.append(msgspec.structs.replace(machine, routes=tuple(own + automatic)))
    return tuple(routed)


def _written_routes(
    machines: dict[str, Machine], routes: Sequence[t.Route], problems: Problems
) -> dict[str, list[StaticRoute]]:
    found: dict[str, list[StaticRoute]] = {}
    for index, route in enumerate(routes):
        path = f"spec.routes[{index}]"
        machine = machines.get(route.machine)
        if machine is None:
            problems.add(f"{path}.machine", f"there is no machine {route.machine!r}")
            continue
        parsed = _parse(path, route, machine, problems)
        if parsed is None:
            continue
        mine = found.setdefault(machine.name, [])
        if any(other.destination == parsed.destination for other in mine):
            problems.add(f"{path}.to", f"{machine.name} has another route to {route.to}")
        mine.append(parsed)
    return found


def _parse(path: str, route: t.Route, machine: Machine, problems: Problems) -> StaticRoute | None:
    try:
        via = ipaddress.ip_address(route.via)
    except ValueError:
        problems.add(f"{path}.via", f"{route.via!r} is not an IP address")
        return None
    if not any(via in a.network for port in machine.ports for a in port.addresses if a.version == via.version):
        problems.add(f"{path}.via", f"{via} is on no network of {machine.name}")
    destination = _everything(via) if route.to == "default" else problems.prefix(f"{path}.to", route.to)
    if destination is None:
        return None
    if destination.version != via.version:
        problems.add(f"{path}.via", f"{via} is not of the family of {destination}")
    return StaticRoute(destination, via)


def _gateways(machine: Machine, routers: list[tuple[Machine, Port]]) -> Iterable[IPAddress]:
    """The only forwarding host on the machine's first network, per family; none when there are several."""
    if not machine.ports:
        return
    first = machine.ports[0].network
    for version in (4, 6):
        near = [
            (router, address.ip)
            for router, port in routers
            if port.network == first
            for address in port.addresses
            if address.version == version
        ]
        if len({router.name for router, _ in near}) == 1 and near[0][0].name != machine.name:
            yield near[0][1]


def _everything(address: IPAddress) -> IPNetwork:
    return ipaddress.ip_network("0.0.0.0/0" if address.version == 4 else "::/0")
