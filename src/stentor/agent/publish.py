"""What the agent tells the cluster about its node: CiliumEndpoints, its CiliumNode, the node's condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from stentor.api.cilium import (
    CILIUM_ENDPOINTS,
    CILIUM_NODES,
    AddressPair,
    CiliumEndpoint,
    CiliumNode,
    CiliumNodeAddress,
    CiliumNodeIPAM,
    CiliumNodeSpec,
    EncryptionSpec,
    EndpointIdentity,
    EndpointNetworking,
    EndpointPolicy,
    EndpointPolicyDirection,
    EndpointStatus,
    ExternalIdentifiers,
    NamedPort,
)
from stentor.api.core import NODES
from stentor.api.meta import ObjectMeta, OwnerReference
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.rows import PROTOCOLS
from stentor.kube.target import ObjectTarget
from stentor.net.address import Addr
from stentor.state import Derivation, Input, Table
from stentor.tables.endpoint import Endpoint, PublishedEndpoint
from stentor.tables.pod import Pod, PodKey, is_same_pod

MANAGER: Final = "cilium-agent"
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


def derive_published(
    endpoints: Table[int, Endpoint], pods: Table[PodKey, Pod], output: Table[PodKey, PublishedEndpoint], *, node: Addr
) -> Derivation[PodKey, PodKey, PublishedEndpoint]:
    """This node's endpoints → CiliumEndpoints as they should be. An endpoint is announced once its pod is known."""

    def compute(key: PodKey) -> Iterable[PublishedEndpoint]:
        pod = pods.get(key)
        rows = [row for row in endpoints.by("pod", key) if pod is not None and is_same_pod(pod.uids, row.pod_uid)]
        if pod is None or not rows:
            return
        # A pod has one CiliumEndpoint: its first interface's.
        row = min(rows, key=lambda row: (row.container_ifname != "eth0", row.id))
        yield PublishedEndpoint(
            namespace=row.namespace,
            name=row.pod,
            pod_uid=pod.uid,
            endpoint_id=row.id,
            identity=row.identity,
            labels=tuple(map(str, row.labels)),
            addresses=row.addresses,
            node=node,
            state=row.state.value,
            container_id=row.container_id,
            container_ifname=row.container_ifname,
            service_account=pod.service_account,
            named_ports=row.named_ports,
        )

    inputs = (Input(endpoints, lambda row: ((row.namespace, row.pod),)), Input(pods, lambda row: (row.key,)))
    return Derivation("published-endpoints", output, compute, inputs)


def endpoint_row(obj: CiliumEndpoint) -> PublishedEndpoint:
    """A CiliumEndpoint as a row; ValueError names a bad address."""
    status = obj.status
    pairs = status.networking.addressing if status.networking is not None else ()
    texts = [text for pair in pairs for text in (pair.ipv4, pair.ipv6) if text]
    node = status.networking.node if status.networking is not None else ""
    external = status.external_identifiers or ExternalIdentifiers()
    identity = status.identity or EndpointIdentity()
    container_id, _, ifname = external.cni_attachment_id.partition(":")
    return PublishedEndpoint(
        namespace=obj.metadata.namespace,
        name=obj.metadata.name,
        pod_uid=next((owner.uid for owner in obj.metadata.owner_references if owner.kind == "Pod"), ""),
        endpoint_id=status.id,
        identity=identity.id,
        labels=identity.labels,
        addresses=tuple(map(Addr.parse, texts)),
        node=Addr.parse(node) if node else None,
        state=status.state,
        container_id=container_id or external.container_id,
        container_ifname=ifname,
        service_account=status.service_account,
        named_ports=tuple((port.name, PROTOCOLS.get(port.protocol, 0), port.port) for port in status.named_ports),
        encrypt_key=status.encryption.key if status.encryption is not None else 0,
    )


def endpoint_object(row: PublishedEndpoint) -> CiliumEndpoint:
    """The object of a row; the inverse of `endpoint_row`."""
    owner = OwnerReference(api_version="v1", kind="Pod", name=row.name, uid=row.pod_uid)
    ipv4 = next((str(addr) for addr in row.addresses if addr.family == 4), "")
    ipv6 = next((str(addr) for addr in row.addresses if addr.family == 6), "")
    direction = EndpointPolicyDirection(enforcing=False, state="<status disabled>")
    status = EndpointStatus(
        id=row.endpoint_id,
        identity=EndpointIdentity(id=row.identity, labels=row.labels) if row.identity else None,
        networking=EndpointNetworking(
            addressing=(AddressPair(ipv4=ipv4, ipv6=ipv6),), node=str(row.node) if row.node is not None else ""
        ),
        encryption=EncryptionSpec(key=row.encrypt_key),
        external_identifiers=ExternalIdentifiers(
            cni_attachment_id=f"{row.container_id}:{row.container_ifname}",
            container_id=row.container_id,
            k8s_namespace=row.namespace,
            k8s_pod_name=row.name,
            pod_name=f"{row.namespace}/{row.name}",
        ),
        policy=EndpointPolicy(ingress=direction, egress=direction),
        named_ports=tuple(
            NamedPort(name=name, port=port, protocol=_PROTOCOL_NAMES.get(protocol, ""))
            for name, protocol, port in row.named_ports
        ),
        service_account=row.service_account,
        state=row.state,
    )
    meta = ObjectMeta(name=row.name, namespace=row.namespace, owner_references=(owner,))
    return CiliumEndpoint(metadata=meta, status=status)


class PublishedTarget(ObjectTarget[PodKey, PublishedEndpoint]):
    """Writes CiliumEndpoints. What is there is what the reflected table says of this node."""

    def __init__(self, client: Client, published: Table[PodKey, PublishedEndpoint], node: Addr) -> None:
        super().__init__()
        self._client = client
        self._published = published
        self._node = node
        self._sent: dict[PodKey, PublishedEndpoint] = {}

    async def write(self, row: PublishedEndpoint) -> None:
        """Nothing when it is there already; what was written a moment ago need not have come back yet."""
        if self._published.get(row.key) == row == self._sent.get(row.key, row):
            return
        self._sent[row.key] = row
        change = patch.apply(CILIUM_ENDPOINTS, endpoint_object(row), manager=MANAGER)
        await self._client.patch(CILIUM_ENDPOINTS, row.name, change, row.namespace)

    async def remove(self, key: PodKey) -> None:
        """The object of a pod that was made anew on another node is that node's."""
        self._sent.pop(key, None)
        present = self._published.get(key)
        if present is not None and present.node != self._node:
            return
        await self._client.delete(CILIUM_ENDPOINTS, key[1], key[0])

    async def dump(self) -> Mapping[PodKey, PublishedEndpoint]:
        """From the reflected table."""
        return {row.key: row for row in self._published.by("node", self._node)}


async def publish_node(
    client: Client,
    name: str,
    *,
    uid: str,
    labels: dict[str, str],
    addresses: Iterable[tuple[str, Addr]],
    pod_cidrs: tuple[str, ...] | None,
) -> None:
    """Write this node's CiliumNode. `pod_cidrs` None leaves them to the operator."""
    owner = OwnerReference(api_version="v1", kind="Node", name=name, uid=uid)
    spec = CiliumNodeSpec(
        addresses=tuple(CiliumNodeAddress(type=kind, ip=str(addr)) for kind, addr in addresses),
        ipam=CiliumNodeIPAM(pod_cidrs=pod_cidrs or ()),
    )
    meta = ObjectMeta(name=name, labels=labels, owner_references=(owner,))
    change = patch.apply(CILIUM_NODES, CiliumNode(metadata=meta, spec=spec), manager=MANAGER)
    await client.patch(CILIUM_NODES, name, change)


async def report_network_ready(client: Client, name: str) -> None:
    """The node's condition that says that its network works."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "CiliumIsUp",
        "message": "Cilium is running on this node",
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": stamp,
    }
    await client.patch(NODES, name, patch.strategic({"status": {"conditions": [condition]}}), subresource="status")
