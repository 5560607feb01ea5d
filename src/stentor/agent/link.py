"""Devices of pods: one veth pair each, whose ends share a MAC and know no neighbours.

All functions block for about a millisecond and enter other network namespaces: they run on the agent's link thread only.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from typing import Final

import msgspec
from pyroute2 import IPRoute

from stentor.agent.errors import AttachFailed, BadEnvironment, CheckFailed, UnknownContainer
from stentor.net.address import Addr
from stentor.sys.namespace import visit_network
from stentor.sys.netlink import (
    DeviceRoute,
    Message,
    NetlinkError,
    Route,
    add_address,
    add_pod_veth,
    delete_group,
    delete_link,
    put_route,
    set_group,
    set_link,
    set_no_link_local,
)

PROTOCOL: Final = 202
"""Routing protocol number of every route that the agent makes (rtnetlink's rtm_protocol)."""

_DELETION_GROUP: Final = 0x57E70
_HOST_IFNAME: Final = re.compile(r"lxc[0-9a-f]{10}")
"""As `create_link` makes them; upstream's have 15 characters."""
_ANY: Final = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


class PodLink(msgspec.Struct, frozen=True):
    """The host end of a pod's veth."""

    host_ifname: str
    ifindex: int
    mac: bytes


class LinkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod's device should be. `sources` are the node's router addresses; `mtu` is the device's, `route_mtu` what
    fits through the overlay."""

    netns: str
    ifname: str
    addresses: tuple[Addr, ...]
    sources: tuple[Addr, ...]
    mtu: int
    route_mtu: int


def open_network(path: str) -> int:
    """A pod's network namespace; UnknownContainer when it is not there."""
    if not path:
        raise BadEnvironment("invalid environment", "CNI_NETNS is missing")
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise UnknownContainer("network namespace cannot be opened", f"CNI_NETNS={path}: {e.strerror}") from e


def create_link(request: LinkRequest, attach: Callable[[int], Iterable[Message]]) -> PodLink:
    """Make the pair, with programs attached before anything is up; nothing is left behind when it fails.

    `attach` gives the messages that put the programs onto the host end. The pod's end goes up last: the one that does can send
    at once, the other when the kernel's link watch has seen that there is a carrier.
    """
    mac = bytes([secrets.randbits(8) & 0xFC | 0x02]) + secrets.token_bytes(5)
    host_ifname = f"lxc{secrets.token_hex(5)}"
    namespace = open_network(request.netns)
    try:
        with Route() as route:
            try:
                made = add_pod_veth(host_ifname, request.ifname, mac=mac, mtu=request.mtu, peer_namespace_fd=namespace)
                route.send(made)
                index = socket.if_nametoindex(host_ifname)
                up = set_link(index, up=True)
                route.send(set_no_link_local(index), *attach(index), up, *_host_routes(request, index))
                _configure_pod(request, namespace)
            except OSError as e:
                _remove_quietly(route, host_ifname)
                raise _explain(request, e) from e
    finally:
        os.close(namespace)
    return PodLink(host_ifname, index, mac)


def _explain(request: LinkRequest, error: OSError) -> Exception:
    if error.errno == errno.EEXIST:
        return AttachFailed("interface exists already", f"{request.ifname} in {request.netns}")
    if error.errno == errno.EINVAL and not isinstance(error, NetlinkError):
        return UnknownContainer("not a network namespace", f"CNI_NETNS={request.netns}")
    return AttachFailed("cannot set up the pod's interface", str(error))


def _configure_pod(request: LinkRequest, namespace: int) -> None:
    with visit_network(namespace), Route() as route:
        index = socket.if_nametoindex(request.ifname)
        families = {addr.family: _pod_messages(request, index, addr.family) for addr in request.addresses}
        ipv6 = families.get(6, ())
        quiet = (set_no_link_local(index),) if ipv6 else ()
        try:
            route.send(*quiet, set_link(index, up=True), *families.get(4, ()), *ipv6)
        except NetlinkError as e:
            if e.errno != errno.EACCES or not ipv6:
                raise
            _enable_ipv6()
            route.send(*ipv6)


def _pod_messages(request: LinkRequest, index: int, family: int) -> tuple[Message, ...]:
    """Addresses and default route of one family, for a device that is up."""
    own = (addr for addr in request.addresses if addr.family == family)
    interfaces = (ipaddress.ip_interface(f"{addr}/{32 if family == 4 else 128}") for addr in own)
    default = put_route(DeviceRoute(_ANY[family], index, mtu=request.route_mtu))
    return (*(add_address(index, each) for each in interfaces), default)


def _enable_ipv6() -> None:
    """Some runtimes make namespaces with IPv6 off: no address can be added then (EACCES)."""
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as file:
        file.write("0")


def _host_routes(request: LinkRequest, index: int) -> Iterable[Message]:
    source_of = {addr.family: addr.ip for addr in request.sources}
    for addr in request.addresses:
        network = ipaddress.ip_network(f"{addr}/{32 if addr.family == 4 else 128}")
        yield put_route(DeviceRoute(network, index, source=source_of.get(addr.family), protocol=PROTOCOL))


def _remove_quietly(route: Route, name: str) -> None:
    with suppress(OSError):
        route.send(delete_link(socket.if_nametoindex(name)))


def remove_links(indexes: Iterable[int]) -> None:
    """Delete devices, all in one grace period; those that are gone already are no error."""
    with Route() as route:
        present = 0
        for index in indexes:
            with suppress(NetlinkError):
                route.send(set_group(index, _DELETION_GROUP))
                present += 1
        if present:
            with suppress(NetlinkError):
                route.send(delete_group(_DELETION_GROUP))


def remove_strays(known: Container[int]) -> list[str]:
    """Delete the pods' host ends whose indexes are not known; returns their names. Nobody may be making any meanwhile."""
    names = {name: index for name, index in devices().items() if _HOST_IFNAME.fullmatch(name) and index not in known}
    if not names:
        return []
    with IPRoute() as ipr:  # others' devices of such a name are left alone
        links = [(link["index"], link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")) for link in ipr.get_links()]
    strays = {name: index for name, index in names.items() if (index, "veth") in links}
    remove_links(strays.values())
    return sorted(strays)


def devices() -> dict[str, int]:
    """Indexes of the node's devices by name."""
    return {name: index for index, name in socket.if_nameindex()}


def is_present(host_ifname: str, ifindex: int) -> bool:
    """Whether a host end still is the device that it was: its name and index belong together."""
    try:
        return socket.if_nametoindex(host_ifname) == ifindex
    except OSError:
        return False


def check_link(netns: str, ifname: str, addresses: Iterable[Addr]) -> None:
    """CheckFailed unless the pod's end is there with its addresses."""
    namespace = open_network(netns)
    try:
        with visit_network(namespace):
            if ifname not in {name for _, name in socket.if_nameindex()}:
                raise CheckFailed("interface is missing", f"{ifname} in {netns}")
            for addr in addresses:
                _check_address(addr)
    finally:
        os.close(namespace)


def _check_address(addr: Addr) -> None:
    """Only an address of this namespace can be bound."""
    family = socket.AF_INET if addr.family == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((str(addr), 0))
        except OSError as e:
            raise CheckFailed("address is missing", str(addr)) from e
