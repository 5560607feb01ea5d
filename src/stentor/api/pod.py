"""Pods, as the node runner starts them and as agents and operators see them.

`PODS` decodes all that starting a pod needs; `POD_SUMMARIES` only what identities and endpoints need, at a fraction of
the memory.
"""

from __future__ import annotations

import msgspec

from stentor.api.meta import Condition, Kind, Resource, Value


class KeySelector(Value, frozen=True, kw_only=True):
    """A key of a ConfigMap or Secret."""

    key: str
    name: str = ""
    optional: bool = False


class FieldSelector(Value, frozen=True, kw_only=True):
    """A field of the pod (downward API)."""

    field_path: str
    api_version: str = "v1"


class ResourceFieldSelector(Value, frozen=True, kw_only=True):
    """A resource amount of a container (downward API)."""

    resource: str
    container_name: str = ""
    divisor: str | int = ""


class EnvVarSource(Value, frozen=True, kw_only=True):
    """Exactly one member is set."""

    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Value, frozen=True, kw_only=True):
    """A variable; `value` may refer to earlier ones as $(NAME)."""

    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvReference(Value, frozen=True, kw_only=True):
    """A ConfigMap or Secret, all of it."""

    name: str = ""
    optional: bool = False


class EnvFromSource(Value, frozen=True, kw_only=True):
    """All keys of a ConfigMap or Secret as variables."""

    prefix: str = ""
    config_map_ref: EnvReference | None = None
    secret_ref: EnvReference | None = None


class ContainerPort(Value, frozen=True, kw_only=True):
    """A port that a container says it serves; named ports appear in policy and services."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")


class VolumeMount(Value, frozen=True, kw_only=True):
    """Where a volume appears in a container."""

    name: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False


class HttpHeader(Value, frozen=True, omit_defaults=False, kw_only=True):
    """Header of a probe's request."""

    name: str
    value: str = ""


class HttpGetAction(Value, frozen=True, kw_only=True):
    """Probe by HTTP; 200–399 is success."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocketAction(Value, frozen=True, kw_only=True):
    """Probe by connecting."""

    port: int | str
    host: str = ""


class ExecAction(Value, frozen=True, kw_only=True):
    """Probe by a command in the container; status 0 is success."""

    command: tuple[str, ...] = ()


class SleepAction(Value, frozen=True, omit_defaults=False, kw_only=True):
    """Lifecycle hook that only waits."""

    seconds: int = 0


class Action(Value, frozen=True, kw_only=True):
    """A lifecycle hook: one member is set."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Value, frozen=True, kw_only=True):
    """Hooks after the start and before the end of a container."""

    post_start: Action | None = None
    pre_stop: Action | None = None


class Probe(Value, frozen=True, kw_only=True):
    """How a container's health is asked; one action is set."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class Capabilities(Value, frozen=True, kw_only=True):
    """Linux capabilities without the CAP_ prefix."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(Value, frozen=True, kw_only=True):
    """Privileges of a container."""

    privileged: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    allow_privilege_escalation: bool | None = None
    read_only_root_filesystem: bool = False
    capabilities: Capabilities = Capabilities()


class Sysctl(Value, frozen=True, kw_only=True):
    """A kernel setting of the pod's namespaces."""

    name: str
    value: str


class PodSecurityContext(Value, frozen=True, kw_only=True):
    """Defaults of all containers of a pod."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()


class ResourceRequirements(Value, frozen=True, kw_only=True):
    """Amounts of resources, Kubernetes' quantities."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class Container(Value, frozen=True, kw_only=True):
    """One program of a pod."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    resources: ResourceRequirements = ResourceRequirements()
    security_context: SecurityContext | None = None
    image_pull_policy: str = ""
    restart_policy: str | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    termination_message_path: str = ""
    termination_message_policy: str = ""


class KeyToPath(Value, frozen=True, kw_only=True):
    """File of a key."""

    key: str
    path: str
    mode: int | None = None


class KeyedSource(Value, frozen=True, kw_only=True):
    """A ConfigMap or Secret as files; without `items` all keys."""

    name: str = ""
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool = False


class DownwardFile(Value, frozen=True, kw_only=True):
    """File of a field of the pod."""

    path: str
    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardSource(Value, frozen=True, kw_only=True):
    """Fields of the pod as files."""

    items: tuple[DownwardFile, ...] = ()
    default_mode: int | None = None


class TokenSource(Value, frozen=True, kw_only=True):
    """A ServiceAccount token as a file."""

    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class ProjectedPart(Value, frozen=True, kw_only=True):
    """One source of a projected volume; one member is set."""

    config_map: KeyedSource | None = None
    secret: KeyedSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: TokenSource | None = None


class ProjectedSource(Value, frozen=True, kw_only=True):
    """Several sources in one directory."""

    sources: tuple[ProjectedPart, ...] = ()
    default_mode: int | None = None


class EmptyDirSource(Value, frozen=True, kw_only=True):
    """A directory that lives as long as the pod."""

    medium: str = ""
    size_limit: str | int | None = None


class HostPathSource(Value, frozen=True, kw_only=True):
    """A path of the node."""

    path: str
    type: str | None = None


class Volume(Value, frozen=True, kw_only=True):
    """A named directory of a pod; one source is set."""

    name: str
    empty_dir: EmptyDirSource | None = None
    config_map: KeyedSource | None = None
    secret: KeyedSource | None = None
    projected: ProjectedSource | None = None
    downward_api: DownwardSource | None = msgspec.field(name="downwardAPI", default=None)
    host_path: HostPathSource | None = None


class Toleration(Value, frozen=True, kw_only=True):
    """Lets a pod onto nodes with a taint; an empty key with Exists tolerates all."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class HostAlias(Value, frozen=True, kw_only=True):
    """Further lines of /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...] = ()


class DnsOption(Value, frozen=True, kw_only=True):
    """A resolver option."""

    name: str
    value: str | None = None


class DnsConfig(Value, frozen=True, kw_only=True):
    """Resolver settings merged with what the pod's `dnsPolicy` gives."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class ReadinessGate(Value, frozen=True, kw_only=True):
    """Condition that must be true before the pod is Ready."""

    condition_type: str


class NodeRequirement(Value, frozen=True, kw_only=True):
    """One expression about a node's labels or fields: In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class NodeTerm(Value, frozen=True, kw_only=True):
    """All expressions must hold; a term without any matches nothing."""

    match_expressions: tuple[NodeRequirement, ...] = ()
    match_fields: tuple[NodeRequirement, ...] = ()


class NodeSelector(Value, frozen=True, kw_only=True):
    """One of the terms must match."""

    node_selector_terms: tuple[NodeTerm, ...] = ()


class NodeAffinity(Value, frozen=True, kw_only=True):
    """Which nodes a pod may be placed on; preferences are not read."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class Affinity(Value, frozen=True, kw_only=True):
    """Where to place a pod."""

    node_affinity: NodeAffinity | None = None


class PodSpec(Value, frozen=True, kw_only=True):
    """What to run, where and how."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    scheduler_name: str = "default-scheduler"
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    host_network: bool = False
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    hostname: str = ""
    subdomain: str = ""
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = DnsConfig()
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    enable_service_links: bool = True
    security_context: PodSecurityContext = PodSecurityContext()
    readiness_gates: tuple[ReadinessGate, ...] = ()
    priority: int | None = None
    priority_class_name: str = ""


class PodIP(Value, frozen=True, kw_only=True):
    """One address of a pod or host."""

    ip: str


class ContainerStateRunning(Value, frozen=True, kw_only=True):
    """The container runs."""

    started_at: str | None = None


class ContainerStateWaiting(Value, frozen=True, kw_only=True):
    """The container does not run yet, and why."""

    reason: str = ""
    message: str = ""


class ContainerStateTerminated(Value, frozen=True, kw_only=True):
    """The container has ended."""

    exit_code: int = msgspec.field(name="exitCode")
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = msgspec.field(name="containerID", default="")


class ContainerState(Value, frozen=True, kw_only=True):
    """At most one member is set; none means waiting."""

    running: ContainerStateRunning | None = None
    waiting: ContainerStateWaiting | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Value, frozen=True, omit_defaults=False, kw_only=True):
    """State of a container of a pod."""

    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    container_id: str = msgspec.field(name="containerID", default="")
    started: bool | None = None
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(Value, frozen=True, kw_only=True):
    """Phase is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    host_ip: str = msgspec.field(name="hostIP", default="")
    host_ips: tuple[PodIP, ...] = msgspec.field(name="hostIPs", default=())
    start_time: str | None = None
    qos_class: str = ""
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Resource, frozen=True, kw_only=True):
    """A set of containers that share addresses."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ContainerSummary(Value, frozen=True, kw_only=True):
    """The network's view of a container: its named ports."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class PodSummarySpec(Value, frozen=True, kw_only=True):
    """The network's view of a pod's spec."""

    node_name: str = ""
    host_network: bool = False
    service_account_name: str = ""
    containers: tuple[ContainerSummary, ...] = ()


class PodSummaryStatus(Value, frozen=True, kw_only=True):
    """The network's view of a pod's status."""

    phase: str = ""
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    host_ip: str = msgspec.field(name="hostIP", default="")


class PodSummary(Resource, frozen=True, kw_only=True):
    """The network's view of a pod."""

    spec: PodSummarySpec = PodSummarySpec()
    status: PodSummaryStatus = PodSummaryStatus()

    @property
    def is_finished(self) -> bool:
        """A finished pod keeps its object but has given up its addresses."""
        return self.status.phase in ("Succeeded", "Failed")


PODS = Kind("", "v1", "pods", "Pod", True, Pod)
POD_SUMMARIES = Kind("", "v1", "pods", "Pod", True, PodSummary)
