"""Mirror pods: the node's components as pods of `kube-system`, so that kubectl shows them, their logs, and execs.

Each JSON file of a directory is a Pod manifest with two annotations: `lab.stentor.io/pid` names a file with the main
process's id (missing or empty: not running), `lab.stentor.io/log` a file of plain lines. The runner starts nothing of it;
it reports what it sees. A mirror pod deleted from the API server comes back, as a kubelet's static pods do.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from stentor.api.core import Node
from stentor.api.meta import Condition, ObjectKey, ObjectMeta, OwnerReference
from stentor.api.pod import (
    PODS,
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodIP,
    PodStatus,
)
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from stentor.lab.runner import clock, status
from stentor.lab.runner.machine import Machine

CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"
CONFIG_HASH: Final = "kubernetes.io/config.hash"
CONFIG_SOURCE: Final = "kubernetes.io/config.source"
LOG: Final = "lab.stentor.io/log"
PID: Final = "lab.stentor.io/pid"

log = logging.getLogger(__name__)


class Component(msgspec.Struct, frozen=True):
    """A component's manifest and where its process is seen."""

    pod: Pod
    hash: str
    log_path: str
    pid_path: str

    @property
    def pid(self) -> int:
        """Its main process, 0 when it does not run."""
        try:
            pid = int(Path(self.pid_path).read_text(encoding="ascii").strip() or 0)
        except (OSError, ValueError):
            return 0
        return pid if pid > 0 and os.path.exists(f"/proc/{pid}") else 0


class Seen(msgspec.Struct, frozen=True):
    """A component's process at one moment, whether it ever ran, and how often it had been replaced by then."""

    pid: int
    since_ns: int
    restarts: int
    has_run: bool


def is_mirror(pod: Pod) -> bool:
    return CONFIG_MIRROR in pod.metadata.annotations


def read_components(directory: Path) -> list[Component]:
    """All manifests; one that cannot be read is left out and logged."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            raw = path.read_bytes()
            pod = msgspec.json.decode(raw, type=Pod)
        except (OSError, msgspec.MsgspecError) as e:
            log.warning("Component manifest left out", extra={"file": str(path), "problem": str(e)})
            continue
        notes = pod.metadata.annotations
        found.append(Component(pod, hashlib.sha256(raw).hexdigest()[:32], notes.get(LOG, ""), notes.get(PID, "")))
    return found


class MirrorSet:
    """Keeps one pod a component on the API server."""

    def __init__(self, client: Client, machine: Machine, directory: Path | None) -> None:
        self._client = client
        self._machine = machine
        self._directory = directory
        self._components: dict[ObjectKey, Component] = {}
        self._known: dict[ObjectKey, Pod] = {}
        self._seen: dict[ObjectKey, Seen] = {}
        self._published: dict[ObjectKey, PodStatus] = {}

    def observe(self, pod: Pod) -> None:
        """A mirror pod as the API server has it."""
        self._known[pod.key] = pod

    def forget(self, key: ObjectKey) -> None:
        self._known.pop(key, None)
        self._published.pop(key, None)

    def find(self, namespace: str, name: str) -> Component | None:
        return self._components.get(ObjectKey(namespace, name))

    async def reconcile(self, node: Node) -> None:
        """Creates, updates and removes mirror pods by the files. ApiError when the server cannot be asked."""
        if self._directory is None:
            return
        components = read_components(self._directory)
        self._components = {component.pod.key: component for component in components}
        for key, component in self._components.items():
            known = self._known.get(key)
            if known is not None and (
                known.is_terminating or known.metadata.annotations.get(CONFIG_HASH) != component.hash
            ):
                await self._delete(known)
                known = None
            if known is None:
                known = await self._create(component, node)
            await self._report(key, component, known)
        for key in [key for key in self._known if key not in self._components]:
            await self._delete(self._known[key])

    async def _create(self, component: Component, node: Node) -> Pod:
        pod = component.pod
        owner = OwnerReference(
            api_version="v1", kind="Node", name=node.metadata.name, uid=node.metadata.uid, controller=True
        )
        notes = {CONFIG_MIRROR: component.hash, CONFIG_HASH: component.hash, CONFIG_SOURCE: "file"}
        meta = ObjectMeta(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace or "kube-system",
            labels=pod.metadata.labels,
            annotations={**pod.metadata.annotations, **notes},
            owner_references=(owner,),
        )
        spec = msgspec.structs.replace(pod.spec, node_name=self._machine.node_name, host_network=True)
        try:
            created = await self._client.create(PODS, Pod(metadata=meta, spec=spec))
        except AlreadyExists:
            created = await self._client.get(PODS, meta.name, meta.namespace)
        self._known[created.key] = created
        self._published.pop(created.key, None)
        return created

    async def _delete(self, pod: Pod) -> None:
        try:
            await self._client.delete(
                PODS, pod.metadata.name, pod.metadata.namespace, uid=pod.metadata.uid, grace_period_s=0
            )
        except (NotFound, Conflict):
            pass
        except ApiError as e:
            log.warning("Mirror pod not deleted", extra={"pod": str(pod.key), "problem": e.message})
            return
        self.forget(pod.key)

    async def _report(self, key: ObjectKey, component: Component, pod: Pod) -> None:
        seen = self._look(key, component, pod)
        fresh = mirror_status(pod, seen, self._machine, clock.now_ns())
        if fresh == self._published.get(key):
            return
        document = {"metadata": {"uid": pod.metadata.uid}, "status": status.document(fresh)}
        try:
            await self._client.patch(
                PODS, pod.metadata.name, patch.merge(document), pod.metadata.namespace, subresource="status"
            )
        except (NotFound, Conflict):
            self.forget(key)
            return
        self._published[key] = fresh

    def _look(self, key: ObjectKey, component: Component, pod: Pod) -> Seen:
        seen = self._seen[key] = look(self._seen.get(key), component.pid, pod, clock.now_ns())
        return seen


def look(before: Seen | None, pid: int, pod: Pod, now_ns: int) -> Seen:
    """What is seen of a component now; an earlier runner's view is what it wrote into `pod`."""
    if before is None:
        statuses = pod.status.container_statuses
        restarts = max((entry.restart_count for entry in statuses), default=0)
        return Seen(pid, now_ns, restarts, has_run=pid > 0 or any(entry.container_id for entry in statuses))
    if pid == before.pid:
        return before
    return Seen(pid, now_ns, before.restarts + (pid > 0 and before.has_run), has_run=before.has_run or pid > 0)


def mirror_status(pod: Pod, seen: Seen, machine: Machine, now_ns: int) -> PodStatus:
    """Running and ready while the process lives, else waiting."""
    alive = seen.pid > 0
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    needs_process = ("Ready", "ContainersReady")
    before = {entry.type: entry for entry in pod.status.conditions}
    conditions = []
    for kind in kinds:
        value = "True" if alive or kind not in needs_process else "False"
        known = before.get(kind)
        since = (
            known.last_transition_time if known is not None and known.status == value else clock.stamp(seen.since_ns)
        )
        conditions.append(Condition(type=kind, status=value, last_transition_time=since))
    return PodStatus(
        phase="Running",
        conditions=tuple(conditions),
        host_ip=machine.primary_address,
        host_ips=tuple(PodIP(ip=address) for address in machine.addresses),
        pod_ip=machine.primary_address,
        pod_ips=tuple(PodIP(ip=address) for address in machine.addresses),
        start_time=pod.status.start_time or clock.stamp(now_ns),
        qos_class="BestEffort",
        container_statuses=tuple(_container(entry, pod, seen, alive=alive) for entry in pod.spec.containers),
    )


def _container(container: Container, pod: Pod, seen: Seen, *, alive: bool) -> ContainerStatus:
    reason, message = ("CrashLoopBackOff", "the process is not running") if seen.has_run else ("ContainerCreating", "")
    state = (
        ContainerState(running=ContainerStateRunning(started_at=clock.stamp(seen.since_ns)))
        if alive
        else ContainerState(waiting=ContainerStateWaiting(reason=reason, message=message))
    )
    return ContainerStatus(
        name=container.name,
        ready=alive,
        started=alive,
        restart_count=seen.restarts,
        image=container.image,
        image_id=container.image,
        container_id=f"stentor://{pod.metadata.annotations.get(CONFIG_HASH, '')}" if seen.has_run else "",
        state=state,
    )
