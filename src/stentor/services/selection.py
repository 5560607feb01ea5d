"""Which endpoints of a service port serve its clients, as Kubernetes' proxies decide.

Ready endpoints serve. Where none is ready, endpoints that terminate but still serve do (KEP-1669). Topology narrows the choice
unless that would leave nobody; a `Local` traffic policy narrows it even then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stentor.tables.service import (
    Backend,
    Backends,
    Distribution,
    EndpointSlice,
    LocalNode,
    Port,
    SliceEndpoint,
)

Candidate = tuple[SliceEndpoint, int]
"""An endpoint and the number that the service's port has there."""


def candidates(port: Port, slices: Iterable[EndpointSlice], family: int) -> list[Candidate]:
    """Endpoints of a family that have the port, without repetition. Where slices contradict each other about one, as while it
    moves from slice to slice, the better news counts, else the first slice by name: on every node, in whatever order they came.
    """
    found: dict[tuple[int, int], Candidate] = {}
    for each in sorted(slices, key=lambda row: row.key):
        numbers = [p.port for p in each.ports if p.name == port.name and p.protocol is port.protocol]
        for number in numbers:
            for endpoint in each.endpoints:
                if endpoint.addr.family == family:
                    known = found.setdefault((endpoint.addr, number), (endpoint, number))[0]
                    if known is not endpoint and _usefulness(endpoint) > _usefulness(known):
                        found[endpoint.addr, number] = (endpoint, number)
    return list(found.values())


def _usefulness(endpoint: SliceEndpoint) -> tuple[bool, bool]:
    return endpoint.is_ready, endpoint.is_serving


def select(
    found: Sequence[Candidate],
    node: LocalNode,
    *,
    local: bool,
    distribution: Distribution = Distribution.NONE,
    hints: bool = False,
) -> Backends:
    """Backends for one kind of client: those that may get new connections, and terminating ones that keep theirs."""
    if local:
        found = [each for each in found if each[0].node == node.name]
    ready = [each for each in found if each[0].is_ready]  # a terminating one too where publishNotReadyAddresses says so
    terminating = [each for each in found if each[0].is_terminating and each[0].is_serving and not each[0].is_ready]
    chosen = ready if local else near(ready, node, distribution, hints)
    active = {Backend(endpoint.addr, port) for endpoint, port in chosen}
    leaving = {Backend(endpoint.addr, port, True) for endpoint, port in terminating}
    return tuple(sorted(active)) + tuple(sorted(leaving))


def near(ready: Sequence[Candidate], node: LocalNode, distribution: Distribution, hints: bool) -> Sequence[Candidate]:
    """What topology prefers: hints where every endpoint has one, else the wish of `trafficDistribution` itself."""
    if not (hints or distribution is not Distribution.NONE):
        return ready
    same_node, same_zone = _hinted(ready, node)
    if distribution is Distribution.SAME_NODE:
        same_node = same_node or [each for each in ready if each[0].node == node.name]
    if distribution is not Distribution.NONE and not any(endpoint.zones for endpoint, _ in ready):
        same_zone = [each for each in ready if node.zone and each[0].zone == node.zone]
    return same_node or same_zone or ready


def _hinted(ready: Sequence[Candidate], node: LocalNode) -> tuple[list[Candidate], list[Candidate]]:
    """By node and by zone; a kind of hint counts only when no endpoint lacks it."""
    by_node = [each for each in ready if node.name in each[0].nodes]
    by_zone = [each for each in ready if node.zone and node.zone in each[0].zones]
    return (
        by_node if all(endpoint.nodes for endpoint, _ in ready) else [],
        by_zone if all(endpoint.zones for endpoint, _ in ready) else [],
    )
