"""One run of one container: its directory, its monitor, its end.

    <pod directory>/containers/<name>/<attempt>/status     lines of the monitor: pids, start, end
                                               record.json what was started
                                               scratch/    the root's writable layer (a tmpfs inside the container)

The status file outlives both the container and the runner: a new runner adopts what the file says is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from stentor.lab.images.warm import WarmParent
from stentor.lab.runner import clock, spawn
from stentor.lab.runner.errors import StartFailure

START_DEADLINE_S: Final = 20.0
KILLED: Final = 137
NOT_STARTED: Final = 128


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """All that podrun is told. `options` are its arguments before `--`; `warm` names a program in memory."""

    options: tuple[str, ...]
    command: tuple[str, ...]
    env: dict[str, str]
    credential: tuple[str, ...]
    cgroup: str
    log: str
    image: str
    working_dir: str = "/"
    warm: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a later runner has to know about a run."""

    id: str
    name: str
    attempt: int
    image: str
    cgroup: str
    log: str
    credential: tuple[str, ...]
    env: dict[str, str]
    working_dir: str


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor has written so far; times in ns since 1970, 0: not yet."""

    monitor: int = 0
    pid: int = 0
    started_ns: int = 0
    failure: str = ""
    exit_code: int | None = None
    signal: int = 0
    finished_ns: int = 0


def parse_status(text: str) -> RunStatus:
    """The lines of podrun's status file; a line cut short by a crash counts as not written."""
    fields: dict[str, object] = {}
    for line in text.split("\n")[:-1]:
        word, _, rest = line.partition(" ")
        if word == "failed":
            fields["failure"] = rest
            continue
        try:
            numbers = [int(part) for part in rest.split()]
        except ValueError:
            continue
        if word == "monitor" and len(numbers) == 1:
            fields["monitor"] = numbers[0]
        elif word == "started" and len(numbers) == 2:
            fields["pid"], fields["started_ns"] = numbers
        elif word == "exited" and len(numbers) == 3:
            fields["exit_code"], fields["signal"], fields["finished_ns"] = numbers
    return msgspec.convert(fields, RunStatus)


class Container:
    """A run. `on_end` is called once, from the event loop, when the container has ended."""

    def __init__(self, directory: Path, record: Record) -> None:
        self.directory = directory
        self.record = record
        self.status = RunStatus()
        self.ready = False  # by its readiness probe
        self.started = False  # by its startup probe
        self.unhealthy = ""  # why the liveness probe wants it killed
        self.was_attached = False
        self.ended = asyncio.Event()
        self._monitor_fd = -1
        self._process_fd = -1

    @classmethod
    def create(cls, pod_directory: Path, name: str, attempt: int, launch: Launch) -> Container:
        """A run that does not run yet, on disk."""
        directory = pod_directory / "containers" / name / str(attempt)
        (directory / "scratch").mkdir(parents=True, exist_ok=True)
        Path(launch.log).parent.mkdir(parents=True, exist_ok=True)
        record = Record(
            id=secrets.token_hex(32),
            name=name,
            attempt=attempt,
            image=launch.image,
            cgroup=launch.cgroup,
            log=launch.log,
            credential=launch.credential,
            env=launch.env,
            working_dir=launch.working_dir,
        )
        (directory / "record.json").write_bytes(msgspec.json.encode(record))
        return cls(directory, record)

    @classmethod
    def load(cls, directory: Path) -> Container | None:
        """A run of an earlier runner; None when its directory is incomplete."""
        try:
            record = msgspec.json.decode((directory / "record.json").read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        return cls(directory, record)

    @property
    def input_path(self) -> Path:
        """The FIFO of its standard input, if it has one."""
        return self.directory / "stdin"

    @property
    def monitor_fd(self) -> int:
        """pidfd of the monitor, -1 when it has ended."""
        return self._monitor_fd

    @property
    def is_running(self) -> bool:
        return self.status.started_ns > 0 and self.status.exit_code is None

    async def start(self, podrun: Path, warm: WarmParent, launch: Launch, on_end: Callable[[Container], None]) -> None:
        """Returns when the command runs. StartFailure when it cannot."""
        ready, child_end = os.pipe2(os.O_CLOEXEC)
        options = ("-d", f"{self.directory}/scratch", "-s", f"{self.directory}/status", "-l", launch.log)
        argv = (str(podrun), "run", *options, *launch.options, "--", *launch.command)
        try:
            try:
                if launch.warm:
                    warm.spawn(launch.warm, argv, launch.env, child_end)
                else:
                    pid = spawn.spawn(argv, launch.env, {2: 2, 3: child_end})
                    await spawn.wait_exit(pid, START_DEADLINE_S)
            finally:
                os.close(child_end)
            await spawn.wait_readable(ready, START_DEADLINE_S)
        except (OSError, TimeoutError) as e:
            raise StartFailure("RunContainerError", f"podrun: {e}") from e
        finally:
            os.close(ready)
        self.status = self._read()
        if not self.status.started_ns:
            text = self.status.failure or "podrun ended without a word"
            now = clock.now_ns()
            self.status = msgspec.structs.replace(
                self.status, exit_code=NOT_STARTED, started_ns=now, finished_ns=now, failure=text
            )
            raise StartFailure("RunContainerError", f"failed to start container process: {text}")
        self._watch(on_end)

    def adopt(self, on_end: Callable[[Container], None]) -> None:
        """Takes over a run of an earlier runner; one whose monitor has died without a word counts as killed."""
        self.status = self._read()
        if self.status.exit_code is not None or not self.status.monitor:
            return
        if self.status.started_ns and self._is_our_monitor():
            self._watch(on_end)
        else:
            self._presume_killed()

    def signal(self, number: int) -> None:
        """To the container's PID 1; one that has ended is no error."""
        if self._process_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process_fd, number)

    def kill(self) -> None:
        """SIGKILL to all that lives in the container, commands of exec too."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path(self.record.cgroup, "cgroup.kill").write_text("1", encoding="ascii")

    def exec_options(self) -> tuple[tuple[str, ...], dict[int, int]]:
        """podrun's arguments to enter, and the descriptors that go with them. StartFailure when it does not run."""
        if not self.is_running or self._process_fd < 0:
            raise StartFailure("ContainerNotRunning", f"container {self.record.name} is not running")
        options = ("-p", "10", "-c", self.record.cgroup, "-w", self.record.working_dir, *self.record.credential)
        return options, {10: self._process_fd}

    def forget(self) -> None:
        """Stops watching; the container goes on."""
        for fd in (self._monitor_fd, self._process_fd):
            if fd >= 0:
                asyncio.get_running_loop().remove_reader(fd)
                os.close(fd)
        self._monitor_fd = self._process_fd = -1

    def _watch(self, on_end: Callable[[Container], None]) -> None:
        try:
            self._monitor_fd = os.pidfd_open(self.status.monitor)
            self._process_fd = os.pidfd_open(self.status.pid)
        except ProcessLookupError:
            pass  # it has ended between: the monitor's descriptor, if any, tells at once
        if self._monitor_fd < 0:
            self._end(on_end)
            return
        asyncio.get_running_loop().add_reader(self._monitor_fd, self._end, on_end)

    def _end(self, on_end: Callable[[Container], None]) -> None:
        self.forget()
        self.status = self._read()
        if self.status.exit_code is None:
            self._presume_killed()
        self.ready = False
        self.started = False
        self.ended.set()
        on_end(self)

    def _presume_killed(self) -> None:
        now = clock.now_ns()
        self.status = msgspec.structs.replace(
            self.status,
            exit_code=KILLED,
            signal=signal.SIGKILL,
            started_ns=self.status.started_ns or now,
            finished_ns=now,
        )

    def _read(self) -> RunStatus:
        try:
            return parse_status((self.directory / "status").read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return RunStatus()

    def _is_our_monitor(self) -> bool:
        """A process id may have been given to another since: ours lives in the pod's cgroup."""
        try:
            groups = Path(f"/proc/{self.status.monitor}/cgroup").read_text(encoding="ascii")
        except OSError:
            return False
        return Path(self.record.cgroup).parent.name in groups


def load_runs(pod_directory: Path) -> Sequence[Container]:
    """The last run of each container of a pod, as an earlier runner left them."""
    found = []
    for name in sorted((pod_directory / "containers").glob("*")):
        attempts = sorted((entry for entry in name.iterdir() if entry.name.isdecimal()), key=lambda e: int(e.name))
        if attempts and (run := Container.load(attempts[-1])) is not None:
            found.append(run)
    return found
