"""Workload kinds of apps/v1 and batch/v1: defaults that depend on other fields, and validation."""

from __future__ import annotations

import re
from typing import Any

from stentor.apiserver.errors import Cause, invalid, required, unsupported
from stentor.apiserver.pod import set_pod_spec_defaults, validate_template
from stentor.apiserver.selector import from_label_selector

Object = dict[str, Any]

_JOB_UID = "batch.kubernetes.io/controller-uid"
_JOB_NAME = "batch.kubernetes.io/job-name"
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def _template(spec: Object) -> Object:
    return (spec.get("template") or {}).get("spec") or {}


def set_deployment_defaults(obj: Object) -> None:
    spec = obj["spec"]
    set_pod_spec_defaults(_template(spec))
    strategy = spec["strategy"]
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")


def set_replica_set_defaults(obj: Object) -> None:
    set_pod_spec_defaults(_template(obj["spec"]))


def set_daemon_set_defaults(obj: Object) -> None:
    set_pod_spec_defaults(_template(obj["spec"]))
    update = obj["spec"]["updateStrategy"]
    if update.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = update.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


def set_stateful_set_defaults(obj: Object) -> None:
    set_pod_spec_defaults(_template(obj["spec"]))
    update = obj["spec"]["updateStrategy"]
    if update.setdefault("type", "RollingUpdate") == "RollingUpdate":
        update.setdefault("rollingUpdate", {}).setdefault("partition", 0)


def set_job_defaults(obj: Object) -> None:
    spec = obj["spec"]
    set_pod_spec_defaults(_template(spec))
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = spec["parallelism"] = 1
    spec.setdefault("parallelism", 1)


def prepare_job(obj: Object) -> None:
    """Give a new job the selector that no other has (pkg/registry/batch/job)."""
    spec, meta = obj["spec"], obj["metadata"]
    if spec.get("manualSelector"):
        return
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    labels.update(
        {_JOB_UID: meta["uid"], _JOB_NAME: meta["name"], "controller-uid": meta["uid"], "job-name": meta["name"]}
    )
    spec["selector"] = {"matchLabels": {_JOB_UID: meta["uid"]}}


def set_cron_job_defaults(obj: Object) -> None:
    job = {"spec": (obj["spec"].get("jobTemplate") or {}).get("spec") or {}}
    set_pod_spec_defaults(_template(job["spec"]))


def validate_selector(selector: Object | None, path: str) -> list[Cause]:
    """A LabelSelector that must not be empty."""
    if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return (
            [invalid(path, selector or {}, "empty selector is invalid for deployment")]
            if selector == {}
            else [required(path)]
        )
    causes = []
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        if expression.get("operator") not in _OPERATORS:
            causes.append(
                invalid(
                    f"{path}.matchExpressions[{index}].operator",
                    expression.get("operator"),
                    "not a valid selector operator",
                )
            )
    return causes


def validate_workload(obj: Object) -> list[Cause]:
    """Deployment, ReplicaSet, DaemonSet, StatefulSet."""
    spec = obj["spec"]
    causes = validate_selector(spec.get("selector"), "spec.selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not causes and not all(r.accepts(labels) for r in from_label_selector(spec["selector"])):
        causes.append(invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        if spec.get(field, 0) < 0:
            causes.append(invalid(f"spec.{field}", spec[field], "must be greater than or equal to 0"))
    restart = _template(spec).get("restartPolicy")
    if restart != "Always":
        causes.append(unsupported("spec.template.spec.restartPolicy", restart, ("Always",)))
    causes += _validate_rolling(spec)
    return causes + validate_template(template, "spec.template")


def _validate_rolling(spec: Object) -> list[Cause]:
    strategy = spec.get("strategy")
    if strategy is None:
        return []
    if strategy.get("type") not in ("Recreate", "RollingUpdate"):
        return [unsupported("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))]
    rolling = strategy.get("rollingUpdate")
    if strategy["type"] == "Recreate":
        if rolling is None:
            return []
        detail = "Forbidden: may not be specified when strategy `type` is 'Recreate'"
        return [Cause("FieldValueForbidden", "spec.strategy.rollingUpdate", detail)]
    values = [(rolling or {}).get(f) for f in ("maxUnavailable", "maxSurge")]
    if all(v in (0, "0", "0%") for v in values):
        detail = "may not be 0 when `maxSurge` is 0"
        return [invalid("spec.strategy.rollingUpdate.maxUnavailable", values[0], detail)]
    causes = []
    for field, value in zip(("maxUnavailable", "maxSurge"), values, strict=True):
        if isinstance(value, str) and not re.fullmatch(r"[0-9]+%", value):
            detail = (
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex"
                " used for validation is '[0-9]+%')"
            )
            causes.append(invalid(f"spec.strategy.rollingUpdate.{field}", value, detail))
    return causes


def validate_selector_update(new: Object, old: Object) -> list[Cause]:
    if new["spec"].get("selector") == old["spec"].get("selector"):
        return []
    return [invalid("spec.selector", new["spec"].get("selector"), "field is immutable")]


def validate_job(obj: Object) -> list[Cause]:
    return _validate_job_spec(obj["spec"], "spec")


def _validate_job_spec(spec: Object, path: str) -> list[Cause]:
    fields = ("parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
    causes = [
        invalid(f"{path}.{f}", spec[f], "must be greater than or equal to 0") for f in fields if spec.get(f, 0) < 0
    ]
    restart = _template(spec).get("restartPolicy")
    if restart not in ("OnFailure", "Never"):
        where = f"{path}.template.spec.restartPolicy"
        shown = 'Required value: valid values: "OnFailure", "Never"'
        causes.append(
            Cause("FieldValueRequired", where, shown)
            if not restart
            else unsupported(where, restart, ("OnFailure", "Never"))
        )
    return causes + validate_template(spec.get("template") or {}, f"{path}.template")


def validate_job_update(new: Object, old: Object) -> list[Cause]:
    fields = ("completions", "selector", "template", "completionMode")
    suspended = old["spec"].get("suspend")
    return [
        invalid(f"spec.{f}", new["spec"].get(f), "field is immutable")
        for f in fields
        if new["spec"].get(f) != old["spec"].get(f) and not (suspended and f == "template")
    ]


def validate_cron_job(obj: Object) -> list[Cause]:
    spec = obj["spec"]
    schedule = spec.get("schedule")
    causes = []
    if not schedule:
        causes.append(required("spec.schedule"))
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        causes.append(
            invalid(
                "spec.schedule", schedule, f"expected exactly 5 fields, found {len(schedule.split())}: [{schedule}]"
            )
        )
    if spec.get("concurrencyPolicy") not in ("Allow", "Forbid", "Replace"):
        causes.append(
            unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
        )
    return causes + _validate_job_spec((spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec")
