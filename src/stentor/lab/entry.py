"""`lab exec`: the command itself enters a machine, so that terminal, signals and exit code are its own.

The parent stays outside as the shell's child; only its children are in the lab's PID namespace. Nothing is relayed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from stentor.lab import control
from stentor.lab.machine import enter
from stentor.lab.place import Place
from stentor.lab.zygote import search_path
from stentor.sys import cgroup
from stentor.sys.namespace import Kind, setns
from stentor.sys.process import die_with_parent, exit_code

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)  # the terminal sends these to the whole group, so to the child too


def execute(place: Place, machine: str, argv: list[str]) -> int:
    """Runs argv in the machine; its exit code, 128 + signal, 127 when there is no such program, 126 if it cannot run."""
    _, fds = control.ask(place, control.Enter(machine))
    group, pid_namespace, *namespaces = fds
    setns(pid_namespace, Kind.PID)
    directory = os.getcwd()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(group, namespaces, directory, argv)

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    for number in _FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    return exit_code(os.waitpid(child, 0)[1])


def _become(group: int, namespaces: list[int], directory: str, argv: list[str]) -> None:
    """The child. Does not return."""
    status = 126
    try:
        die_with_parent()
        cgroup.join(group)
        enter({str(fd): fd for fd in namespaces})
        os.chdir(directory if os.path.isdir(directory) else "/")
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.environ["PATH"] = search_path()
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print(f"{argv[0]}: no such program in the machine", file=sys.stderr)
        status = 127
    except OSError as e:
        print(f"{argv[0]}: {e.strerror}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
