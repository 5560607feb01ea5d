"""The warm parent: imports every component once, then forks them in milliseconds, sharing the memory of the imports.

It has one thread, no event loop, no open library object; it imports, calls a module's `warm_up` if there is one (for
tables that every process of the kind needs and none changes), freezes the garbage collector and forks. The daemon is the
parent of what it forks (CLONE_PARENT) and learns how that ends. Commands of hosts go the same way and are exec'd.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec

from stentor.lab.errors import LabError
from stentor.lab.machine import enter
from stentor.sys.process import clone_into, set_name

_MESSAGE_BYTES = 128 * 1024


class Launch(msgspec.Struct, frozen=True):
    """What to start: a function `package.module:name` of argv, or with an empty `function` the program argv[0]."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    function: str = ""


class Launched(msgspec.Struct, frozen=True):
    """What became of a start: a process id as the lab numbers them, or why there is none."""

    pid: int = 0
    problem: str = ""


class Zygote:
    """The daemon's side. `start` forks it; `spawn` asks it for a process."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.pid = 0
        self._modules = modules
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Forks the zygote, which begins to import at once; a process asked for meanwhile waits."""
        if self._socket is not None:
            self._socket.close()
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (mine, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            mine.close()
            _run(its, self._modules)
        its.close()
        self._socket = mine

    def spawn(self, launch: Launch, group: int, namespaces: dict[str, int], output: int, errors: int) -> int:
        """Forks into the cgroup `group` and `namespaces`, with `output` and `errors` as standard streams; the pid.

        LabError tells why it cannot be started, such as a module that cannot be imported.
        """
        assert self._socket is not None
        fds = [group, output, errors, *namespaces.values()]
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(launch)], fds)
            reply = self._socket.recv(_MESSAGE_BYTES)
        except OSError as e:
            raise LabError(f"{launch.name} cannot be started: the lab's parent process is gone ({e.strerror})") from e
        if not reply:
            raise LabError(f"{launch.name} cannot be started: the lab's parent process has died")
        launched = msgspec.json.decode(reply, type=Launched)
        if launched.problem:
            raise LabError(f"{launch.name} cannot be started: {launched.problem}")
        return launched.pid


def _run(sock: socket.socket, modules: tuple[str, ...]) -> None:
    """The zygote itself. Does not return."""
    status = 1
    try:
        set_name("lab-zygote")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()  # importing makes no garbage worth a search
        waiting = deque(modules)
        imports = _Imports()
        while True:
            # What is asked for comes first: the API server starts while the others are still being imported.
            if waiting and not select.select([sock], [], [], 0)[0]:
                with contextlib.suppress(LabError):  # told to whoever asks for it
                    imports.get(waiting.popleft())
                continue
            message, fds, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, 16)
            if not message:
                status = 0
                break
            launch = msgspec.json.decode(message, type=Launch)
            sock.send(msgspec.json.encode(_launch(launch, fds, imports, sock)))
            for fd in fds:
                os.close(fd)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class _Imports:
    """Modules, each imported and warmed up once; a failure is told to whoever asks for it."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}

    def get(self, module: str) -> ModuleType:
        """LabError with the reason when it cannot be imported."""
        if module not in self._failures and module not in sys.modules:
            try:
                with _no_authorities():
                    imported = importlib.import_module(module)
                getattr(imported, "warm_up", lambda: None)()
            except Exception as e:
                traceback.print_exc()
                self._failures[module] = f"{type(e).__name__}: {e}"
        if module in self._failures:
            raise LabError(self._failures[module])
        return sys.modules[module]


@contextlib.contextmanager
def _no_authorities() -> Iterator[None]:
    """aiohttp reads the system's certificate authorities when it is imported (80 ms); components trust their cluster's only."""
    os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = "/dev/null"
    yield
    del os.environ["SSL_CERT_FILE"], os.environ["SSL_CERT_DIR"]


def _launch(launch: Launch, fds: list[int], imports: _Imports, sock: socket.socket) -> Launched:
    module, _, name = launch.function.partition(":")
    group, output, errors, *namespaces = fds
    try:
        function = getattr(imports.get(module), name) if module else None
        if len(os.listdir("/proc/self/task")) != 1:
            return Launched(problem="the zygote has threads: one of its imports started them")
        gc.freeze()  # else the first collection of each child writes to, and so copies, every page of objects
        pid = clone_into(group, sibling=True)
    except Exception as e:
        return Launched(problem=str(e) if isinstance(e, LabError) else f"{type(e).__name__}: {e}")
    if pid == 0:
        sock.close()
        _become(launch, function, (output, errors), namespaces)
    return Launched(pid)


def _become(
    launch: Launch, function: Callable[[list[str]], int] | None, streams: tuple[int, int], namespaces: list[int]
) -> None:
    """The new process: enters its machine, gets its standard streams, runs. Does not return."""
    status = 1
    try:
        enter(namespaces)
        os.setsid()
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (streams[0], 1), (streams[1], 2)):
            os.dup2(source, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        set_name(launch.name)
        gc.enable()
        os.environ.clear()
        os.environ.update(launch.environment)
        if function is None:
            os.execvpe(launch.argv[0], launch.argv, launch.environment)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [launch.name, *launch.argv]
        status = function(list(launch.argv)) or 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except FileNotFoundError as e:
        print(f"{launch.name}: {e.strerror}: {e.filename}", file=sys.stderr)
        status = 127
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def environment() -> dict[str, str]:
    """For processes of machines: the caller's words for language and paths, and our programs last on PATH."""
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "LC_ALL", "TERM", "TZ") if key in os.environ}
    return {"HOME": "/root", **kept, "PATH": search_path()}


def search_path() -> str:
    """PATH with the programs of this installation at its end."""
    package = Path(__file__).resolve().parent.parent
    own = [str(Path(sys.prefix) / "bin"), str(package / "bin")]
    standard = os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return ":".join([standard, *(path for path in own if path not in standard.split(":"))])
