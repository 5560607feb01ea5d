"""What Kubernetes' default admission plugins add to new pods (ServiceAccount, DefaultTolerationSeconds, Priority)."""

from __future__ import annotations

from typing import Any, Final

from stentor.apiserver.errors import Forbidden
from stentor.apiserver.meta import generate_name
from stentor.apiserver.store import Store

Object = dict[str, Any]

MIRROR: Final = "kubernetes.io/config.mirror"
_TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_SYSTEM_PRIORITIES: Final = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_GRACE_TAINTS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def admit_pod(pod: Object, store: Store) -> None:
    """Complete a new pod in place. Raises Forbidden when its service account or priority class does not exist."""
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return
    _set_priority(pod, spec, store)
    _set_tolerations(spec)
    if MIRROR in (pod["metadata"].get("annotations") or {}):
        return
    _set_service_account(pod, spec, store)


def _refuse(pod: Object, why: str) -> Forbidden:
    name = pod["metadata"].get("name", "")
    return Forbidden(f'pods "{name}" is forbidden: {why}', {"name": name, "kind": "pods"})


def _set_priority(pod: Object, spec: Object, store: Store) -> None:
    name = spec.get("priorityClassName")
    priority = _SYSTEM_PRIORITIES.get(name or "", 0)
    if name and name not in _SYSTEM_PRIORITIES:
        entry = store.head("scheduling.k8s.io/priorityclasses", ("", name))
        if entry is None:
            raise _refuse(pod, f"no PriorityClass with name {name} was found")
        priority = entry.decode().get("value", 0)
    spec["priority"] = priority
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _set_tolerations(spec: Object) -> None:
    present = spec.get("tolerations")
    tolerations = list(present) if isinstance(present, list) else []
    for key in _GRACE_TAINTS:
        if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations


def _set_service_account(pod: Object, spec: Object, store: Store) -> None:
    name = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    namespace = pod["metadata"].get("namespace", "")
    entry = store.head("/serviceaccounts", (namespace, name))
    if entry is None:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise _refuse(pod, why)
    account = entry.decode()
    if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    bare = [c for c in containers if not any(m.get("mountPath") == _TOKEN_PATH for m in c.get("volumeMounts") or ())]
    if not wanted or not bare:
        return
    volume = _token_volume()
    spec["volumes"] = [*(spec.get("volumes") or ()), volume]
    for container in bare:
        mount = {"name": volume["name"], "readOnly": True, "mountPath": _TOKEN_PATH}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _token_volume() -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": generate_name("kube-api-access-"), "projected": {"sources": sources, "defaultMode": 0o644}}
