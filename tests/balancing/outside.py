"""Services met by packets of real sockets: what tests of them share."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from datapaths.nodes import Host, World
from stentor.datapath.service_target import ServiceTarget
from stentor.net.address import Addr
from stentor.services import maglev
from stentor.tables.service import Backend, EntryFlag, FrontendKey, LBEntry, Protocol

SERVICE = {4: "10.96.0.1", 6: "fd00:96::1"}
BALANCER = {4: "198.51.100.7", 6: "2001:db8:7::7"}
ANY_NODE = {4: "0.0.0.0", 6: "::"}
DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
PORT, NODE_PORT, TARGET = 80, 30080, 8080
PAYLOAD = bytes(range(256)) * 40
SEED = maglev.parse_seed(maglev.DEFAULT_SEED)


class Balancer:
    """Writes services to node a and takes them away again."""

    def __init__(self, world: World) -> None:
        size = 16381
        self.target = ServiceTarget(world.a.datapath.maps, lambda found: maglev.table(found, size, SEED), size)
        self.keys: list[FrontendKey] = []

    def put(self, *entries: LBEntry) -> None:
        assert asyncio.run(self.target.apply([(each.key, each) for each in entries], [])) == {}
        self.keys += [each.key for each in entries]

    def clear(self) -> None:
        asyncio.run(self.target.apply([], self.keys))


def backends(*addresses: str) -> tuple[Backend, ...]:
    return tuple(sorted(Backend(Addr.parse(each), TARGET) for each in addresses))


def entry(at: str, port: int, protocol: Protocol, *addresses: str, flags: EntryFlag = EntryFlag.EXTERNAL) -> LBEntry:
    found = backends(*addresses)
    key = FrontendKey(Addr.parse(at), port, protocol)
    return LBEntry(key=key, internal=found, external=found, flags=flags)


def listen(host: Host, address: str, protocol: Protocol, family: int) -> socket.socket:
    server = host.socket(DOMAIN[family], KINDS[protocol])
    server.settimeout(5)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, TARGET))
    if protocol is Protocol.TCP:
        server.listen()
    return server


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(65536)
        assert part, "the stream ended early"
        data += part
    return data


def exchange(server: socket.socket, client: Host, to: tuple[str, int], protocol: Protocol, family: int) -> str:
    """Sends something there and back; returns the address that the server saw."""
    with ExitStack() as stack:
        asking = stack.enter_context(client.socket(DOMAIN[family], KINDS[protocol]))
        asking.settimeout(5)
        asking.connect(to)
        if protocol is Protocol.UDP:
            asking.send(b"question")
            data, peer = server.recvfrom(100)
            server.sendto(b"answer to " + data, peer)
            assert asking.recv(100) == b"answer to question"
            return str(peer[0])
        answering, peer = server.accept()
        stack.enter_context(answering)
        answering.settimeout(5)
        asking.sendall(PAYLOAD)
        assert receive(answering, len(PAYLOAD)) == PAYLOAD
        answering.sendall(PAYLOAD[::-1])
        assert receive(asking, len(PAYLOAD)) == PAYLOAD[::-1]
        return str(peer[0])
