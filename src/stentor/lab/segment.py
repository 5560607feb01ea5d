"""Networks: a bridge each, in a namespace of its own, with a veth pair to every port of a machine."""

from __future__ import annotations

import hashlib
import os
import socket

from stentor.lab.machine import MachineNamespaces
from stentor.lab.plan import Machine, Network
from stentor.sys import netlink
from stentor.sys.bridge import bypass_netfilter
from stentor.sys.namespace import new_network, visit_network
from stentor.sys.veth import face_xdp

_BRIDGE = "bridge"


class Segment:
    """One network; `ports` are the bridge's sides of the wires by machine and interface."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.namespace = new_network()
        self.ports: dict[tuple[str, str], str] = {}
        self._made = 0
        self._programs: dict[str, list[int]] = {}
        with visit_network(self.namespace), netlink.Route() as route:
            bypass_netfilter()
            route.send(netlink.add_bridge(_BRIDGE, mtu=network.mtu), netlink.set_link(1, up=True))
            self.bridge = socket.if_nametoindex(_BRIDGE)

    def plug(self, wires: list[tuple[str, str, int]]) -> None:
        """Lays a wire to each (machine, interface, its network namespace); all in one write."""
        messages = []
        for machine, interface, namespace in wires:
            # Never a name again: the old end of a machine that was switched off may still be going.
            self._made += 1
            port = self.ports[machine, interface] = f"port{self._made}"
            messages.append(
                netlink.add_veth(
                    port,
                    interface,
                    peer_namespace_fd=namespace,
                    peer_mac=_mac(machine, interface),
                    master=self.bridge,
                    mtu=self.network.mtu,
                )
            )
        with visit_network(self.namespace), netlink.Route() as route:
            route.send(*messages)

    def face_xdp(self, machine: str) -> None:
        """Lets a machine's driver send frames back."""
        with visit_network(self.namespace):
            ports = [name for key, name in self.ports.items() if key[0] == machine]
            self._programs[machine] = [face_xdp(port) for port in ports]

    def unplug(self, machine: str) -> list[str]:
        """Takes the machine off the network at once; the ports go later, with its namespace. Their names."""
        for program in self._programs.pop(machine, ()):
            os.close(program)
        gone = [self.ports.pop(key) for key in list(self.ports) if key[0] == machine]
        with visit_network(self.namespace), netlink.Route() as route:
            route.send(*(netlink.set_link(socket.if_nametoindex(port), up=False) for port in gone))
        return gone


def _mac(machine: str, interface: str) -> bytes:
    """Locally administered, and the same after a reboot: neighbours need not learn it again."""
    return b"\x02" + hashlib.sha256(f"{machine}/{interface}".encode()).digest()[:5]


def connect(machines: list[tuple[Machine, MachineNamespaces]], segments: dict[str, Segment]) -> None:
    """Wires the machines to their networks and gives them addresses and routes."""
    for name, segment in segments.items():
        wires = [
            (machine.name, port.interface, namespaces.network)
            for machine, namespaces in machines
            for port in machine.ports
            if port.network == name
        ]
        if wires:
            segment.plug(wires)
        for accelerated in {each.name for each, _ in machines if _is_accelerated(each)} & {wire[0] for wire in wires}:
            segment.face_xdp(accelerated)
    for machine, namespaces in machines:
        with visit_network(namespaces.network), netlink.Route() as route:
            route.send(*_configuration(machine))


def _is_accelerated(machine: Machine) -> bool:
    return bool(machine.values.get("loadBalancer", {}).get("acceleration", "disabled") != "disabled")


def _configuration(machine: Machine) -> list[netlink.Message]:
    """Made inside the machine's namespace, whose interface indexes it asks for."""
    messages = [netlink.set_link(1, up=True)]
    for port in machine.ports:
        index = socket.if_nametoindex(port.interface)
        messages.append(netlink.set_link(index, up=True))
        messages += [netlink.add_address(index, address) for address in port.addresses]
    messages += [netlink.add_route(route.destination, route.gateway) for route in machine.routes]
    return messages
