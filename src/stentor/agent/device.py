"""Devices of the node: the underlay that is there, and what the agent makes of its own (`cilium_host`, `cilium_vxlan`).

All functions block and run on the agent's link thread.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from pyroute2 import IPRoute

from stentor.agent.errors import StartupError
from stentor.net.address import Addr
from stentor.sys.netlink import (
    NetlinkError,
    Route,
    add_address,
    add_pod_veth,
    add_vxlan,
    set_link,
    set_mtu,
    set_no_link_local,
)

HOST: Final = "cilium_host"
NET: Final = "cilium_net"
OVERLAY: Final = "cilium_vxlan"
_OWN: Final = (HOST, NET, OVERLAY, "lo")
_OVERHEAD: Final = {4: 50, 6: 70}
"""Bytes that VXLAN adds: outer Ethernet 14, IPv4 20 or IPv6 40, UDP 8, VXLAN 8."""

log = logging.getLogger(__name__)


class Device(msgspec.Struct, frozen=True):
    """A device of the underlay with its global addresses."""

    name: str
    index: int
    mtu: int
    addresses: tuple[Addr, ...]


class Underlay(msgspec.Struct, frozen=True):
    """Devices over which nodes and the outside are reached. `families`: those of the tunnel, the preferred one first."""

    devices: tuple[Device, ...]
    mtu: int
    families: tuple[int, ...]

    @property
    def route_mtu(self) -> int:
        """Largest packet of a pod that fits through the overlay."""
        return self.mtu - _OVERHEAD[self.families[0]]

    def tunnel_source(self, own: Iterable[Addr]) -> Addr | None:
        """Of the node's addresses the one by which others' tunnels find it, if programs can wrap packets themselves: IPv4."""
        return next((addr for addr in own if addr.family == 4), None) if self.families[0] == 4 else None


def find_underlay(node_addresses: Iterable[Addr], wanted: Iterable[str], mtu: int) -> Underlay:
    """Devices with one of the node's addresses or a default route, or those wanted by name. StartupError without any."""
    own = set(node_addresses)
    names = set(wanted)
    with IPRoute() as ipr:
        devices = _devices(ipr)
        defaults = {oif for family in (socket.AF_INET, socket.AF_INET6) for oif in _default_devices(ipr, family)}
    missing = names - {device.name for device in devices}
    if missing:
        raise StartupError(f"devices: {', '.join(sorted(missing))}: no such device on this machine")
    chosen = tuple(
        device
        for device in devices
        if (device.name in names if names else bool(own & set(device.addresses)) or device.index in defaults)
    )
    if not chosen:
        raise StartupError(f"no device has one of the node's addresses ({', '.join(map(str, sorted(own)))})")
    families = tuple(family for family in (4, 6) if any(addr.family == family for addr in own))
    return Underlay(chosen, mtu or min(device.mtu for device in chosen), families)


def _devices(ipr: Any) -> list[Device]:
    addresses: dict[int, list[Addr]] = {}
    for message in ipr.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if message["scope"] == 0 and text:
            addresses.setdefault(message["index"], []).append(Addr.parse(text))
    return [
        Device(name, link["index"], link.get_attr("IFLA_MTU") or 1500, tuple(addresses.get(link["index"], ())))
        for link in ipr.get_links()
        if (name := str(link.get_attr("IFLA_IFNAME"))) not in _OWN and not name.startswith("lxc")
    ]


def _default_devices(ipr: Any, family: int) -> list[int]:
    routes = ipr.get_default_routes(family=family)
    return [oif for route in routes if (oif := route.get_attr("RTA_OIF")) is not None]


class OwnDevices(msgspec.Struct, frozen=True):
    """Indexes of the agent's own devices."""

    host: int
    overlay: int


def make_devices(mtu: int, tunnel_port: int) -> OwnDevices:
    """`cilium_host` with its other end `cilium_net`, and `cilium_vxlan`: made, or taken over and set right. All are down
    when they are new: `start_devices` comes after the programs are attached."""
    with Route() as route:
        if _index(HOST) is None:
            mac = bytes([secrets.randbits(8) & 0xFC | 0x02]) + secrets.token_bytes(5)
            route.send(add_pod_veth(HOST, NET, mac=mac, mtu=mtu))
        if _index(OVERLAY) is None:
            route.send(add_vxlan(OVERLAY, port=tunnel_port, mtu=mtu))
        for name in (HOST, NET, OVERLAY):
            index = socket.if_nametoindex(name)
            with suppress(NetlinkError):  # a machine without IPv6 has no such setting
                route.send(set_no_link_local(index))
            route.send(set_mtu(index, mtu))
    return OwnDevices(socket.if_nametoindex(HOST), socket.if_nametoindex(OVERLAY))


def gone_devices(made: OwnDevices) -> list[str]:
    """Names of own devices that somebody has deleted, or put another one in place of."""
    return [name for name, index in ((HOST, made.host), (OVERLAY, made.overlay)) if _index(name) != index]


def start_devices(routers: Iterable[Addr]) -> None:
    """Router addresses onto `cilium_host`, then everything up."""
    wanted = set(routers)
    index = socket.if_nametoindex(HOST)
    with Route() as route, IPRoute() as ipr:
        for addr in sorted(wanted - set(router_addresses())):
            length = 32 if addr.family == 4 else 128
            route.send(add_address(index, ipaddress.ip_interface(f"{addr}/{length}")))
        for addr in set(router_addresses()) - wanted:
            ipr.addr("del", index=index, address=str(addr), prefixlen=32 if addr.family == 4 else 128)
        route.send(*(set_link(socket.if_nametoindex(name), up=True) for name in (NET, HOST, OVERLAY)))


def router_addresses() -> list[Addr]:
    """Addresses on `cilium_host`, empty before it exists."""
    index = _index(HOST)
    if index is None:
        return []
    with IPRoute() as ipr:
        messages = ipr.get_addr(index=index)
        return [Addr.parse(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS")) for m in messages if m["scope"] == 0]


def set_forwarding(families: Iterable[int]) -> None:
    """Let the machine route; reverse path filtering would drop what programs have redirected."""
    settings = {
        4: (("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")),
        # Forwarding is decided by `all`. A device's own switch only makes it a member of the routers' groups, whose reports
        # would go out to every pod: devices made from now on do without.
        6: (("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/forwarding", "0")),
    }
    for family in families:
        for name, value in settings[family]:
            path = Path("/proc/sys/net", name)
            try:
                if path.read_text().strip() != value:
                    path.write_text(value)
            except OSError as e:
                raise StartupError(f"sysctl net.{name.replace('/', '.')}={value}: {os.strerror(e.errno or 0)}") from e


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
