"""Columns of the built-in kinds: a table of name and function. Names, order and texts are kubectl users' habit
(Kubernetes pkg/printers/internalversion)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

Object = dict[str, Any]


class Cell(msgspec.Struct, frozen=True):
    """One column: `show` makes its cell from an object."""

    name: str
    show: Callable[[Object], Any]
    wide: bool = False
    type: str = "string"
    format: str = ""
    description: str = ""


# From this many seconds on: unit, its size, the smaller unit shown beside it if any (duration.HumanDuration).
_STEPS: Final = (
    (8 * 365 * 86400, "y", 365 * 86400, "", 0),
    (2 * 365 * 86400, "y", 365 * 86400, "d", 86400),
    (8 * 86400, "d", 86400, "", 0),
    (2 * 86400, "d", 86400, "h", 3600),
    (8 * 3600, "h", 3600, "", 0),
    (3 * 3600, "h", 3600, "m", 60),
    (600, "m", 60, "", 0),
    (120, "m", 60, "s", 1),
)


def shorten(seconds: int) -> str:
    """119 -> 119s, 150 -> 2m30s, 700 -> 11m, 12000 -> 3h20m, 50 hours -> 2d2h."""
    if seconds < -1:
        return "<invalid>"
    for least, unit, size, smaller, smaller_size in _STEPS:
        if seconds >= least:
            part = seconds % size // smaller_size if smaller else 0
            return f"{seconds // size}{unit}{part}{smaller}" if part else f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def age_of(stamp: Any) -> str:
    """Time since a timestamp; `<unknown>` without one."""
    if not isinstance(stamp, str):
        return "<unknown>"
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return "<unknown>"
    return shorten(int((datetime.now(UTC) - moment).total_seconds()))


def _dig(document: Any, path: str, default: Any = None) -> Any:
    for step in path.split("."):
        document = document.get(step) if isinstance(document, dict) else None
    return default if document is None else document


def _at(path: str, default: Any = "<none>") -> Callable[[Object], Any]:
    return lambda o: _dig(o, path, default)


def _none(text: str) -> str:
    return text or "<none>"


def _selector(selector: Object | None) -> str:
    terms = [f"{k}={v}" for k, v in sorted((_dig(selector, "matchLabels") or {}).items())]
    words = {"In": "in", "NotIn": "notin"}
    for e in _dig(selector, "matchExpressions") or ():
        if e["operator"] in words:
            terms.append(f"{e['key']} {words[e['operator']]} ({','.join(e.get('values') or ())})")
        else:
            terms.append(e["key"] if e["operator"] == "Exists" else f"!{e['key']}")
    return _none(",".join(terms))


def _map_selector(labels: Object | None) -> str:
    return _none(",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())))


def _template(path: str, field: str) -> Callable[[Object], str]:
    return lambda o: ",".join(str(c.get(field, "")) for c in _dig(o, f"{path}.spec.containers") or ())


# -- pods


def _restartable(pod: Object) -> set[str]:
    return {c["name"] for c in _dig(pod, "spec.initContainers") or () if c.get("restartPolicy") == "Always"}


def _pod_ready(pod: Object) -> str:
    sidecars = _restartable(pod)
    init = [s for s in _dig(pod, "status.initContainerStatuses") or () if s["name"] in sidecars]
    ready = sum(bool(s.get("ready")) for s in (*init, *(_dig(pod, "status.containerStatuses") or ())))
    return f"{ready}/{len(_dig(pod, 'spec.containers') or ()) + len(sidecars)}"


def _waiting(status: Object) -> str | None:
    """Why a container is not running."""
    state = status.get("state") or {}
    if (state.get("waiting") or {}).get("reason"):
        return str(state["waiting"]["reason"])
    ended = state.get("terminated")
    if ended is None:
        return None
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _init_reason(pod: Object) -> str | None:
    """Reason while init containers are not through."""
    specs = _dig(pod, "spec.initContainers") or ()
    sidecars = _restartable(pod)
    for index, status in enumerate(_dig(pod, "status.initContainerStatuses") or ()):
        ended = _dig(status, "state.terminated")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if status["name"] in sidecars and status.get("started"):
            continue
        reason = _waiting(status)
        if ended is None and reason in (None, "PodInitializing"):
            return f"Init:{index}/{len(specs)}"
        return f"Init:{reason}"
    return None


def _pod_status(pod: Object) -> str:
    reason = str(_dig(pod, "status.reason") or _dig(pod, "status.phase") or "Pending")
    init = _init_reason(pod)
    if init is not None:
        reason = init
    else:
        running = False
        for status in reversed(_dig(pod, "status.containerStatuses") or ()):
            why = _waiting(status)
            if why is not None:
                reason = why
            elif status.get("ready") and _dig(status, "state.running") is not None:
                running = True
        if reason == "Completed" and running:
            conditions = _dig(pod, "status.conditions") or ()
            ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
            reason = "Running" if ready else "NotReady"
    if _dig(pod, "metadata.deletionTimestamp"):
        return "Unknown" if _dig(pod, "status.reason") == "NodeLost" else "Terminating"
    return reason


def _pod_restarts(pod: Object) -> str:
    statuses = [*(_dig(pod, "status.initContainerStatuses") or ()), *(_dig(pod, "status.containerStatuses") or ())]
    count = sum(s.get("restartCount", 0) for s in statuses)
    ends = [e for s in statuses if (e := _dig(s, "lastState.terminated.finishedAt"))]
    return f"{count} ({age_of(max(ends))} ago)" if count and ends else str(count)


def _gates(pod: Object) -> str:
    gates = _dig(pod, "spec.readinessGates") or ()
    met = {c["type"] for c in _dig(pod, "status.conditions") or () if c.get("status") == "True"}
    return f"{sum(g['conditionType'] in met for g in gates)}/{len(gates)}" if gates else "<none>"


# -- services and networking


def _external(service: Object) -> str:
    kind = _dig(service, "spec.type", "ClusterIP")
    if kind == "ExternalName":
        return str(_dig(service, "spec.externalName", "<none>"))
    ingress = [i.get("ip") or i.get("hostname") for i in _dig(service, "status.loadBalancer.ingress") or ()]
    listed = [*(ingress if kind == "LoadBalancer" else ()), *(_dig(service, "spec.externalIPs") or ())]
    if listed:
        return ",".join(str(a) for a in listed)
    return "<pending>" if kind == "LoadBalancer" else "<none>"


def _service_ports(service: Object) -> str:
    out = []
    for port in _dig(service, "spec.ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        out.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return _none(",".join(out))


def _endpoints(obj: Object) -> str:
    pairs = []
    for subset in obj.get("subsets") or ():
        ports = subset.get("ports") or [{}]
        for port in ports:
            suffix = f":{port['port']}" if port.get("port") else ""
            pairs += [_bracketed(a["ip"], suffix) for a in subset.get("addresses") or ()]
    return _more(pairs)


def _bracketed(address: str, suffix: str) -> str:
    return f"[{address}]{suffix}" if ":" in address and suffix else f"{address}{suffix}"


def _more(items: list[str], empty: str = "<none>") -> str:
    more = f" + {len(items) - 3} more..." if len(items) > 3 else ""
    return ",".join(items[:3]) + more or empty


def _slice_ports(obj: Object) -> str:
    return _more([str(p.get("port") or p.get("name") or "*") for p in obj.get("ports") or ()], "<unset>")


def _slice_endpoints(obj: Object) -> str:
    return _more([a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()], "<unset>")


def _ingress_hosts(obj: Object) -> str:
    hosts = [r["host"] for r in _dig(obj, "spec.rules") or () if r.get("host")]
    return _more(hosts) if hosts else "*"


def _ingress_address(obj: Object) -> str:
    return ",".join(str(i.get("ip") or i.get("hostname") or "") for i in _dig(obj, "status.loadBalancer.ingress") or ())


# -- nodes


def _node_status(node: Object) -> str:
    ready = next((c for c in _dig(node, "status.conditions") or () if c.get("type") == "Ready"), None)
    text = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return text + (",SchedulingDisabled" if _dig(node, "spec.unschedulable") else "")


def _node_roles(node: Object) -> str:
    labels = _dig(node, "metadata.labels") or {}
    prefix = "node-role.kubernetes.io/"
    roles = {k.removeprefix(prefix) for k in labels if k.startswith(prefix) and k != prefix}
    roles |= {v for k, v in labels.items() if k == "kubernetes.io/role" and v}
    return _none(",".join(sorted(roles)))


def _node_address(kind: str) -> Callable[[Object], str]:
    def show(node: Object) -> str:
        found = next((a["address"] for a in _dig(node, "status.addresses") or () if a.get("type") == kind), "")
        return _none(found)

    return show


# -- workloads


def _ratio(ready: str, wanted: str) -> Callable[[Object], str]:
    return lambda o: f"{_dig(o, ready, 0)}/{_dig(o, wanted, 0)}"


def _job_completions(job: Object) -> str:
    done = _dig(job, "status.succeeded", 0)
    wanted = _dig(job, "spec.completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = _dig(job, "spec.parallelism", 0)
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_status(job: Object) -> str:
    true = {c["type"] for c in _dig(job, "status.conditions") or () if c.get("status") == "True"}
    states = (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    )
    found = next((text for kind, text in states if kind in true), None)
    if found is None:
        found = "Terminating" if _dig(job, "metadata.deletionTimestamp") else "Running"
    return found


def _job_duration(job: Object) -> str:
    begin = _dig(job, "status.startTime")
    if not begin:
        return ""
    end = _dig(job, "status.completionTime")
    if not end:
        return age_of(begin)
    return shorten(int((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()))


def _event_object(event: Object) -> str:
    involved = event.get("involvedObject") or event.get("regarding") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _event_seen(event: Object) -> str:
    stamp = _dig(event, "series.lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return age_of(stamp or _dig(event, "metadata.creationTimestamp"))


def _event_source(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    parts = [source.get("component") or event.get("reportingComponent", ""), source.get("host", "")]
    return ", ".join(p for p in parts if p)


def _event_first(event: Object) -> str:
    return age_of(event.get("firstTimestamp") or event.get("eventTime") or _dig(event, "metadata.creationTimestamp"))


def _role_ref(obj: Object) -> str:
    return f"{_dig(obj, 'roleRef.kind', '')}/{_dig(obj, 'roleRef.name', '')}"


def _subjects(kind: str) -> Callable[[Object], str]:
    def show(obj: Object) -> str:
        found = [s for s in obj.get("subjects") or () if s.get("kind") == kind]
        return ", ".join(f"{s['namespace']}/{s['name']}" if s.get("namespace") else s["name"] for s in found)

    return show


_NAME: Final = Cell("Name", _at("metadata.name"), format="name", description="Name must be unique within a namespace.")
_AGE: Final = Cell(
    "Age", lambda o: age_of(_dig(o, "metadata.creationTimestamp")), description="Time since the creation."
)
_BINDING: Final = (
    Cell("Role", _role_ref),
    Cell("Age", lambda o: age_of(_dig(o, "metadata.creationTimestamp"))),
    Cell("Users", _subjects("User"), wide=True),
    Cell("Groups", _subjects("Group"), wide=True),
    Cell("ServiceAccounts", _subjects("ServiceAccount"), wide=True),
)
_WORKLOAD_WIDE: Final = (
    Cell("Containers", _template("spec.template", "name"), wide=True),
    Cell("Images", _template("spec.template", "image"), wide=True),
    Cell("Selector", lambda o: _selector(_dig(o, "spec.selector")), wide=True),
)
PLAIN: Final = (_NAME, _AGE)
_CREATED: Final = Cell("Created At", _at("metadata.creationTimestamp"))


def _count(*fields: str) -> Callable[[Object], int]:
    return lambda o: sum(len(o.get(f) or ()) for f in fields)


def _number(name: str, path: str) -> Cell:
    return Cell(name, _at(path, 0), type="integer")


COLUMNS: Final[dict[str, tuple[Cell, ...]]] = {
    "/configmaps": (_NAME, Cell("Data", _count("data", "binaryData"), type="integer"), _AGE),
    "/endpoints": (_NAME, Cell("Endpoints", _endpoints), _AGE),
    "/events": (
        Cell("Last Seen", _event_seen),
        Cell("Type", _at("type", "")),
        Cell("Reason", _at("reason", "")),
        Cell("Object", _event_object),
        Cell("Subobject", _at("involvedObject.fieldPath", ""), wide=True),
        Cell("Source", _event_source, wide=True),
        Cell("Message", lambda o: str(o.get("message") or o.get("note") or "").strip()),
        Cell("First Seen", _event_first, wide=True),
        Cell("Count", _at("count", 1), wide=True, type="integer"),
        Cell("Name", _at("metadata.name"), wide=True, format="name"),
    ),
    "/namespaces": (_NAME, Cell("Status", _at("status.phase", "Active")), _AGE),
    "/nodes": (
        _NAME,
        Cell("Status", _node_status),
        Cell("Roles", _node_roles),
        _AGE,
        Cell("Version", _at("status.nodeInfo.kubeletVersion", "")),
        Cell("Internal-IP", _node_address("InternalIP"), wide=True),
        Cell("External-IP", _node_address("ExternalIP"), wide=True),
        Cell("OS-Image", _at("status.nodeInfo.osImage", "<unknown>"), wide=True),
        Cell("Kernel-Version", _at("status.nodeInfo.kernelVersion", "<unknown>"), wide=True),
        Cell("Container-Runtime", _at("status.nodeInfo.containerRuntimeVersion", "<unknown>"), wide=True),
    ),
    "/pods": (
        _NAME,
        Cell("Ready", _pod_ready),
        Cell("Status", _pod_status),
        Cell("Restarts", _pod_restarts),
        _AGE,
        Cell("IP", _at("status.podIP"), wide=True),
        Cell("Node", _at("spec.nodeName"), wide=True),
        Cell("Nominated Node", _at("status.nominatedNodeName"), wide=True),
        Cell("Readiness Gates", _gates, wide=True),
    ),
    "/secrets": (_NAME, Cell("Type", _at("type", "")), Cell("Data", _count("data"), type="integer"), _AGE),
    "/serviceaccounts": (_NAME, Cell("Secrets", _count("secrets"), type="string"), _AGE),
    "/services": (
        _NAME,
        Cell("Type", _at("spec.type", "ClusterIP")),
        Cell("Cluster-IP", _at("spec.clusterIP")),
        Cell("External-IP", _external),
        Cell("Port(s)", _service_ports),
        _AGE,
        Cell("Selector", lambda o: _map_selector(_dig(o, "spec.selector")), wide=True),
    ),
    "apiextensions.k8s.io/customresourcedefinitions": (_NAME, _CREATED),
    "apps/controllerrevisions": (
        _NAME,
        Cell(
            "Controller",
            lambda o: _none(
                ",".join(f"{r['kind'].lower()}.apps/{r['name']}" for r in _dig(o, "metadata.ownerReferences") or ())
            ),
        ),
        _number("Revision", "revision"),
        _AGE,
    ),
    "apps/daemonsets": (
        _NAME,
        _number("Desired", "status.desiredNumberScheduled"),
        _number("Current", "status.currentNumberScheduled"),
        _number("Ready", "status.numberReady"),
        _number("Up-to-date", "status.updatedNumberScheduled"),
        _number("Available", "status.numberAvailable"),
        Cell("Node Selector", lambda o: _map_selector(_dig(o, "spec.template.spec.nodeSelector"))),
        _AGE,
        *_WORKLOAD_WIDE,
    ),
    "apps/deployments": (
        _NAME,
        Cell("Ready", _ratio("status.readyReplicas", "spec.replicas")),
        Cell("Up-to-date", _at("status.updatedReplicas", 0), type="integer"),
        Cell("Available", _at("status.availableReplicas", 0), type="integer"),
        _AGE,
        *_WORKLOAD_WIDE,
    ),
    "apps/replicasets": (
        _NAME,
        _number("Desired", "spec.replicas"),
        _number("Current", "status.replicas"),
        _number("Ready", "status.readyReplicas"),
        _AGE,
        *_WORKLOAD_WIDE,
    ),
    "apps/statefulsets": (
        _NAME,
        Cell("Ready", _ratio("status.readyReplicas", "spec.replicas")),
        _AGE,
        *_WORKLOAD_WIDE[:2],
    ),
    "batch/cronjobs": (
        _NAME,
        Cell("Schedule", _at("spec.schedule", "")),
        Cell("Timezone", _at("spec.timeZone")),
        Cell("Suspend", lambda o: str(bool(_dig(o, "spec.suspend")))),
        Cell("Active", lambda o: len(_dig(o, "status.active") or ()), type="integer"),
        Cell("Last Schedule", lambda o: age_of(t) if (t := _dig(o, "status.lastScheduleTime")) else "<none>"),
        _AGE,
        Cell("Containers", _template("spec.jobTemplate.spec.template", "name"), wide=True),
        Cell("Images", _template("spec.jobTemplate.spec.template", "image"), wide=True),
    ),
    "batch/jobs": (
        _NAME,
        Cell("Status", _job_status),
        Cell("Completions", _job_completions),
        Cell("Duration", _job_duration),
        _AGE,
        *_WORKLOAD_WIDE,
    ),
    "coordination.k8s.io/leases": (_NAME, Cell("Holder", _at("spec.holderIdentity", "")), _AGE),
    "discovery.k8s.io/endpointslices": (
        _NAME,
        Cell("AddressType", _at("addressType", "")),
        Cell("Ports", _slice_ports),
        Cell("Endpoints", _slice_endpoints),
        _AGE,
    ),
    "networking.k8s.io/ingressclasses": (
        _NAME,
        Cell("Controller", _at("spec.controller", "")),
        Cell("Parameters", lambda o: f"{p['kind']}/{p['name']}" if (p := _dig(o, "spec.parameters")) else "<none>"),
        _AGE,
    ),
    "networking.k8s.io/ingresses": (
        _NAME,
        Cell("Class", _at("spec.ingressClassName")),
        Cell("Hosts", _ingress_hosts),
        Cell("Address", _ingress_address),
        Cell("Ports", lambda o: "80, 443" if _dig(o, "spec.tls") else "80"),
        _AGE,
    ),
    "networking.k8s.io/networkpolicies": (
        _NAME,
        Cell("Pod-Selector", lambda o: _selector(_dig(o, "spec.podSelector"))),
        _AGE,
    ),
    "policy/poddisruptionbudgets": (
        _NAME,
        Cell("Min Available", lambda o: str(_dig(o, "spec.minAvailable", "N/A"))),
        Cell("Max Unavailable", lambda o: str(_dig(o, "spec.maxUnavailable", "N/A"))),
        _number("Allowed Disruptions", "status.disruptionsAllowed"),
        _AGE,
    ),
    "rbac.authorization.k8s.io/clusterrolebindings": (_NAME, *_BINDING),
    "rbac.authorization.k8s.io/clusterroles": (_NAME, _CREATED),
    "rbac.authorization.k8s.io/rolebindings": (_NAME, *_BINDING),
    "rbac.authorization.k8s.io/roles": (_NAME, _CREATED),
    "scheduling.k8s.io/priorityclasses": (
        _NAME,
        _number("Value", "value"),
        Cell("Global-Default", lambda o: bool(o.get("globalDefault")), type="boolean"),
        _AGE,
        Cell("PreemptionPolicy", _at("preemptionPolicy", "PreemptLowerPriority"), wide=True),
    ),
}
COLUMNS["events.k8s.io/events"] = COLUMNS["/events"]
