"""TCP sockets of BGP sessions: MD5 (RFC 2385), AO (RFC 5925), TTL security (RFC 5082), binding; no protocol."""

import errno
import socket
import struct
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from stentor.bgp.config import TcpAO
from stentor.bgp.errors import Unsupported

# linux/tcp.h, linux/in.h, linux/in6.h: CPython names none of them.
TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_AO_ADD_KEY, TCP_AO_INFO = 14, 32, 38, 40
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73
_MD5_PREFIX = 1
_MD5_LAYOUT = struct.Struct("=BBHi")
_AO_LAYOUT = struct.Struct("=64siIHBBBBBB")
_DSCP_NETWORK_CONTROL = 0xC0

Network = IPv4Network | IPv6Network


def open_socket(version: int) -> socket.socket:
    """A non-blocking TCP socket of IP ``version`` for a session: no delay, marked as network control."""
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _DSCP_NETWORK_CONTROL)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _DSCP_NETWORK_CONTROL)
    return sock


def listen(address: str, port: int, backlog: int = 1024) -> socket.socket:
    """A listening socket; an IPv6 one takes no IPv4 connections, which have a socket of their own."""
    version = ip_address(address.partition("%")[0]).version
    sock = open_socket(version)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def set_md5(sock: socket.socket, network: Network, key: bytes, interface_index: int = 0) -> None:
    """Require ``key`` for all peers in ``network``; an empty key removes it. OSError when the kernel refuses."""
    is_host = network.num_addresses == 1
    head = _pack_address(network)
    tail = _MD5_LAYOUT.pack(0 if is_host else _MD5_PREFIX, 0 if is_host else network.prefixlen, len(key), 0)
    option = TCP_MD5SIG if is_host else TCP_MD5SIG_EXT
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, head + tail + key.ljust(80, b"\0"))
    except OSError as error:
        if not key and error.errno == errno.ENOENT:
            return
        if error.errno == errno.ENOPROTOOPT:
            raise Unsupported("TCP MD5", "this kernel is built without CONFIG_TCP_MD5SIG") from error
        raise


def has_tcp_ao() -> bool:
    """Whether this kernel can do TCP-AO (Linux 6.7, CONFIG_TCP_AO)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.getsockopt(socket.IPPROTO_TCP, TCP_AO_INFO, 64)
        except OSError as error:
            return error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)
    return True


def set_ao(sock: socket.socket, network: Network, option: TcpAO) -> None:
    """Require TCP-AO for all peers in ``network``; Unsupported where the kernel lacks it."""
    if not has_tcp_ao():
        raise Unsupported("TCP-AO", "this kernel is older than 6.7 or built without CONFIG_TCP_AO")
    key = option.key.encode()
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    flags = 0 if is_listening else 0b11  # use at once for sending and ask the peer to do so; a listener sends nothing
    body = _AO_LAYOUT.pack(
        option.algorithm.encode(), 0, flags, 0, network.prefixlen, option.key_id, option.key_id, 12, 0, len(key)
    )
    sock.setsockopt(socket.IPPROTO_TCP, TCP_AO_ADD_KEY, _pack_address(network) + body + key.ljust(80, b"\0"))


def _pack_address(network: Network) -> bytes:
    """``struct sockaddr_storage``, port 0."""
    packed = network.network_address.packed
    if network.version == 4:
        head = struct.pack("=HH4s", socket.AF_INET, 0, packed)
    else:
        head = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed, 0)
    return head.ljust(128, b"\0")


def set_ttl(sock: socket.socket, ttl: int) -> None:
    """TTL or hop limit of what is sent."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


def set_minimum_ttl(sock: socket.socket, ttl: int) -> None:
    """Packets with a lower TTL or hop limit are dropped by the kernel; 0 accepts all."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl)


def bind(sock: socket.socket, address: str | None, interface: str | None) -> None:
    """Bind to an interface and a local address, either of which may be None."""
    if interface is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    if address is None:
        return
    if sock.family == socket.AF_INET:
        sock.bind((address, 0))
    else:
        sock.bind((address, 0, 0, socket.if_nametoindex(interface) if interface else 0))


def target_of(address: str, port: int, interface: str | None) -> tuple[str, int] | tuple[str, int, int, int]:
    """``connect``'s argument; a link-local address takes its scope from ``interface``."""
    if ip_address(address).version == 4:
        return address, port
    return address, port, 0, socket.if_nametoindex(interface) if interface else 0


def host_network(address: str) -> Network:
    """The network of one address."""
    return ip_network(address)


def plain_address(address: str) -> str:
    """An address without zone."""
    return address.partition("%")[0]
