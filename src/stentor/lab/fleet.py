"""The living machines of a lab: built, wired, switched off and on, with their processes started and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from stentor.lab import component, machine, segment
from stentor.lab.errors import LabError, NotReadyError
from stentor.lab.fault import Faults
from stentor.lab.machine import MachineNamespaces
from stentor.lab.place import Place
from stentor.lab.plan import Machine, Plan
from stentor.lab.relay import connect
from stentor.lab.segment import Segment
from stentor.lab.supervisor import Process, State, Supervisor
from stentor.lab.zygote import Launch, environment

_API_DEADLINE_S = 30.0
VERBS = ("stop", "start", "restart", "kill")


class Fleet:
    """Machines and what runs in them. `build` comes first, then the supervisor, then everything else."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan = plan
        self.place = place
        self.machines: dict[str, MachineNamespaces] = {}
        self.segments: dict[str, Segment] = {}
        self.processes = {each.name: self._processes(each) for each in plan.machines}
        self.faults = Faults(self.segments, self.machines)
        self.supervisor: Supervisor

    def build(self) -> None:
        """Networks and machines, without processes."""
        for network in self.plan.networks:
            self.segments[network.name] = Segment(network)
        for each in self.plan.machines:
            self.machines[each.name] = machine.make(each, self.plan, self.place)
        segment.connect([(each, self.machines[each.name]) for each in self.plan.machines], self.segments)

    def network_of(self, name: str) -> int | None:
        """The network namespace of a machine; None while it is off."""
        return self.machines[name].network if name in self.machines else None

    def namespaces(self, name: str) -> MachineNamespaces:
        if name not in self.machines:
            raise LabError(f"machine {name} is stopped: `stentor lab start {name}` starts it")
        return self.machines[name]

    def all_processes(self) -> Iterator[Process]:
        for processes in self.processes.values():
            yield from processes.values()

    async def start_all(self) -> None:
        await asyncio.gather(*(self._start_processes(each) for each in self.plan.machines))

    async def act(self, verb: str, target: str) -> list[str]:
        """What `verb` was done to. LabError or NotThereError when it cannot be."""
        if verb not in VERBS:
            raise LabError(f"{verb!r} is none of {', '.join(VERBS)}")
        machines, name = component.find(self.plan, target)
        if name:
            await asyncio.gather(*(self._act_on_process(verb, holder, name) for holder in machines))
            return [f"{holder}/{name}" for holder in machines]
        for holder in machines:
            await self._act_on_machine(verb, self.plan.machine(holder))
        return machines

    async def _act_on_process(self, verb: str, holder: str, name: str) -> None:
        process = self.processes[holder][name]
        namespaces = self.namespaces(holder)
        if verb == "kill":
            await self.supervisor.kill(process)
        if verb in ("stop", "restart"):
            await self.supervisor.stop(process, for_good=verb == "stop")
        if verb in ("start", "restart"):
            process.pause_s = 0.0
            self.supervisor.start(process, namespaces)

    async def _act_on_machine(self, verb: str, each: Machine) -> None:
        """kill is a power failure; stop ends the processes first. What is on the disk stays, the rest is gone."""
        if verb == "start" and each.name in self.machines:
            raise LabError(f"machine {each.name} is running")
        if verb != "start":
            self.namespaces(each.name)
            if verb in ("stop", "restart"):
                processes = reversed(self.processes[each.name].values())
                await asyncio.gather(*(self.supervisor.stop(process) for process in processes))
            await self._switch_off(each)
        if verb in ("start", "restart"):
            self.machines[each.name] = machine.make(each, self.plan, self.place)
            segment.connect([(each, self.machines[each.name])], self.segments)
            await self._start_processes(each)

    async def _switch_off(self, each: Machine) -> None:
        for process in self.processes[each.name].values():
            self.supervisor.abandon(process)
        self.faults.unplug(each.name)
        self.machines.pop(each.name).close()
        await asyncio.gather(*(self.supervisor.ended(process) for process in self.processes[each.name].values()))

    async def _start_processes(self, each: Machine) -> None:
        """In order; what needs the API server waits until it accepts connections."""
        for process in self.processes[each.name].values():
            if each.cluster and process.name != "apiserver":
                await self._await_api(each.cluster)
            self.supervisor.start(process, self.namespaces(each.name))

    async def _await_api(self, cluster_name: str) -> None:
        control_plane = self.plan.cluster(cluster_name).control_plane
        process = self.processes[control_plane]["apiserver"]
        loop = asyncio.get_running_loop()
        end = loop.time() + _API_DEADLINE_S
        while True:
            try:
                (await connect(self.network_of(control_plane), component.API_PORT)).close()
                return
            except OSError as e:
                if process.starts > 1 or loop.time() > end:
                    words = process.last_words() or str(e)
                    raise NotReadyError(f"the API server of {cluster_name} does not come up: {words}") from e
                if process.state is State.STOPPED and process.starts:
                    return  # by command: what needs it has to cope
            await asyncio.sleep(0.005)

    def _processes(self, each: Machine) -> dict[str, Process]:
        logs = self.place.logs(each.name)
        found = {}
        for part in component.of_machine(self.plan, each):
            arguments = part.arguments(self.plan, self.plan.cluster(each.cluster), each)
            launch = Launch(f"stentor-{part.name}", tuple(arguments), environment(), part.main)
            found[part.name] = Process(
                each.name, part.name, launch, logs, whole_tree=part.kills_tree, farewell=part.farewell
            )
        for name, argv in zip(component.command_names(each), each.run, strict=True):
            found[name] = Process(each.name, name, Launch(name, argv, environment()), logs)
        return found
