"""Workloads: Deployment, ReplicaSet, DaemonSet. The pod template stays as it was written: it is copied, not read."""

from __future__ import annotations

from stentor.api.meta import Condition, JsonObject, Kind, LabelSelector, Resource, Value


class RollingUpdate(Value, frozen=True, kw_only=True):
    """Numbers or percentages."""

    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class UpdateStrategy(Value, frozen=True, kw_only=True):
    """RollingUpdate, Recreate (Deployment) or OnDelete (DaemonSet)."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Value, frozen=True, kw_only=True):
    """`template` is a PodTemplateSpec in JSON form."""

    replicas: int = 1
    selector: LabelSelector
    template: JsonObject
    strategy: UpdateStrategy = UpdateStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int | None = None
    paused: bool = False
    progress_deadline_seconds: int | None = None


class DeploymentStatus(Value, frozen=True, kw_only=True):
    """Counts of pods."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    conditions: tuple[Condition, ...] = ()


class Deployment(Resource, frozen=True, kw_only=True):
    """Pods of one template, replaced step by step when it changes."""

    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(Value, frozen=True, omit_defaults=False, kw_only=True):
    """`template` is a PodTemplateSpec in JSON form."""

    replicas: int = 1
    min_ready_seconds: int = 0
    selector: LabelSelector = LabelSelector()
    template: JsonObject = {}


class ReplicaSetStatus(Value, frozen=True, omit_defaults=False, kw_only=True):
    """Counts of pods."""

    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class ReplicaSet(Resource, frozen=True, kw_only=True):
    """A number of equal pods."""

    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class DaemonSetSpec(Value, frozen=True, kw_only=True):
    """`template` is a PodTemplateSpec in JSON form."""

    selector: LabelSelector
    template: JsonObject
    update_strategy: UpdateStrategy = UpdateStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int | None = None


class DaemonSetStatus(Value, frozen=True, omit_defaults=False, kw_only=True):
    """Counts of nodes."""

    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    observed_generation: int = 0


class DaemonSet(Resource, frozen=True, kw_only=True):
    """One pod on each node that its template fits."""

    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()


DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment", True, Deployment)
REPLICA_SETS = Kind("apps", "v1", "replicasets", "ReplicaSet", True, ReplicaSet)
DAEMON_SETS = Kind("apps", "v1", "daemonsets", "DaemonSet", True, DaemonSet)
