"""A topology as a picture: for a terminal, and for Graphviz."""

from __future__ import annotations

from collections.abc import Iterable

from stentor.lab.plan import Machine, Plan, Port


def text(plan: Plan) -> str:
    """Each network as a line with the machines that hang on it."""
    lines = [f"{plan.name}"]
    for network in plan.networks:
        lines += ["", f"══ {network.name}  {', '.join(map(str, network.cidrs))}  mtu {network.mtu} ══"]
        wires = list(_wires(plan, network.name))
        for index, (machine, port) in enumerate(wires):
            corner = "└" if index == len(wires) - 1 else "├"
            addresses = ", ".join(str(address.ip) for address in port.addresses) or "no address"
            lines.append(f"   {corner}─ {machine.name} {port.interface}  {addresses}  {_role(plan, machine)}".rstrip())
    routes = [(m, route) for m in plan.machines for route in m.routes]
    if routes:
        lines += ["", "routes"]
        lines += [f"   {m.name}: {_prefix(str(route.destination))} via {route.gateway}" for m, route in routes]
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """For `dot -Tsvg`; clusters are boxes."""
    lines = [f'graph "{plan.name}" {{', "  node [fontname=sans];"]
    for network in plan.networks:
        cidrs = "\\n".join(map(str, network.cidrs))
        lines.append(f'  "net {network.name}" [shape=underline label="{network.name}\\n{cidrs}"];')
    for cluster in plan.clusters:
        lines.append(f'  subgraph "cluster_{cluster.name}" {{ label="{cluster.name}";')
        lines += [f'    "{name}" [shape=box];' for name in cluster.nodes]
        lines.append("  }")
    lines += [f'  "{m.name}" [shape={"diamond" if m.forward else "ellipse"}];' for m in plan.machines if not m.cluster]
    for network in plan.networks:
        for machine, port in _wires(plan, network.name):
            label = "\\n".join(str(address.ip) for address in port.addresses)
            lines.append(f'  "net {network.name}" -- "{machine.name}" [label="{label}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _wires(plan: Plan, network: str) -> Iterable[tuple[Machine, Port]]:
    for machine in plan.machines:
        for port in machine.ports:
            if port.network == network:
                yield machine, port


def _role(plan: Plan, machine: Machine) -> str:
    if machine.cluster:
        control_plane = plan.cluster(machine.cluster).control_plane == machine.name
        return f"[node of {machine.cluster}{', control plane' if control_plane else ''}]"
    commands = ", ".join(argv[0] for argv in machine.run)
    return f"[{'router' if machine.forward else 'host'}{': ' + commands if commands else ''}]"


def _prefix(destination: str) -> str:
    return "default" if destination in ("0.0.0.0/0", "::/0") else destination
