"""What is special about each built-in kind: one row of functions, looked up by bucket.

`rest` does what all kinds share (metadata, schema, status split, generation, managed fields) and calls these between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from stentor.apiserver import crd, kind, pod, service, workload
from stentor.apiserver.errors import Cause
from stentor.apiserver.meta import NameCheck, check_dns1035, check_label, check_path_segment, check_subdomain

Object = dict[str, Any]


def _nothing(_: Object) -> None:
    return None


def _no_pair(_new: Object, _old: Object) -> None:
    return None


def _fine(_: Object) -> list[Cause]:
    return []


def _fine_pair(_new: Object, _old: Object) -> list[Cause]:
    return []


class Strategy(msgspec.Struct, frozen=True):
    """Defaults and rules of one kind. All change the document in place or answer causes."""

    set_defaults: Callable[[Object], None] = _nothing
    """On every write, after the schema's static defaults; must leave its own output unchanged."""
    prepare_create: Callable[[Object], None] = _nothing
    """Once, when uid and name are known."""
    prepare_update: Callable[[Object, Object], None] = _no_pair
    validate: Callable[[Object], list[Cause]] = _fine
    validate_update: Callable[[Object, Object], list[Cause]] = _fine_pair
    check_name: NameCheck = check_subdomain
    has_generation: bool = False
    """Whether metadata.generation counts changes of the spec."""


STRATEGIES: Final[dict[str, Strategy]] = {
    "/configmaps": Strategy(validate=kind.validate_config_map, validate_update=kind.validate_immutable_data),
    "/events": Strategy(validate=kind.validate_event),
    "/namespaces": Strategy(
        set_defaults=kind.set_namespace_defaults,
        prepare_create=kind.prepare_namespace,
        prepare_update=kind.keep_namespace_finalizers,
        check_name=check_label,
    ),
    "/nodes": Strategy(
        set_defaults=kind.set_node_defaults, validate=kind.validate_node, validate_update=kind.validate_node_update
    ),
    "/pods": Strategy(
        set_defaults=pod.set_pod_defaults,
        validate=pod.validate_pod,
        validate_update=pod.validate_pod_update,
        has_generation=True,
    ),
    "/secrets": Strategy(
        set_defaults=kind.set_secret_defaults,
        validate=kind.validate_secret,
        validate_update=kind.validate_immutable_data,
    ),
    "/services": Strategy(
        set_defaults=service.set_service_defaults,
        prepare_update=service.prepare_service_update,
        validate=service.validate_service,
        validate_update=service.validate_service_update,
        check_name=check_dns1035,
    ),
    "apps/daemonsets": Strategy(
        set_defaults=workload.set_daemon_set_defaults,
        validate=workload.validate_workload,
        validate_update=workload.validate_selector_update,
        has_generation=True,
    ),
    "apps/deployments": Strategy(
        set_defaults=workload.set_deployment_defaults,
        validate=workload.validate_workload,
        validate_update=workload.validate_selector_update,
        has_generation=True,
    ),
    "apps/replicasets": Strategy(
        set_defaults=workload.set_replica_set_defaults,
        validate=workload.validate_workload,
        validate_update=workload.validate_selector_update,
        has_generation=True,
    ),
    "apps/statefulsets": Strategy(
        set_defaults=workload.set_stateful_set_defaults,
        validate=workload.validate_workload,
        validate_update=workload.validate_selector_update,
        has_generation=True,
    ),
    "batch/cronjobs": Strategy(
        set_defaults=workload.set_cron_job_defaults, validate=workload.validate_cron_job, has_generation=True
    ),
    "batch/jobs": Strategy(
        set_defaults=workload.set_job_defaults,
        prepare_create=workload.prepare_job,
        validate=workload.validate_job,
        validate_update=workload.validate_job_update,
        has_generation=True,
    ),
    "coordination.k8s.io/leases": Strategy(validate=kind.validate_lease),
    "discovery.k8s.io/endpointslices": Strategy(
        validate=kind.validate_endpoint_slice, validate_update=kind.validate_address_type_update, has_generation=True
    ),
    "networking.k8s.io/ingresses": Strategy(validate=kind.validate_ingress, has_generation=True),
    "networking.k8s.io/networkpolicies": Strategy(
        set_defaults=kind.set_network_policy_defaults, validate=kind.validate_network_policy, has_generation=True
    ),
    "policy/poddisruptionbudgets": Strategy(validate=kind.validate_disruption_budget, has_generation=True),
    "rbac.authorization.k8s.io/clusterrolebindings": Strategy(
        validate_update=kind.validate_role_binding_update, check_name=check_path_segment
    ),
    "rbac.authorization.k8s.io/clusterroles": Strategy(check_name=check_path_segment),
    "rbac.authorization.k8s.io/rolebindings": Strategy(
        validate_update=kind.validate_role_binding_update, check_name=check_path_segment
    ),
    "rbac.authorization.k8s.io/roles": Strategy(check_name=check_path_segment),
    crd.BUCKET: Strategy(
        set_defaults=crd.set_crd_defaults,
        validate=crd.validate_crd,
        validate_update=crd.validate_crd_update,
        has_generation=True,
    ),
}

_PLAIN: Final = Strategy()
_CUSTOM: Final = Strategy(has_generation=True)


def strategy_of(bucket: str, *, custom: bool) -> Strategy:
    return _CUSTOM if custom else STRATEGIES.get(bucket, _PLAIN)
