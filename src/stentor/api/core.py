"""Core resources apart from Pod: nodes, namespaces, services, configuration, leases, events."""

from __future__ import annotations

import msgspec

from stentor.api.meta import Condition, Kind, Resource, Value


class NodeAddress(Value, frozen=True, kw_only=True):
    """Address of a node: type is InternalIP, ExternalIP, Hostname, …"""

    type: str
    address: str


class Taint(Value, frozen=True, kw_only=True):
    """Repels pods that do not tolerate it."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Value, frozen=True, kw_only=True):
    """`podCIDRs` holds at most one prefix a family."""

    pod_cidr: str = msgspec.field(name="podCIDR", default="")
    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs", default=())
    provider_id: str = msgspec.field(name="providerID", default="")
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class DaemonEndpoint(Value, frozen=True, kw_only=True):
    """A node daemon's port; Kubernetes spells this one field with a capital letter."""

    port: int = msgspec.field(name="Port")


class NodeDaemonEndpoints(Value, frozen=True, kw_only=True):
    """Ports of the node's daemons."""

    kubelet_endpoint: DaemonEndpoint | None = None


class NodeSystemInfo(Value, frozen=True, omit_defaults=False, kw_only=True):
    """What the node says about its operating system."""

    machine_id: str = msgspec.field(name="machineID", default="")
    system_uuid: str = msgspec.field(name="systemUUID", default="")
    boot_id: str = msgspec.field(name="bootID", default="")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class NodeStatus(Value, frozen=True, kw_only=True):
    """Quantities in `capacity` and `allocatable` are Kubernetes' text form."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    phase: str = ""


class Node(Resource, frozen=True, kw_only=True):
    """A machine of the cluster."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NamespaceSpec(Value, frozen=True, kw_only=True):
    """Finalizers that hold a namespace back until its content is gone."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Value, frozen=True, kw_only=True):
    """Phase is Active or Terminating."""

    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class Namespace(Resource, frozen=True, kw_only=True):
    """A scope of names; its labels are part of its pods' identities."""

    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class ServicePort(Value, frozen=True, kw_only=True):
    """`targetPort` is a number or the name of a container's port."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int = 0
    app_protocol: str | None = None


class ClientIPConfig(Value, frozen=True, kw_only=True):
    """Affinity by client address."""

    timeout_seconds: int = 10800


class SessionAffinityConfig(Value, frozen=True, kw_only=True):
    """Parameters of `sessionAffinity: ClientIP`."""

    client_ip: ClientIPConfig = msgspec.field(name="clientIP", default=ClientIPConfig())


class ServiceSpec(Value, frozen=True, kw_only=True):
    """`clusterIPs` holds at most one address a family, or ("None",) for a headless service."""

    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    external_ips: tuple[str, ...] = msgspec.field(name="externalIPs", default=())
    external_name: str = ""
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    health_check_node_port: int = 0
    load_balancer_class: str | None = None
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_source_ranges: tuple[str, ...] = ()
    publish_not_ready_addresses: bool = False
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    traffic_distribution: str | None = None


class LoadBalancerIngress(Value, frozen=True, kw_only=True):
    """Address under which a load balancer serves."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(Value, frozen=True, kw_only=True):
    """Addresses given to a Service of type LoadBalancer."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceCondition(Value, frozen=True, omit_defaults=False, kw_only=True):
    """metav1.Condition, written in full. Read with less: one that somebody left incomplete costs nobody the Service."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str | None = None


class ServiceStatus(Value, frozen=True, kw_only=True):
    """State of a Service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[ServiceCondition, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    """A stable address of a set of pods."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ObjectReference(Value, frozen=True, kw_only=True):
    """Reference to an object of any kind."""

    kind: str = ""
    api_version: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EndpointConditions(Value, frozen=True, kw_only=True):
    """None means unknown, which consumers read as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Value, frozen=True, kw_only=True):
    """Zone that should use an endpoint."""

    name: str


class ForNode(Value, frozen=True, kw_only=True):
    """Node that should use an endpoint."""

    name: str


class EndpointHints(Value, frozen=True, kw_only=True):
    """Hints of topology aware routing."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class Endpoint(Value, frozen=True, kw_only=True):
    """One backend; its addresses are of the slice's family."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointPort(Value, frozen=True, kw_only=True):
    """A port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class EndpointSlice(Resource, frozen=True, kw_only=True):
    """Backends of a Service, of one address family. Both lists may be null on the wire."""

    address_type: str
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class ServiceAccount(Resource, frozen=True, kw_only=True):
    """Identity of pods towards the API."""

    automount_service_account_token: bool | None = None
    secrets: tuple[ObjectReference, ...] = ()


class ConfigMap(Resource, frozen=True, kw_only=True):
    """Configuration; `binaryData` is base64 text."""

    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool | None = None


class Secret(Resource, frozen=True, kw_only=True):
    """Confidential configuration; `data` is base64 text."""

    type: str = ""
    data: dict[str, str] = {}
    immutable: bool | None = None


class LeaseSpec(Value, frozen=True, kw_only=True):
    """Times are RFC 3339 with microseconds (MicroTime)."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Resource, frozen=True, kw_only=True):
    """A claim that has to be renewed: leadership, a node's heartbeat."""

    spec: LeaseSpec = LeaseSpec()


class EventSource(Value, frozen=True, kw_only=True):
    """Who reports an event."""

    component: str = ""
    host: str = ""


class Event(Resource, frozen=True, omit_defaults=False, kw_only=True):
    """Something that happened to an object, for people to read (core/v1)."""

    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    source: EventSource = EventSource()
    count: int = 1
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    reporting_component: str = ""
    reporting_instance: str = ""


class CustomResourceDefinitionNames(Value, frozen=True, kw_only=True):
    """Names under which a custom resource is served."""

    plural: str
    kind: str
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


class CustomResourceDefinitionSpec(Value, frozen=True, kw_only=True):
    """Only what readers need; definitions are written from `stentor.api.crd`."""

    group: str
    names: CustomResourceDefinitionNames
    scope: str = "Namespaced"


class CustomResourceDefinitionStatus(Value, frozen=True, kw_only=True):
    """Condition Established says that the resource is served."""

    conditions: tuple[Condition, ...] = ()


class CustomResourceDefinition(Resource, frozen=True, kw_only=True):
    """A kind that is not built in."""

    spec: CustomResourceDefinitionSpec | None = None
    status: CustomResourceDefinitionStatus = CustomResourceDefinitionStatus()


NODES = Kind("", "v1", "nodes", "Node", False, Node)
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", False, Namespace)
SERVICES = Kind("", "v1", "services", "Service", True, Service)
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount", True, ServiceAccount)
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap", True, ConfigMap)
SECRETS = Kind("", "v1", "secrets", "Secret", True, Secret)
EVENTS = Kind("", "v1", "events", "Event", True, Event)
ENDPOINT_SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, EndpointSlice)
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", True, Lease)
CUSTOM_RESOURCE_DEFINITIONS = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    False,
    CustomResourceDefinition,
)
