"""The node as the API server knows it: registration, status, heartbeat lease.

https://kubernetes.io/docs/reference/node/node-status/
"""

from __future__ import annotations

import logging
import os
import platform
from typing import Final

import msgspec

from stentor.api.core import (
    LEASES,
    NODES,
    DaemonEndpoint,
    Lease,
    LeaseSpec,
    Node,
    NodeAddress,
    NodeDaemonEndpoints,
    NodeStatus,
    NodeSystemInfo,
)
from stentor.api.meta import Condition, ObjectMeta
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import AlreadyExists, Conflict, NotFound
from stentor.lab.runner import clock, machine
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.network import NetworkWatch

PORT: Final = 10250
LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_S: Final = 40
HEARTBEAT_S: Final = 10.0
MAX_PODS: Final = 110
KUBELET_VERSION: Final = "v1.33.0"

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_HEALTHY: Final = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)

log = logging.getLogger(__name__)


def architecture() -> str:
    """As Go names it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def labels(own: Machine) -> dict[str, str]:
    """The labels that every kubelet sets, and those of the flags."""
    names = {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture(), "kubernetes.io/hostname": own.node_name}
    beta = {"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": architecture()}
    return {**names, **beta, **own.labels}


def ready_condition(network: NetworkWatch, before: Condition | None, now_ns: int) -> Condition:
    """Ready, with kubelet's reasons and messages."""
    if network.is_ready:
        value, reason, message = "True", "KubeletReady", "kubelet is posting ready status"
    else:
        value, reason = "False", "KubeletNotReady"
        message = (
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            f"message:Network plugin returns error: {network.problem}"
        )
    return _condition("Ready", value, reason, message, before, now_ns)


def compute_status(own: Machine, network: NetworkWatch, before: NodeStatus, now_ns: int) -> NodeStatus:
    """The status to publish; conditions of others (NetworkUnavailable) stay."""
    known = {condition.type: condition for condition in before.conditions}
    mine = [_condition(kind, "False", why, text, known.get(kind), now_ns) for kind, why, text in _HEALTHY]
    mine.append(ready_condition(network, known.get("Ready"), now_ns))
    kinds = {condition.type for condition in mine}
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{machine.memory_bytes() // 1024}Ki",
        "ephemeral-storage": "100Gi",
        "pods": str(MAX_PODS),
    }
    addresses = [NodeAddress(type="InternalIP", address=address) for address in own.addresses]
    return NodeStatus(
        addresses=(*addresses, NodeAddress(type="Hostname", address=own.node_name)),
        conditions=(*(entry for entry in before.conditions if entry.type not in kinds), *mine),
        capacity=capacity,
        allocatable=capacity,
        daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=PORT)),
        node_info=_system_info(),
    )


class NodeReporter:
    """Keeps the Node object and its lease."""

    def __init__(self, client: Client, own: Machine, network: NetworkWatch) -> None:
        self.node: Node | None = None
        self._client = client
        self._machine = own
        self._network = network

    async def register(self) -> Node:
        """Creates the Node, or adopts the one that is there, with current labels and status."""
        name = self._machine.node_name
        # The node is not ready until its network is: the condition itself keeps pods away, no taint has to be lifted.
        fresh = Node(metadata=ObjectMeta(name=name, labels=labels(self._machine)))
        try:
            self.node = await self._client.create(NODES, fresh)
            log.info("Registered node", extra={"node": name})
        except AlreadyExists:
            change = patch.merge({"metadata": {"labels": labels(self._machine)}})
            self.node = await self._client.patch(NODES, name, change)
        await self.report()
        return self.node

    async def report(self) -> None:
        """Writes the status."""
        if self.node is None:
            await self.register()
            return
        try:
            current = await self._client.get(NODES, self._machine.node_name)
        except NotFound:
            self.node = None
            await self.register()
            return
        status = compute_status(self._machine, self._network, current.status, clock.now_ns())
        # The version makes it fail when somebody else writes a condition at the same time, which would get lost.
        version = {"resourceVersion": current.metadata.resource_version}
        change = patch.merge({"metadata": version, "status": msgspec.to_builtins(status)})
        try:
            self.node = await self._client.patch(NODES, self._machine.node_name, change, subresource="status")
        except Conflict:
            await self.report()

    async def renew(self) -> None:
        """The heartbeat: a lease named like the node."""
        name = self._machine.node_name
        stamp = clock.micro_stamp(clock.now_ns())
        spec = LeaseSpec(holder_identity=name, lease_duration_seconds=LEASE_S, renew_time=stamp)
        change = patch.merge({"spec": msgspec.to_builtins(spec)})
        try:
            await self._client.patch(LEASES, name, change, LEASE_NAMESPACE)
        except NotFound:
            lease = Lease(metadata=ObjectMeta(name=name, namespace=LEASE_NAMESPACE), spec=spec)
            try:
                await self._client.create(LEASES, lease)
            except Conflict:
                return  # made between: renewed next time


def _condition(kind: str, value: str, reason: str, message: str, before: Condition | None, now_ns: int) -> Condition:
    now = clock.stamp(now_ns)
    changed = before is None or before.status != value
    since = now if changed or before is None else before.last_transition_time
    return Condition(
        type=kind, status=value, reason=reason, message=message, last_heartbeat_time=now, last_transition_time=since
    )


def _system_info() -> NodeSystemInfo:
    return NodeSystemInfo(
        machine_id=_read("/etc/machine-id"),
        system_uuid=_read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_name(),
        container_runtime_version="stentor://0.1.0",
        kubelet_version=KUBELET_VERSION,
        kube_proxy_version="",
        operating_system="linux",
        architecture=architecture(),
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
