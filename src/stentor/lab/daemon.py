"""The daemon: PID 1 of a lab. It holds the fleet, relays to the API servers, and answers commands.

One thread and one event loop; the zygote is forked first, so that it imports while the daemon builds networks and
machines and a child of the daemon prepares certificates and files.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import traceback
from collections.abc import Sized

import msgspec

from stentor.lab import component, progress
from stentor.lab.control import (
    Act,
    Answer,
    Enter,
    LabStatus,
    Link,
    MachineStatus,
    ProcessStatus,
    Reply,
    Request,
    Server,
)
from stentor.lab.errors import LabError, NotReadyError
from stentor.lab.fleet import Fleet
from stentor.lab.place import Place
from stentor.lab.plan import Machine, Plan
from stentor.lab.relay import Relay
from stentor.lab.supervisor import Process, State, Supervisor
from stentor.lab.zygote import Launch, Zygote, environment
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.sys import cgroup, mount
from stentor.sys.process import set_name

_READINESS = "stentor.lab.readiness"
_COMMAND_ALIVE_S = 1.0
_HOPELESS_STARTS = 4


def run(plan: Plan, place: Place, events: int) -> int:
    """The daemon's life, from the first fork to SIGTERM; `events` is where `progress` goes."""
    set_name("lab-daemon")
    mount.isolate()
    mount.mount("proc", "/proc", "proc", mount.NO_PROGRAMS)
    daemon = Daemon(plan, place, events)
    try:
        daemon.build()
        asyncio.run(daemon.serve())
    except LabError as e:
        progress.tell(events, progress.Kind.FAILED, str(e))
        return 1
    except Exception as e:
        traceback.print_exc()
        progress.tell(events, progress.Kind.FAILED, f"{type(e).__name__}: {e}; see {place.log}")
        return 1
    return 0


class Daemon:
    """The parts of a running lab, and what commands ask of them."""

    def __init__(self, plan: Plan, place: Place, events: int) -> None:
        self.plan = plan
        self.place = place
        self.events = events
        self.zygote = Zygote((*component.modules(plan), _READINESS) if plan.clusters else ())
        self.fleet = Fleet(plan, place)
        self.relays = {
            cluster.name: Relay(component.API_PORT, functools.partial(self.fleet.network_of, cluster.control_plane))
            for cluster in plan.clusters
        }
        self.ready = False

    def build(self) -> None:
        """All that needs no event loop: networks, machines, files."""
        self.zygote.start()
        preparing = self._prepare() if self.plan.clusters else 0
        self.fleet.build()
        networks, machines = _count(self.plan.networks, "network"), _count(self.plan.machines, "machine")
        self._tell(progress.Kind.STEP, f"made {networks} and {machines}")
        if preparing and os.waitpid(preparing, 0)[1] != 0:
            raise LabError(f"certificates and configuration cannot be prepared; see {self.place.log}")

    async def serve(self) -> None:
        """Starts everything, tells when it is ready, and serves until SIGTERM."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, over.set)
        async with JobGroup(Health()) as jobs:
            self.fleet.supervisor = supervisor = Supervisor(self.zygote, jobs, self.fleet.machines)
            loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
            supervisor.reap()
            jobs.keep("control", Server(self.place, jobs, self.answer).serve)
            for relay in self.relays.values():
                jobs.keep("relay", relay.serve)
            jobs.once("start", self._bring_up())
            jobs.once("watch", self._watch())
            await over.wait()

    def _prepare(self) -> int:
        """A child that makes certificates and files while machines are made; its pid."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            from stentor.lab import preparation  # its imports take longer than the machines

            preparation.prepare(self.plan, self.place, {name: relay.port for name, relay in self.relays.items()})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _tell(self, kind: progress.Kind, text: str) -> None:
        if self.events >= 0:
            progress.tell(self.events, kind, text)

    async def _bring_up(self) -> None:
        try:
            await self.fleet.start_all()
            await asyncio.gather(self._await_commands(), *(self._judge(cluster.name) for cluster in self.plan.clusters))
        except LabError as e:
            self._tell(progress.Kind.FAILED, str(e))
        except Exception as e:
            traceback.print_exc()
            self._tell(progress.Kind.FAILED, f"{type(e).__name__}: {e}; see {self.place.log}")
        else:
            self.ready = True
            self._tell(progress.Kind.READY, "")
        os.close(self.events)
        self.events = -1

    async def _watch(self) -> None:
        """Gives up early when a process ends again and again before the lab is ready."""
        while self.events >= 0:
            for process in self.fleet.all_processes():
                if process.starts >= _HOPELESS_STARTS and process.state is State.WAITING:
                    name = f"{process.machine}/{process.name}"
                    words = f"ends again and again, with {process.last_exit}: {process.last_words()}"
                    self._tell(progress.Kind.FAILED, f"{name} {words}")
                    return
            await asyncio.sleep(0.1)

    async def _judge(self, cluster_name: str) -> None:
        """A task inside the control plane's network applies manifests and says when the cluster is ready."""
        cluster = self.plan.cluster(cluster_name)
        manifests = [m.path for m in self.plan.manifests if cluster_name in m.clusters]
        admin = self.place.cluster(cluster_name) / "admin.conf"
        machines = {each.name: [str(address) for address in each.addresses] for each in self.plan.machines}
        options = {
            "kubeconfig": str(admin),
            "cluster": cluster_name,
            "nodes": ",".join(cluster.nodes),
            "dns": ",".join(map(str, cluster.dns_addresses)),
            "machines": msgspec.json.encode(machines).decode(),
            "values": msgspec.json.encode(self.plan.machine(cluster.control_plane).values).decode(),
        }
        argv = (*(word for name, value in options.items() for word in (f"--{name}", value)), *manifests)
        launch = Launch("lab-readiness", argv, environment(), f"{_READINESS}:main")
        # Its network and our files: the manifests are the host's.
        place = {"net": self.fleet.namespaces(cluster.control_plane).network, "root": os.open("/", os.O_PATH)}
        group = cgroup.create(self.place.cgroup / "tasks")
        code = await self.fleet.supervisor.run_task(launch, group, place, self.events)
        if code != 0:
            raise NotReadyError(f"cluster {cluster_name} is not ready")

    async def _await_commands(self) -> None:
        """Every command of a host is alive for a second; NotReadyError with the end of its log if it is not."""
        for each in self.plan.machines:
            for process in self.fleet.processes[each.name].values() if not each.cluster else ():
                while process.state is State.RUNNING and process.starts == 1 and process.age_s < _COMMAND_ALIVE_S:
                    await asyncio.sleep(0.02)
                if process.starts != 1 or process.state is not State.RUNNING:
                    words = process.last_words()
                    raise NotReadyError(f"{each.name}: {process.name} ended with code {process.last_exit}: {words}")

    # Commands

    async def answer(self, request: Request) -> Answer:
        """What a command gets; LabError when it cannot be done."""
        match request:
            case Enter(machine):
                return Reply(), self._enter(machine)
            case Act(verb, target):
                return Reply(text=tuple(await self.fleet.act(verb, target))), []
            case Link(target, kind, amount):
                await self.fleet.faults.apply(target, kind, amount)
                return Reply(), []
            case _:
                machines = tuple(self._machine_status(each) for each in self.plan.machines)
                status = LabStatus(self.plan.name, self.ready, str(self.place.kubeconfig), machines)
                return Reply(status=status), []

    def _enter(self, name: str) -> list[int]:
        component.find(self.plan, name)
        namespaces = self.fleet.namespaces(name)
        own = [cgroup.create(namespaces.group / "exec"), os.open("/proc/self/ns/pid", os.O_RDONLY)]
        return [*own, *(os.dup(fd) for fd in namespaces.namespaces.values())]

    def _machine_status(self, each: Machine) -> MachineStatus:
        return MachineStatus(
            each.name,
            each.cluster,
            "Running" if each.name in self.fleet.machines else "Stopped",
            tuple(map(str, each.addresses)),
            self.fleet.faults.of(each.name),
            tuple(_process_status(process) for process in self.fleet.processes[each.name].values()),
        )


def _process_status(process: Process) -> ProcessStatus:
    pid = process.pid if process.state is State.RUNNING else 0
    return ProcessStatus(process.name, process.state, pid, process.starts, process.last_exit, str(process.log))


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"
