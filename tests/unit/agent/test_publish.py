"""CiliumEndpoints: rows and objects are each other's inverse; what is announced, and when."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.agent.publish import PublishedTarget, derive_published, endpoint_object, endpoint_row
from stentor.api.cilium import CILIUM_ENDPOINTS, AddressPair, CiliumEndpoint, EndpointNetworking, EndpointStatus
from stentor.kube import raw
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.net.address import Addr
from stentor.state import Database, Graph
from stentor.tables.endpoint import Endpoint, EndpointState, PublishedEndpoint, endpoints, published_endpoints
from stentor.tables.pod import Pod, pods

NODE = Addr.parse("172.18.0.1")
words = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=8)
rows = st.builds(
    PublishedEndpoint,
    namespace=words,
    name=words,
    pod_uid=words,
    endpoint_id=st.integers(1, 65535),
    identity=st.integers(256, 65535),
    labels=st.lists(words, max_size=3).map(tuple),
    addresses=st.sampled_from(
        [(Addr.parse("10.0.0.1"),), (Addr.parse("10.0.0.1"), Addr.parse("fd00::1")), (Addr.parse("fd00::1"),)]
    ),
    node=st.just(NODE),
    state=st.sampled_from(["ready", "waiting-for-identity"]),
    container_id=words,
    container_ifname=words,
    service_account=words,
    named_ports=st.lists(st.tuples(words, st.sampled_from([6, 17, 132]), st.integers(1, 65535)), max_size=2).map(tuple),
)


@given(rows)
def test_a_row_survives_the_api(row: PublishedEndpoint) -> None:
    body = raw.encode(CILIUM_ENDPOINTS, endpoint_object(row))
    assert endpoint_row(raw.decode(CILIUM_ENDPOINTS, body)) == row


def test_an_endpoint_without_status_is_a_row_too() -> None:
    assert endpoint_row(CiliumEndpoint()).addresses == ()


def test_a_bad_address_is_an_error() -> None:
    networking = EndpointNetworking(addressing=(AddressPair(ipv4="10.0.0.300"),), node="x")
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        endpoint_row(CiliumEndpoint(status=EndpointStatus(networking=networking)))


def test_an_endpoint_is_announced_once_its_pod_is_known() -> None:
    database, table, known, output = Database(), endpoints(), pods(), published_endpoints()
    graph = Graph(database, lambda run: None)
    graph.add(derive_published(table, known, output, node=NODE))
    row = Endpoint(
        id=1, container_id="c", container_ifname="eth0", netns="", namespace="d", pod="p", host_ifname="lxc", ifindex=3,
        mac=b"\2\0\0\0\0\1", ipv4=Addr.parse("10.0.0.5"), identity=300, state=EndpointState.READY, pod_uid="u1",
    )  # fmt: skip
    database.put(table, row)
    graph.settle()
    assert len(output) == 0
    database.put(known, Pod(namespace="d", name="p", uid="u1", service_account="sa"))
    graph.settle()
    found = output["d", "p"]
    assert (found.identity, found.state, found.service_account, found.node) == (300, "ready", "sa", NODE)
    # A new pod of the same name is not this endpoint's.
    database.put(known, Pod(namespace="d", name="p", uid="u2"))
    graph.settle()
    assert len(output) == 0
    database.put(table, msgspec.structs.replace(row, pod_uid="u2"))
    graph.settle()
    assert output["d", "p"].pod_uid == "u2"
    database.delete(table, 1)
    graph.settle()
    assert len(output) == 0


def test_a_mirror_pod_is_announced_with_the_uid_of_the_api() -> None:
    database, table, known, output = Database(), endpoints(), pods(), published_endpoints()
    graph = Graph(database, lambda run: None)
    graph.add(derive_published(table, known, output, node=NODE))
    earlier = Endpoint(
        id=1, container_id="c", container_ifname="eth0", netns="", namespace="d", pod="p", host_ifname="lxc", ifindex=3,
        mac=b"\2\0\0\0\0\1", ipv4=Addr.parse("10.0.0.5"), identity=300, state=EndpointState.READY, pod_uid="old",
    )  # fmt: skip
    database.put(table, earlier, msgspec.structs.replace(earlier, id=2, pod_uid="hash"))
    database.put(known, Pod(namespace="d", name="p", uid="u1", static_uid="hash"))
    graph.settle()
    assert (output["d", "p"].endpoint_id, output["d", "p"].pod_uid) == (2, "u1")


PUBLISHED = PublishedEndpoint(namespace="d", name="p", node=NODE, state="ready")
REQUEST = "the client is used outside"  # what a closed client says to whoever sends a request


async def test_an_object_is_written_until_the_api_is_known_to_have_it() -> None:
    database, table = Database(), published_endpoints()
    target = PublishedTarget(Client(Connection(server="http://[::1]:1")), table, NODE)
    database.put(table, PUBLISHED)
    await target.write(PUBLISHED)
    with pytest.raises(RuntimeError, match=REQUEST):
        await target.write(msgspec.structs.replace(PUBLISHED, state="regenerating"))
    with pytest.raises(RuntimeError, match=REQUEST):  # what is reflected may be older than that
        await target.write(PUBLISHED)


async def test_the_object_of_another_node_is_left_alone() -> None:
    database, table = Database(), published_endpoints()
    target = PublishedTarget(Client(Connection(server="http://[::1]:1")), table, NODE)
    database.put(table, PUBLISHED)
    with pytest.raises(RuntimeError, match=REQUEST):
        await target.remove(PUBLISHED.key)
    database.put(table, msgspec.structs.replace(PUBLISHED, node=Addr.parse("172.18.0.2")))
    await target.remove(PUBLISHED.key)
