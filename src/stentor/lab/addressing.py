"""Networks, and which machine has which address on them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from stentor.lab import topology as t
from stentor.lab.plan import Network, Port
from stentor.lab.problem import Problems
from stentor.sys.netlink import IPAddress, IPInterface, IPNetwork


class Addressing:
    """Of one topology: `networks` by name, `ports` by the machine's path (spec.hosts[0])."""

    def __init__(self, spec: t.Spec, problems: Problems) -> None:
        self.spec = spec
        self.problems = problems
        self.networks: dict[str, Network] = {}
        self._owners: dict[tuple[str, IPAddress], str] = {}  # (network, address): path of its first use
        self._make_networks()
        self.ports = self._claim_addresses()

    @property
    def families(self) -> set[int]:
        """IP versions that any network carries."""
        return {cidr.version for network in self.networks.values() for cidr in network.cidrs}

    def _make_networks(self) -> None:
        used: list[tuple[str, IPNetwork]] = []
        for index, network in enumerate(self.spec.networks):
            path = f"spec.networks[{index}]"
            self.problems.check_label(f"{path}.name", network.name)
            if network.name in self.networks:
                self.problems.add(f"{path}.name", f"{network.name!r} is the name of another network")
            cidrs = self.problems.prefixes(f"{path}.cidrs", network.cidrs)
            for at, cidr in cidrs:
                self.problems.check_overlap(at, cidr, used)
                used.append((at, cidr))
            self.networks[network.name] = Network(network.name, tuple(cidr for _, cidr in cidrs), network.mtu)

    def _claim_addresses(self) -> dict[str, tuple[Port, ...]]:
        """Ports by machine path. Written addresses are claimed before any is chosen for the others."""
        entries = list(self._attachments())
        written: dict[str, tuple[IPInterface, ...]] = {}
        for path, attachment in entries:
            if attachment.addresses is not None:
                written[path] = self._written_addresses(path, attachment)
        ports: dict[str, list[Port]] = {}
        for path, attachment in entries:
            machine = path[: path.rindex(".networks[")]
            addresses = written[path] if path in written else self._free_addresses(path, attachment.name)
            mine = ports.setdefault(machine, [])
            mine.append(Port(attachment.name, f"eth{len(mine)}", addresses))
        return {machine: tuple(mine) for machine, mine in ports.items()}

    def _attachments(self) -> Iterable[tuple[str, t.Attachment]]:
        for machine, attachments in self._machine_attachments():
            if not attachments:
                self.problems.add(f"{machine}.networks", "a machine has to be on a network")
            for index, attachment in enumerate(attachments):
                path = f"{machine}.networks[{index}]"
                if attachment.name not in self.networks:
                    known = ", ".join(self.networks)
                    self.problems.add(
                        f"{path}.name", f"no network {attachment.name!r} in spec.networks (there are: {known})"
                    )
                    continue
                yield path, attachment

    def _machine_attachments(self) -> Iterable[tuple[str, list[t.Attachment]]]:
        for c, cluster in enumerate(self.spec.clusters):
            for n, node in enumerate(cluster.nodes):
                yield f"spec.clusters[{c}].nodes[{n}]", node.networks
        for h, host in enumerate(self.spec.hosts):
            yield f"spec.hosts[{h}]", host.networks

    def _written_addresses(self, path: str, attachment: t.Attachment) -> tuple[IPInterface, ...]:
        found = []
        for index, text in enumerate(attachment.addresses or ()):
            at = f"{path}.addresses[{index}]"
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                self.problems.add(at, f"{text!r} is not an IP address (the prefix length comes from the network)")
                continue
            network = self.networks[attachment.name]
            cidr = next((c for c in network.cidrs if c.version == address.version and address in c), None)
            if cidr is None:
                cidrs = ", ".join(map(str, network.cidrs))
                self.problems.add(at, f"{text} is not in network {network.name} ({cidrs})")
            elif cidr.num_addresses > 2 and _is_reserved(address, cidr):
                self.problems.add(at, f"{text} is the network or broadcast address of {cidr}")
            elif owner := self._owners.get((network.name, address)):
                self.problems.add(at, f"{text} is already used by {owner}")
            else:
                self._owners[network.name, address] = at
                found.append(ipaddress.ip_interface(f"{address}/{cidr.prefixlen}"))
        return tuple(found)

    def _free_addresses(self, path: str, network_name: str) -> tuple[IPInterface, ...]:
        found = []
        for cidr in self.networks[network_name].cidrs:
            # .1 is left to routers, whose addresses people write down.
            candidates = (cidr[offset] for offset in range(2, min(cidr.num_addresses - 1, 1 << 16)))
            address = next((a for a in candidates if (network_name, a) not in self._owners), None)
            if address is None:
                self.problems.add(path, f"network {network_name} has no free address in {cidr}")
                continue
            self._owners[network_name, address] = path
            found.append(ipaddress.ip_interface(f"{address}/{cidr.prefixlen}"))
        return tuple(found)


def _is_reserved(address: IPAddress, cidr: IPNetwork) -> bool:
    return address == cidr.network_address or (cidr.version == 4 and address == cidr.broadcast_address)
