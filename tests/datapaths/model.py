"""What the datapath should do, in plain Python: no bytes, no maps, the slow obvious way.

One `Model` is one node. Each program is a method from a packet to an outcome; connections and fragments are remembered between.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from datapaths.packet import ACK, ECHO, ICMP, ICMP6, SYN, TCP, UDP, Packet, Wrapping

HERE = 1  # the device that test runs happen on
INGRESS, EGRESS = 1, 2
HOST, WORLD_V4, WORLD_V6 = 1, 9, 10
NODE_IDENTITIES = (6, 7)
TRAVELLING = (2, 4, 8, 9, 10)


@dataclass(frozen=True)
class Drop:
    reason: int
    endpoint: int
    direction: int


@dataclass(frozen=True)
class Deliver:
    ifindex: int


@dataclass(frozen=True)
class Overlay:
    identity: int
    tunnel: str


@dataclass(frozen=True)
class Stack:
    pass


Outcome = Drop | Deliver | Overlay | Stack


@dataclass(frozen=True)
class Endpoint:
    id: int
    ifindex: int
    identity: int
    policy: int


@dataclass(frozen=True)
class Known:
    """A row of the ipcache."""

    prefix: str
    identity: int
    tunnel: str = ""
    skip_tunnel: bool = False


@dataclass(frozen=True)
class Rule:
    """A row of a class: protocol 0 any; `bits` of the port that matter."""

    class_id: int
    proto: int
    port: int
    bits: int
    deny: bool

    def matches(self, proto: int, port: int) -> bool:
        return self.proto in (0, proto) and port >> (16 - self.bits) == self.port >> (16 - self.bits)


@dataclass
class Connection:
    client: tuple[str, int]
    via_overlay: bool
    devices: int  # of the ends on this node: with another pod behind an address it is another connection


class Dropped(Exception):
    def __init__(self, reason: int, endpoint: int, direction: int) -> None:
        self.drop = Drop(reason, endpoint, direction)


FragmentKey = tuple[str, str, int, int]
Tuple5 = tuple[int, tuple[str, int], tuple[str, int]]


@dataclass
class Model:
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    known: list[Known] = field(default_factory=list)
    nodes: set[str] = field(default_factory=set)
    underlay: str = ""  # the node's own address there
    peers: dict[tuple[int, int, int], int] = field(default_factory=dict)  # (policy, direction, identity) → class
    rules: list[Rule] = field(default_factory=list)
    connections: dict[tuple[int, frozenset[tuple[str, int]]], Connection] = field(default_factory=dict)
    fragments: dict[FragmentKey, tuple[int, int, int, int]] = field(default_factory=dict)

    # ---- programs

    def from_container(self, p: Packet) -> Outcome:
        return self._run(p, EGRESS, self._from_container)

    def to_container(self, p: Packet) -> Outcome:
        return self._run(p, INGRESS, self._to_container)

    def from_overlay(self, p: Packet, identity: int, outer: str) -> Outcome:
        return self._run(p, INGRESS, lambda *args: self._from_overlay(*args, identity, outer))

    def from_netdev(self, p: Packet, around: Wrapping) -> Outcome:
        """Only for VXLAN. Whatever has no pod of this node in it, or is not plain, goes on to the VXLAN device."""
        plain = Wrapping(around.src, self.underlay, around.vni)
        if around != plain or around.src not in self.nodes or p.dst not in self.endpoints:
            return Stack()
        return self.from_overlay(p, around.vni, around.src)

    def _run(self, p: Packet, direction: int, program) -> Outcome:
        try:
            return program(p, self._flow(p, direction))
        except Dropped as dropped:
            return dropped.drop

    def _from_container(self, p: Packet, flow: Tuple5 | None) -> Outcome:
        source = self.endpoints.get(p.src)
        if not source or source.ifindex != HERE:
            raise Dropped(132, 0, EGRESS)
        if p.proto == UDP and p.fragment != "later" and p.dport == 8472:
            raise Dropped(170, source.id, EGRESS)
        target = self.endpoints.get(p.dst)
        row = None if target else self._find(p.dst)
        peer = target.identity if target else row.identity if row else self._world(p)
        by_overlay = self._authorise(p, flow, source, target, source.identity, peer, False)
        if target:
            return Deliver(target.ifindex)
        if row and row.tunnel and (not row.skip_tunnel or by_overlay):
            return Overlay(source.identity, row.tunnel)
        return Stack()

    def _to_container(self, p: Packet, flow: Tuple5 | None) -> Outcome:
        target = self.endpoints.get(p.dst)
        if not target or target.ifindex != HERE:
            raise Dropped(151, 0, INGRESS)
        row = self._find(p.src)
        self._authorise(p, flow, None, target, row.identity if row else self._world(p), target.identity, False)
        return Stack()

    def _from_overlay(self, p: Packet, flow: Tuple5 | None, identity: int, outer: str) -> Outcome:
        if outer not in self.nodes:
            raise Dropped(172, 0, INGRESS)
        sender = self._sender(p, identity)
        target = self.endpoints.get(p.dst)
        if target:
            self._authorise(p, flow, None, target, sender, target.identity, True)
            return Deliver(target.ifindex)
        row = self._find(p.dst)
        if row and row.identity == HOST:
            return Stack()
        raise Dropped(151, 0, INGRESS)

    # ---- parts

    def _flow(self, p: Packet, direction: int) -> Tuple5 | None:
        """(protocol, source end, destination end); None for an ICMP error."""
        is_later = p.fragment == "later"
        headers = p.options + bool(p.fragment) + (0 if is_later else p.inner_options)
        if p.family == 6 and headers > (5 if is_later else 4):
            raise Dropped(156, 0, direction)
        key = fragment_key(p)
        if is_later:
            if key not in self.fragments:
                raise Dropped(175, 0, direction)
            proto, sport, dport, _ = self.fragments[key]
            return proto, (p.src, sport), (p.dst, dport)
        sport, dport = p.sport, p.dport
        if p.is_icmp:
            if p.quoted and p.fragment:
                raise Dropped(157, 0, direction)
            if p.quoted:
                return None
            self._check_icmp(p, direction)
            sport, dport = (p.sport, 0) if p.type == ECHO[p.family][0] else (0, p.sport)
        if p.fragment == "first":
            self.fragments[key] = p.proto, sport, dport, p.type
        return p.proto, (p.src, sport), (p.dst, dport)

    @staticmethod
    def _check_icmp(p: Packet, direction: int) -> None:
        if p.type in ECHO[p.family]:
            return
        if p.family == 4:
            raise Dropped(144, 0, direction)
        raise Dropped(176 if p.type in (134, 137) else 146, 0, direction)

    def _find(self, address: str) -> Known | None:
        ip = ipaddress.ip_address(address)
        rows = [
            (ipaddress.ip_network(row.prefix).prefixlen, row)
            for row in self.known
            if ip in ipaddress.ip_network(row.prefix)
        ]
        return max(rows, key=lambda pair: pair[0])[1] if rows else None

    @staticmethod
    def _world(p: Packet) -> int:
        return WORLD_V4 if p.family == 4 else WORLD_V6

    def _sender(self, p: Packet, identity: int) -> int:
        row = self._find(p.src)
        expected = row.identity if row else 0
        if row and is_workload(expected) and not row.tunnel:
            raise Dropped(132, 0, INGRESS)
        if identity == HOST:
            valid, sender = not expected or is_node(expected), expected or 6
        elif identity in TRAVELLING:
            valid, sender = expected != HOST and not is_workload(expected), identity
        else:
            contradicts = is_workload(expected) and expected >> 16 != identity >> 16
            valid, sender = (
                is_workload(identity) and expected != HOST and not is_node(expected) and not contradicts,
                identity,
            )
        if not valid:
            raise Dropped(171, 0, INGRESS)
        return sender

    def _authorise(
        self,
        p: Packet,
        flow: Tuple5 | None,
        source: Endpoint | None,
        target: Endpoint | None,
        src_id: int,
        dst_id: int,
        via_overlay: bool,
    ) -> bool:
        """Whether a reply, or an error, goes back by the overlay; raises what is not allowed."""
        for end, direction in ((source, EGRESS), (target, INGRESS)):
            if end and not end.policy:
                raise Dropped(203, end.id, direction)
        devices = sum(end.ifindex for end in (source, target) if end)
        if flow is None:
            related = self._related(p, devices)
            if related is None:
                self._judge(p, None, source, target, src_id, dst_id)
            return related is not None and related.via_overlay
        proto, sender, receiver = flow
        key = proto, frozenset((sender, receiver))
        connection = self._find_connection(key, devices)
        opens = p.fragment != "later" and (
            p.flags & (SYN | ACK) == SYN if proto == TCP else p.type == ECHO[p.family][0] and not p.sport
        )
        if connection and not opens and connection.client != sender:
            return connection.via_overlay
        try:
            self._judge(p, flow, source, target, src_id, dst_id)
        except Dropped:
            if connection and connection.client == sender:
                del self.connections[key]
            raise
        if not connection or opens:
            self.connections[key] = Connection(sender, via_overlay, devices)
        connection = self.connections[key]
        connection.via_overlay = via_overlay
        return False

    def _find_connection(self, key: tuple[int, frozenset[tuple[str, int]]], devices: int) -> Connection | None:
        found = self.connections.get(key)
        return found if found and found.devices == devices else None

    def _related(self, p: Packet, devices: int) -> Connection | None:
        quoted = p.quoted
        if quoted is None or quoted.src != p.dst or quoted.fragment == "later":
            return None
        try:
            flow = Model()._flow(quoted, 0)
        except Dropped:  # of a kind that is not tracked
            return None
        return self._find_connection((flow[0], frozenset(flow[1:])), devices) if flow else None

    def _judge(
        self, p: Packet, flow: Tuple5 | None, source: Endpoint | None, target: Endpoint | None, src_id: int, dst_id: int
    ) -> None:
        proto, port = (flow[0], flow[2][1]) if flow else (p.proto, 0)
        if proto in (ICMP, ICMP6):
            port = 256 + (self.fragments[fragment_key(p)][3] if p.fragment == "later" else p.type)
        for end, direction, peer in ((source, EGRESS, dst_id), (target, INGRESS, src_id)):
            if end:
                self._lookup(end, direction, peer, proto, port)

    def _lookup(self, end: Endpoint, direction: int, peer: int, proto: int, port: int) -> None:
        class_id = self.peers.get((end.policy, direction, peer), self.peers.get((end.policy, direction, 0)))
        matching = [rule for rule in self.rules if rule.class_id == class_id and rule.matches(proto, port)]
        if not matching:
            raise Dropped(133, end.id, direction)
        if max(matching, key=lambda rule: (rule.bits, rule.proto)).deny:
            raise Dropped(181, end.id, direction)


def fragment_key(p: Packet) -> FragmentKey:
    """RFC 8200 4.5: of IPv6 only the first fragment says which protocol it is."""
    return p.src, p.dst, p.id, p.proto if p.family == 4 else 0


def is_workload(identity: int) -> bool:
    return identity < 1 << 24 and identity & 0xFFFF >= 256


def is_node(identity: int) -> bool:
    return identity in NODE_IDENTITIES or identity >> 24 == 2
