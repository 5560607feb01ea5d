"""The pods of this node and who looks after each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stentor.api.meta import ObjectKey
from stentor.api.pod import Pod
from stentor.lab.runner.context import Context
from stentor.lab.runner.mirror import MirrorSet, is_mirror
from stentor.lab.runner.worker import Worker

log = logging.getLogger(__name__)


class Roster:
    """Starts and ends workers as pods come and go. Pods of one name but different UIDs follow each other."""

    def __init__(self, context: Context, mirrors: MirrorSet) -> None:
        self._context = context
        self._mirrors = mirrors
        self._workers: dict[str, Worker] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._uids: dict[ObjectKey, str] = {}

    def take(self, pods: Sequence[Pod], gone: Sequence[ObjectKey]) -> None:
        """A batch of the pods' reflector."""
        for pod in pods:
            if is_mirror(pod):
                self._mirrors.observe(pod)
                continue
            uid = pod.metadata.uid
            before = self._uids.get(pod.key)
            if before is not None and before != uid:
                self._forget(before)
            self._uids[pod.key] = uid
            if uid in self._workers:
                self._workers[uid].update(pod)
            else:
                self._start(pod)
        for key in gone:
            self._mirrors.forget(key)
            uid = self._uids.pop(key, "")
            self._forget(uid)

    def adopt_orphans(self) -> None:
        """Ends pods of an earlier runner that the API server does not know any more; after the first list."""
        directory = self._context.machine.run_dir / "pods"
        for entry in directory.glob("*/pod.json"):
            uid = entry.parent.name
            pod = _read_pod(entry)
            if uid not in self._workers and pod is not None:
                log.info("Ending a pod that is no more", extra={"pod": str(pod.key), "uid": uid})
                self._start(pod)
                self._forget(uid)

    def find(self, namespace: str, name: str) -> Worker | None:
        """The worker of the pod that has the name now."""
        return self._workers.get(self._uids.get(ObjectKey(namespace, name), ""))

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    @property
    def is_adopted(self) -> bool:
        """Whether every worker knows by now what an earlier runner left of its pod."""
        return all(worker.is_adopted for worker in self._workers.values())

    def release(self) -> None:
        """The runner ends, pods go on."""
        for worker in self._workers.values():
            worker.release()

    def _start(self, pod: Pod) -> None:
        worker = Worker(self._context, pod, self._gone)
        uid = pod.metadata.uid
        self._workers[uid] = worker
        self._jobs[uid] = self._context.jobs.keep(f"pod {pod.key}", worker.run)

    def _forget(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.forget()

    def _gone(self, worker: Worker) -> None:
        meta = worker.pod.metadata
        self._workers.pop(meta.uid, None)
        self._context.tokens.forget(meta.uid)
        if self._uids.get(worker.pod.key) == meta.uid:
            del self._uids[worker.pod.key]
        self._jobs.pop(meta.uid).cancel()
        self._context.jobs.health.forget(f"pod {worker.pod.key}")


def _read_pod(path: Path) -> Pod | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pod)
    except (OSError, msgspec.MsgspecError):
        return None
