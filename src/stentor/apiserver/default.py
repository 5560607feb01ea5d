"""Defaults of the built-in types that do not depend on other fields (the rest is in `strategy`).

Source: pkg/apis/*/v1/defaults.go of Kubernetes 1.33. They become `default` keywords of the schemas, so that OpenAPI,
defaulting and the keys of server-side apply see the same thing.
"""

from __future__ import annotations

from typing import Any, Final

_CORE = "io.k8s.api.core.v1."
_APPS = "io.k8s.api.apps.v1."
_BATCH = "io.k8s.api.batch.v1."

_CONTAINER: Final = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "resources": {},
}
_FILE_MODE: Final = {"defaultMode": 0o644}

STATIC: Final[dict[str, dict[str, Any]]] = {
    _CORE + "Container": _CONTAINER,
    _CORE + "EphemeralContainer": _CONTAINER,
    _CORE + "ContainerPort": {"protocol": "TCP"},
    _CORE + "ServicePort": {"protocol": "TCP"},
    _CORE + "EndpointPort": {"protocol": "TCP"},
    _CORE + "Probe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
    _CORE + "HTTPGetAction": {"path": "/", "scheme": "HTTP"},
    _CORE + "GRPCAction": {"service": ""},
    _CORE + "ObjectFieldSelector": {"apiVersion": "v1"},
    _CORE + "SecretVolumeSource": _FILE_MODE,
    _CORE + "ConfigMapVolumeSource": _FILE_MODE,
    _CORE + "DownwardAPIVolumeSource": _FILE_MODE,
    _CORE + "ProjectedVolumeSource": _FILE_MODE,
    _CORE + "ServiceAccountTokenProjection": {"expirationSeconds": 3600},
    _CORE + "HostPathVolumeSource": {"type": ""},
    _CORE + "PodSpec": {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
    },
    _CORE + "ServiceSpec": {"sessionAffinity": "None", "type": "ClusterIP"},
    _CORE + "ServiceStatus": {"loadBalancer": {}},
    _CORE + "Service": {"status": {}},
    _CORE + "NamespaceStatus": {"phase": "Active"},
    _CORE + "Namespace": {"status": {}},
    _CORE + "PodStatus": {"phase": "Pending"},
    _CORE + "Pod": {"status": {}},
    _CORE + "Secret": {"type": "Opaque"},
    _APPS + "DeploymentSpec": {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate"},
    },
    _APPS + "Deployment": {"status": {}},
    _APPS + "ReplicaSetSpec": {"replicas": 1},
    _APPS + "ReplicaSetStatus": {"replicas": 0},
    _APPS + "ReplicaSet": {"status": {}},
    _APPS + "StatefulSetSpec": {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
    },
    _APPS + "StatefulSetStatus": {"replicas": 0, "availableReplicas": 0},
    _APPS + "StatefulSet": {"status": {}},
    _APPS + "DaemonSetSpec": {"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate"}},
    _APPS + "DaemonSetStatus": {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    _APPS + "DaemonSet": {"status": {}},
    _BATCH + "JobSpec": {
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "manualSelector": False,
        "podReplacementPolicy": "TerminatingOrFailed",
        "suspend": False,
    },
    _BATCH + "Job": {"status": {}},
    _BATCH + "CronJobSpec": {
        "concurrencyPolicy": "Allow",
        "suspend": False,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1,
    },
    _BATCH + "CronJob": {"status": {}},
    "io.k8s.api.discovery.v1.EndpointPort": {"name": "", "protocol": "TCP"},
    "io.k8s.api.networking.v1.NetworkPolicyPort": {"protocol": "TCP"},
    "io.k8s.api.networking.v1.Ingress": {"status": {"loadBalancer": {}}},
    "io.k8s.api.rbac.v1.RoleRef": {"apiGroup": "rbac.authorization.k8s.io"},
    "io.k8s.api.policy.v1.PodDisruptionBudgetStatus": {
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "disruptionsAllowed": 0,
        "expectedPods": 0,
    },
    "io.k8s.api.policy.v1.PodDisruptionBudget": {"status": {}},
}
