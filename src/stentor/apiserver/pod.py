"""Pods and pod templates: defaults that depend on other fields, and validation (pkg/apis/core)."""

from __future__ import annotations

import re
from typing import Any

from stentor.apiserver.errors import Cause, duplicate, forbidden, invalid, not_found_value, required, unsupported
from stentor.apiserver.meta import check_label, check_port_name, check_subdomain, validate_labels
from stentor.apiserver.schema import copy_json

Object = dict[str, Any]

PROTOCOLS = ("SCTP", "TCP", "UDP")
_RESTART = ("Always", "OnFailure", "Never")
_DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_ENV_NAME = re.compile(r"[^=\x00-\x1f\x7f]+")
_PULL = ("Always", "IfNotPresent", "Never")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?\d+))?")
_KINDS = ("containers", "initContainers", "ephemeralContainers")


def set_pod_spec_defaults(spec: Object) -> None:
    """For pods and templates; what has a static default is set already."""
    for kind in _KINDS:
        for container in spec.get(kind) or ():
            _set_container_defaults(container, host_network=bool(spec.get("hostNetwork")))


def _set_container_defaults(container: Object, *, host_network: bool) -> None:
    if "imagePullPolicy" not in container and container.get("image"):
        image = container["image"]
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"
    for port in container.get("ports") or ():
        if host_network and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
    resources = container.get("resources") or {}
    if resources.get("limits"):
        resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}


def set_pod_defaults(pod: Object) -> None:
    spec = pod["spec"]
    set_pod_spec_defaults(spec)
    spec.setdefault("enableServiceLinks", True)
    pod.setdefault("status", {}).setdefault("phase", "Pending")
    pod["status"].setdefault("qosClass", qos_class(spec))


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort (pkg/apis/core/helper/qos)."""
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    resources = [c.get("resources") or {} for c in containers]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    full = all(
        set(r.get("limits") or ()) >= {"cpu", "memory"} and (r.get("requests") or r["limits"]) == r["limits"]
        for r in resources
    )
    return "Guaranteed" if full else "Burstable"


def validate_pod(pod: Object) -> list[Cause]:
    return validate_pod_spec(pod["spec"], "spec")


def validate_template(template: Object, path: str) -> list[Cause]:
    meta = template.get("metadata") or {}
    causes = validate_labels(meta.get("labels") or {}, f"{path}.metadata.labels")
    return causes + validate_pod_spec(template.get("spec") or {}, f"{path}.spec")


def validate_pod_spec(spec: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        causes += _validate_name(volume.get("name"), f"{path}.volumes[{index}].name", volumes)
    if not spec.get("containers"):
        causes.append(required(f"{path}.containers"))
    names: set[str] = set()
    for kind in _KINDS:
        for index, container in enumerate(spec.get(kind) or ()):
            causes += _validate_container(container, f"{path}.{kind}[{index}]", names, volumes)
    for field, known in (("restartPolicy", _RESTART), ("dnsPolicy", _DNS)):
        if spec.get(field) not in known:
            causes.append(unsupported(f"{path}.{field}", spec.get(field, ""), known))
    grace = spec.get("terminationGracePeriodSeconds", 0)
    if grace < 0:
        causes.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0"))
    causes += validate_labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    for field in ("nodeName", "serviceAccountName"):
        complaint = check_subdomain(spec[field]) if spec.get(field) else None
        if complaint:
            causes.append(invalid(f"{path}.{field}", spec[field], complaint))
    complaint = check_label(spec["hostname"]) if spec.get("hostname") else None
    if complaint:
        causes.append(invalid(f"{path}.hostname", spec["hostname"], complaint))
    return causes


def _validate_name(name: str | None, path: str, seen: set[str]) -> list[Cause]:
    if not name:
        return [required(path)]
    complaint = check_label(name)
    if complaint:
        return [invalid(path, name, complaint)]
    if name in seen:
        return [duplicate(path, name)]
    seen.add(name)
    return []


def _validate_container(container: Object, path: str, names: set[str], volumes: set[str]) -> list[Cause]:
    causes = _validate_name(container.get("name"), f"{path}.name", names)
    if not container.get("image"):
        causes.append(required(f"{path}.image"))
    elif container["image"] != container["image"].strip():
        causes.append(invalid(f"{path}.image", container["image"], "must not have leading or trailing whitespace"))
    elif container.get("imagePullPolicy") not in _PULL:
        causes.append(unsupported(f"{path}.imagePullPolicy", container.get("imagePullPolicy", ""), _PULL))
    causes += _validate_ports(container.get("ports") or [], f"{path}.ports")
    causes += _validate_env(container.get("env") or [], f"{path}.env")
    causes += _validate_mounts(container.get("volumeMounts") or [], f"{path}.volumeMounts", volumes)
    for kind, values in (container.get("resources") or {}).items():
        if isinstance(values, dict):
            causes += _validate_quantities(values, f"{path}.resources.{kind}")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            causes += _validate_probe(container[probe], f"{path}.{probe}", readiness=probe == "readinessProbe")
    return causes


def _validate_ports(ports: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        name = port.get("name")
        if name:
            complaint = check_port_name(name)
            if complaint:
                causes.append(invalid(f"{where}.name", name, complaint))
            elif name in seen:
                causes.append(duplicate(f"{where}.name", name))
            seen.add(name)
        if not port.get("containerPort"):
            causes.append(required(f"{where}.containerPort"))
        else:
            causes += check_port(port["containerPort"], f"{where}.containerPort")
        if port.get("hostPort"):
            causes += check_port(port["hostPort"], f"{where}.hostPort")
        if port.get("protocol") not in PROTOCOLS:
            causes.append(unsupported(f"{where}.protocol", port.get("protocol", ""), PROTOCOLS))
    return causes


def check_port(port: int, path: str) -> list[Cause]:
    return [] if 0 < port < 65536 else [invalid(path, port, "must be between 1 and 65535, inclusive")]


def _validate_env(variables: list[Object], path: str) -> list[Cause]:
    causes = []
    for index, variable in enumerate(variables):
        name = variable.get("name")
        if not name:
            causes.append(required(f"{path}[{index}].name"))
        elif not _ENV_NAME.fullmatch(name):
            detail = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            causes.append(invalid(f"{path}[{index}].name", name, detail))
        if variable.get("value") and variable.get("valueFrom"):
            causes.append(invalid(f"{path}[{index}].valueFrom", "", "may not be specified when `value` is not empty"))
    return causes


def _validate_mounts(mounts: list[Object], path: str, volumes: set[str]) -> list[Cause]:
    causes = []
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        name, target = mount.get("name"), mount.get("mountPath")
        if not name:
            causes.append(required(f"{path}[{index}].name"))
        elif name not in volumes:
            causes.append(not_found_value(f"{path}[{index}].name", name))
        if not target:
            causes.append(required(f"{path}[{index}].mountPath"))
        elif target in seen:
            causes.append(invalid(f"{path}[{index}].mountPath", target, "must be unique"))
        seen.add(target or "")
    return causes


def _validate_quantities(values: Object, path: str) -> list[Cause]:
    bad = [(k, v) for k, v in values.items() if not _QUANTITY.fullmatch(str(v))]
    detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    return [invalid(f"{path}[{k}]", v, detail) for k, v in bad]


def _validate_probe(probe: Object, path: str, *, readiness: bool) -> list[Cause]:
    kinds = [k for k in ("exec", "httpGet", "tcpSocket", "grpc") if k in probe]
    causes = []
    if not kinds:
        causes.append(required(path, "must specify a handler type"))
    causes += [forbidden(f"{path}.{k}", "may not specify more than 1 handler type") for k in kinds[1:]]
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(field, 0) < 0:
            causes.append(invalid(f"{path}.{field}", probe[field], "must be greater than or equal to 0"))
    if not readiness and probe.get("successThreshold") != 1:
        causes.append(invalid(f"{path}.successThreshold", probe.get("successThreshold"), "must be 1"))
    return causes


_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod_update(new: Object, old: Object) -> list[Cause]:
    wanted, present = copy_json(new["spec"]), old["spec"]
    for kind in ("containers", "initContainers"):
        for fresh, stale in zip(wanted.get(kind) or (), present.get(kind) or (), strict=False):
            fresh["image"] = stale.get("image")
    before = present.get("tolerations") or []
    if all(t in (wanted.get("tolerations") or []) for t in before):
        wanted["tolerations"] = before
    for field in ("activeDeadlineSeconds", "tolerations"):
        wanted.pop(field, None)
    same = {k: v for k, v in present.items() if k not in ("activeDeadlineSeconds", "tolerations")}
    return [] if wanted == same else [forbidden("spec", _MUTABLE)]
