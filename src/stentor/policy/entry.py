"""Endpoints → rows of the datapath's endpoint map.

A row names its policy set only once the set is in the kernel. Until then the set that the kernel's row names stays in force,
so that a live pod may change its labels; an endpoint that never had one, or has no identity, has everything from and to it
dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from stentor.net.address import Addr
from stentor.policy.compile import POLICY_NONE, policy_id
from stentor.state import Derivation, Input, Table
from stentor.tables.endpoint import Endpoint, EndpointEntry
from stentor.tables.policy import Direction, PeerKey, PolicyPeer
from stentor.tables.realized import Realized


def derive_endpoint_entries(
    endpoints: Table[int, Endpoint],
    peers: Table[PeerKey, PolicyPeer],
    realized: Table[PeerKey, Realized[PeerKey, PolicyPeer]],
    realized_entries: Table[Addr, Realized[Addr, EndpointEntry]],
    output: Table[Addr, EndpointEntry],
) -> Derivation[int, Addr, EndpointEntry]:
    """One row an address. Groups are endpoint ids."""

    def is_in_force(policy: int) -> bool:
        wanted = peers.by("policy", policy)
        sides = {peer.direction for peer in wanted}
        return sides == set(Direction) and all(_is_in_place(realized.get(peer.key), peer) for peer in wanted)

    def policy_before(endpoint: Endpoint, addr: Addr) -> int:
        there = realized_entries.get(addr)
        if there is None or (there.row.endpoint_id, there.row.ifindex) != (endpoint.id, endpoint.ifindex):
            return POLICY_NONE
        return there.row.policy_id

    def compute(endpoint_id: int) -> Iterable[EndpointEntry]:
        endpoint = endpoints.get(endpoint_id)
        if endpoint is None:
            return
        for addr in endpoint.addresses:
            candidates = (policy_id(endpoint.identity), policy_before(endpoint, addr)) if endpoint.identity else ()
            policy = next(filter(is_in_force, candidates), POLICY_NONE)
            yield EndpointEntry(
                addr=addr,
                endpoint_id=endpoint.id,
                ifindex=endpoint.ifindex,
                identity=endpoint.identity,
                policy_id=policy,
                mac=endpoint.mac,
            )

    def of_policy(policy: int) -> Iterable[int]:
        yield from (endpoint.id for endpoint in endpoints.by("identity", policy))
        yield from (entry.row.endpoint_id for entry in realized_entries.by("policy", policy))

    inputs = (
        Input(endpoints, lambda row: (row.id,)),
        Input(peers, lambda row: of_policy(row.policy_id)),
        Input(realized, lambda row: of_policy(row.key.policy_id)),
        Input(realized_entries, lambda row: (row.row.endpoint_id,)),
    )
    return Derivation("endpoint-entries", output, compute, inputs)


def _is_in_place(there: Realized[PeerKey, PolicyPeer] | None, wanted: PolicyPeer) -> bool:
    return there is not None and there.row == wanted
