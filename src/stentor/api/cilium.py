"""cilium.io/v2 resources: CiliumNode, CiliumEndpoint, CiliumIdentity, with upstream's fields and validation.

Descriptions become those of the CRDs (`stentor.api.crd`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from stentor.api.meta import Kind, Resource, Value

GROUP = "cilium.io"


class CiliumNodeAddress(Value, frozen=True, kw_only=True):
    """NodeAddress is a node address."""

    type: Annotated[str, Meta(description="Type is the type of the node address")] = ""
    ip: Annotated[str, Meta(description="IP is an IP of a node")] = ""


class CiliumNodeHealth(Value, frozen=True, kw_only=True):
    """HealthAddressing is the addressing information for health connectivity checking."""

    ipv4: Annotated[str, Meta(description="IPv4 is the IPv4 address of the health endpoint")] = ""
    ipv6: Annotated[str, Meta(description="IPv6 is the IPv6 address of the health endpoint")] = ""


class CiliumNodeIngress(Value, frozen=True, kw_only=True):
    """IngressAddressing is the addressing information for Ingress listener."""

    ipv4: Annotated[str, Meta(description="IPv4 is the IPv4 address of the ingress listener")] = ""
    ipv6: Annotated[str, Meta(description="IPv6 is the IPv6 address of the ingress listener")] = ""


class CiliumNodeEncryption(Value, frozen=True, kw_only=True):
    """EncryptionSpec is the encryption configuration of the node."""

    key: Annotated[int, Meta(description="Key is the index to the key to use for encryption or 0 if disabled")] = 0


class IPAMPoolAllocation(Value, frozen=True, kw_only=True):
    """IPAMPoolAllocation describes an allocation of an IPAM pool for a node."""

    pool: Annotated[str, Meta(description="Pool is the name of the IPAM pool", min_length=1)]
    cidrs: Annotated[tuple[str, ...], Meta(description="CIDRs contains a list of pod CIDRs currently allocated")] = ()


class IPAMPoolDemand(Value, frozen=True, rename="kebab", kw_only=True):
    """IPAMPoolDemand is a request from the agent for a number of addresses."""

    ipv4_addrs: Annotated[int, Meta(description="IPv4Addrs contains the number of requested IPv4 addresses")] = 0
    ipv6_addrs: Annotated[int, Meta(description="IPv6Addrs contains the number of requested IPv6 addresses")] = 0


class IPAMPoolRequest(Value, frozen=True, kw_only=True):
    """IPAMPoolRequest is a request of a node for addresses of a pool."""

    pool: Annotated[str, Meta(description="Pool is the name of the IPAM pool", min_length=1)]
    needed: Annotated[IPAMPoolDemand, Meta(description="Needed indicates how many IPs are needed")] = IPAMPoolDemand()


class IPAMPools(Value, frozen=True, kw_only=True):
    """IPAMPoolSpec contains the pools requested by and allocated to this node."""

    requested: Annotated[
        tuple[IPAMPoolRequest, ...], Meta(description="Requested contains a list of IPAM pool requests")
    ] = ()
    allocated: Annotated[
        tuple[IPAMPoolAllocation, ...],
        Meta(description="Allocated contains the list of pooled CIDR assigned to this node"),
    ] = ()


class CiliumNodeIPAM(Value, frozen=True, kw_only=True):
    """IPAMSpec is the IPAM configuration of the node."""

    pod_cidrs: Annotated[
        tuple[str, ...],
        Meta(description="PodCIDRs is the list of CIDRs available to the node for allocation, one per address family"),
    ] = msgspec.field(name="podCIDRs", default=())
    pools: Annotated[IPAMPools, Meta(description="Pools contains the IPAM pools of this node")] = IPAMPools()


class CiliumNodeSpec(Value, frozen=True, kw_only=True):
    """NodeSpec is the configuration specific to a node."""

    addresses: Annotated[
        tuple[CiliumNodeAddress, ...], Meta(description="Addresses is the list of all node addresses")
    ] = ()
    health: Annotated[CiliumNodeHealth, Meta(description="HealthAddressing is the health addressing of the node")] = (
        CiliumNodeHealth()
    )
    ingress: Annotated[
        CiliumNodeIngress, Meta(description="IngressAddressing is the ingress addressing of the node")
    ] = CiliumNodeIngress()
    encryption: Annotated[CiliumNodeEncryption, Meta(description="Encryption is the encryption configuration")] = (
        CiliumNodeEncryption()
    )
    ipam: Annotated[CiliumNodeIPAM, Meta(description="IPAM is the address management specification")] = CiliumNodeIPAM()
    bootid: Annotated[
        str, Meta(description="BootID is a unique node identifier generated on boot, empty when unknown")
    ] = ""
    instance_id: Annotated[str, Meta(description="InstanceID is the identifier of the node")] = msgspec.field(
        name="instance-id", default=""
    )


class OperatorStatus(Value, frozen=True, kw_only=True):
    """OperatorStatus is the status of an IPAM action of the operator."""

    error: Annotated[str, Meta(description="Error is the error message set by the operator")] = ""


class AllocationIP(Value, frozen=True, kw_only=True):
    """AllocationIP is an address in use and its owner."""

    owner: Annotated[str, Meta(description="Owner is the owner of the address")] = ""
    resource: Annotated[str, Meta(description="Resource is the resource the address belongs to")] = ""


class CiliumNodeIPAMStatus(Value, frozen=True, kw_only=True):
    """IPAMStatus is the status of address allocation."""

    used: Annotated[dict[str, AllocationIP], Meta(description="Used lists all addresses in use with their owners")] = {}
    operator_status: Annotated[OperatorStatus, Meta(description="Operator is the operator status of the node")] = (
        msgspec.field(name="operator-status", default=OperatorStatus())
    )


class CiliumNodeStatus(Value, frozen=True, kw_only=True):
    """NodeStatus is the status of a node."""

    ipam: Annotated[CiliumNodeIPAMStatus, Meta(description="IPAM is the IPAM status of the node")] = (
        CiliumNodeIPAMStatus()
    )


class CiliumNode(Resource, frozen=True, kw_only=True):
    """CiliumNode represents a node managed by Cilium: its addresses, pod CIDRs and encryption key."""

    spec: Annotated[CiliumNodeSpec, Meta(description="Spec defines the desired configuration of the node")]
    status: Annotated[CiliumNodeStatus, Meta(description="Status is the status of the node")] = CiliumNodeStatus()

    def address(self, kind: str, family: int) -> str:
        """First address of a type and family (4 or 6), empty when there is none."""
        return next((a.ip for a in self.spec.addresses if a.type == kind and (":" in a.ip) == (family == 6)), "")


class AddressPair(Value, frozen=True, kw_only=True):
    """AddressPair is a pair of IPv4 and IPv6 addresses."""

    ipv4: str = ""
    ipv6: str = ""


class EndpointNetworking(Value, frozen=True, kw_only=True):
    """EndpointNetworking is the addressing information of an endpoint."""

    addressing: Annotated[tuple[AddressPair, ...], Meta(description="IP4/6 addresses assigned to this endpoint")]
    node: Annotated[
        str,
        Meta(description="NodeIP is the address of the node the endpoint is running on, reachable between nodes"),
    ] = ""


class EndpointIdentity(Value, frozen=True, kw_only=True):
    """EndpointIdentity is the identity information of an endpoint."""

    id: Annotated[int, Meta(description="ID is the numeric identity of the endpoint")] = 0
    labels: Annotated[tuple[str, ...], Meta(description="Labels is the list of labels of the identity")] = ()


class ExternalIdentifiers(Value, frozen=True, rename="kebab", kw_only=True):
    """ExternalIdentifiers is a set of identifiers that the orchestration gave to the endpoint."""

    cni_attachment_id: Annotated[str, Meta(description="ID assigned to this attachment by container runtime")] = ""
    container_id: Annotated[str, Meta(description="ID assigned by container runtime")] = ""
    container_name: Annotated[str, Meta(description="Name assigned to container")] = ""
    k8s_namespace: Annotated[str, Meta(description="K8s namespace for this endpoint")] = ""
    k8s_pod_name: Annotated[str, Meta(description="K8s pod name for this endpoint")] = ""
    pod_name: Annotated[str, Meta(description="K8s pod for this endpoint (namespace/name)")] = ""


class EndpointPolicyDirection(Value, frozen=True, omit_defaults=False, kw_only=True):
    """EndpointPolicyDirection is the policy state of one direction."""

    enforcing: Annotated[bool, Meta(description="Enforcing is true when policy drops what it does not allow")] = False
    state: Annotated[str, Meta(description="EndpointPolicyState defines the state of the Policy mode")] = ""


class EndpointPolicy(Value, frozen=True, kw_only=True):
    """EndpointPolicy represents the endpoint's policy by listing the state of each direction."""

    ingress: EndpointPolicyDirection | None = None
    egress: EndpointPolicyDirection | None = None


class NamedPort(Value, frozen=True, kw_only=True):
    """Port names a layer 4 port mapping."""

    name: Annotated[str, Meta(description="Optional layer 4 port name")] = ""
    port: Annotated[int, Meta(description="Layer 4 port number", ge=0, le=65535)] = 0
    protocol: Annotated[str, Meta(description="Layer 4 protocol")] = ""


class EncryptionSpec(Value, frozen=True, kw_only=True):
    """EncryptionSpec defines the encryption relevant configuration of a node."""

    key: Annotated[int, Meta(description="Key is the index to the key to use for encryption or 0 if disabled")] = 0


class EndpointStatus(Value, frozen=True, kw_only=True):
    """EndpointStatus is the status of a Cilium endpoint."""

    id: Annotated[int, Meta(description="ID is the cilium-agent-local ID of the endpoint")] = 0
    identity: Annotated[EndpointIdentity | None, Meta(description="Identity is the security identity")] = None
    networking: Annotated[EndpointNetworking | None, Meta(description="Networking is the addressing information")] = (
        None
    )
    encryption: Annotated[EncryptionSpec | None, Meta(description="Encryption is the node's encryption key")] = None
    external_identifiers: Annotated[
        ExternalIdentifiers | None, Meta(description="ExternalIdentifiers is a set of identifiers of the endpoint")
    ] = msgspec.field(name="external-identifiers", default=None)
    policy: Annotated[EndpointPolicy | None, Meta(description="Policy is the state of policy enforcement")] = None
    named_ports: Annotated[tuple[NamedPort, ...], Meta(description="NamedPorts are the named ports of the pod")] = (
        msgspec.field(name="named-ports", default=())
    )
    service_account: Annotated[str, Meta(description="ServiceAccount is the service account of the endpoint")] = (
        msgspec.field(name="service-account", default="")
    )
    state: Annotated[str, Meta(description="State is the state of the endpoint")] = ""


class CiliumEndpoint(Resource, frozen=True, kw_only=True):
    """CiliumEndpoint is the status of a pod's endpoint: addresses, identity, policy state."""

    status: EndpointStatus = EndpointStatus()


class CiliumIdentity(Resource, frozen=True, kw_only=True):
    """CiliumIdentity is a set of security labels with a number, which is the object's name."""

    security_labels: Annotated[
        dict[str, str],
        Meta(description="SecurityLabels is the source-of-truth set of labels for this identity, with their sources"),
    ] = msgspec.field(name="security-labels")


CILIUM_NODES = Kind(GROUP, "v2", "ciliumnodes", "CiliumNode", False, CiliumNode)
CILIUM_ENDPOINTS = Kind(GROUP, "v2", "ciliumendpoints", "CiliumEndpoint", True, CiliumEndpoint)
CILIUM_IDENTITIES = Kind(GROUP, "v2", "ciliumidentities", "CiliumIdentity", False, CiliumIdentity)
