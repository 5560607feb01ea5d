"""Keeps a machine's processes running: a dead one is started again, first at once, then after a growing pause.

As kubelet does with containers, with the pauses of its ReduceDefaultCrashLoopBackOffDecay (1 s doubling up to 60 s). What
is stopped by command stays down until it is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from stentor.lab.errors import LabError
from stentor.lab.machine import MachineNamespaces
from stentor.lab.zygote import Launch, Zygote
from stentor.runtime.job import JobGroup
from stentor.sys import cgroup
from stentor.sys.process import exit_code

_FIRST_PAUSE_S = 1.0
_MOST_PAUSE_S = 60.0
_FORGIVEN_AFTER_S = 60.0  # a process that lived so long starts with the first pause again
_STOP_S = 10.0


class State(StrEnum):
    """Of a process; WAITING until the pause after its end is over."""

    RUNNING = "Running"
    WAITING = "BackOff"
    STOPPED = "Stopped"


class Process:
    """One supervised process of a machine and its place: cgroup, log, pid file."""

    def __init__(
        self,
        machine: str,
        name: str,
        launch: Launch,
        logs: Path,
        *,
        whole_tree: bool = True,
        farewell: int = signal.SIGTERM,
    ) -> None:
        self.machine = machine
        self.name = name
        self.launch = launch
        self.log = logs / f"{name}.log"
        self.pid_file = logs / f"{name}.pid"
        self.whole_tree = whole_tree  # False: what it started lives on when it is killed (pods of the node runner)
        self.farewell = farewell  # ends it when it is to stay down
        self.state = State.STOPPED
        self.pid = 0
        self.starts = 0
        self.started_at = 0.0
        self.last_exit: int | None = None
        self.pause_s = 0.0
        self.ended = asyncio.Event()
        self.group: Path | None = None  # while it has one: from its first start to the end of its machine

    @property
    def age_s(self) -> float:
        """Since its start; 0 when it is not running."""
        return time.monotonic() - self.started_at if self.state is State.RUNNING else 0.0

    def last_words(self, lines: int = 3) -> str:
        """The end of its log."""
        try:
            tail = self.log.read_bytes()[-4096:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return " | ".join(tail.splitlines()[-lines:])


class Supervisor:
    """Starts processes through the zygote and starts them again; `reap` has to be called on each SIGCHLD."""

    def __init__(self, zygote: Zygote, jobs: JobGroup, machines: Mapping[str, MachineNamespaces]) -> None:
        self._zygote = zygote
        self._jobs = jobs
        self._machines = machines
        self._living: dict[int, Process] = {}
        self._tasks: dict[int, asyncio.Future[int]] = {}

    def start(self, process: Process, namespaces: MachineNamespaces) -> None:
        """Starts it now; LabError when that cannot be done at all."""
        if process.state is State.RUNNING:
            return
        part = "components" if process.launch.function else "run"
        process.group = namespaces.group / part / process.name
        if process.whole_tree:
            cgroup.remove(process.group)
        group = cgroup.create(process.group)
        output = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            pid = self._zygote.spawn(process.launch, group, namespaces.namespaces, output, output)
        finally:
            os.close(output)
            os.close(group)
        self._living[pid] = process
        process.pid, process.state, process.started_at = pid, State.RUNNING, time.monotonic()
        process.starts += 1
        process.ended.clear()
        process.pid_file.write_text(f"{pid}\n", encoding="ascii")

    async def stop(self, process: Process, *, for_good: bool = True) -> None:
        """Its farewell, or SIGTERM when it is to come back at once; after 10 s SIGKILL. Stays down until it is started."""
        running = process.state is State.RUNNING
        process.state = State.STOPPED
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, process.farewell if for_good else signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.ended.wait(), _STOP_S)
        await self._end(process)

    async def kill(self, process: Process) -> None:
        """SIGKILL, as a crash: it is started again."""
        if process.state is not State.RUNNING:
            raise LabError(f"{process.machine}/{process.name} is not running ({process.state})")
        if process.whole_tree and process.group:
            cgroup.kill(process.group)
        else:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.ended.wait(), _STOP_S)

    def abandon(self, process: Process) -> None:
        """Its machine is going: whatever happens to it, it is not started again."""
        process.state = State.STOPPED
        process.group = None

    async def ended(self, process: Process) -> None:
        """Until an abandoned process is gone."""
        if process.pid in self._living:
            await asyncio.wait_for(process.ended.wait(), _STOP_S)

    async def run_task(self, launch: Launch, group: int, namespaces: dict[str, int], output: int) -> int:
        """Runs to its end what is no component; its exit code. Its errors go to the lab's log."""
        pid = self._zygote.spawn(launch, group, namespaces, output, sys.stderr.fileno())
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks[pid] = future
        return await future

    def reap(self) -> None:
        """Takes every exit status there is: of our processes, and of orphans, since the daemon is PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._zygote.pid:
                self._zygote.start()
            elif task := self._tasks.pop(pid, None):
                if not task.done():
                    task.set_result(exit_code(status))
            elif process := self._living.pop(pid, None):
                self._ended(process, exit_code(status))

    def _ended(self, process: Process, code: int) -> None:
        lived_s = time.monotonic() - process.started_at
        process.last_exit = code
        process.pid_file.write_text("", encoding="ascii")
        process.ended.set()
        if process.state is State.STOPPED:
            return
        process.state = State.WAITING
        process.pause_s = 0.0 if lived_s > _FORGIVEN_AFTER_S else process.pause_s
        self._jobs.once(f"restart {process.machine}/{process.name}", self._restart(process))

    async def _restart(self, process: Process) -> None:
        if process.whole_tree and process.group:
            cgroup.remove(process.group)
        pause_s = process.pause_s
        process.pause_s = min(_MOST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s))
        await asyncio.sleep(pause_s)
        namespaces = self._machines.get(process.machine)
        if process.state is State.WAITING and namespaces is not None:
            self.start(process, namespaces)

    async def _end(self, process: Process) -> None:
        """Kills what is left of it. A process that is no longer ours has ended already."""
        if process.whole_tree and process.group:
            cgroup.remove(process.group)
        elif process.pid in self._living:
            os.kill(process.pid, signal.SIGKILL)
        if process.pid in self._living:
            await asyncio.wait_for(process.ended.wait(), _STOP_S)
