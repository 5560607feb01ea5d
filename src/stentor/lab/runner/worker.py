"""One pod's life on this node, from its binding to its removal.

A worker owns all state of its pod and is the only one to change it. It is woken by whatever happens (the pod changed, a
container ended, a probe changed its mind, a back-off is over) and then takes one step: decide, act, publish the status.
What it needs to survive the runner's death lies in the pod's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from stentor.api.meta import Condition
from stentor.api.pod import PODS, Container, Pod, PodStatus
from stentor.kube import patch
from stentor.kube.errors import ApiError, Conflict, NotFound
from stentor.lab.runner import clock, decision, launch, sandbox, source, status, volume
from stentor.lab.runner.container import Container as Run
from stentor.lab.runner.container import load_runs
from stentor.lab.runner.context import Context
from stentor.lab.runner.decision import Decision
from stentor.lab.runner.errors import CniError, StartFailure
from stentor.lab.runner.health import HealthWatch
from stentor.lab.runner.hook import run_hook
from stentor.lab.runner.ledger import Ledger, full_name
from stentor.lab.runner.sandbox import Sandbox
from stentor.lab.runner.status import Situation

_NS: Final = 1_000_000_000
_RETRY_FIRST_S: Final = 0.25
_RETRY_MOST_S: Final = 5.0
_FORGOTTEN_GRACE_S: Final = 2.0
_REFRESH_S: Final = 30.0
_GRACE_CHECK_S: Final = 0.5
_HOOK_S: Final = 60.0

log = logging.getLogger(__name__)


class Worker:
    """`on_gone` is called once nothing of the pod is left."""

    def __init__(self, context: Context, pod: Pod, on_gone: Callable[[Worker], None]) -> None:
        self.pod = pod
        self.ledger = Ledger(pod)
        self.sandbox: Sandbox | None = None
        self.is_adopted = False
        self._context = context
        self._on_gone = on_gone
        self._directory = context.machine.pod_directory(pod.metadata.uid)
        self._wake = asyncio.Event()
        self._forgotten = False
        self._phase = pod.status.phase if pod.status.phase in ("Succeeded", "Failed") else ""
        self._initialized = False
        self._health: dict[str, HealthWatch] = {}
        self._published: PodStatus | None = None
        self._began_ns = clock.now_ns()
        self._refreshed_s = 0.0
        self._setup_pause_s = _RETRY_FIRST_S

    # ---- what others tell it

    def update(self, pod: Pod) -> None:
        """The pod as the API server has it now."""
        self.pod = pod
        self._wake.set()

    def forget(self) -> None:
        """The API server has the pod no more: end it without asking."""
        self._forgotten = True
        self._wake.set()

    async def run(self) -> None:
        """Until nothing is left of the pod. A second call, after a failure, begins with what is on disk."""
        self.release()
        await self._adopt()
        self.is_adopted = True
        while True:
            self._wake.clear()
            if self._forgotten or self.pod.is_terminating:
                await self._terminate()
                self._on_gone(self)
                return
            pause_s = await self._step()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """What stood in the way of a sandbox may be gone: try now, not after the pause."""
        self._setup_pause_s = _RETRY_FIRST_S
        self._wake.set()

    def release(self) -> None:
        """The runner ends; the containers go on, for the next runner to adopt."""
        for watch in self._health.values():
            watch.stop()
        for run in self.ledger.runs.values():
            run.forget()
        self._health.clear()

    # ---- steps

    async def _step(self) -> float | None:
        """One round; returns how long to sleep at most."""
        if self._phase:
            await self._tear_down()
            return await self._publish()
        now_ns = clock.now_ns()
        plan = decision.decide(self.pod.spec, self.ledger.views(), now_ns)
        self._initialized = plan.initialized
        self._phase = plan.phase
        for name in plan.kill:
            self._restart_unhealthy(name)
        if plan.start and not await self._start_all(plan):
            await self._publish()
            return self._setup_pause_s
        if plan.start or plan.phase:
            self._wake.set()  # starting or ending may have changed what comes next
        await self._refresh_volumes()
        failed_s = await self._publish()
        waits = [_REFRESH_S if self.pod.spec.volumes else None, failed_s]
        if plan.retry_at_ns:
            waits.append(max(0.0, (plan.retry_at_ns - now_ns) / _NS))
        return min((wait for wait in waits if wait is not None), default=None)

    async def _start_all(self, plan: Decision) -> bool:
        """False when the sandbox or the volumes are not to be had now."""
        try:
            sources = await source.fetch(self._context.client, self.pod)
            if self.sandbox is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                (self._directory / "pod.json").write_bytes(msgspec.json.encode(self.pod))
                self.sandbox = await sandbox.create(
                    self._context.machine, self._context.invoker, self._context.network(), self.pod, self._directory
                )
                launch.write_etc(self.pod, self._context.machine, self.sandbox, self._directory)
            pod = self._pod_with_addresses()
            volumes = await volume.set_up(pod, self._directory, sources, self._context.tokens.get)
        except StartFailure as e:
            self._setup_failed(e.reason, e.message)
            return False
        except volume.BadVolume as e:
            self._setup_failed("FailedMount", str(e))
            return False
        except (ApiError, CniError, OSError, TimeoutError) as e:
            self._setup_failed("FailedCreatePodSandBox", str(e))
            return False
        self._setup_pause_s = _RETRY_FIRST_S
        # Containers of a pod start in the manifest's order, as kubelets start them; pods start in parallel.
        for container in plan.start:
            await self._start(pod, container, sources, volumes, self.sandbox)
        return True

    async def _start(
        self, pod: Pod, container: Container, sources: source.Sources, volumes: dict[str, str], box: Sandbox
    ) -> None:
        name = container.name
        attempt = self.ledger.next_attempt(name)
        try:
            spec = launch.build(
                self._context.machine,
                self._context.catalogue,
                pod,
                container,
                attempt,
                sandbox=box,
                directory=self._directory,
                sources=sources,
                services=self._context.services.values(),
                volumes=volumes,
            )
        except StartFailure as e:
            self._refuse(container, e)
            return
        run = Run.create(self._directory, name, attempt, spec)
        self.ledger.begin(run)
        self._tell("Pulled", f'Container image "{container.image}" already present on machine')
        self._tell("Created", f"Created container: {name}")
        try:
            await run.start(self._context.machine.podrun, self._context.warm, spec, self._container_ended)
        except StartFailure as e:
            self._tell("Failed", f"Error: {e.message}", warning=True)
            return
        self._tell("Started", f"Started container {name}")
        await self._post_start(container, run)
        self._watch_health(container, run)
        self._drop_old_runs(name, attempt)

    def _refuse(self, container: Container, failure: StartFailure) -> None:
        self.ledger.refuse(container.name, failure, clock.now_ns())
        short = failure.message
        if failure.reason == "ErrImagePull":
            self._tell("Failed", f'Failed to pull image "{container.image}": {failure.message}', warning=True)
            short = failure.reason
        self._tell("Failed", f"Error: {short}", warning=True)

    def _setup_failed(self, reason: str, message: str) -> None:
        self._setup_pause_s = min(_RETRY_MOST_S, self._setup_pause_s * 2)
        log.warning("Pod not set up", extra={"pod": str(self.pod.key), "reason": reason, "problem": message})
        self._tell(reason, message, warning=True)

    def _container_ended(self, run: Run) -> None:
        watch = self._health.pop(run.record.name, None)
        if watch is not None:
            watch.stop()
        if self.ledger.pause_s(run, self.pod.spec.restart_policy) > 0:
            text = f"Back-off restarting failed container {run.record.name} in pod {full_name(self.pod)}"
            self._tell("BackOff", text, warning=True)
        self._wake.set()

    def _watch_health(self, container: Container, run: Run) -> None:
        self._health[container.name] = HealthWatch(
            self._context,
            self.pod,
            container,
            run,
            host=self._host,
            on_change=self._wake.set,
            on_unhealthy=lambda message: self._tell("Unhealthy", message, warning=True),
        )

    @property
    def _host(self) -> str:
        """Where probes and hooks find the pod."""
        return self.sandbox.addresses[0] if self.sandbox is not None and self.sandbox.addresses else "127.0.0.1"

    def _restart_unhealthy(self, name: str) -> None:
        run = self.ledger.runs[name]
        reason, run.unhealthy = run.unhealthy, ""
        self._tell("Killing", f"Container {name} failed {reason}, will be restarted")
        self._context.jobs.once(f"stop {self.pod.key}/{name}", self._stop([run], self._grace_s))

    # ---- the end

    @property
    def _grace_s(self) -> float:
        period = self.pod.metadata.deletion_grace_period_seconds
        if self._forgotten:
            return _FORGOTTEN_GRACE_S
        return float(self.pod.spec.termination_grace_period_seconds if period is None else period)

    async def _terminate(self) -> None:
        """Ends all containers, then removes the pod here and from the API server."""
        running = [run for run in self.ledger.runs.values() if run.is_running]
        sidecars = {entry.name for entry in self.pod.spec.init_containers if decision.is_sidecar(entry)}
        began_s = asyncio.get_running_loop().time()
        for run in running:
            self._tell("Killing", f"Stopping container {run.record.name}")
        await self._stop([run for run in running if run.record.name not in sidecars], self._grace_s)
        left_s = max(1.0, self._grace_s - (asyncio.get_running_loop().time() - began_s))
        await self._stop([run for run in running if run.record.name in sidecars], left_s)
        await self._publish()
        await self._tear_down()
        self.release()
        await self._delete_from_api()
        await asyncio.to_thread(self._remove_files)

    async def _stop(self, runs: list[Run], grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL once the grace period is over; a period that shrinks meanwhile counts."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        specs = {entry.name: entry for entry in self._all_containers()}
        await asyncio.gather(*(self._pre_stop(specs[run.record.name], run, grace_s) for run in runs))
        for run in runs:
            run.signal(15)
        while any(run.is_running for run in runs):
            limit_s = min(grace_s, self._grace_s) if self.pod.is_terminating or self._forgotten else grace_s
            left_s = began_s + limit_s - loop.time()
            if left_s <= 0:
                break
            await _wait_ended(runs, min(left_s, _GRACE_CHECK_S))
        for run in runs:
            run.kill()
        await _wait_ended(runs, None)

    async def _post_start(self, container: Container, run: Run) -> None:
        """A hook that fails ends the container; its restart policy decides what comes then."""
        hook = container.lifecycle.post_start if container.lifecycle is not None else None
        if hook is None:
            return
        outcome = await run_hook(self._context, container, run, hook, self._host, _HOOK_S)
        if not outcome.good:
            self._tell("FailedPostStartHook", f"PostStartHook failed: {outcome.message}", warning=True)
            run.kill()

    async def _pre_stop(self, container: Container, run: Run, grace_s: float) -> None:
        hook = container.lifecycle.pre_stop if container.lifecycle is not None else None
        if hook is None or not run.is_running:
            return
        outcome = await run_hook(self._context, container, run, hook, self._host, grace_s)
        if not outcome.good:
            self._tell("FailedPreStopHook", f"PreStopHook failed: {outcome.message}", warning=True)

    async def _tear_down(self) -> None:
        """Gives the addresses back; repeats until the plugins agree."""
        pause_s = _RETRY_FIRST_S
        while self.sandbox is not None:
            try:
                await sandbox.destroy(self._context.machine, self._context.invoker, self.pod.metadata.uid, self.sandbox)
                (self._directory / "sandbox.json").unlink(missing_ok=True)
                self.sandbox = None
            except (CniError, OSError) as e:
                self._tell("FailedKillPod", f"error killing pod: {e}", warning=True)
                await asyncio.sleep(pause_s)
                pause_s = min(_RETRY_MOST_S, pause_s * 2)

    async def _delete_from_api(self) -> None:
        meta = self.pod.metadata
        pause_s = _RETRY_FIRST_S
        while not self._forgotten:
            try:
                await self._context.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period_s=0)
                return
            except (NotFound, Conflict):
                return
            except ApiError as e:
                log.warning("Pod not deleted from the API", extra={"pod": str(self.pod.key), "problem": e.message})
                await asyncio.sleep(pause_s)
                pause_s = min(_RETRY_MOST_S, pause_s * 2)

    def _remove_files(self) -> None:
        meta = self.pod.metadata
        shutil.rmtree(self._directory, ignore_errors=True)
        logs = self._context.machine.log_path(meta.namespace, meta.name, meta.uid, "x", 0).parent.parent
        shutil.rmtree(logs, ignore_errors=True)

    # ---- adoption and files

    async def _adopt(self) -> None:
        """Takes over what an earlier runner left: a finished sandbox with its containers, or the ruins of one."""
        left = sandbox.load(self._directory)
        if left is not None and not left.is_intact:
            self.sandbox = left
            await self._tear_down()
        self.sandbox = left if left is not None and left.is_intact else None
        if self.sandbox is None and not self._phase:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
            return
        specs = {entry.name: entry for entry in self._all_containers()}
        for run in load_runs(self._directory):
            name = run.record.name
            run.adopt(self._container_ended)
            if name in specs and run.status.started_ns:
                self.ledger.adopt(run)
                if run.is_running:
                    self._watch_health(specs[name], run)
        self._initialized = any(entry.name in self.ledger.runs for entry in self.pod.spec.containers)

    def _drop_old_runs(self, name: str, attempt: int) -> None:
        """Only this run's and the previous one's files are kept: `logs --previous` reads them."""
        meta = self.pod.metadata
        old = attempt - 2
        if old >= 0:
            shutil.rmtree(self._directory / "containers" / name / str(old), ignore_errors=True)
            path = self._context.machine.log_path(meta.namespace, meta.name, meta.uid, name, old)
            for file in (path, Path(f"{path}.1")):
                file.unlink(missing_ok=True)

    async def _refresh_volumes(self) -> None:
        """Changed ConfigMaps and Secrets, and tokens before they expire, reach a running pod."""
        now_s = asyncio.get_running_loop().time()
        if not self.pod.spec.volumes or self.sandbox is None or now_s - self._refreshed_s < _REFRESH_S:
            return
        self._refreshed_s = now_s
        try:
            sources = await source.fetch(self._context.client, self.pod)
            await volume.set_up(self._pod_with_addresses(), self._directory, sources, self._context.tokens.get)
        except (ApiError, volume.BadVolume) as e:
            log.info("Volumes not refreshed", extra={"pod": str(self.pod.key), "problem": str(e)})

    # ---- status

    def _pod_with_addresses(self) -> Pod:
        """What the downward API shows must not wait for the status to come back from the API server."""
        return msgspec.structs.replace(self.pod, status=status.compute(self._pod_as_published(), self._situation()))

    def _pod_as_published(self) -> Pod:
        """The pod with our last status and everybody else's conditions."""
        if self._published is None:
            return self.pod
        own = [entry for entry in self._published.conditions if entry.type in status.OWN_CONDITIONS]
        others = [entry for entry in self.pod.status.conditions if entry.type not in status.OWN_CONDITIONS]
        conditions: Iterable[Condition] = (*own, *others)
        merged = msgspec.structs.replace(self._published, conditions=tuple(conditions))
        return msgspec.structs.replace(self.pod, status=merged)

    def _situation(self) -> Situation:
        addresses = self.sandbox.addresses if self.sandbox is not None else ()
        if self._phase and not addresses and self._published is not None:
            addresses = tuple(entry.ip for entry in self._published.pod_ips)
        restarts = not self._phase and not self.pod.is_terminating
        containers = self._all_containers()
        observed = {entry.name: self.ledger.observe(self.pod, entry, restarts=restarts) for entry in containers}
        return Situation(
            observed=observed,
            host_ips=self._context.machine.addresses,
            pod_ips=addresses,
            has_sandbox=self.sandbox is not None,
            initialized=self._initialized,
            phase=self._phase,
            start_time_ns=self._began_ns,
            now_ns=clock.now_ns(),
        )

    def _all_containers(self) -> tuple[Container, ...]:
        return (*self.pod.spec.init_containers, *self.pod.spec.containers)

    async def _publish(self) -> float | None:
        """Writes the status when it has changed; returns a pause when it has to be tried again."""
        if self._phase and not self.ledger.runs:
            return None  # it ended before the machine was restarted: its status says how
        fresh = status.compute(self._pod_as_published(), self._situation())
        if self._forgotten or (fresh == (self._published or self.pod.status) and not self._is_overwritten):
            return None
        meta = self.pod.metadata
        document = {"metadata": {"uid": meta.uid}, "status": status.document(fresh)}
        try:
            await self._context.client.patch(
                PODS, meta.name, patch.merge(document), meta.namespace, subresource="status"
            )
        except (NotFound, Conflict):
            return None  # gone, or another pod of that name: the watch will tell
        except ApiError as e:
            log.warning("Status not written", extra={"pod": str(self.pod.key), "problem": e.message})
            return 1.0
        self._published = fresh
        return None

    @property
    def _is_overwritten(self) -> bool:
        """Whether conditions that are ours are not as we wrote them: a silent node's pods are made unready by others.

        True for a moment also while the watch is behind: what is written then changes nothing.
        """
        seen = {entry.type: entry.status for entry in self.pod.status.conditions}
        ours = self._published.conditions if self._published is not None else ()
        return any(
            seen.get(entry.type, entry.status) != entry.status for entry in ours if entry.type in status.OWN_CONDITIONS
        )

    def _tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._context.events.tell(self.pod, reason, message, warning=warning)


async def _wait_ended(runs: list[Run], timeout_s: float | None) -> None:
    """Until none of them runs, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for run in runs:
                if run.is_running:
                    await run.ended.wait()
