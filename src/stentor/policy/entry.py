"""Endpoints → rows of the datapath's endpoint map.

A row names its policy set only once the set is in the kernel: until then, and while the endpoint has no identity, everything
from and to it is dropped.
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
    output: Table[Addr, EndpointEntry],
) -> Derivation[int, Addr, EndpointEntry]:
    """One row an address. Groups are endpoint ids."""

    def is_in_force(policy: int) -> bool:
        wanted = peers.by("policy", policy)
        sides = {peer.direction for peer in wanted}
        return sides == set(Direction) and all(_is_in_place(realized.get(peer.key), peer) for peer in wanted)

    def compute(endpoint_id: int) -> Iterable[EndpointEntry]:
        endpoint = endpoints.get(endpoint_id)
        if endpoint is None:
            return
        policy = policy_id(endpoint.identity) if endpoint.identity else POLICY_NONE
        if not is_in_force(policy):
            policy = POLICY_NONE
        for addr in endpoint.addresses:
            yield EndpointEntry(
                addr=addr,
                endpoint_id=endpoint.id,
                ifindex=endpoint.ifindex,
                identity=endpoint.identity,
                policy_id=policy,
                mac=endpoint.mac,
            )

    def of_policy(policy: int) -> Iterable[int]:
        return (endpoint.id for endpoint in endpoints.by("identity", policy))

    inputs = (
        Input(endpoints, lambda row: (row.id,)),
        Input(peers, lambda row: of_policy(row.policy_id)),
        Input(realized, lambda row: of_policy(row.key.policy_id)),
    )
    return Derivation("endpoint-entries", output, compute, inputs)


def _is_in_place(there: Realized[PeerKey, PolicyPeer] | None, wanted: PolicyPeer) -> bool:
    return there is not None and there.row == wanted
