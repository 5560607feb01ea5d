"""Programs under PROG_TEST_RUN: loaded once, maps filled from a model, outcomes read back."""

from __future__ import annotations

import asyncio
import struct

from datapaths.model import EGRESS, Deliver, Drop, Endpoint, Known, Model, Outcome, Overlay, Stack
from datapaths.packet import Packet, Wrapping, frame, in_frame, unwrap, wrap
from stentor.datapath import targets
from stentor.datapath.config import DatapathConfig
from stentor.datapath.maps import EVENT
from stentor.datapath.metric import DropEvent
from stentor.datapath.object import read_objects
from stentor.net.address import Addr, Prefix
from stentor.sys.bpf import Map, Trial, try_program
from stentor.sys.ring import RingBuffer
from stentor.tables.endpoint import EndpointEntry
from stentor.tables.ipcache import IPCacheEntry, IPCacheFlag
from stentor.tables.node import NodeAddress
from stentor.tables.policy import Action, Direction, Form, PolicyPeer, PolicyRule

OVERLAY_IFINDEX = 99
TC_OK, TC_SHOT, TC_REDIRECT = 0, 2, 7
MAC = bytes.fromhex("0200000000aa")
CAPACITY = 1024
MAGLEV_SIZE = 251
OWN = "192.0.2.1"  # the node's address in the underlay


class Bench:
    """One set of maps and programs, without pins: they go with the process."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        objects = read_objects()
        self.maps: dict[str, Map] = {}
        for found in objects.values():
            for name in found.definitions:
                if name not in self.maps:
                    spec = found.map_spec(name)
                    small = min(spec.max_entries, capacity) if name != "events" else None
                    self.maps[name] = Map.create(found.map_spec(name, small), name)
        config = DatapathConfig(
            overlay_ifindex=OVERLAY_IFINDEX,
            overlay_source=Addr.parse(OWN),
            maglev_size=MAGLEV_SIZE,
            l2_announcements=True,
            test=True,
        ).pack()
        self.programs: dict[str, int] = {}
        self.statistics: dict[str, str] = {}  # the verifier's
        for found in objects.values():
            loaded = found.load(config, self.maps)
            self.programs |= {name: loaded.program(name) for name in found.programs}
            self.statistics |= loaded.statistics
        self._events = RingBuffer(self.maps["events"])

    def clear(self) -> None:
        for name, each in self.maps.items():
            if name not in ("events", "forwarded"):
                each.delete_batch([key for key, _ in each.items()])
        self._events.drain()

    def fill(self, model: Model) -> None:
        """The maps as an agent would write them for this model; conntrack and fragments start empty."""
        self.clear()
        asyncio.run(self._fill(model))

    async def _fill(self, model: Model) -> None:
        rules = [rule_row(rule.class_id, rule.proto, rule.port, rule.bits, rule.deny) for rule in model.rules]
        forms = {rule.class_id: Form.NONE for rule in rules}
        for rule in rules:
            forms[rule.class_id] |= rule.form
        peers = [
            PolicyPeer(policy_id=policy, direction=Direction.EGRESS if direction == EGRESS else Direction.INGRESS,
                       identity=identity, class_id=class_id, forms=forms.get(class_id, Form.NONE))
            for (policy, direction, identity), class_id in model.peers.items()
        ]  # fmt: skip
        endpoints = [endpoint_row(ip, e) for ip, e in model.endpoints.items()]
        known = [known_row(row) for row in model.known]
        nodes = [NodeAddress(addr=Addr.parse(ip), node_id=1, identity=6) for ip in model.nodes]
        for failed in (
            await targets.rules(self.maps).apply([(row.key, row) for row in rules], []),
            await targets.peers(self.maps).apply([(row.key, row) for row in peers], []),
            await targets.endpoints(self.maps).apply([(row.addr, row) for row in endpoints], []),
            await targets.ipcache(self.maps).apply([(row.prefix, row) for row in known], []),
            await targets.nodes(self.maps).apply([(row.addr, row) for row in nodes], []),
        ):
            assert failed == {}

    def put_endpoint(self, ip: str, endpoint: Endpoint) -> None:
        row = endpoint_row(ip, endpoint)
        assert asyncio.run(targets.endpoints(self.maps).apply([(row.addr, row)], [])) == {}

    def run(self, program: str, data: bytes, cb: bytes = b"", came_by: int = 0) -> Trial:
        """`cb`: up to 20 bytes of the context's control block; `came_by`: the device of a forwarded packet."""
        context = bytes(36) + struct.pack("=I", came_by) + bytes(8) + cb.ljust(20, b"\0")
        return try_program(self.programs[program], data, context=context)

    def events(self) -> list[DropEvent]:
        return [DropEvent(*EVENT.unpack(raw)) for raw in self._events.drain()]

    def outcome(self, program: str, p: Packet, cb: bytes = b"", around: Wrapping | None = None) -> Outcome:
        """What a program did, in the model's words."""
        sent = wrap(around, in_frame(p)) if around else frame(p)
        trial = self.run(program, sent, cb)
        events = self.events()
        if trial.verdict == TC_SHOT:
            (event,) = events
            return Drop(event.reason, event.endpoint, event.direction)
        assert events == []
        if trial.verdict == TC_OK:
            assert not around or trial.data == sent
            return Stack()
        assert trial.verdict == TC_REDIRECT
        (target,) = struct.unpack_from("=I", trial.context, 8)
        if target == OVERLAY_IFINDEX:
            return overlaid(p, trial)
        if around:
            assert trial.data[12:] == in_frame(p)[12:]
        return Deliver(target)


def overlaid(p: Packet, trial: Trial) -> Overlay:
    """Left to the VXLAN device with a tunnel key, or wrapped already. That must be as the device would have done it."""
    (identity,) = struct.unpack_from("=I", trial.context, 48)
    if identity:
        assert trial.data == frame(p)
        return Overlay(identity, str(Addr.from_bytes16(trial.context[52:68])))
    around, inner = unwrap(trial.data)
    plain = Wrapping(OWN, around.dst, around.vni, ecn=p.ecn, id=around.id, source_port=around.source_port)
    assert trial.data == wrap(plain, inner)
    assert inner == in_frame(p)
    assert 32768 <= around.source_port < 61000
    return Overlay(around.vni, around.dst)


def tunnel_key(identity: int, outer: str) -> bytes:
    """What a tunnel's metadata would say."""
    return struct.pack("=I", identity) + Addr.parse(outer).packed16


def endpoint_row(ip: str, e: Endpoint) -> EndpointEntry:
    return EndpointEntry(
        addr=Addr.parse(ip), endpoint_id=e.id, ifindex=e.ifindex, identity=e.identity, policy_id=e.policy, mac=MAC
    )


def rule_row(class_id: int, proto: int, port: int, bits: int, deny: bool) -> PolicyRule:
    """`port` as the maps hold it: an ICMP type is 256 more than the table's."""
    if proto in (1, 58) and bits:
        port -= 256
    return PolicyRule(
        class_id=class_id, protocol=proto, port=port, port_bits=bits, action=Action.DENY if deny else Action.ALLOW
    )


def known_row(row: Known) -> IPCacheEntry:
    return IPCacheEntry(
        prefix=Prefix.parse(row.prefix),
        identity=row.identity,
        tunnel=Addr.parse(row.tunnel) if row.tunnel else None,
        flags=IPCacheFlag.SKIP_TUNNEL if row.skip_tunnel else IPCacheFlag.NONE,
    )
